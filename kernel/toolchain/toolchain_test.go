package toolchain

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/testenv"
)

func options(t *testing.T) Options {
	t.Helper()
	a, err := arch.FromGo("amd64")
	if err != nil {
		t.Fatal(err)
	}
	return Options{Arch: a, Host: a, Dirs: []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}, Cache: t.TempDir()}
}

func found(t *testing.T, o Options) Toolchain {
	t.Helper()
	testenv.Require(t, testenv.Func(testenv.Toolchain, func() error {
		_, err := Find(context.Background(), o)
		return err
	}))
	tc, err := Find(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tc
}

func TestIdentityHasNoPathsAndIsSorted(t *testing.T) {
	tc := found(t, options(t))
	for _, tool := range tc.Identity() {
		if tool.Path != "" || tool.Digest == "" || tool.Version == "" || strings.Contains(tool.Version, "/") {
			t.Errorf("%+v", tool)
		}
	}
	if !slices.IsSortedFunc(tc.Tools, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted")
	}
}

func TestSecondTimeIsFast(t *testing.T) {
	o := options(t)
	first := found(t, o)
	best := time.Hour
	for range 5 {
		start := time.Now()
		again, err := Find(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
		if !slices.Equal(first.Tools, again.Tools) {
			t.Errorf("first %v, then %v", first.Tools, again.Tools)
		}
	}
	if best > 50*time.Millisecond {
		t.Errorf("took %v", best)
	}
}

func TestAllThatIsMissingIsNamedAtOnce(t *testing.T) {
	o := options(t)
	o.Dirs = []string{t.TempDir()}
	_, err := Find(t.Context(), o)
	var m *Missing
	if !errors.As(err, &m) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"gcc", "cc1", "flex", "bison", "make"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named: %v", want, err)
		}
	}
	if p := m.packages(); !slices.Contains(p, "binutils") || !slices.IsSorted(p) {
		t.Errorf("packages %v", p)
	}
}

// fakeTools makes a folder with a program of every name a build needs.
func fakeTools(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range Needs() {
		if n.kind == header {
			continue
		}
		script := "#!/bin/sh\ncase $1 in\n-print*) echo " + dir + "/${1#*=} ;;\n*) echo " + n.Name + " " + version +
			" ;;\nesac\n"
		name := n.Name
		if n.kind == library {
			name += ".so"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAChangedToolIsNoticed(t *testing.T) {
	o := options(t)
	dir := fakeTools(t, "1.0")
	o.Dirs = []string{dir}
	first, err := Find(t.Context(), o)
	var m *Missing
	if errors.As(err, &m) {
		testenv.Require(t, testenv.Func(testenv.Headers, func() error { return err }))
	}
	if err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1, 0)
	p := filepath.Join(dir, "ld")
	fi, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	// Same size, same time, same inode: only the content differs.
	if err := os.WriteFile(p, []byte(strings.Replace(string(script), "1.0", "1.1", 1)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p, old, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	second, err := Find(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var changed []string
	for i := range first.Tools {
		if first.Tools[i] != second.Tools[i] {
			changed = append(changed, first.Tools[i].Name+": "+second.Tools[i].Version)
		}
	}
	if !slices.Equal(changed, []string{"ld: ld 1.1"}) {
		t.Errorf("changed: %v", changed)
	}
}
