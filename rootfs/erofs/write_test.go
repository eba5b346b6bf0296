package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func write(t testing.TB, tr *tree.Tree, o Options) []byte {
	t.Helper()
	var m memory
	info, err := Write(t.Context(), &m, tr, o)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(m.b)) || info.Size%blockLength != 0 {
		t.Errorf("%d bytes were written, the answer is %d", len(m.b), info.Size)
	}
	return m.b
}

// ways are all the ways to write an image that differ in layout.
func ways() map[string]Options {
	m := map[string]Options{"inline": {Inline: true}, "compact inodes": {Time: 7, Label: "label of 16 byte"},
		"small clusters": {Compression: Zstd, ClusterSize: 8192}}
	for c := None; int(c) < len(compressionNames); c++ {
		m[c.String()] = Options{Compression: c, Time: 7}
	}
	return m
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	trees := map[string]*tree.Tree{"small": treetest.Small(t), "edges": edges(t), "empty": tree.New()}
	if !testing.Short() {
		trees["torture"] = treetest.Torture(t)
	}
	for name, tr := range trees {
		for way, o := range ways() {
			if name == "torture" && way != o.Compression.String() {
				continue // a second each
			}
			t.Run(name+" "+way, func(t *testing.T) {
				b := write(t, tr, o)
				img, err := Open(bytes.NewReader(b), int64(len(b)))
				if err != nil {
					t.Fatal(err)
				}
				if d, err := treetest.Equal(tr, img.Tree); d != "" || err != nil {
					t.Errorf("%s, %v", d, err)
				}
				if img.Time.Sec != o.Time || img.Label != o.Label || img.Size != int64(len(b)) ||
					img.BlockSize != blockLength || img.UUID[6]>>4 != 8 {
					t.Errorf("%+v", img)
				}
			})
		}
	}
}

