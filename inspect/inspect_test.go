package inspect

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

// image writes a bare image of a tree.
func image(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image.img")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.Write(context.Background(), f, tr, erofs.Options{Label: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t *testing.T, path string) *Artifact {
	t.Helper()
	th, err := Open(path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := th.Close(); err != nil {
			t.Error(err)
		}
	})
	return th
}

func TestAnImageShowsWhatWasWritten(t *testing.T) {
	want := treetest.Small(t)
	th := open(t, image(t, want))
	if th.Kind != kindImage || th.Image.Layout != "bare" || th.Image.Partitions[0].FileSystem.Label != "test" {
		t.Errorf("%+v", th)
	}
	if d, err := treetest.Equal(want, th.Tree); d != "" || err != nil {
		t.Error(d, err)
	}
	var b bytes.Buffer
	if err := Cat(th.Tree, "/bin/sh", &b); err != nil || b.Len() != 4096 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	var names, modes []string
	if err := List(th.Tree, "/usr", false, func(e Entry) {
		names, modes = append(names, e.Name),
			append(modes, e.Mode)
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"4095", "4097", "bin", "empty", "one", "sh-of-old", "text"}; !slices.Equal(names, want) ||
		modes[2] != "drwxr-xr-x" {
		t.Errorf("%q %q, want %q", names, modes, want)
	}
	if ping := open(t, image(t, want)).Tree; ping != nil {
		n, err := ping.Lookup("/usr/bin/ping")
		if err != nil || modeText(n) != "-rwsr-xr-x" {
			t.Errorf("ping: %v, %v", n, err)
		}
	}
}

func TestDiffNamesJustWhatDiffers(t *testing.T) {
	a, b := treetest.Small(t), treetest.Small(t)
	if err := b.Remove("/usr/empty"); err != nil {
		t.Fatal(err)
	}
	if err := b.Put("/usr/new", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "x"}); err != nil {
		t.Fatal(err)
	}
	n, err := b.Lookup("/usr/one")
	if err != nil {
		t.Fatal(err)
	}
	n.Content = tree.Bytes([]byte("y"))
	n.Time.Sec++
	changes, err := trees(t.Context(), a, b, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.Name)
	}
	if want := []string{"/usr/empty", "/usr/new", "/usr/one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if c, err := trees(t.Context(), a, a, true); len(c) != 0 || err != nil {
		t.Errorf("a tree differs from itself: %v, %v", c, err)
	}
	if _, err := Diff(t.Context(), open(t, image(t, a)), open(t, initrd(t)), false); err == nil ||
		!strings.Contains(err.Error(), "only likes") {
		t.Error(err)
	}
}

