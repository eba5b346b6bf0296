package kernel

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/kernel/features"
)

// buildCC builds the program that stands before the compilers.
func buildCC(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "katabuild-cc")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "../cmd/katabuild-cc")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func sameOutputs(t *testing.T, got, want *Result) {
	t.Helper()
	if len(got.Outputs) != len(want.Outputs) {
		t.Fatalf("%d outputs, want %d", len(got.Outputs), len(want.Outputs))
	}
	for i, o := range want.Outputs {
		a, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(got.Outputs[i].Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s has other bytes with the cache", o.Name)
		}
	}
}

// TestCachedObjectsMakeTheSameKernel builds real kernels with the cache and without, compares every output, and does it
// once more after damaging a tenth of the cache's files.
func TestCachedObjectsMakeTheSameKernel(t *testing.T) {
	cache := ObjectCache{Dir: t.TempDir()}
	patch := Patch{Name: "touch.patch", Data: []byte("--- a/drivers/char/random.c\n+++ b/drivers/char/random.c\n" +
		"@@ -1,1 +1,2 @@\n // SPDX-License-Identifier: (GPL-2.0 OR BSD-3-Clause)\n+/* touched */\n")}
	build := func(name string, cached bool, change func(r *Request)) *Result {
		r := slowRequest(t, features.Tiny)
		if cached {
			if cache.Program == "" {
				cache.Program = buildCC(t)
			}
			r.ObjectCache = cache
		}
		change(&r)
		res, err := Build(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(r.WorkDir); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d of %d objects from the cache, %v of processor time", name, res.Cached(), len(res.Compiled),
			res.CPU)
		return res
	}
	most := func(r *Result, percent int) {
		t.Helper()
		if r.Cached() < len(r.Compiled)*percent/100 {
			t.Errorf("only %d of %d objects were in the cache", r.Cached(), len(r.Compiled))
		}
	}
	same := func(*Request) {}
	option := func(r *Request) { r.Fragments = []Fragment{{Name: "user.config", Data: []byte("CONFIG_FHANDLE=y\n")}} }
	patched := func(r *Request) { r.Patches = []Patch{patch} }

	clean := build("clean", false, same)
	cold := build("cold", true, same)
	sameOutputs(t, cold, clean)
	warm := build("warm", true, same)
	sameOutputs(t, warm, clean)
	most(warm, 95)
	touched := build("a driver touched", true, patched)
	most(touched, 95)
	sameOutputs(t, touched, build("a driver touched, clean", false, patched))

	added := build("an option added", true, option)
	most(added, 60)
	want := build("an option added, clean", false, option)
	sameOutputs(t, added, want)
	damage(t, cache.Dir)
	sameOutputs(t, build("an option added, a tenth of the cache damaged", true, option), want)
}

// damage changes one byte of every tenth file.
func damage(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if n++; n%10 != 0 {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil || len(data) == 0 {
			return err
		}
		data[(n*7919)%len(data)] ^= 0x10
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.WriteFile(p, data, 0o444)
	})
	if err != nil || n < 100 {
		t.Fatalf("damaged files: %v, of %d", err, n)
	}
}
