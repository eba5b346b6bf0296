package tree_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

// openFiles is how many descriptors of this process lead below dir.
func openFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// However a file is read, its sum is that of all its bytes, holes too.
func TestAnOpenerSumsWhatIsRead(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, append([]byte("head"), data...), 0o644); err != nil {
		t.Fatal(err)
	}
	size := int64(len(data))
	sparse := make([]byte, 300000)
	copy(sparse[100000:], "middle")
	contents := map[string]struct {
		c    tree.Content
		want []byte
	}{
		"memory":  {tree.Bytes(data), data},
		"section": {&tree.Section{Path: file, Offset: 4, Length: size}, data},
		"shared":  {&tree.Section{Path: file, Offset: 4, Length: size, Shared: true}, data},
		"live":    {&tree.Live{Path: file, Length: size + 4}, append([]byte("head"), data...)},
		"sparse": {&treetest.Sparse{Length: 300000,
			Pieces: []treetest.Piece{{Offset: 100000, Bytes: []byte("middle")}}},
			sparse},
		"spread": {&tree.Spread{Path: file, Offset: 4, Length: 5000, Ranges: []tree.Range{{Offset: 1000, Length: 16}}},
			append(append(make([]byte, 1000), data[:16]...), make([]byte, 3984)...)},
	}
	reads := map[string]func(r tree.Reader, size int64) error{
		"in one go":  func(r tree.Reader, _ int64) error { _, err := io.Copy(io.Discard, r); return err },
		"not at all": func(tree.Reader, int64) error { return nil },
		"the first":  func(r tree.Reader, _ int64) error { _, err := r.ReadAt(make([]byte, 100), 0); return err },
		"a part":     func(r tree.Reader, _ int64) error { _, err := r.ReadAt(make([]byte, 100), 1000); return err },
		"twice": func(r tree.Reader, n int64) error {
			r.ReadAt(make([]byte, n), 0)
			r.ReadAt(make([]byte, n), 0)
			return nil
		},
		"the end too": func(r tree.Reader, n int64) error { _, err := r.ReadAt(make([]byte, 10), n-10); return err },
	}
	for name, c := range contents {
		for how, read := range reads {
			var o tree.Opener
			o.WithSums = true
			n := &tree.Node{Kind: tree.File, Content: c.c}
			r, err := o.Open(n)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(read(r, n.Size()), r.Close()); err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
			}
			got, err := o.Sum(t.Context(), n)
			if want := (tree.Sum{SHA1: sha1.Sum(c.want), SHA256: sha256.Sum256(c.want)}); got != want || err != nil {
				t.Errorf("%s, %s: another sum, %v", name, how, err)
			}
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAnOpenerKeepsFewFilesOpenAndClosesThem(t *testing.T) {
	dir := t.TempDir()
	var nodes []*tree.Node
	for i := range 100 {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(fmt.Sprint(i, "text")), 0o644); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, &tree.Node{Kind: tree.File, Content: &tree.Section{Path: file, Length: 5, Shared: true}})
	}
	var o tree.Opener
	held, err := o.Open(nodes[0]) // stays open while its file is given up
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, n := range nodes {
			r, err := o.Open(n)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := openFiles(t, dir); n < 2 || n > 17 {
		t.Errorf("%d files are open", n)
	}
	if b, err := io.ReadAll(held); string(b) != "0text" || err != nil {
		t.Errorf("the one that was held: %q, %v", b, err)
	}
	if err := errors.Join(held.Close(), o.Close()); err != nil {
		t.Error(err)
	}
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files are left open", n)
	}
}

func TestALiveFileIsReadOnceOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	n := &tree.Node{Kind: tree.File, Content: &tree.Live{Path: file, Length: 5}}
	if b, err := tree.ReadAll(n); string(b) != "first" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	write("other")
	r, err := n.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "first" || err != nil {
		t.Errorf("a later reader sees %q, %v", b, err)
	}
	// One that was read as the image's, and only then by whoever wants to know what is in it.
	o := tree.Opener{WithSums: true}
	n = &tree.Node{Kind: tree.File, Content: &tree.Live{Path: file, Length: 5}}
	if _, err := o.Sum(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	write("again")
	if _, err := o.ReadAll(n); !errors.Is(err, tree.ErrChanged) {
		t.Errorf("changed between two readers: %v", err)
	}
	for name, change := range map[string]func() error{
		"longer":   func() error { return os.WriteFile(file, []byte("longer than it was"), 0o644) },
		"a link":   func() error { return errors.Join(os.Remove(file), os.Symlink("/etc/hostname", file)) },
		"a folder": func() error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) },
	} {
		os.RemoveAll(file)
		write("first")
		n := &tree.Node{Kind: tree.File, Content: &tree.Live{Path: file, Length: 5}}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Content.Open(); err == nil {
			t.Errorf("%s is opened", name)
		}
	}
}
