package tree_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func put(t *testing.T, tr *tree.Tree, p string, n *tree.Node) *tree.Node {
	t.Helper()
	if err := tr.Put(p, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func file(s string) *tree.Node {
	return &tree.Node{Kind: tree.File, Mode: 0o644, Content: tree.Bytes([]byte(s))}
}

func list(tr *tree.Tree) string {
	var s []string
	tr.Walk(func(p string, n *tree.Node, first bool) error {
		s = append(s, fmt.Sprintf("%s %v", p, n.Kind))
		return nil
	})
	return strings.Join(s, "\n")
}

// Every trick a hostile archive has for leaving its folder ends inside the tree.
func TestNothingReachesOutsideTheTree(t *testing.T) {
	for name, links := range map[string]map[string]string{
		"dot dot":                   {},
		"absolute link":             {"out": "/"},
		"link upwards":              {"out": "../../../.."},
		"link through a link":       {"a": "..", "out": "a/../.."},
		"link below a link":         {"a": "/", "out": "a/a/a"},
		"link to a missing folder":  {"out": "nowhere/../.."},
		"link with dots and slashs": {"out": "./.././/.."},
	} {
		tr := tree.New()
		for l, to := range links {
			put(t, tr, "/"+l, &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: to})
		}
		for _, p := range []string{"out/etc/passwd", "../../etc/passwd", "/../out/../../etc/passwd",
			"out/out/../etc/passwd"} {
			err := tr.Put(p, file("hostile"))
			if err == nil {
				if _, err := tr.Lookup(p); err != nil {
					t.Errorf("%s: put at %q and gone: %v", name, p, err)
				}
				continue
			}
			var e *tree.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %q: %v names no path", name, p, err)
			}
		}
		if strings.Contains(list(tr), "..") {
			t.Errorf("%s: a name with dots:\n%s", name, list(tr))
		}
	}
}

