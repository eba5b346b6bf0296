package source

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
)

// makeTree makes a kernel tree in a new folder, with the umask and times of the moment.
func makeTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "a", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"Makefile": "m", "Kconfig": "k", "a/f": "f", "a/empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "run"), []byte("x"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a/f", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustDigest(t testing.TB, dir string) digest.Digest {
	t.Helper()
	d, err := TreeDigest(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTreeDigestIsTheSameElsewhere(t *testing.T) {
	want := mustDigest(t, makeTree(t))
	old := syscall.Umask(0o077)
	other := makeTree(t)
	syscall.Umask(old)
	if got := mustDigest(t, other); got != want {
		t.Errorf("another folder and umask: %s, want %s", got, want)
	}
	for _, p := range []string{"Makefile", "a", "."} {
		if err := os.Chtimes(filepath.Join(other, p), time.Unix(1, 0), time.Unix(2, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(other, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, ".git/HEAD"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := mustDigest(t, other); got != want {
		t.Errorf("other times, and a .git: %s, want %s", got, want)
	}
}

func TestTreeDigestChangesWithTheTree(t *testing.T) {
	seen := map[digest.Digest]string{mustDigest(t, makeTree(t)): "the tree"}
	in := filepath.Join
	for name, change := range map[string]func(dir string) error{
		"content":         func(d string) error { return os.WriteFile(in(d, "a/f"), []byte("g"), 0o644) },
		"execute bit":     func(d string) error { return os.Chmod(in(d, "a/f"), 0o755) },
		"no execute bit":  func(d string) error { return os.Chmod(in(d, "run"), 0o644) },
		"file name":       func(d string) error { return os.Rename(in(d, "a/f"), in(d, "a/g")) },
		"place":           func(d string) error { return os.Rename(in(d, "a/f"), in(d, "f")) },
		"missing file":    func(d string) error { return os.Remove(in(d, "a/empty")) },
		"empty folder":    func(d string) error { return os.Remove(in(d, "empty")) },
		"another folder":  func(d string) error { return os.Mkdir(in(d, "more"), 0o755) },
		"file for folder": func(d string) error { os.Remove(in(d, "empty")); return os.WriteFile(in(d, "empty"), nil, 0o644) },
		"link target":     func(d string) error { os.Remove(in(d, "link")); return os.Symlink("a/g", in(d, "link")) },
		"file for link":   func(d string) error { os.Remove(in(d, "link")); return os.WriteFile(in(d, "link"), []byte("f"), 0o644) },
		"inner .git":      func(d string) error { return os.Mkdir(in(d, "a/.git"), 0o755) },
		"odd name":        func(d string) error { return os.WriteFile(in(d, "a\nf \"x\" y"), nil, 0o644) },
	} {
		dir := makeTree(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		got := mustDigest(t, dir)
		if before, ok := seen[got]; ok {
			t.Errorf("%s has the digest of %s", name, before)
		}
		seen[got] = name
	}
}

func TestTreesAreCopied(t *testing.T) {
	from, to := makeTree(t), filepath.Join(t.TempDir(), "linux")
	want := mustDigest(t, from)
	if err := Unpack(t.Context(), Source{Kind: Tree, Path: from, Digest: want}, to, Options{Time: time.Unix(5, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := mustDigest(t, to); got != want {
		t.Errorf("the copy is %s, want %s", got, want)
	}
	if fi, err := os.Stat(filepath.Join(to, "a")); err != nil || !fi.ModTime().Equal(time.Unix(5, 0)) {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestOddTreesAreRefused(t *testing.T) {
	pipe, link := makeTree(t), makeTree(t)
	if err := syscall.Mkfifo(filepath.Join(pipe, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := TreeDigest(t.Context(), pipe); err == nil || !strings.Contains(err.Error(), "neither file, folder nor link") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(link, "passwd")); err != nil {
		t.Fatal(err)
	}
	d := mustDigest(t, link)
	err := Unpack(t.Context(), Source{Kind: Tree, Path: link, Digest: d}, filepath.Join(t.TempDir(), "linux"), Options{})
	if err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a link out of the tree: %v", err)
	}
	if _, err := TreeDigest(t.Context(), filepath.Join(link, "missing")); !os.IsNotExist(err) {
		t.Errorf("no tree: %v", err)
	}
}
