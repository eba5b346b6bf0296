package locking

import (
	"errors"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/fetch/archivetest"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// toolchainWorkshop has an archive with the tool-chains that this machine runs, each package empty, and a recipe.
func toolchainWorkshop(t *testing.T) *workshop {
	t.Helper()
	_, host, err := architecturesOf("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	var packages []archivetest.Package
	seen := map[string]bool{}
	for _, kind := range []string{toolchain.Debian, toolchain.LLVM} {
		for _, target := range arch.All() {
			for _, name := range toolchain.Packages(kind, target, host) {
				if !seen[name] {
					seen[name] = true
					packages = append(packages, archivetest.Package{Name: name, Version: "1", Suite: "trixie"})
				}
			}
		}
	}
	w := newWorkshop(t, packages...)
	files(t, w.dir, map[string]string{"linux/Makefile": "VERSION = 6\n", "linux/Kconfig": ""})
	return w
}

func architecturesOf(name string) (guest, host arch.Arch, err error) {
	if guest, err = arch.Parse(name); err != nil {
		return
	}
	host, err = arch.FromGo("amd64")
	return
}

// with writes a recipe with more lines of its kernel, and locks it.
func (w *workshop) with(t *testing.T, kernel string) *lock.Lock {
	t.Helper()
	files(t, w.dir, map[string]string{"recipe.yaml": "version: 1\nname: mine\nkernel:\n  source: {tree: linux}\n" +
		"  features: [tiny]\n" + kernel})
	l, err := MakeLock(t.Context(), w.Config, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l.Lock
}

func sets(l *lock.Lock) string {
	var names []string
	for _, s := range l.Sets {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func TestALockHoldsTheToolChain(t *testing.T) {
	w := toolchainWorkshop(t)
	l := w.with(t, "")
	const gcc, clang = "tool-chain debian on amd64 for amd64", "tool-chain llvm on amd64 for amd64"
	if sets(l) != gcc || l.Find("debian package gcc 1 amd64") == nil || l.Find("debian package clang 1 amd64") != nil {
		t.Fatalf("%s, %+v", sets(l), l.Inputs)
	}
	if l.Time != w.Now().Unix() {
		t.Errorf("the time of the lock, %d, is the tool-chain's", l.Time)
	}
	l = w.with(t, "  toolchain: llvm\n")
	if sets(l) != gcc+", "+clang || l.Find("debian package clang 1 amd64") == nil {
		t.Errorf("another kind as well: %s", sets(l))
	}
	if l = w.with(t, "  toolchain: host\n"); sets(l) != gcc+", "+clang {
		t.Errorf("with the host's: %s", sets(l))
	}
	c := w.Config
	c.Toolchain = toolchain.LLVM
	if locked, err := MakeLock(t.Context(), c, Options{}); err != nil || locked.Changed {
		t.Errorf("what the caller wants is in the lock: %v, %v", locked, err)
	}
	c.Toolchain = "gcc"
	_, err := MakeLock(t.Context(), c, Options{})
	if err == nil || err.Error() != `unknown tool-chain "gcc" (known: debian, llvm, host)` {
		t.Errorf("%v", err)
	}
}

func TestALockWithoutTheToolChainIsStale(t *testing.T) {
	w := toolchainWorkshop(t)
	w.with(t, "  toolchain: host\n")
	c := w.Config
	c.Toolchain = toolchain.Debian
	_, err := builder.Open(t.Context(), c)
	stale, ok := errors.AsType[*inputs.StaleLock](err)
	if !ok || stale.Why != "it lacks the tool-chain debian on amd64 for amd64" {
		t.Errorf("%v", err)
	}
}

func TestAToolChainThatIsNotToBeHadIsTold(t *testing.T) {
	w := newWorkshop(t, archivetest.Package{Name: "gcc", Version: "1", Suite: "trixie"})
	files(t, w.dir, map[string]string{"linux/Makefile": "VERSION = 6\n", "linux/Kconfig": "",
		"recipe.yaml": "version: 1\nname: mine\nkernel:\n  source: {tree: linux}\n  features: [tiny]\n"})
	_, err := MakeLock(t.Context(), w.Config, Options{})
	no, ok := errors.AsType[*NoToolchain](err)
	if !ok || no.Name != "tool-chain debian on amd64 for amd64" || !strings.Contains(err.Error(), "bash") {
		t.Errorf("%v", err)
	}
}
