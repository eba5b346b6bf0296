package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestProgramsBuiltTwiceElsewhereAreTheSame builds the programs for two architectures in a clone, and once more in one
// in another folder, with a cache of its own, another umask, time zone and language.
func TestProgramsBuiltTwiceElsewhereAreTheSame(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_TWICE", "twice"), testenv.Tool("go"), testenv.Tool("git"))
	here, there := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "there")
	first, elsewhere := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "another", "folder")
	for _, dir := range []string{first, elsewhere} { // what is committed, and nothing that lies about
		if out, err := exec.Command("git", "clone", "-q", abs(t, "."), dir).CombinedOutput(); err != nil {
			t.Fatalf("clone: %v\n%s", err, out)
		}
	}
	archs := []string{"x86_64", "s390x"} // of either order of bytes
	dist(t, "umask 022", first, here, archs)
	dist(t, "umask 077", elsewhere, there, archs, "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8",
		"GOMAXPROCS=1", "GOCACHE="+t.TempDir())
	for _, a := range archs {
		entries, err := os.ReadDir(filepath.Join(here, a))
		if err != nil || len(entries) != 5 {
			t.Fatalf("%s: %v, %v", a, entries, err)
		}
		for _, e := range entries {
			d, _, err := digest.File(filepath.Join(here, a, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if err := digest.Check(filepath.Join(there, a, e.Name()), d); err != nil {
				t.Error(err)
			}
		}
	}
}

// dist builds the programs from the folder dir into out.
func dist(t *testing.T, before, dir, out string, archs []string, env ...string) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", before + `; exec sh ci/dist.sh "$@"`, "sh", out, "1.4.0", "c0ffee"},
		archs...)...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PWD="+dir), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dist in %s: %v\n%s", dir, err, b)
	}
}