func initrd(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, e := range []struct {
		cpio.Header
		body string
	}{
		{cpio.Header{Name: "dev", Mode: cpio.TypeDir | 0o755, Inode: 1, Links: 2}, ""},
		{cpio.Header{Name: "dev/console", Mode: cpio.TypeChar | 0o600, Inode: 2, Links: 1, DeviceMajor: 5,
			DeviceMinor: 1}, ""},
		{cpio.Header{Name: "a", Mode: cpio.TypeRegular | 0o644, Inode: 3, Links: 2}, ""},
		{cpio.Header{Name: "b", Mode: cpio.TypeRegular | 0o644, Inode: 3, Links: 2, Size: 5}, "hello"},
		{cpio.Header{Name: "l", Mode: cpio.TypeSymlink | 0o777, Inode: 4, Links: 1, Size: 1}, "b"},
	} {
		if err := w.Next(e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(p, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnInitrdShowsItsFiles(t *testing.T) {
	th := open(t, initrd(t))
	if th.Kind != kindInitrd || th.Initrd.Entries != 5 || th.Initrd.Compression != "none" {
		t.Errorf("%+v", th.Initrd)
	}
	for _, p := range []string{"/a", "/b", "/l"} {
		var b bytes.Buffer
		if err := Cat(th.Tree, p, &b); err != nil || b.String() != "hello" {
			t.Errorf("%s: %q, %v", p, &b, err)
		}
	}
	if n, err := th.Tree.Lookup("/a"); err != nil || n.Links() != 2 {
		t.Errorf("a: %v, %v", n, err)
	}
}

func TestWhatIsNothingIsSaidSo(t *testing.T) {
	p := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(p, bytes.Repeat([]byte("nothing "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p, t.TempDir()); !errors.Is(err, errUnknown) || !strings.Contains(err.Error(), p) {
		t.Error(err)
	}
}

// A hostile image: a link to a folder outside, and a file below it. The tree has no such thing, but an image may say
// so.
func TestExtractStaysInItsFolder(t *testing.T) {
	outside := t.TempDir()
	tr := tree.New()
	for p, n := range map[string]*tree.Node{
		"/etc":        {Mode: 0o755},
		"/etc/motd":   {Kind: tree.File, Mode: 0o640, Content: tree.Bytes([]byte("hello")), Time: tree.Time{Sec: 7}},
		"/etc/escape": {Kind: tree.Symlink, Mode: 0o777, Target: outside},
		"/etc/pipe":   {Kind: tree.FIFO, Mode: 0o600},
	} {
		if err := tr.Put(p, n); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(t.TempDir(), "out")
	if _, err := Extract(t.Context(), tr, "/etc", to, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(to, "motd"))
	if err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if fi, err := os.Stat(filepath.Join(to, "motd")); err != nil || fi.Mode().Perm() != 0o640 ||
		fi.ModTime().Unix() != 7 {
		t.Errorf("%v, %v", fi, err)
	}
	if l, err := os.Readlink(filepath.Join(to, "escape")); err != nil || l != outside {
		t.Errorf("%q, %v", l, err)
	}
	if e, err := os.ReadDir(outside); err != nil || len(e) != 0 {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := Extract(t.Context(), tr, "/etc", to, ExtractOptions{}); err == nil {
		t.Error("what is there was written over")
	}
	// A path may lead through links, and end in one.
	if err := tr.Put("/link", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "etc"}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Link("/etc/motd", "/etc/second"); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(t.TempDir(), "linked")
	if _, err := Extract(t.Context(), tr, "/link", linked, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	a, err1 := os.Stat(filepath.Join(linked, "motd"))
	b, err2 := os.Stat(filepath.Join(linked, "second"))
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("%v, %v", err1, err2)
	}
	single := filepath.Join(t.TempDir(), "motd")
	if _, err := Extract(t.Context(), tr, "/etc/motd", single, ExtractOptions{}); err != nil {
		t.Error(err)
	}
}

// An image of somebody else's gives nobody of the host more than they had.
func TestExtractLeavesOutWhatGivesRights(t *testing.T) {
	tr := tree.New()
	for p, n := range map[string]*tree.Node{
		"/d":     {Mode: 0o2777},
		"/d/su":  {Kind: tree.File, Mode: 0o6755, Content: tree.Bytes([]byte("x"))},
		"/d/mem": {Kind: tree.CharDevice, Mode: 0o666, Major: 1, Minor: 1},
		"/d/t":   {Mode: 0o1777},
		"/d/no":  {Kind: tree.File, Mode: 0, Content: tree.Bytes([]byte("y"))},
	} {
		if err := tr.Put(p, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"/d/mem2", "/d/t/mem3"} {
		if err := tr.Link("/d/mem", link); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(t.TempDir(), "out")
	leftOut, err := Extract(t.Context(), tr, "/", to, ExtractOptions{})
	if err != nil || len(leftOut) != 5 {
		t.Fatalf("%v, %v", leftOut, err)
	}
	for p, want := range map[string]os.FileMode{"": 0o700 | os.ModeDir, "d": 0o777 | os.ModeDir, "d/su": 0o755,
		"d/t": 0o777 | os.ModeDir | os.ModeSticky, "d/no": 0} {
		if fi, err := os.Lstat(filepath.Join(to, p)); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", p, fi, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(to, "d/mem")); !os.IsNotExist(err) {
		t.Errorf("a device: %v", err)
	}
	asked := filepath.Join(t.TempDir(), "out")
	for _, p := range []string{"/d/mem", "/d/mem2", "/d/t/mem3"} { // not everybody who runs tests may make devices
		if err := tr.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	leftOut, err = Extract(t.Context(), tr, "/", asked, ExtractOptions{Special: true})
	if fi, err2 := os.Lstat(filepath.Join(asked, "d/su")); err != nil || err2 != nil || fi.Mode()&os.ModeSetuid == 0 {
		t.Errorf("asked for: %v, %v, %v, %v", leftOut, fi, err, err2)
	}
}

// A file of 1 TiB that holds nothing takes no room and no time, and one that holds too much is not begun.
func TestExtractAndDiffKeepHolesAndBounds(t *testing.T) {
	sparse := func(text string) *tree.Tree {
		tr := tree.New()
		c := &treetest.Sparse{Length: 1 << 40, Pieces: []treetest.Piece{{Offset: 1 << 39, Bytes: []byte(text)}}}
		if err := tr.Put("/d/big", &tree.Node{Kind: tree.File, Mode: 0o644, Content: c}); err != nil {
			t.Fatal(err)
		}
		return tr
	}
	to := filepath.Join(t.TempDir(), "out")
	if _, err := Extract(t.Context(), sparse("here"), "/", to, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(to, "d/big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Stat_t
	got := make([]byte, 6)
	_, err1 := f.ReadAt(got, 1<<39-1)
	if err := errors.Join(err1, syscall.Fstat(int(f.Fd()), &st)); err != nil || string(got) != "\x00here\x00" ||
		st.Size != 1<<40 || st.Blocks > 1024 {
		t.Errorf("%q, %d bytes in %d blocks, %v", got, st.Size, st.Blocks, err)
	}
	changes, err := trees(t.Context(), sparse("here"), sparse("hers"), false)
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0].From, "other content") {
		t.Errorf("%+v, %v", changes, err)
	}
	if changes, err := trees(t.Context(), sparse("here"), sparse("here"), false); err != nil || len(changes) != 0 {
		t.Errorf("%+v, %v", changes, err)
	}
	small := filepath.Join(t.TempDir(), "small")
	if _, err := Extract(t.Context(), sparse("here"), "/", small, ExtractOptions{Max: 3}); err == nil ||
		!strings.Contains(err.Error(), "--max") {
		t.Error(err)
	}
	if _, err := os.Lstat(small); !os.IsNotExist(err) {
		t.Errorf("it was begun: %v", err)
	}
}

func TestExtractStopsWhenToldTo(t *testing.T) {
	tr := tree.New()
	if err := tr.Put("/f", &tree.Node{Kind: tree.File, Content: tree.Bytes([]byte("x"))}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Extract(ctx, tr, "/", filepath.Join(t.TempDir(), "out"), ExtractOptions{}); !errors.Is(err,
		context.Canceled) {
		t.Error(err)
	}
}

func TestHostileKernelsEndInAnError(t *testing.T) {
	b := make([]byte, 4096)
	copy(b[bzMagic:], "HdrS")
	b[bzProtocol+1] = 2
	b[bzProtocol] = 0x0f
	for name, change := range map[string]func([]byte){
		"no payload":      func([]byte) {},
		"far payload":     func(b []byte) { b[bzPayloadOffset+3], b[bzPayloadLength] = 0xff, 9 },
		"long payload":    func(b []byte) { b[bzPayloadLength+3] = 0xff },
		"unknown payload": func(b []byte) { b[bzPayloadLength] = 100 },
	} {
		c := bytes.Clone(b)
		change(c)
		if _, err := payload(c); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func FuzzKernel(f *testing.F) {
	b := make([]byte, 1024)
	copy(b[bzMagic:], "HdrS")
	b[bzProtocol+1], b[bzProtocol] = 2, 0x0f
	f.Add(b)
	f.Add([]byte("IKCFG_ST\x1f\x8bIKCFG_ED"))
	f.Fuzz(func(t *testing.T, b []byte) {
		payload(b)
		ikconfig(b)
	})
}
