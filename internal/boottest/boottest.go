// Package boottest makes initrds for tests that boot a kernel: of one program as init, and of what it needs beside it.
package boottest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// Build has the go command make a program for x86_64, without cgo, and returns its path. It runs in dir; an empty one
// is the test's own. verb is build or test, and args are what follows it but -o.
func Build(t testing.TB, dir, verb string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.CommandContext(t.Context(), "go", append([]string{verb, "-o", out}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, said)
	}
	return out
}

// Entry is a file, folder or link of an initrd.
type Entry struct {
	Name string // without a slash at its front
	Mode cpio.FileMode
	Data []byte // of a link, its target
}

// File is an executable file like the one at path.
func File(t testing.TB, name, path string) Entry {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Entry{name, cpio.TypeReg | 0o755, data}
}

// Initrd writes an archive with the program at the path init as /init, and what more there is in its order, folders
// before what lies in them. The kernel brings /dev/console itself. The file that it returns goes with the test.
func Initrd(t testing.TB, init string, more ...Entry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "initrd")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(f)
	for _, e := range append([]Entry{File(t, "init", init)}, more...) {
		err := w.WriteHeader(&cpio.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Data))})
		if err == nil {
			_, err = w.Write(e.Data)
		}
		if err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
