package locking

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
)

// files writes a folder's files.
func files(t *testing.T, dir string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tarOf is a tar with one file.
func tarOf(t *testing.T, content string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "f", Size: int64(len(content)), Mode: 0o644})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestALockKeepsWhatIsPinned(t *testing.T) {
	remote := tarOf(t, "first")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.Write([]byte(remote))
	}))
	defer server.Close()
	dir := t.TempDir()
	files(t, dir, map[string]string{
		"recipe.yaml": "version: 1\nname: mine\nkernel:\n  source: {tree: linux}\n  features: [tiny]\n" +
			"  toolchain: host\nrootfs:\n  layers:\n    - tar: " + server.URL +
			"/a.tar\n    - files: [{path: /f, from: f}]\n",
		"linux/Makefile": "VERSION = 6\n", "linux/Kconfig": "", "f": "one",
	})
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := inputs.Config{Recipe: filepath.Join(dir, "recipe.yaml"), Store: s}
	now := int64(1700000000)
	c.Now = func() time.Time { now++; return time.Unix(now, 0) }
	make1 := func(update bool) (*lock.Lock, bool) {
		t.Helper()
		l, err := MakeLock(context.Background(), c, Options{Update: Update{All: update}})
		if err != nil {
			t.Fatal(err)
		}
		return l.Lock, l.Changed
	}
	pin := func(l *lock.Lock) digest.Digest { return l.Find("tar " + server.URL + "/a.tar").Digest }

	first, changed := make1(false)
	if !changed || pin(first) != digest.Of([]byte(tarOf(t, "first"))) {
		t.Fatalf("%v, %+v", changed, first)
	}
	remote = tarOf(t, "second")
	if l, changed := make1(false); changed || pin(l) != pin(first) || l.Time != first.Time {
		t.Errorf("nothing in the recipe changed, the lock did: %+v", l)
	}
	files(t, dir, map[string]string{"f": "two"})
	l, changed := make1(false)
	if !changed || l.Find("file f").Digest != digest.Of([]byte("two")) || pin(l) != pin(first) || l.Time != first.Time {
		t.Errorf("a file beside the recipe changed, and not just its pin: %v, %+v", changed, l)
	}
	if l, changed = make1(true); !changed || pin(l) != digest.Of([]byte(tarOf(t, "second"))) {
		t.Errorf("asked for anew: %v, %+v", changed, l)
	}
	files(t, dir, map[string]string{"linux/Makefile": "VERSION = 7\n"})
	if l, changed = make1(false); !changed || l.Time == first.Time {
		t.Errorf("another kernel source has the time of the old: %+v", l)
	}
}

// TestAKernelSourceThatIsNoneIsToldWhenItIsLocked names the recipe's line and what the file is instead.
func TestAKernelSourceThatIsNoneIsToldWhenItIsLocked(t *testing.T) {
	tarball, folder := "{tarball: {from: src}}", "{tree: src}"
	for name, c := range map[string]struct {
		source, file, want string
	}{
		"a page":             {tarball, "<!DOCTYPE html><html>404</html>\n", "src is no tar but"},
		"a zip":              {tarball, "PK\x03\x04" + strings.Repeat("x", 600), "src is no tar but"},
		"bzip2":              {tarball, "BZh91AY&SY" + strings.Repeat("x", 600), "src is no tar but"},
		"nothing":            {tarball, "", "src is no tar but empty"},
		"the half of an xz":  {tarball, "\xfd7zXZ\x00\x00\x04", "src is no tar but"},
		"a file as a folder": {folder, "x", "src is no folder"},
	} {
		dir := t.TempDir()
		files(t, dir, map[string]string{"recipe.yaml": "version: 1\nname: mine\nkernel:\n  source: " + c.source +
			"\n  features: [tiny]\n", "src": c.file})
		s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		recipe := filepath.Join(dir, "recipe.yaml")
		_, err = MakeLock(t.Context(), inputs.Config{Recipe: recipe, Store: s, Now: time.Now}, Options{})
		if err == nil || !strings.HasPrefix(err.Error(), recipe+":4:") || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "store") {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}
