package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/katabuild/katabuild/releases/releasetest"
)

// tarball is the size of what a user of Kata Containers downloads to install or to update it, in bytes: the static
// tarball of a release for x86_64, kata-static-VERSION-amd64.tar.zst.
const tarball = 570_000_000

// heavy are packages that are put on the disk of the default guest, so that it has some 100 MB, and light is the one
// that an update adds.
const (
	heavy = "perl, python3, git, binutils"
	light = "less"
)

// installed is the size of the disk whose installation is verified, in bytes; the target is for so many.
const installed = 500_000_000

// releases is the bench of releases: made, pulled, updated and verified. Registries and web servers are this process,
// which is not measured.
type releases struct {
	katabuild, runtime, agent string
	dir                       string // temporary
	n                         int    // runs to take the median of
	url                       string // where dir is served
	sent                      *atomic.Int64
}

func releasesMain(args []string) error {
	set := flag.NewFlagSet("releases", flag.ExitOnError)
	katabuild := set.String("katabuild", "bin/katabuild", "the program")
	kata := set.String("kata-runtime", "bin/kata-runtime", "the program that installs")
	agent := set.String("agent", "bin/kata-agent-x86_64", "the agent")
	n := set.Int("n", 3, "runs to take the median of")
	where := set.String("work", "", "folder with 6 GB to spare for a temporary one (default that of the system)")
	if err := set.Parse(args); err != nil {
		return err
	}
	if *n < 1 {
		return fmt.Errorf("-n %d: want at least one run", *n)
	}
	b := releases{n: *n, sent: new(atomic.Int64)}
	var errs [4]error
	b.katabuild, errs[0] = filepath.Abs(*katabuild)
	b.runtime, errs[1] = filepath.Abs(*kata)
	b.agent, errs[2] = filepath.Abs(*agent)
	b.dir, errs[3] = os.MkdirTemp(*where, "katabuild-bench-")
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	return errors.Join(b.run(), os.RemoveAll(b.dir))
}

func (b releases) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// serve serves the temporary folder on loopback, and counts what it sends.
func (b *releases) serve() (stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.url = "http://" + l.Addr().String()
	files := http.FileServer(http.Dir(b.dir))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files.ServeHTTP(&sending{w, b.sent}, r)
	})}
	go func() { _ = s.Serve(l) }() // ends with Close
	return s.Close, nil
}

// sending counts the bytes of answers.
type sending struct {
	http.ResponseWriter
	n *atomic.Int64
}

// Write is http.ResponseWriter's.
func (s *sending) Write(p []byte) (int, error) {
	s.n.Add(int64(len(p)))
	return s.ResponseWriter.Write(p)
}

func (b releases) run() error {
	stop, err := b.serve()
	if err != nil {
		return err
	}
	load, _ := os.ReadFile("/proc/loadavg") // for people
	fmt.Printf("%d processors, load average before: %s\n", runtime.NumCPU(), load)
	err = errors.Join(b.prepare(), b.tar(), os.Setenv("XDG_STATE_HOME", b.path("state")))
	if err == nil {
		fmt.Printf("%-64s %10s %10s %7s %8s\n", "CPU seconds, user and system, median of "+strconv.Itoa(b.n), "ours",
			"theirs", "ratio", "target")
		for _, part := range []func() error{b.assemble, b.pull, b.update, b.verify, b.host} {
			if err = part(); err != nil {
				break
			}
		}
	}
	return errors.Join(err, stop())
}

// guest builds and boots the default guest with more packages on its disk.
func (b releases) guest(name, packages string) error {
	text, err := os.ReadFile("recipes/default/recipe.yaml")
	if err != nil {
		return err
	}
	const end = ", util-linux]"
	if strings.Count(string(text), end) != 1 {
		return fmt.Errorf("recipes/default/recipe.yaml: no list of packages that ends with %q", end)
	}
	if err := errors.Join(os.MkdirAll(b.path(name), 0o755), os.CopyFS(b.path("patches"),
		os.DirFS("recipes/patches"))); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	changed := strings.ReplaceAll(string(text), end, ", util-linux, "+packages+"]")
	if err := os.WriteFile(b.path(name, "recipe.yaml"), []byte(changed), 0o644); err != nil {
		return err
	}
	recipe, lock, out := b.path(name), b.path("lock.json"), b.path("out", name)
	kata := func(args ...string) []string { return append([]string{b.katabuild, "--progress", "quiet"}, args...) }
	return do(kata("lock", recipe, "--lock", lock), kata("build", recipe, "--lock", lock, "--agent", b.agent, "-o",
		out), kata("boot", out))
}

// release is the command that makes a release of a guest.
func (b releases) release(guest, version string) []string {
	return []string{b.katabuild, "--progress", "quiet", "release", b.path("out", guest), "--version", version, "-o",
		b.path("release-" + guest)}
}

// prepare makes two guests, of which the second has one package more, and a release of each.
func (b releases) prepare() error {
	for i, packages := range []string{heavy, heavy + ", " + light} {
		name := []string{"old", "new"}[i]
		if err := b.guest(name, packages); err != nil {
			return err
		}
		if err := do(b.release(name, fmt.Sprintf("1.%d.0", i))); err != nil {
			return err
		}
	}
	policy, err := way{commands: [][]string{{b.katabuild, "keys", "show", "--policy"}}}.run()
	if err != nil {
		return err
	}
	return os.WriteFile(b.path("policy.yaml"), []byte(policy.out), 0o600)
}