func putFile(t testing.TB, tr *tree.Tree, p string, b []byte) *tree.Node {
	t.Helper()
	n := &tree.Node{Kind: tree.File, Mode: 0o644, Content: tree.Bytes(b)}
	if err := tr.Put(p, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// words compress to about a third, noise does not.
func words(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "%x ", r.Uint32N(3000))
		if r.Uint32N(4) == 0 {
			b = append(b, "the quick brown fox "...)
		}
	}
	return b[:n]
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// edges has files of every length that something starts or ends at, of words, of noise and of both.
func edges(t testing.TB) *tree.Tree {
	tr := tree.New()
	for _, base := range []int{0, 1, 2, 3, 31, 32, 33, 256} {
		for _, d := range []int{-300, -33, -32, -1, 0, 1, 40, 1000, 3900} {
			n := base*blockLength + d
			if n < 0 || (base == 256 && (d < -1 || d > 1)) {
				continue // few large ones: they take time
			}
			putFile(t, tr, fmt.Sprintf("/words/%07d", n), words(n, uint64(n)))
			putFile(t, tr, fmt.Sprintf("/noise/%07d", n), noise(n, uint64(n)))
			putFile(t, tr, fmt.Sprintf("/words-noise/%07d", n), append(words(n/2, 1), noise(n-n/2, 2)...))
			putFile(t, tr, fmt.Sprintf("/noise-words/%07d", n), append(noise(n/2, 1), words(n-n/2, 2)...))
			putFile(t, tr, fmt.Sprintf("/zeros-words/%07d", n), append(make([]byte, n/2), words(n-n/2, 2)...))
		}
	}
	putFile(t, tr, "/a dozen of everything", bytes.Repeat(append(append(words(100_000, 3), noise(50_000, 4)...),
		make([]byte, 200_000)...), 12))
	for i := range 300 { // folders whose last block has every length
		if err := tr.Put("/folders/"+strings.Repeat("x", i/200*55+i%200+1)+"/"+strings.Repeat("y", i%255+1),
			&tree.Node{Mode: 0o700}); err != nil {
			t.Fatal(err)
		}
	}
	large := putFile(t, tr, "/attributes/large", nil)
	large.SetXattr("user.large", noise(maxXattrValue, 1))
	large.SetXattr("security.large", noise(5000, 2))
	for i := range 2 {
		n := putFile(t, tr, fmt.Sprintf("/attributes/%d", i), nil)
		for j := range 300 { // more than can be shared
			n.SetXattr(fmt.Sprintf("user.%03d", j), noise(20, uint64(j)))
		}
	}
	return tr
}

func TestTheSameTreeGivesTheSameBytes(t *testing.T) {
	tr := treetest.Small(t)
	putFile(t, tr, "/large", append(words(1_500_000, 1), noise(100_000, 2)...))
	for way, o := range ways() {
		o.Jobs = 1
		want := write(t, tr, o)
		for what, other := range map[string][]byte{
			"again":          write(t, tr, o),
			"jobs":           write(t, tr, func() Options { o := o; o.Jobs = 3; return o }()),
			"order of calls": write(t, reversed(t, tr), o),
		} {
			if !bytes.Equal(want, other) {
				t.Errorf("%s: %s: other bytes", way, what)
			}
		}
		putFile(t, tr, "/usr/one", []byte("y"))
		other := write(t, tr, o)
		if a, b := want[superOffset+48:][:16], other[superOffset+48:][:16]; bytes.Equal(a, b) {
			t.Errorf("%s: another tree has the same UUID", way)
		}
		putFile(t, tr, "/usr/one", []byte("x")).UID = 1000
		n, _ := tr.Lookup("/usr/one")
		n.Mode, n.Time.Sec = 0o600, 7
	}
}

// reversed is the same tree, its last name put first.
func reversed(t *testing.T, tr *tree.Tree) *tree.Tree {
	type entry struct {
		p string
		n *tree.Node
	}
	var all []entry
	tr.Walk(func(p string, n *tree.Node, first bool) error { all = append(all, entry{p, n}); return nil })
	slices.Reverse(all)
	out, names := tree.New(), map[*tree.Node]string{}
	for _, e := range all {
		old, ok := names[e.n]
		if ok {
			if err := out.Link(old, e.p); err != nil {
				t.Fatal(err)
			}
			continue
		}
		names[e.n] = e.p
		n := &tree.Node{
			Kind: e.n.Kind, Mode: e.n.Mode, UID: e.n.UID, GID: e.n.GID, Time: e.n.Time,
			Xattrs: slices.Clone(e.n.Xattrs), Content: e.n.Content,
			Target: e.n.Target, Major: e.n.Major, Minor: e.n.Minor, Origin: "elsewhere",
		}
		if err := out.Put(e.p, n); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestAGivenUUIDIsKept(t *testing.T) {
	b := write(t, tree.New(), Options{UUID: [16]byte{1, 2, 3}, Label: "root"})
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil || img.UUID != [16]byte{1, 2, 3} || img.Label != "root" || len(img.Features) != 0 {
		t.Errorf("%+v, %v", img, err)
	}
}

// The inode of a file with more names than 16 bits count is of the larger form.
func TestManyLinksAreCounted(t *testing.T) {
	tr := tree.New()
	putFile(t, tr, "/f", nil)
	for i := range 70000 {
		if err := tr.Link("/f", fmt.Sprintf("/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	b := write(t, tr, Options{})
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := img.Tree.Lookup("/f"); err != nil || n.Links() != 70001 {
		t.Errorf("%d links, %v", n.Links(), err)
	}
}

// Without compression every file's data is whole blocks of the image, so that it can be mapped.
func TestPlainFilesAreFitForDAX(t *testing.T) {
	b := write(t, treetest.Small(t), Options{})
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	img.Tree.Walk(func(p string, n *tree.Node, _ bool) error {
		if c, ok := n.Content.(*content); ok && c.in.layout != layoutPlain && c.in.layout != layoutChunks {
			t.Errorf("%s has layout %d", p, c.in.layout)
		}
		return nil
	})
}

func TestHolesTakeNoSpace(t *testing.T) {
	for way, o := range ways() {
		tr := tree.New()
		n := &tree.Node{Kind: tree.File, Content: &treetest.Sparse{Length: 1 << 32,
			Pieces: []treetest.Piece{{Offset: 1 << 30, Bytes: words(10000, 1)}}}}
		if err := tr.Put("/sparse", n); err != nil {
			t.Fatal(err)
		}
		b := write(t, tr, o)
		if len(b) > 300<<10 { // the list takes as much as the chunk at best
			t.Errorf("%s: %d bytes", way, len(b))
		}
		img, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		f, _ := img.Tree.Lookup("/sparse")
		r, err := f.Content.Open()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 10002)
		if _, err := r.ReadAt(got, 1<<30-1); err != nil || string(got) != "\x00"+string(words(10000, 1))+"\x00" {
			t.Errorf("%s: other bytes, %v", way, err)
		}
		if d := f.Content.Data(); len(d) != 1 || d[0].Offset > 1<<30 || d[0].Length > 128<<10 {
			t.Errorf("%s: data at %v", way, d)
		}
		r.Close()
	}
}

// short says it has more bytes than it gives.
type short struct{ tree.Content }

func (s short) Size() int64        { return s.Content.Size() + 1 }
func (s short) Data() []tree.Range { return []tree.Range{{Offset: 0, Length: s.Size()}} }

// closed cannot be opened.
type closed struct{ tree.Content }

var errClosed = errors.New("closed for the night")

func (closed) Open() (tree.Reader, error) { return nil, errClosed }

func TestErrorsNameWhatTheyAreAbout(t *testing.T) {
	good := func() *tree.Node { return &tree.Node{Kind: tree.File, Content: tree.Bytes(words(5000, 1))} }
	for name, c := range map[string]struct {
		change func(n *tree.Node)
		want   []string
	}{
		"a value too large": {func(n *tree.Node) { n.SetXattr("user.x", make([]byte, 1<<16)) },
			[]string{"/d/f", "user.x", "65536", "65535"}},
		"a prefix without number": {func(n *tree.Node) { n.SetXattr("btrfs.compression", nil) },
			[]string{"/d/f", "btrfs.compression"}},
		"no name behind a prefix": {func(n *tree.Node) { n.SetXattr("user.", nil) }, []string{"/d/f", `"user."`}},
		"an attribute like a POSIX": {func(n *tree.Node) { n.SetXattr("system.posix_acl_access.x", nil) },
			[]string{"/d/f", "posix_acl_access.x"}},
		"too many attributes": {func(n *tree.Node) { many(n, 400, 1500) }, []string{"/d/f", "user.",
			fmt.Sprint(maxXattrBody)}},
		"too many names": {func(n *tree.Node) { many(n, 6000, 0) }, []string{"/d/f", "user.", "65536"}},
		"fewer bytes than the size": {func(n *tree.Node) { n.Content = short{n.Content} },
			[]string{"/d/f", io.ErrUnexpectedEOF.Error()}},
		"a file that does not open": {func(n *tree.Node) { n.Content = closed{n.Content} },
			[]string{"/d/f", errClosed.Error()}},
		"fewer bytes, and many": {func(n *tree.Node) { n.Content = short{tree.Bytes(words(3_000_000, 1))} },
			[]string{"/d/f", io.ErrUnexpectedEOF.Error()}},
		"fewer bytes, and few blocks": {func(n *tree.Node) { n.Content = short{tree.Bytes([]byte("few"))} },
			[]string{"/d/f", io.ErrUnexpectedEOF.Error()}},
	} {
		for way, o := range ways() {
			tr := treetest.Small(t)
			n := good()
			c.change(n)
			if err := tr.Put("/d/f", n); err != nil {
				t.Fatal(err)
			}
			_, err := Write(t.Context(), &memory{}, tr, o)
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%s, %s: %v does not say %q", name, way, err, w)
				}
			}
		}
	}
	for _, o := range []Options{
		{Compression: 9}, {Level: 1}, {Compression: Zstd, Level: 5}, {Compression: Zstd, Level: -1},
		{ClusterSize: 4096}, {ClusterSize: 10000},
		{ClusterSize: 2 << 20}, {Label: "seventeen letters"}, {Label: "a\x00"}, {Jobs: -1},
	} {
		if _, err := Write(t.Context(), &memory{}, tree.New(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func many(n *tree.Node, count, size int) {
	for i := range count {
		n.SetXattr(fmt.Sprintf("user.%06d", i), make([]byte, size))
	}
}

var errFull = errors.New("no space left")

// full is a device that ends.
type full struct{ left int }

func (f *full) WriteAt(p []byte, off int64) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAWriterThatFailsIsHeard(t *testing.T) {
	tr := treetest.Small(t)
	putFile(t, tr, "/large", noise(2_000_000, 1))
	for way, o := range ways() {
		size := len(write(t, tr, o))
		for _, left := range []int{0, size / 2, size - 1} {
			if _, err := Write(t.Context(), &full{left}, tr, o); !errors.Is(err, errFull) {
				t.Errorf("%s, after %d bytes: %v", way, left, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Write(ctx, &memory{}, tr, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func TestCompressionsHaveNames(t *testing.T) {
	for c := None; int(c) < len(compressionNames); c++ {
		if got, err := ParseCompression(c.String()); got != c || err != nil {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCompression("gzip"); err == nil {
		t.Error("gzip is none")
	}
}