func TestALinkInAPathIsFollowedAndOneAtItsEndIsNot(t *testing.T) {
	tr := tree.New()
	put(t, tr, "usr/bin", &tree.Node{Mode: 0o755})
	put(t, tr, "bin", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "usr/bin"})
	put(t, tr, "bin/sh", file("sh"))
	put(t, tr, "bin/ash", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "sh"})
	if n, err := tr.Lookup("/usr/bin/sh"); err != nil || n.Size() != 2 {
		t.Errorf("usr/bin/sh: %v, %v", n, err)
	}
	if n, err := tr.Lookup("bin"); err != nil || n.Kind != tree.Symlink {
		t.Errorf("bin: %v, %v", n, err)
	}
	if n, err := tr.Resolve("bin/ash"); err != nil || n.Kind != tree.File {
		t.Errorf("bin/ash: %v, %v", n, err)
	}
	if n, err := tr.Resolve("usr/bin/.."); err != nil || n.Child("bin") == nil {
		t.Errorf("usr/bin/..: %v, %v", n, err)
	}
	put(t, tr, "loop", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "loop/x"})
	if err := tr.Put("loop/y", file("")); !errors.Is(err, tree.ErrLoop) {
		t.Errorf("a loop: %v", err)
	}
	if err := tr.Put("bin/sh/x", file("")); !errors.Is(err, tree.ErrNotDir) {
		t.Errorf("below a file: %v", err)
	}
	if _, err := tr.Lookup("nothing/here"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

func TestLaterNodesWinAndLinksAreCounted(t *testing.T) {
	tr := tree.New()
	put(t, tr, "/d", &tree.Node{Mode: 0o700})
	put(t, tr, "/d/a", file("one"))
	if err := tr.Link("/d/a", "/b"); err != nil {
		t.Fatal(err)
	}
	a, _ := tr.Lookup("/d/a")
	if a.Links() != 2 {
		t.Errorf("%d links, want 2", a.Links())
	}
	put(t, tr, "/d/a", file("two"))
	if b, _ := tr.Lookup("/b"); b != a || a.Links() != 1 {
		t.Errorf("a replaced name took its inode's other name along: %d links", a.Links())
	}
	put(t, tr, "/d", &tree.Node{Mode: 0o755, UID: 7})
	if d, _ := tr.Lookup("/d"); d.Mode != 0o755 || d.UID != 7 || d.Len() != 1 {
		t.Errorf("a folder on a folder: %o, owner %d, %d names", d.Mode, d.UID, d.Len())
	}
	if err := tr.Put("/d", file("x")); !errors.Is(err, tree.ErrIsDir) {
		t.Errorf("a file on a full folder: %v", err)
	}
	if err := tr.Remove("/d"); err != nil {
		t.Error(err)
	}
	put(t, tr, "/d", file("x"))
	if err := tr.Remove("/"); err == nil {
		t.Error("the root went")
	}
	if err := tr.Put("/", file("x")); !errors.Is(err, tree.ErrIsDir) {
		t.Errorf("a file for a root: %v", err)
	}
	if err := tr.Link("/", "/x"); !errors.Is(err, tree.ErrIsDir) {
		t.Errorf("a folder linked: %v", err)
	}
}

func TestWhatLinuxDoesNotAllowIsRefused(t *testing.T) {
	many := &tree.Node{Xattrs: []tree.Xattr{{Name: "user.b"}, {Name: "user.a"}}}
	for _, c := range []struct {
		path string
		node *tree.Node
	}{
		{strings.Repeat("n", 256), file("")},
		{"a\x00b", file("")},
		{"a", &tree.Node{Kind: 99}},
		{"a", &tree.Node{Mode: 0o10000}},
		{"a", &tree.Node{Kind: tree.Symlink}},
		{"a", &tree.Node{Kind: tree.Symlink, Target: strings.Repeat("x", 4096)}},
		{"a", &tree.Node{Kind: tree.CharDevice, Major: 4096}},
		{"a", &tree.Node{Kind: tree.BlockDevice, Minor: 1 << 20}},
		{"a", &tree.Node{Minor: 1}},
		{"a", &tree.Node{Content: tree.Bytes(nil)}},
		{"a", &tree.Node{Time: tree.Time{Nsec: 1e9}}},
		{"a", &tree.Node{Xattrs: []tree.Xattr{{Name: "user." + strings.Repeat("x", 255)}}}},
		{"a", &tree.Node{Xattrs: []tree.Xattr{{Name: "user.a", Value: make([]byte, 64<<10+1)}}}},
		{"a", many},
	} {
		if err := tree.New().Put(c.path, c.node); err == nil {
			t.Errorf("%.20q %v was accepted", c.path, c.node.Kind)
		}
	}
}

func TestHolesReadAsZeros(t *testing.T) {
	s := &treetest.Sparse{Length: 20, Pieces: []treetest.Piece{{Offset: 3, Bytes: []byte("abc")},
		{Offset: 18, Bytes: []byte("yz")}}}
	r, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if want := "\x00\x00\x00abc" + strings.Repeat("\x00", 12) + "yz"; err != nil || string(all) != want {
		t.Errorf("%q, %v; want %q", all, err, want)
	}
	b := make([]byte, 4)
	if n, err := r.ReadAt(b, 4); n != 4 || err != nil || string(b) != "bc\x00\x00" {
		t.Errorf("%d %q %v", n, b, err)
	}
	if n, err := r.ReadAt(b, 18); n != 2 || err != io.EOF {
		t.Errorf("%d %v at the end", n, err)
	}
}

// A folder read twice, the second time from a copy with other inode numbers and access times, is the same tree.
func TestAFolderOfTheHostAndItsCopyAreTheSameTree(t *testing.T) {
	make1 := func(dir string) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.MkdirAll(filepath.Join(dir, "d"), 0o755))
		must(os.WriteFile(filepath.Join(dir, "d/f"), []byte("hello"), 0o640))
		must(os.Link(filepath.Join(dir, "d/f"), filepath.Join(dir, "g")))
		must(os.Symlink("d/f", filepath.Join(dir, "l")))
		must(unix.Mkfifo(filepath.Join(dir, "p"), 0o600))
		f, err := os.Create(filepath.Join(dir, "s"))
		must(err)
		_, err = f.WriteAt([]byte("end"), 1<<20)
		must(err)
		must(f.Close())
		for _, n := range []string{"d/f", "p", "s", "l", "d", "."} {
			must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, n), []unix.Timespec{{Sec: 1},
				{Sec: 1700000000, Nsec: 5}}, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
	a, b := t.TempDir(), t.TempDir()
	make1(a)
	os.WriteFile(filepath.Join(b, "takes an inode number"), nil, 0o600)
	make1(b)
	if _, err := os.ReadFile(filepath.Join(b, "d/f")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(b, "takes an inode number"))
	ts := []unix.Timespec{{Sec: 99}, {Sec: 1700000000, Nsec: 5}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, b, ts, 0); err != nil {
		t.Fatal(err)
	}
	x, err := tree.FromDir(a, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	y, err := tree.FromDir(b, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := treetest.Equal(x, y); d != "" || err != nil {
		t.Errorf("%s, %v", d, err)
	}
	if g, _ := x.Lookup("g"); g.Links() != 2 || g.Time != (tree.Time{Sec: 1700000000, Nsec: 5}) {
		t.Errorf("g: %d links, time %v", g.Links(), g.Time)
	}
	put(t, y, "d/f", file("hallo"))
	if d, _ := treetest.Equal(x, y); d == "" {
		t.Error("other content went unseen")
	}
}

func TestTheTortureTreeIsATree(t *testing.T) {
	n := 0
	if err := treetest.Torture(t).Walk(func(string, *tree.Node, bool) error { n++; return nil }); err != nil ||
		n < 20000 {
		t.Errorf("%d entries, %v", n, err)
	}
	if d, err := treetest.Equal(treetest.Small(t), treetest.Small(t)); d != "" || err != nil {
		t.Errorf("%s, %v", d, err)
	}
}
