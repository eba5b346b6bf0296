package fetch

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/debian/debiantest"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestARealDebian takes the archive's present packages all the way to a tree, with apt and dpkg as judges. It downloads
// about 70 MB.
func TestARealDebian(t *testing.T) {
	testenv.Require(t, testenv.Tool("apt-get"), testenv.Tool("dpkg"), testenv.Asked("KATABUILD_TEST_NETWORK",
		"test-network"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	apt := &Apt{Dir: t.TempDir(), Env: os.Environ()}
	start := func(what string) func() {
		begin, used := time.Now(), cpu()
		return func() {
			t.Logf("%s: %v, cpu %v", what, time.Since(begin).Round(time.Millisecond),
				(cpu() - used).Round(time.Millisecond))
		}
	}
	read := func(a Archive) *debian.Index {
		t.Helper()
		stop := start(fmt.Sprintf("index by %T", a))
		r, rel, err := a.Index(ctx, Section{Suite: "trixie"}, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		stop()
		defer r.Close()
		stop = start("parse")
		x := debian.NewIndex("amd64")
		if err := x.Read(r, debian.Source{}); err != nil {
			t.Fatal(err)
		}
		stop()
		if x.Find("bash") == nil || x.Find("zutils") == nil || rel.Date.IsZero() {
			t.Errorf("not the packages of a whole suite, of %v", rel.Date)
		}
		return x
	}
	x := read(apt)
	uri, err := hostArchive(ctx, os.Environ(), "trixie")
	if err != nil {
		t.Fatal(err)
	}
	other := read(&HTTP{Base: uri, Dir: t.TempDir()})
	w, err := apt.world(ctx, Section{Suite: "trixie"}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	// apt counts itself as essential.
	for _, want := range []debian.Request{
		{Packages: []string{"apt"}}, {Packages: []string{"apt", "iptables", "ca-certificates"}},
		{Packages: []string{"apt", "openssh-server"}, Recommends: true}, {Packages: []string{"apt", "build-essential"}},
	} {
		want.Essential = true
		stop := start(fmt.Sprintf("resolve %v", want.Packages))
		got, err := debian.Resolve(x, want)
		if err != nil {
			t.Error(err)
			continue
		}
		stop()
		if err := debiantest.Satisfied(got, "amd64"); err != nil {
			t.Error(err)
		}
		again, err := debian.Resolve(other, want)
		if err != nil || named(again) != named(got) {
			t.Errorf("%v: the two ways to the archive differ: %v\n%s\n%s", want.Packages, err, named(got), named(again))
		}
		out, err := w.run(ctx, "apt-get", append([]string{"-s", "-qq", "-o", fmt.Sprintf("APT::Install-Recommends=%v",
			want.Recommends), "install", "?essential"}, want.Packages...)...)
		if err != nil {
			t.Fatal(err)
		}
		var theirs []string
		for line := range strings.SplitSeq(string(out), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "Inst" {
				theirs = append(theirs, strings.TrimSuffix(f[1], ":amd64")+" "+strings.TrimPrefix(f[2], "("))
			}
		}
		slices.Sort(theirs)
		if s := strings.Join(theirs, "\n"); s != named(got) {
			t.Errorf("%v: apt chooses\n%s\nwe choose\n%s", want.Packages, s, named(got))
		}
	}

	wish := debian.Request{Essential: true, Required: true, Packages: []string{"apt", "ca-certificates", "curl",
		"iptables", "iproute2", "openssh-server", "python3-minimal", "strace", "procps", "util-linux-extra"}}
	chosen, err := debian.Resolve(x, wish)
	if err != nil {
		t.Fatal(err)
	}
	var list []lock.Package
	var size int64
	for _, p := range chosen {
		list = append(list, lock.Package{Suite: "trixie", Name: p.Name, Version: string(p.Version), Arch: p.Arch,
			Filename: p.Filename})
		size += p.Size
	}
	dir := t.TempDir()
	stop := start(fmt.Sprintf("download %d packages, %d MB", len(list), size>>20))
	if err := apt.FetchAll(ctx, Section{Suite: "trixie"}, list, "amd64", dir); err != nil {
		t.Fatal(err)
	}
	stop()
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != len(list) {
		t.Fatalf("%d files of %d packages, %v", len(files), len(list), err)
	}
	debs := unpackAll(t, files, start)
	var trees []*tree.Tree
	stamp := tree.Time{Sec: 1700000000}
	slim := append(debian.Exclude("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"),
		debian.Include("/usr/share/doc/*/copyright")...)
	for range 2 {
		stop := start("install")
		tr := tree.New()
		if err := debian.Install(tr, debs, debian.Options{Time: stamp, Paths: slim}); err != nil {
			t.Fatal(err)
		}
		stop()
		trees = append(trees, tr)
		slices.Reverse(debs)
	}
	if d, err := treetest.Equal(trees[0], trees[1]); d != "" || err != nil {
		t.Errorf("twice, and %s, %v", d, err)
	}
	nodes, bytes := 0, int64(0)
	if err := trees[0].Walk(func(_ string, n *tree.Node, first bool) error {
		if nodes++; first {
			bytes += n.Size()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d names, %d MB", nodes, bytes>>20)
	for _, p := range []string{"/bin/sh", "/lib64/ld-linux-x86-64.so.2", "/usr/bin/awk", "/usr/sbin/iptables",
		"/etc/passwd", "/etc/ssl/certs/ca-certificates.crt", "/usr/share/doc/bash/copyright"} {
		if n, err := trees[0].Resolve(p); err != nil || n.Kind != tree.File || n.Size() == 0 {
			t.Errorf("%s: %v, %v", p, n, err)
		}
	}
	dpkgAudit(t, trees[0], len(list))
}

func named(l []*debian.Package) string {
	var s []string
	for _, p := range l {
		s = append(s, p.Name+" "+string(p.Version))
	}
	slices.Sort(s)
	return strings.Join(s, "\n")
}

func unpackAll(t *testing.T, files []string, start func(string) func()) []*debian.Deb {
	t.Helper()
	dir := t.TempDir()
	stop := start("unpack")
	debs, errs := make([]*debian.Deb, len(files)), make([]error, len(files))
	work := make(chan int)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range work {
				debs[i], errs[i] = debian.Unpack(files[i], dir)
			}
		})
	}
	for i := range files {
		work <- i
	}
	close(work)
	wg.Wait()
	stop()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return debs
}

// dpkgAudit has dpkg look at the tree's database.
func dpkgAudit(t *testing.T, tr *tree.Tree, packages int) {
	t.Helper()
	root := t.TempDir()
	admin, err := tr.Lookup("/var/lib/dpkg")
	if err != nil {
		t.Fatal(err)
	}
	var write func(host string, n *tree.Node)
	write = func(host string, n *tree.Node) {
		if n.Kind == tree.Dir {
			if err := os.Mkdir(host, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range n.Names() {
				write(filepath.Join(host, name), n.Child(name))
			}
			return
		}
		var data []byte
		if n.Content != nil {
			r, err := n.Content.Open()
			if err == nil {
				data, err = io.ReadAll(r)
				r.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(host, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(root, "dpkg")
	write(dir, admin)
	if out, err := exec.Command("dpkg", "--admindir="+dir, "--audit").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("dpkg --audit: %v\n%s", err, out)
	}
	out, err := exec.Command("dpkg-query", "--admindir="+dir, "-W", "-f", "${db:Status-Abbrev}\n").CombinedOutput()
	if err != nil || strings.Count(string(out), "ii ") != packages {
		t.Errorf("dpkg-query: %v, %d of %d packages installed", err, strings.Count(string(out), "ii "), packages)
	}
}
