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
		"content":        func(d string) error { return os.WriteFile(in(d, "a/f"), []byte("g"), 0o644) },
		"execute bit":    func(d string) error { return os.Chmod(in(d, "a/f"), 0o755) },
		"no execute bit": func(d string) error { return os.Chmod(in(d, "run"), 0o644) },
		"file name":      func(d string) error { return os.Rename(in(d, "a/f"), in(d, "a/g")) },
		"place":          func(d string) error { return os.Rename(in(d, "a/f"), in(d, "f")) },
		"missing file":   func(d string) error { return os.Remove(in(d, "a/empty")) },
		"empty folder":   func(d string) error { return os.Remove(in(d, "empty")) },
		"another folder": func(d string) error { return os.Mkdir(in(d, "more"), 0o755) },
		"file for folder": func(d string) error {
			os.Remove(in(d, "empty"))
			return os.WriteFile(in(d, "empty"), nil,
				0o644)
		},
		"link target": func(d string) error { os.Remove(in(d, "link")); return os.Symlink("a/g", in(d, "link")) },
		"file for link": func(d string) error {
			os.Remove(in(d, "link"))
			return os.WriteFile(in(d, "link"),
				[]byte("f"), 0o644)
		},
		"inner .git": func(d string) error { return os.Mkdir(in(d, "a/.git"), 0o755) },
		"odd name":   func(d string) error { return os.WriteFile(in(d, "a\nf \"x\" y"), nil, 0o644) },
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
	if err := Unpack(t.Context(), Source{Kind: Tree, Path: from, Digest: want}, to,
		Options{Time: time.Unix(5, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := mustDigest(t, to); got != want {
		t.Errorf("the copy is %s, want %s", got, want)
	}
	if fi, err := os.Stat(filepath.Join(to, "a")); err != nil || !fi.ModTime().Equal(time.Unix(5, 0)) {
		t.Errorf("%v, %v", fi, err)
	}
}

// TestATreeMayBeALink is about /usr/src/linux, which leads to another tree after each update.
func TestATreeMayBeALink(t *testing.T) {
	from := makeTree(t)
	want := mustDigest(t, from)
	link := filepath.Join(t.TempDir(), "linux")
	if err := os.Symlink(from, link); err != nil {
		t.Fatal(err)
	}
	if got := mustDigest(t, link); got != want {
		t.Errorf("the link has the digest %s, the tree %s", got, want)
	}
	to := filepath.Join(t.TempDir(), "linux")
	if err := Unpack(t.Context(), Source{Kind: Tree, Path: link, Digest: want}, to,
		Options{Time: time.Unix(5, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := mustDigest(t, to); got != want {
		t.Errorf("the copy is %s, want %s", got, want)
	}
}

// TestAReadOnlyTreeIsCopied also stands for trees of another user.
func TestAReadOnlyTreeIsCopied(t *testing.T) {
	from := makeTree(t)
	want := mustDigest(t, from)
	for _, p := range []string{"Makefile", "a/f", "a", "."} {
		mode := os.FileMode(0o444)
		if p == "a" || p == "." {
			mode = 0o555
			defer os.Chmod(filepath.Join(from, p), 0o755)
		}
		if err := os.Chmod(filepath.Join(from, p), mode); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(t.TempDir(), "linux")
	if err := Unpack(t.Context(), Source{Kind: Tree, Path: from, Digest: want}, to, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "a/more"), nil, 0o644); err != nil {
		t.Errorf("the copy is read-only: %v", err)
	}
}

func TestOddTreesAreRefused(t *testing.T) {
	pipe, link := makeTree(t), makeTree(t)
	if err := syscall.Mkfifo(filepath.Join(pipe, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := TreeDigest(t.Context(), pipe); err == nil || !strings.Contains(err.Error(),
		"neither file, folder nor link") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(link, "passwd")); err != nil {
		t.Fatal(err)
	}
	const want = `passwd is a symbolic link to the absolute path "/etc/passwd"; take it away`
	if _, err := TreeDigest(t.Context(), link); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a link out of the tree: %v", err)
	}
	err := Unpack(t.Context(), Source{Kind: Tree, Path: link, Name: "linux"}, filepath.Join(t.TempDir(), "linux"),
		Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "linux: "+want) {
		t.Errorf("a link out of the tree: %v", err)
	}
	for _, name := range []string{"Makefile", "Kconfig"} {
		dir := makeTree(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := TreeDigest(t.Context(), dir); err == nil || !strings.Contains(err.Error(),
			"no "+name+" at its top") {
			t.Errorf("no %s: %v", name, err)
		}
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := TreeDigest(t.Context(), dir); err == nil || !strings.Contains(err.Error(),
			name+" at its top is no file") {
			t.Errorf("a folder as %s: %v", name, err)
		}
	}
	if _, err := TreeDigest(t.Context(), filepath.Join(link, "missing")); !os.IsNotExist(err) {
		t.Errorf("no tree: %v", err)
	}
}
