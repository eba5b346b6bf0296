package arch_test

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/arch"
)

// suites are where a kernel is looked for, the first that has one: not every suite has every architecture, and mirrors
// change while they are read.
var suites = []string{"trixie", "bookworm", "forky", "sid"}

// kernel is Debian's of an architecture, unpacked.
type kernel struct {
	file    string            // to boot
	modules map[string]string // paths by name, with _ for -
}

// debian is the kernel of an architecture, from the cache of earlier runs or the archive.
func debian(t *testing.T, a arch.Arch) kernel {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "katabuild", "test-arch", a.Debian)
	tree := filepath.Join(dir, "tree")
	if _, err := os.Stat(tree); err != nil {
		unpack(t, download(t, a, dir), tree)
	}
	k := kernel{modules: map[string]string{}}
	err = filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		name := filepath.Base(p)
		switch {
		case err != nil || e.IsDir():
			return err
		case strings.HasPrefix(name, "vmlinu"):
			k.file = p
		case strings.Contains(name, ".ko"):
			module, _, _ := strings.Cut(name, ".ko")
			k.modules[strings.ReplaceAll(module, "-", "_")] = p
		}
		return nil
	})
	if err != nil || k.file == "" {
		t.Fatalf("no kernel in %s: %v", tree, err)
	}
	return k
}

// download brings the packages of the newest kernel of the first suite that has one.
func download(t *testing.T, a arch.Arch, dir string) []string {
	t.Helper()
	apt := &fetch.Apt{Dir: filepath.Join(dir, "apt"), Env: os.Environ()}
	var errs []error
	for _, suite := range suites {
		debs := filepath.Join(dir, "debs-"+suite)
		if err := os.MkdirAll(debs, 0o755); err != nil {
			t.Fatal(err)
		}
		list, err := kernelPackages(t.Context(), apt, suite, a)
		if err == nil {
			err = apt.FetchAll(t.Context(), fetch.Section{Suite: suite}, list, a.Debian, debs)
		}
		files, _ := filepath.Glob(filepath.Join(debs, "*.deb")) // the pattern is right
		if err == nil && len(files) == len(list) {
			t.Logf("from Debian %s: %v", suite, list)
			return files
		}
		errs = append(errs, fmt.Errorf("%s: %w", suite, err))
	}
	t.Fatal(errors.Join(errs...))
	return nil
}

// kernelPackages follows the dependencies of the package that stands for the newest kernel, as far as they are parts of
// it.
func kernelPackages(ctx context.Context, apt *fetch.Apt, suite string, a arch.Arch) ([]lock.Package, error) {
	index, _, err := apt.Index(ctx, fetch.Section{Suite: suite}, a.Debian)
	if err != nil {
		return nil, err
	}
	defer index.Close() // only read from
	type entry struct{ version, arch, depends string }
	all := map[string]entry{}
	s := bufio.NewScanner(index)
	s.Buffer(nil, 1<<20)
	name, e := "", entry{}
	for s.Scan() {
		switch key, value, _ := strings.Cut(s.Text(), ": "); key {
		case "Package":
			name, e = value, entry{}
		case "Version":
			e.version = value
		case "Architecture":
			e.arch = value
		case "Depends":
			e.depends = value
		case "":
			all[name] = e
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	start := "linux-image-" + a.Debian
	if a.Name == "ppc64le" {
		start = "linux-image-powerpc64le" // by the kernel's name of the flavour
	}
	var out []lock.Package
	var visit func(name string)
	visit = func(name string) {
		e, ok := all[name]
		if !ok || slices.ContainsFunc(out, func(p lock.Package) bool { return p.Name == name }) {
			return
		}
		if name != start {
			out = append(out, lock.Package{Suite: suite, Name: name, Version: e.version, Arch: e.arch})
		}
		for d := range strings.SplitSeq(e.depends, ",") {
			if f := strings.Fields(d); len(f) > 0 && slices.ContainsFunc([]string{"linux-image-", "linux-binary-",
				"linux-modules-"}, func(p string) bool { return strings.HasPrefix(f[0], p) }) {
				visit(f[0])
			}
		}
	}
	visit(start)
	if len(out) == 0 {
		return nil, fmt.Errorf("Debian %s has no %s", suite, start)
	}
	return out, nil
}

func unpack(t *testing.T, debs []string, to string) {
	t.Helper()
	part := to + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, d := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", d, part).CombinedOutput(); err != nil {
			t.Fatalf("unpack %s: %v: %s", d, err, out)
		}
	}
	if err := os.Rename(part, to); err != nil {
		t.Fatal(err)
	}
}

// load is a module's bytes, and those of all that it needs, in the order in which they are loaded. What is built into
// the kernel is not there.
func (k kernel) load(names ...string) ([][]byte, error) {
	var out [][]byte
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		path, ok := k.modules[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		b, err := readModule(path)
		if err != nil {
			return err
		}
		needs, err := depends(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		out = append(out, b)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".xz":
		r, err = xz.NewReader(bufio.NewReader(f))
	case ".zst":
		r, err = zstd.NewReader(f)
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	return io.ReadAll(r)
}

// depends is what a module says it needs. Linux, Documentation/kbuild/modules.rst and include/linux/module.h: the
// section .modinfo has strings NAME=VALUE.
func depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.SplitSeq(string(info), "\x00") {
		if v, ok := strings.CutPrefix(line, "depends="); ok && v != "" {
			for n := range strings.SplitSeq(v, ",") {
				out = append(out, strings.ReplaceAll(n, "-", "_"))
			}
		}
	}
	return out, nil
}