// tar makes the tarball of a user of Kata Containers: files that compress to two thirds.
func (b releases) tar() (err error) {
	f, err := os.Create(b.path("static.tar.zst"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	const part = 32 << 20
	chunk := make([]byte, part)
	source := rand.NewChaCha8([32]byte{})
	for i := 0; ; i++ {
		_, _ = source.Read(chunk) // which never fails
		for j := range chunk {
			chunk[j] &= 0x1f // five bits of eight
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("opt/kata/file%d", i), Mode: 0o644, Size: part}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		if err := errors.Join(w.Flush(), z.Flush()); err != nil {
			return err
		}
		if at, err := f.Seek(0, io.SeekCurrent); err != nil || at >= tarball {
			return errors.Join(err, w.Close(), z.Close())
		}
	}
}

// size is that of all files below a folder, in bytes.
func size(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i, err := e.Info()
		if err == nil {
			n += i.Size()
		}
		return err
	})
	return n, err
}

// assemble: a release of a guest that is built and has booted.
func (b releases) assemble() error {
	c, err := race(b.n, byCPU, way{gone(b.path("release-old")), [][]string{b.release("old", "1.0.0")}})
	if err != nil {
		return err
	}
	n, err := size(b.path("release-old"))
	if err != nil {
		return err
	}
	fmt.Printf("%-64s %10.2f %10s %7s %8s\n", "release of one architecture", c[0].cpu.Seconds(), "", "", "<= 20 s")
	note("a release of %.0f MB: the default guest with %s", float64(n)/1e6, heavy)
	return nil
}

// fetch is the command that pulls the release of a guest.
func (b releases) fetch(guest, to string) []string {
	return []string{b.katabuild, "--progress", "quiet", "pull", b.url + "/release-" + guest, to, "--policy",
		b.path("policy.yaml"), "--guests", to + ".guests"}
}

// download is what a user of Kata Containers does to install or to update.
func (b releases) download() way {
	return way{gone(b.path("theirs")), [][]string{{"mkdir", b.path("theirs")},
		{"curl", "-fsS", "-o", b.path("theirs", "tarball"), b.url + "/static.tar.zst"},
		{"tar", "-I", "zstd", "-xf", b.path("theirs", "tarball"), "-C", b.path("theirs")}}}
}

// against prints a line for our way and the download of a tarball, and how many bytes each moved in one run.
func (b releases) against(what string, ours way) error {
	if !has(what, "curl", "tar", "zstd") {
		return nil
	}
	c, err := race(b.n, byCPU, ours, b.download())
	if err != nil {
		return err
	}
	line(what, c[0].cpu.Seconds(), c[1].cpu.Seconds(), 0)
	// Once more, for what is moved after the preparation.
	if err := ours.before(); err != nil {
		return err
	}
	b.sent.Store(0)
	if err := do(ours.commands...); err != nil {
		return err
	}
	note("%.2f MB moved in %.2f s; the tarball's %.0f MB in %.2f s", float64(b.sent.Load())/1e6, c[0].wall.Seconds(),
		float64(tarball)/1e6, c[1].wall.Seconds())
	return nil
}

// pull: a release onto a host that has none, and once more.
func (b releases) pull() error {
	to := b.path("pulled")
	fresh := gone(to, to+".guests", b.path("state"))
	if err := b.against("pull, beside curl and tar of Kata's static tarball", way{fresh,
		[][]string{b.fetch("old", to)}}); err != nil {
		return err
	}
	return b.against("pull of what is there", way{gone(to + ".guests"), [][]string{b.fetch("old", to)}})
}

// update: a release of which one package is new onto a host that has the one before.
func (b releases) update() error {
	to := b.path("updated")
	before := func() error {
		if err := gone(to, to+".guests", b.path("state"))(); err != nil {
			return err
		}
		return do(b.fetch("old", to))
	}
	return b.against("update of one package", way{before, [][]string{b.fetch("new", to)}})
}

// verify: a release that lies on this host, beside sha256sum of the same files.
func (b releases) verify() error {
	dir := b.path("release-new") // this host takes no older one any more
	ours := way{nil, [][]string{{b.katabuild, "--progress", "quiet", "verify", dir, "--policy", b.path("policy.yaml")}}}
	theirs := way{nil, [][]string{{"sh", "-c", `find "$1" -type f -exec sha256sum {} +`, "sh", dir}}}
	c, err := race(b.n, byCPU, ours, theirs)
	if err == nil {
		line("verify of a release, beside sha256sum of its files", c[0].cpu.Seconds(), c[1].cpu.Seconds(), 0)
	}
	return err
}

// host: an installation of 500 MB is verified. The guest in it boots nowhere.
func (b releases) host() error {
	image := make([]byte, installed)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(image) // which never fails
	guest, root := b.path("large"), b.path("root")
	g := releasetest.Guest{Disk: true, Image: image}
	if err := errors.Join(g.Write(guest), os.Mkdir(root, 0o755)); err != nil {
		return err
	}
	if err := do([]string{b.runtime, "install", guest, "--root", root}); err != nil {
		return err
	}
	ours := way{nil, [][]string{{b.runtime, "verify-install", "--root", root}}}
	theirs := way{nil, [][]string{{"sh", "-c", `find "$1" -type f -exec sha256sum {} +`, "sh", root}}}
	c, err := race(b.n, byCPU, ours, theirs)
	if err != nil {
		return err
	}
	line("verify-install of 500 MB, beside sha256sum of its files", c[0].cpu.Seconds(), c[1].cpu.Seconds(), 0)
	note("%.2f s; the target is 1 s", c[0].cpu.Seconds())
	return nil
}
