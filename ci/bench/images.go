package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
)

// foreign are the tools a user would use instead, each with the Debian package that has it.
var foreign = map[string]string{
	"mkfs.erofs": "erofs-utils", "mke2fs": "e2fsprogs", "veritysetup": "cryptsetup-bin", "mmdebstrap": "mmdebstrap",
	"dpkg-deb": "dpkg",
	"apt-get":  "apt", "cp": "coreutils", "tar": "tar", "curl": "curl", "zstd": "zstd",
}

// suite of Debian whose packages are measured.
const suite = "trixie"

// wanted packages make a tree of 200 to 300 MB: an interpreter or two, libraries, many small files and a few large
// ones.
const wanted = "base-files, bash, coreutils, perl, python3, git, iproute2, util-linux, binutils"

// copies of the tree that together have 2 GB.
const copies = 8

// images is the bench of disk images. Everything lies in a temporary folder, the store too, so that nothing is found
// done.
type images struct {
	katabuild, agent string
	self             string // this program
	dir              string // temporary
	n                int    // runs to take the median of
}

func imagesMain(args []string) error {
	set := flag.NewFlagSet("images", flag.ExitOnError)
	katabuild := set.String("katabuild", "bin/katabuild", "the program")
	agent := set.String("agent", "bin/kata-agent-x86_64", "the agent")
	n := set.Int("n", 5, "runs to take the median of")
	where := set.String("work", "", "folder with 12 GB to spare for a temporary one (default that of the system)")
	only := set.String("only", "", "measure only these, of: disk, many, size, debian, again, memory")
	if err := set.Parse(args); err != nil {
		return err
	}
	if *n < 1 {
		return fmt.Errorf("-n %d: want at least one run", *n)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := images{self: self, n: *n}
	if b.katabuild, err = filepath.Abs(*katabuild); err != nil {
		return err
	}
	if b.agent, err = filepath.Abs(*agent); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*where, "katabuild-bench-"); err != nil {
		return err
	}
	if b.dir, err = filepath.Abs(b.dir); err != nil {
		return err
	}
	err = b.run(*only)
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b images) run(only string) error {
	if only != "many" { // which needs no package
		if err := b.tree(); err != nil {
			return err
		}
	}
	load, _ := os.ReadFile("/proc/loadavg") // for people: CPU seconds hardly depend on it, but wall time does
	fmt.Printf("%d processors, load average before: %s\n", runtime.NumCPU(), load)
	fmt.Printf("%-64s %10s %10s %7s %8s\n", "CPU seconds, user and system, median of "+strconv.Itoa(b.n), "ours",
		"theirs", "ratio", "target")
	for _, part := range []struct {
		name string
		run  func() error
	}{{"disk", b.disks}, {"many", b.many}, {"size", b.sizes}, {"debian", b.debian}, {"again", b.again},
		{"memory", b.memory}} {
		if only != "" && !slices.Contains(strings.Split(only, ","), part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (b images) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// line prints a row. A target is of the ratio.
func line(what string, ours, theirs, target float64) {
	fmt.Printf("%-64s %10.2f %10.2f %7.2f %8s\n", what, ours, theirs, ours/theirs, limit(target))
}

func limit(target float64) string {
	if target == 0 {
		return ""
	}
	return fmt.Sprintf("<= %.2f", target)
}

func note(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

// has says whether tools are there, and prints what a line needs when not.
func has(what string, tools ...string) bool {
	ok := true
	for _, t := range tools {
		if _, err := exec.LookPath(t); err != nil {
			fmt.Printf("%-64s not measured: needs %s, of the package %s\n", what, t, foreign[t])
			ok = false
		}
	}
	return ok
}

// kata is a command line of ours on a guest of this bench.
func (b images) kata(verb, guest string, more ...string) []string {
	return append([]string{b.katabuild, "--progress", "json", "--store", b.path("store"), verb, b.path(guest),
		"--agent", b.agent}, more...)
}

// guest writes a recipe. Its kernel is never built.
func (b images) guest(name, layers, image string) error {
	if err := os.MkdirAll(b.path(name, "linux"), 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{"Makefile": "VERSION = 6\n", "Kconfig": ""} {
		if err := os.WriteFile(b.path(name, "linux", file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	text := "version: 1\nname: " + name + "\nkernel:\n  source: {tree: linux}\n  features: [tiny]\nrootfs:\n  " +
		"layers:\n" + layers + "image: {" + image + "}\n"
	return os.WriteFile(b.path(name, "recipe.yaml"), []byte(text), 0o644)
}

// forget makes the store forget all it has made, but not what it has fetched.
func (b images) forget() error {
	return errors.Join(os.RemoveAll(b.path("store", "actions")), os.RemoveAll(b.path("out")))
}

// do carries out commands that are not measured.
func do(commands ...[]string) error {
	_, err := way{commands: commands}.run()
	return err
}

// tree makes the Debian tree that all else is measured on, in b.dir/plain/tree, a layer of the guest plain.
func (b images) tree() error {
	if err := b.guest("debian", "    - debian: {suite: "+suite+", packages: ["+wanted+"]}\n",
		"filesystem: erofs"); err != nil {
		return err
	}
	if err := b.guest("plain", "    - folder: tree\n", "filesystem: erofs, compression: none"); err != nil {
		return err
	}
	dir := b.path("plain", "tree")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := do(b.kata("lock", "debian"), b.kata("rootfs", "debian", "-o", b.path("out"))); err != nil {
		return err
	}
	// A plain user cannot make devices, nor give files away.
	if err := do([]string{"tar", "-xf", b.path("out", "rootfs.tar"), "-C", dir, "--xattrs", "--exclude=./dev/*",
		"--exclude=dev/*"}, []string{"chmod", "-R", "u+rwX", dir}); err != nil {
		return err
	}
	var size int64
	files := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i, err := e.Info()
		if err == nil {
			size += i.Size()
			files++
		}
		return err
	})
	owners := "with its owners"
	if os.Geteuid() != 0 {
		owners = "all its files owned by the user of this bench, who is not root"
	}
	fmt.Printf("The tree: Debian %s with %s and what they need: %d files, %.0f MB, %s\n\n", suite, wanted, files,
		float64(size)/1e6, owners)
	return err
}

// gone takes files away before a run.
func gone(paths ...string) func() error {
	return func() error {
		var errs []error
		for _, p := range paths {
			errs = append(errs, os.RemoveAll(p))
		}
		return errors.Join(errs...)
	}
}

// disks: a disk of a folder, beside mkfs and veritysetup.
func (b images) disks() error {
	tree, ours, theirs, hash := b.path("plain", "tree"), b.path("ours"), b.path("theirs"), b.path("hash")
	verity := []string{"veritysetup", "format", theirs, hash}
	if err := b.guest("ext4", "    - folder: tree\n", "filesystem: ext4"); err != nil {
		return err
	}
	if err := do([]string{"cp", "-al", tree, b.path("ext4", "tree")}); err != nil {
		return err
	}
	for _, c := range []struct {
		fileSystem, compression, guest, tool string
	}{{"erofs", "none", "plain", "mkfs.erofs"}, {"ext4", "none", "ext4", "mke2fs"}} {
		what := c.fileSystem + " with verity and partition table"
		if !has(what, c.tool, "veritysetup") {
			continue
		}
		if err := do(b.kata("lock", c.guest)); err != nil {
			return err
		}
		writer := way{gone(ours), [][]string{{b.self, "child", "disk", c.fileSystem, c.compression, tree, ours}}}
		whole := way{b.forget, [][]string{b.kata("image", c.guest, "--offline", "-o", b.path("out"))}}
		if _, err := writer.run(); err != nil {
			return err
		}
		i, err := os.Stat(ours)
		if err != nil {
			return err
		}
		mkfs := []string{"mkfs.erofs", "--quiet", theirs, tree}
		if c.tool == "mke2fs" {
			// Nobody says how large it must be. Ours with its hash tree, and a twentieth more, is enough.
			mkfs = []string{"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal", "-d", tree,
				theirs, strconv.FormatInt(i.Size()/1024*21/20, 10) + "k"}
		}
		tool := way{gone(theirs, hash), [][]string{mkfs, verity}}
		got, err := race(b.n, byCPU, writer, whole, tool)
		if err != nil {
			return err
		}
		line(what+": the writer, folder read", got[0].cpu.Seconds(), got[2].cpu.Seconds(), 0.6)
		line("  the same with digests, store, SBOM: katabuild image", got[1].cpu.Seconds(), got[2].cpu.Seconds(), 1.2)
		note("theirs: %s; %s, without a partition table", strings.Join(short(mkfs), " "), strings.Join(short(verity),
			" "))
	}
	return gone(ours, theirs, hash)()
}

// The tree of many small files: as many as an image of a large distribution's development tools has.
const (
	manyFiles   = 200_000
	manyPerDir  = 100
	manyLargest = 8320 // bytes; sizes are even from 0 to this
)

// many: an erofs image of many small files, from a folder and from a tar, beside mkfs and veritysetup.
func (b images) many() error {
	what := fmt.Sprintf("erofs of %d small files, a folder: katabuild image", manyFiles)
	if !has(what, "mkfs.erofs", "veritysetup", "tar") {
		return nil
	}
	folder, archive := b.path("many", "tree"), b.path("manytar", "tree.tar")
	if err := errors.Join(b.guest("many", "    - folder: tree\n", "filesystem: erofs, compression: none"),
		b.guest("manytar", "    - tar: tree.tar\n", "filesystem: erofs, compression: none"),
		smallFiles(folder)); err != nil {
		return err
	}
	if err := do([]string{"tar", "-C", folder, "-cf", archive, "."}, b.kata("lock", "many"),
		b.kata("lock", "manytar")); err != nil {
		return err
	}
	theirs, hash := b.path("theirs"), b.path("hash")
	mkfs := []string{"mkfs.erofs", "--quiet", theirs, folder}
	image := func(guest string) way {
		return way{b.forget, [][]string{b.kata("image", guest, "--offline", "-o", b.path("out"))}}
	}
	got, err := race(b.n, byCPU, image("many"), image("manytar"),
		way{gone(theirs, hash), [][]string{mkfs, {"veritysetup", "format", theirs, hash}}})
	if err != nil {
		return err
	}
	line(what, got[0].cpu.Seconds(), got[2].cpu.Seconds(), 1.3)
	line("  the same, a tar", got[1].cpu.Seconds(), got[2].cpu.Seconds(), 1.3)
	note("with digests, store and SBOM; theirs: %s; veritysetup format; of the folder", strings.Join(short(mkfs), " "))
	note("peak memory: %.0f MB from a folder, %.0f MB from a tar", float64(got[0].peak)/1e6, float64(got[1].peak)/1e6)
	return gone(theirs, hash, b.path("many"), b.path("manytar"), b.path("out"))()
}

// smallFiles fills a folder, always with the same.
func smallFiles(dir string) error {
	sizes := rand.New(rand.NewPCG(1, 2))
	bytes := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, manyLargest)
	for i := range manyFiles {
		in := filepath.Join(dir, strconv.Itoa(i/manyPerDir/manyPerDir), strconv.Itoa(i/manyPerDir%manyPerDir))
		if i%manyPerDir == 0 {
			if err := os.MkdirAll(in, 0o755); err != nil {
				return err
			}
		}
		b := buf[:sizes.IntN(manyLargest+1)]
		_, _ = bytes.Read(b) // which never fails
		if err := os.WriteFile(filepath.Join(in, "file-"+strconv.Itoa(i)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// short is a command line without its folders.
func short(args []string) []string {
	var out []string
	for _, a := range args {
		if filepath.IsAbs(a) {
			a = strings.ToUpper(filepath.Base(a))
		}
		out = append(out, a)
	}
	return out
}

// sizes: how small an image gets.
func (b images) sizes() error {
	const what = "bytes: erofs with zstd, beside LZ4HC at its best"
	if !has(what, "mkfs.erofs") {
		return nil
	}
	tree, ours, theirs := b.path("plain", "tree"), b.path("ours"), b.path("theirs")
	mkfs := []string{"mkfs.erofs", "--quiet", "-zlz4hc,12", "-C1048576", "-Eztailpacking", theirs, tree}
	got, err := race(1, byCPU, way{gone(ours), [][]string{{b.self, "child", "disk", "erofs", "zstd", tree, ours}}},
		way{gone(theirs), [][]string{mkfs}})
	if err != nil {
		return err
	}
	var size [2]float64
	for i, p := range []string{ours, theirs} {
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		size[i] = float64(fi.Size())
	}
	fmt.Printf("%-64s %10.0f %10.0f %7.2f %8s\n", what, size[0], size[1], size[0]/size[1], limit(1.15))
	line("  the CPU seconds of it, one run", got[0].cpu.Seconds(), got[1].cpu.Seconds(), 0)
	note("theirs: %s, without hash tree and partition table, which are 1 %% of ours", strings.Join(short(mkfs), " "))
	return gone(ours, theirs)()
}

// archive is the address of Debian's archive among the host's own apt sources.
func archive() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI)").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for l := range strings.Lines(string(out)) {
		if uri, ok := strings.CutPrefix(strings.TrimSpace(l), "Packages "); ok &&
			strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			return uri, nil
		}
	}
	return "", errors.New("no Debian archive among the host's apt sources")
}

// debian: a tree of packages that are there already, beside mmdebstrap with the same packages, and beside dpkg-deb.
func (b images) debian() error {
	const what = "Debian's minbase: unpack and install into a tree"
	const loop = "  beside dpkg-deb -x of each package, into folders"
	uri, err := archive()
	if err != nil {
		return err
	}
	cache, tar, work := b.path("debs"), b.path("theirs.tar"), b.path("unpacked")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	emptied := func() error { return errors.Join(os.RemoveAll(work), os.MkdirAll(work, 0o755)) }
	extract := func(debs []string) (way, way) {
		var loop [][]string
		for i, d := range debs {
			loop = append(loop, []string{"dpkg-deb", "-x", d, filepath.Join(work, strconv.Itoa(i))})
		}
		return way{emptied, [][]string{append([]string{b.self, "child", "debian", work}, debs...)}}, way{emptied, loop}
	}
	// mmdebstrap(1): packages that lie in the new system's cache before are neither fetched nor thrown away.
	bootstrap := func(hooks ...string) []string {
		return append(append([]string{"mmdebstrap", "--quiet", "--variant=minbase", "--skip=essential/unlink",
			`--setup-hook=mkdir -p "$1/var/cache/apt/archives"`}, hooks...), suite, tar, uri)
	}
	there := has(what, "mmdebstrap")
	if there {
		first := way{nil, [][]string{bootstrap(`--customize-hook=cp "$1"/var/cache/apt/archives/*.deb ` + cache)}}
		if _, err := first.run(); err != nil {
			// Some hosts let nobody make the namespaces that it needs.
			fmt.Printf("%-64s not measured: mmdebstrap does not run here: %v\n", what, err)
			there = false
		}
	}
	if !there {
		if !has(loop, "dpkg-deb") {
			return nil
		}
		debs, err := b.fetched("debian")
		if err != nil {
			return err
		}
		ours, theirs := extract(debs)
		got, err := race(b.n, byCPU, ours, theirs)
		if err != nil {
			return err
		}
		line(loop, got[0].cpu.Seconds(), got[1].cpu.Seconds(), 0)
		note("the %d packages of the tree above", len(debs))
		return gone(work)()
	}
	debs, err := filepath.Glob(filepath.Join(cache, "*.deb"))
	if err != nil {
		return err
	}
	var names []string
	for _, d := range debs {
		name, _, _ := strings.Cut(filepath.Base(d), "_")
		names = append(names, name)
	}
	if err := b.guest("minbase", "    - debian: {suite: "+suite+", packages: ["+strings.Join(names, ", ")+"]}\n",
		"filesystem: erofs"); err != nil {
		return err
	}
	if err := do(b.kata("lock", "minbase"), b.kata("fetch", "minbase")); err != nil {
		return err
	}
	ours, theirs := extract(debs)
	got, err := race(b.n, byCPU, ours,
		way{b.forget, [][]string{b.kata("rootfs", "minbase", "--offline", "-o", b.path("out"))}},
		way{nil, [][]string{b.kata("lock", "minbase")}},
		way{gone(tar), [][]string{bootstrap(`--setup-hook=cp ` + cache + `/*.deb "$1/var/cache/apt/archives/"`)}},
		theirs,
	)
	if err != nil {
		return err
	}
	var cpu []float64
	for _, c := range got {
		cpu = append(cpu, c.cpu.Seconds())
	}
	line(what, cpu[0], cpu[3], 0.25)
	line("  the same with digests, store and a tar: katabuild rootfs", cpu[1], cpu[3], 0)
	line("  and with choosing packages: katabuild lock and rootfs", cpu[1]+cpu[2], cpu[3], 0)
	line(loop, cpu[0], cpu[4], 0)
	note("the same %d packages, fetched before; theirs: mmdebstrap --variant=minbase, to a tar. It also chooses "+
		"packages", len(debs))
	note("(apt-get update) and runs their scripts; ours makes what the scripts would have made, and runs none")
	return gone(work, tar)()
}

// fetched are the packages of a locked guest, in the store.
func (b images) fetched(guest string) ([]string, error) {
	data, err := os.ReadFile(b.path(guest, "lock.json"))
	if err != nil {
		return nil, err
	}
	l, err := lock.Decode(data)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(b.path("store"), store.Options{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, in := range l.Inputs {
		if in.Kind == lock.Debian {
			p, err := s.Get(in.Digest)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// again: what a build costs when nothing or little has changed.
func (b images) again() error {
	fmt.Printf("\n%-64s %10s %37s\n", "wall time, median of "+strconv.Itoa(b.n), "ours", "target")
	row := func(what string, d time.Duration, more, target string) {
		fmt.Printf("%-64s %8.2f s %37s %s\n", what, d.Seconds(), target, more)
	}
	// The common case: many packages, and a folder beside the recipe with something of one's own.
	if err := b.guest("mixed", "    - debian: {suite: "+suite+", packages: ["+wanted+"]}\n    - folder: own\n",
		"filesystem: erofs, compression: none"); err != nil {
		return err
	}
	if err := os.MkdirAll(b.path("mixed", "own", "etc"), 0o755); err != nil {
		return err
	}
	for _, g := range []struct{ guest, what, file string }{
		{"mixed", "packages and a small folder", b.path("mixed", "own", "etc", "motd")},
		{"plain", "the whole tree as a folder", b.path("plain", "tree", "etc", "motd")},
	} {
		edit := func() error { return os.WriteFile(g.file, []byte(time.Now().String()+"\n"), 0o644) }
		pin, image := b.kata("lock", g.guest), b.kata("image", g.guest, "-o", b.path("out"))
		if err := errors.Join(edit(), do(pin, image)); err != nil {
			return err
		}
		same, err := race(b.n, byWall, way{nil, [][]string{image}})
		if err != nil {
			return err
		}
		row("katabuild image, nothing changed: "+g.what, same[0].wall, fmt.Sprintf("%.2f s of CPU: %s",
			same[0].cpu.Seconds(), steps(same[0].out)), "< 0.20 s")
		changed, err := race(b.n, byWall, way{edit, [][]string{pin}}, way{nil, [][]string{image}})
		if err != nil {
			return err
		}
		row("lock and image, one file changed: "+g.what, changed[0].wall+changed[1].wall,
			fmt.Sprintf("lock %.2f s, image %.2f s, %.2f s of CPU: %s", changed[0].wall.Seconds(),
				changed[1].wall.Seconds(), (changed[0].cpu+changed[1].cpu).Seconds(), steps(changed[1].out)),
			"< 2.00 s")
	}
	note("lock of a guest with packages asks the archive, over the network, what is new")
	return nil
}

// steps says which steps ran and which were found done, as progress events tell.
func steps(events string) string {
	var out []string
	s := bufio.NewScanner(strings.NewReader(events))
	for s.Scan() {
		var e struct{ Step, Kind string }
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Step != "lock" && (e.Kind == "done" || e.Kind == "hit") {
			out = append(out, map[string]string{"done": "ran ", "hit": "found "}[e.Kind]+e.Step)
		}
	}
	return strings.Join(out, ", ")
}

// memory: the peak of the whole command, on a tree of 2 GB.
func (b images) memory() error {
	fmt.Printf("\n%-64s %10s %37s\n", "peak memory, tree of "+strconv.Itoa(copies)+" copies, one run", "ours", "target")
	if err := errors.Join(os.RemoveAll(b.path("store")), os.RemoveAll(b.path("out")),
		os.MkdirAll(b.path("large", "tree"), 0o755)); err != nil {
		return err
	}
	for i := range copies {
		if err := do([]string{"cp", "-a", b.path("plain", "tree"),
			b.path("large", "tree", strconv.Itoa(i))}); err != nil {
			return err
		}
	}
	for _, image := range []string{"filesystem: erofs, compression: none", "filesystem: erofs, compression: zstd",
		"filesystem: ext4"} {
		if err := b.guest("large", "    - folder: tree\n", image); err != nil {
			return err
		}
		if err := do(b.kata("lock", "large")); err != nil {
			return err
		}
		c, err := way{b.forget, [][]string{b.kata("image", "large", "--offline", "-o", b.path("out"))}}.run()
		if err != nil {
			return err
		}
		i, err := os.Stat(b.path("out", "image.img"))
		if err != nil {
			return err
		}
		fmt.Printf("%-64s %7.0f MB %37s %.0f MB of image, %.1f CPU-s\n", "katabuild image, "+image,
			float64(c.peak)/1e6, "< 300 MB", float64(i.Size())/1e6, c.cpu.Seconds())
		// The store would keep every image, and the next is as large.
		if err := errors.Join(os.RemoveAll(b.path("store")), os.RemoveAll(b.path("out"))); err != nil {
			return err
		}
	}
	return nil
}
