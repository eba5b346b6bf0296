package ext4

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

var root = testenv.Root

// write puts an image into a new file and checks its length.
func write(t testing.TB, tr *tree.Tree, o Options) (string, Info) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ext4.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := Write(context.Background(), f, tr, o)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != info.Size {
		t.Errorf("image of %d bytes, want %d (%v)", fi.Size(), info.Size, err)
	}
	return name, info
}

func fsck(t testing.TB, image string) {
	t.Helper()
	if out, err := exec.Command("fsck.ext4", "-fn", image).CombinedOutput(); err != nil {
		t.Errorf("fsck.ext4: %v\n%s", err, bytes.TrimSpace(out))
	}
}

// mount shows the test what the kernel makes of an image.
func mount(t testing.TB, image, options string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", options, image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// put places a node and fails the test where it cannot.
func put(t testing.TB, tr *tree.Tree, p string, n *tree.Node) *tree.Node {
	t.Helper()
	if err := tr.Put(p, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// rebuilt is the same tree put together again, last path first, its times clamped.
func rebuilt(t testing.TB, tr *tree.Tree) *tree.Tree {
	t.Helper()
	type named struct {
		path string
		n    *tree.Node
	}
	var all []named
	links := map[*tree.Node]string{}
	out := tree.New()
	var later [][2]string
	tr.Walk(func(p string, n *tree.Node, first bool) error {
		if !first {
			later = append(later, [2]string{links[n], p})
			return nil
		}
		links[n] = p
		all = append(all, named{p, &tree.Node{
			Kind: n.Kind, Mode: n.Mode, UID: n.UID, GID: n.GID, Time: clamp(n.Time), Xattrs: slices.Clone(n.Xattrs),
			Content: n.Content, Target: n.Target, Major: n.Major, Minor: n.Minor,
		}})
		return nil
	})
	for _, e := range slices.Backward(all) {
		put(t, out, e.path, e.n)
	}
	for _, l := range slices.Backward(later) {
		if err := out.Link(l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func same(t testing.TB, want, got *tree.Tree) {
	t.Helper()
	if d, err := treetest.Equal(want, got); d != "" || err != nil {
		t.Errorf("another tree: %s (%v)", d, err)
	}
}

// open reads an image back.
func open(t testing.TB, name string) (*Image, *tree.Tree) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	im, err := Open(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := im.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return im, tr
}

// Documentation/filesystems/ext4: sizes and offsets, read off an image.
func TestSizesAndOffsets(t *testing.T) {
	if rootIndex != 507 || nodeIndex != 510 || nodeExtents != 340 || rootExtents != 4 || inlineSize != 96 {
		t.Error("room in blocks:", rootIndex, nodeIndex, nodeExtents, rootExtents, inlineSize)
	}
	name, _ := write(t, tree.New(), Options{Label: "label", Time: 0x0102030405, UUID: [16]byte{1, 2, 3}})
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Superblock and descriptors, two bitmaps, an inode table of one block, the root folder.
	if len(b) != 6*4096 {
		t.Errorf("empty tree: %d bytes", len(b))
	}
	for _, f := range []struct {
		name string
		at   int
		want string
	}{
		{"s_inodes_count", 1024, "10000000"}, {"s_blocks_count_lo", 1024 + 4, "06000000"}, {"s_free_blocks_count_lo",
			1024 + 0xc, "00000000"},
		{"s_free_inodes_count", 1024 + 0x10, "06000000"}, {"s_log_block_size", 1024 + 0x18, "02000000"},
		{"s_magic", 1024 + 0x38, "53ef"},
		{"s_state", 1024 + 0x3a, "0100"}, {"s_first_ino", 1024 + 0x54, "0b000000"}, {"s_inode_size", 1024 + 0x58,
			"0001"},
		{"s_feature_compat", 1024 + 0x5c, "28000000"}, {"s_feature_incompat", 1024 + 0x60, "c2020000"},
		{"s_feature_ro_compat", 1024 + 0x64, "6b040000"},
		{"s_uuid", 1024 + 0x68, "01020300"}, {"s_volume_name", 1024 + 0x78, "6c6162656c00"},
		{"s_mkfs_time", 1024 + 0x108, "05040302"},
		{"s_mkfs_time_hi", 1024 + 0x276, "01"}, {"s_checksum_type", 1024 + 0x175, "01"},
		{"bg_block_bitmap_lo", 4096, "02000000"}, {"bg_inode_bitmap_lo", 4096 + 4, "03000000"},
		{"bg_inode_table_lo", 4096 + 8, "04000000"},
		{"bg_free_inodes_count_lo", 4096 + 0xe, "0600"}, {"bg_used_dirs_count_lo", 4096 + 0x10, "0100"},
		{"bg_flags", 4096 + 0x12, "0400"},
		{"bg_itable_unused_lo", 4096 + 0x1c, "0600"},
		{"root i_mode", 4*4096 + 256, "ed41"}, {"root i_links_count", 4*4096 + 256 + 0x1a, "0200"},
		{"root i_blocks_lo", 4*4096 + 256 + 0x1c, "08000000"},
		{"root i_flags", 4*4096 + 256 + 0x20, "00000800"}, {"root i_block", 4*4096 + 256 + 0x28,
			"0af30100040000000000000000000000" + "0100" + "0000" + "05000000"},
		{"root i_extra_isize", 4*4096 + 256 + 0x80, "2000"},
		{"root folder", 5 * 4096, "020000000c0001022e000000" + "02000000e80f02022e2e0000"},
		{"root folder's tail", 6*4096 - 12, "000000000c0000de"},
	} {
		want, _ := hex.DecodeString(f.want)
		if got := b[f.at : f.at+len(want)]; !bytes.Equal(got, want) {
			t.Errorf("%s at %#x: %x, want %s", f.name, f.at, got, f.want)
		}
	}
}

func TestTimesAreThoseOfTheDocumentation(t *testing.T) {
	// inodes.rst, "Inode Timestamps": extra bits and the range they give.
	for _, c := range []struct {
		sec   int64
		low   uint32
		extra uint32
	}{
		{-0x80000000, 0x80000000, 0}, {-1, 0xffffffff, 0}, {0, 0, 0}, {0x7fffffff, 0x7fffffff, 0},
		{0x80000000, 0x80000000, 1}, {0xffffffff, 0xffffffff, 1},
		{0x100000000, 0, 1}, {0x17fffffff, 0x7fffffff, 1}, {0x180000000, 0x80000000, 2}, {0x27fffffff, 0x7fffffff, 2},
		{0x280000000, 0x80000000, 3},
		{0x37fffffff, 0x7fffffff, 3},
	} {
		if low, extra := encodeTime(tree.Time{Sec: c.sec}); low != c.low || extra != c.extra {
			t.Errorf("%#x: %#x and %d, want %#x and %d", c.sec, low, extra, c.low, c.extra)
		}
		at := tree.Time{Sec: c.sec, Nsec: 123456789}
		if got := decodeTime(encodeTime(at)); got != at || clamp(at) != at {
			t.Errorf("%v came back as %v", at, got)
		}
	}
	if minTime != -0x80000000 || maxTime != 0x37fffffff {
		t.Error(minTime, maxTime)
	}
}

func TestDevicesKeepTheirNumbers(t *testing.T) {
	for _, d := range [][2]uint32{{5, 1}, {0, 0}, {255, 255}, {256, 0}, {254, 0xfffff}, {4095, 300},
		{4095, 1<<20 - 1}, {0, 256}} {
		b := make([]byte, 60)
		encodeDevice(b, d[0], d[1])
		if major, minor := decodeDevice(b); major != d[0] || minor != d[1] {
			t.Errorf("%v became %d:%d", d, major, minor)
		}
	}
}

// debugfs hashes names too, in the way that is its default: bytes are signed there, so names are ASCII.
func TestDebugfsHashesNamesAlike(t *testing.T) {
	testenv.Require(t, testenv.Tool("debugfs"))
	seed := hashSeed{0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c}
	for _, n := range []string{"a", "abc", "abcd", "hello", "abcdefghijklmnopqrstuvwxyz012345",
		"abcdefghijklmnopqrstuvwxyz0123456", strings.Repeat("long-", 51)} {
		for _, s := range []hashSeed{{}, seed} {
			args := "dx_hash -h half_md4 "
			if s != (hashSeed{}) {
				args += "-s 00010203-0405-0607-0809-0a0b0c0d0e0f "
			}
			out, err := exec.Command("debugfs", "-R", args+n).Output()
			major, minor := halfMD4(n, s)
			if want := fmt.Sprintf("is %#x (minor %#x)", major, minor); err != nil || !strings.Contains(string(out),
				want) {
				t.Errorf("we say %s, debugfs %s (%v)", want, out, err)
			}
		}
	}
}

// generated is content that costs no memory and is not a hole.
type generated struct{ size int64 }

func (g generated) Size() int64        { return g.size }
func (g generated) Data() []tree.Range { return []tree.Range{{Offset: 0, Length: g.size}} }
func (g generated) Open() (tree.Reader, error) {
	return generatedReader{io.NewSectionReader(g, 0, g.size)}, nil
}

func (g generated) ReadAt(b []byte, at int64) (int, error) {
	for i := range b {
		b[i] = byte((at + int64(i)) >> 12)
	}
	return len(b), nil
}

type generatedReader struct{ *io.SectionReader }

func (generatedReader) Close() error { return nil }

// large crosses groups, has an index of two levels and an extent tree of three.
func large(t testing.TB) *tree.Tree {
	tr := tree.New()
	put(t, tr, "/big", &tree.Node{Kind: tree.File, Mode: 0o644, Content: generated{140<<20 + 7}})
	pieces := make([]treetest.Piece, 4*340+1)
	for i := range pieces {
		pieces[i] = treetest.Piece{Offset: int64(i) * 3 * blockSize, Bytes: []byte{byte(i), 1}}
	}
	put(t, tr, "/pieces", &tree.Node{Kind: tree.File, Mode: 0o644, Content: &treetest.Sparse{Length: 1 << 40,
		Pieces: pieces}})
	put(t, tr, "/names", &tree.Node{Mode: 0o755})
	for i := range 9000 {
		put(t, tr, fmt.Sprintf("/names/%0253dü", i), &tree.Node{Kind: tree.FIFO, Mode: 0o600})
	}
	return tr
}

// variants are what an image may be asked to be.
var variants = map[string]Options{
	"small as can be": {},
	"with a journal":  {Journal: true, Label: "0123456789abcdef", Time: 1700000000},
	"with free space": {FreeSpace: 5<<20 + 1, UUID: [16]byte{1, 2, 3, 4, 5, 6, 0x40, 8, 0x80, 10}},
	"with both":       {FreeSpace: 300 << 20, Journal: true},
}

func TestTheKernelAndFsckFindTheTreeInTheImage(t *testing.T) {
	torture := treetest.Torture(t)
	// Comparing 200 MB of hole takes seconds; TestLargeThings has larger ones.
	put(t, torture, "/sparse", &tree.Node{Kind: tree.File, Content: &treetest.Sparse{Length: 8 << 20,
		Pieces: []treetest.Piece{{Offset: 5 << 20, Bytes: []byte("x")}}}})
	for name, tr := range map[string]*tree.Tree{"empty": tree.New(), "small": treetest.Small(t), "torture": torture} {
		for variant, o := range variants {
			if name == "torture" && variant != "with both" {
				continue
			}
			t.Run(name+" "+variant, func(t *testing.T) {
				image, info := write(t, tr, o)
				want := rebuilt(t, tr)
				im, got := open(t, image)
				same(t, want, got)
				if im.UUID != info.UUID || im.Label != o.Label || im.Time != o.Time || im.Size != info.Size ||
					im.Journal != o.Journal || !im.Checksums || im.Free < o.FreeSpace {
					t.Errorf("%+v", im)
				}
				if o.FreeSpace == 0 && im.Free != 0 {
					t.Errorf("%d bytes are free", im.Free)
				}
				testenv.Require(t, testenv.Tool("fsck.ext4"))
				fsck(t, image)
				testenv.Require(t, root)
				options := "loop,ro"
				if o.Journal {
					options += ",data=ordered,errors=remount-ro" // Kata's rootflags
				}
				dir, _ := mount(t, image, options)
				got, err := tree.FromDir(dir, tree.DirOptions{})
				if err != nil {
					t.Fatal(err)
				}
				same(t, want, got)
			})
		}
	}
}

func TestLargeThings(t *testing.T) {
	tr := large(t)
	image, info := write(t, tr, Options{})
	if info.Size < 143<<20 || info.Size > 153<<20 {
		t.Errorf("%d bytes", info.Size)
	}
	_, got := open(t, image)
	if n, err := got.Lookup("/names"); err != nil || n.Len() != 9000 {
		t.Errorf("%v", err)
	}
	check := func(got *tree.Tree) {
		t.Helper()
		for _, p := range []string{"/big", "/pieces"} {
			a, _ := tr.Lookup(p)
			b, err := got.Lookup(p)
			if err != nil || b.Size() != a.Size() {
				t.Fatalf("%s: %v", p, err)
			}
			x, _ := a.Content.Open()
			y, err := b.Content.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer y.Close()
			for _, at := range []int64{0, 4095, 1 << 20, 12288 * 700, 127<<20 - 5, 128<<20 - 5, a.Size() - 9000} {
				p, q := make([]byte, 9000), make([]byte, 9000)
				x.ReadAt(p, at)
				if n, err := y.ReadAt(q, at); n != len(q) || err != nil || !bytes.Equal(p, q) {
					t.Errorf("9000 bytes at %d differ (%v)", at, err)
				}
			}
		}
	}
	check(got)
	testenv.Require(t, testenv.Tool("fsck.ext4"))
	fsck(t, image)
	testenv.Require(t, root)
	dir, _ := mount(t, image, "loop,ro")
	for _, n := range []int{0, 77, 8999} { // the kernel looks names up by their hashes
		if _, err := os.Lstat(filepath.Join(dir, "names", fmt.Sprintf("%0253dü", n))); err != nil {
			t.Error(err)
		}
	}
	seen, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check(seen)
}

// Where a group ends, and the copy of the superblock that the next begins with, nothing goes missing.
func TestEveryLengthAroundAGroupsEndIsSound(t *testing.T) {
	testenv.Require(t, testenv.Tool("fsck.ext4"))
	for _, base := range []int64{0, 1} { // group 1 has a copy, group 2 has none
		for d := int64(-7); d < 3; d += 2 {
			blocks := blocksPerGroup*(base+1) - 200*(base+1) + 25*d
			o := Options{FreeSpace: blocks * blockSize}
			image, info := write(t, tree.New(), o)
			fsck(t, image)
			im, _ := open(t, image)
			if im.Free < o.FreeSpace || im.Size != info.Size {
				t.Errorf("%d bytes free, want %d", im.Free, o.FreeSpace)
			}
		}
	}
	// So many inodes that their tables reach past the first copy.
	image, _ := write(t, tree.New(), Options{FreeSpace: 10 << 30})
	fsck(t, image)
	// One group more needs fewer blocks, because the inode tables fill up better: then there is one, not none that
	// fits.
	p, err := newPlan(tree.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for free := uint64(100*blocksPerGroup) - 800; free < 100*blocksPerGroup; free += 10 {
		fit := 0
		for groups := 99; groups <= 102; groups++ {
			if ok, _ := p.place(groups, 1601, 0, free); ok {
				fit++
			}
		}
		if fit == 0 {
			t.Errorf("%d free blocks fit into no number of groups", free)
		}
	}
	// So many files of no content that a group cannot number them: the second is there for its inodes.
	many := tree.New()
	for i := range 40000 {
		put(t, many, fmt.Sprintf("/%d/%d", i%40, i), &tree.Node{Kind: tree.FIFO})
	}
	image, info := write(t, many, Options{})
	if want := int64(blocksPerGroup+2+1) * blockSize; info.Size != want {
		t.Errorf("%d bytes, want %d: one block in the second group", info.Size, want)
	}
	fsck(t, image)
	// The same with content. How many blocks are not content follows from the smallest.
	smallest, err := newPlan(filled(t, 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	other := smallest.info().Size/blockSize - 1
	for _, total := range []int64{blocksPerGroup - 1, blocksPerGroup, blocksPerGroup + 1} {
		image, info := write(t, filled(t, total-other), Options{})
		// A second group costs two bitmaps, and a copy of superblock and descriptors.
		want := total
		if total > blocksPerGroup {
			want += 2 + 1 + 2
		}
		if got := info.Size / blockSize; got != want {
			t.Errorf("%d blocks, want %d", got, want)
		}
		fsck(t, image)
		_, got := open(t, image)
		if f, _ := got.Lookup("/f"); f.Size() != (total-other)*blockSize {
			t.Errorf("%d bytes", f.Size())
		}
	}
}

// filled has one file of so many blocks.
func filled(t testing.TB, blocks int64) *tree.Tree {
	tr := tree.New()
	put(t, tr, "/f", &tree.Node{Kind: tree.File, Mode: 0o600, Content: generated{blocks * blockSize}})
	return tr
}

func TestSameTreeSameBytes(t *testing.T) {
	for name, tr := range map[string]*tree.Tree{"small": treetest.Small(t), "torture": treetest.Torture(t)} {
		o := Options{Journal: true, FreeSpace: 1 << 20, Label: "x"}
		a, ia := write(t, tr, o)
		b, ib := write(t, tr, o)
		c, _ := write(t, rebuilt(t, tr), o)
		x, _ := os.ReadFile(a)
		y, _ := os.ReadFile(b)
		z, _ := os.ReadFile(c)
		if !bytes.Equal(x, y) || ia.UUID != ib.UUID {
			t.Errorf("%s: written twice, two images", name)
		}
		if name == "small" && !bytes.Equal(x, z) { // torture's times are clamped on the way
			t.Errorf("%s: put together in another order, another image", name)
		}
		if ia.UUID == ([16]byte{}) || ia.UUID[6]>>4 != 8 {
			t.Errorf("UUID %x", ia.UUID)
		}
	}
	one := tree.New()
	put(t, one, "/f", &tree.Node{Kind: tree.File, Content: tree.Bytes([]byte("a"))})
	two := tree.New()
	put(t, two, "/f", &tree.Node{Kind: tree.File, Content: tree.Bytes([]byte("b"))})
	_, i := write(t, one, Options{})
	_, j := write(t, two, Options{})
	if i.UUID == j.UUID {
		t.Error("another content, the same UUID")
	}
}

func TestAnImageWithAJournalCanBeWrittenTo(t *testing.T) {
	testenv.Require(t, root, testenv.Tool("fsck.ext4"))
	image, _ := write(t, treetest.Small(t), Options{Journal: true, FreeSpace: 20 << 20})
	dir, unmount := mount(t, image, "loop,rw")
	if err := os.WriteFile(filepath.Join(dir, "usr/new"), bytes.Repeat([]byte("new "), 1<<20), 0o600); err != nil {
		t.Error(err)
	}
	for i := range 500 { // makes a folder grow an index
		if err := os.WriteFile(fmt.Sprintf("%s/run/%0100d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "srv")); err != nil {
		t.Error(err)
	}
	unmount()
	fsck(t, image)
	_, got := open(t, image)
	if n, err := got.Lookup("/usr/new"); err != nil || n.Size() != 4<<20 {
		t.Error(err)
	}
	if n, err := got.Lookup("/run"); err != nil || n.Len() != 502 {
		t.Error(err)
	}
}

func TestWhatExt4CannotSayIsClampedAndNamed(t *testing.T) {
	tr := tree.New()
	put(t, tr, "/old", &tree.Node{Kind: tree.File, Time: tree.Time{Sec: -1<<31 - 1, Nsec: 5}})
	put(t, tr, "/new", &tree.Node{Kind: tree.File, Time: tree.Time{Sec: 1 << 34}})
	put(t, tr, "/now", &tree.Node{Kind: tree.File, Time: tree.Time{Sec: 1700000000, Nsec: 5}})
	_, info := write(t, tr, Options{})
	if len(info.Warnings) != 2 || !strings.HasPrefix(info.Warnings[0], "/new: ") ||
		!strings.HasPrefix(info.Warnings[1], "/old: ") {
		t.Errorf("%q", info.Warnings)
	}
}

// short is content that ends before its size.
type short struct{ tree.Content }

func (s short) Size() int64        { return s.Content.Size() + 10000 }
func (s short) Data() []tree.Range { return []tree.Range{{Offset: 0, Length: s.Size()}} }

type limited struct{ left int }

func (w *limited) WriteAt(b []byte, _ int64) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("no space left")
	}
	return len(b), nil
}

func TestFailuresAreNamed(t *testing.T) {
	ctx := context.Background()
	file := func(change func(n *tree.Node)) *tree.Tree {
		n := &tree.Node{Kind: tree.File, Content: tree.Bytes([]byte("x"))}
		change(n)
		tr := tree.New()
		put(t, tr, "/usr/file", n)
		return tr
	}
	many := tree.New()
	put(t, many, "/usr/file", &tree.Node{Kind: tree.File})
	for i := range maxLinks {
		if err := many.Link("/usr/file", fmt.Sprintf("/usr/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		tr   *tree.Tree
		o    Options
		want []string
	}{
		{"attributes that do not fit", file(func(n *tree.Node) {
			n.SetXattr("user.small", []byte("s"))
			n.SetXattr("user.large", make([]byte, 4090))
		}), Options{}, []string{"/usr/file", "user.large", "4090", "4064"}},
		{"an attribute of no kind", file(func(n *tree.Node) { n.SetXattr("other.x", nil) }), Options{},
			[]string{"/usr/file", "other.x"}},
		{"an attribute of no name", file(func(n *tree.Node) { n.SetXattr("user.", nil) }), Options{},
			[]string{"/usr/file", `"user."`}},
		{"an ACL that is none", file(func(n *tree.Node) { n.SetXattr("system.posix_acl_access", []byte("x")) }),
			Options{}, []string{"/usr/file", "posix_acl_access"}},
		{"a content that is short", file(func(n *tree.Node) { n.Content = short{n.Content} }), Options{},
			[]string{"/usr/file", "1 of 10001", io.ErrUnexpectedEOF.Error()}},
		{"too many names", many, Options{}, []string{"/usr/", "65000"}},
		{"a label too long", tree.New(), Options{Label: strings.Repeat("x", 17)}, []string{"label"}},
		{"a time before 1970", tree.New(), Options{Time: -1}, []string{"time"}},
		{"less than no space", tree.New(), Options{FreeSpace: -1}, []string{"free"}},
	} {
		_, err := Write(ctx, &limited{1 << 30}, c.tr, c.o)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: want it to name %q", c.name, err, w)
			}
		}
	}
	small := treetest.Small(t)
	_, info := write(t, small, Options{})
	for left := 0; left < int(info.Size)-4<<20; left += 300000 {
		if _, err := Write(ctx, &limited{left}, small, Options{}); err == nil || !strings.Contains(err.Error(),
			"no space left") {
			t.Errorf("%d bytes of space: %v", left, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Write(ended, &limited{1 << 30}, small, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Files with the same attributes share their block, up to as many as the kernel lets.
func TestAttributeBlocksAreShared(t *testing.T) {
	tr := tree.New()
	for i := range 1030 {
		put(t, tr, fmt.Sprintf("/%d", i), &tree.Node{Kind: tree.File}).SetXattr("trusted.x", bytes.Repeat([]byte("x"),
			200))
	}
	put(t, tr, "/empty", &tree.Node{Kind: tree.File}).SetXattr("user.e", nil)
	n := put(t, tr, "/both", &tree.Node{Kind: tree.File})
	n.SetXattr("user.a", []byte("a"))
	n.SetXattr("user.b", make([]byte, 4040))
	p, err := newPlan(tr, Options{})
	if err != nil || len(p.xattrs) != 3 || p.xattrs[0].users+p.xattrs[1].users+p.xattrs[2].users != 1031 {
		t.Fatalf("%v, %d blocks", err, len(p.xattrs))
	}
	image, _ := write(t, tr, Options{})
	_, got := open(t, image)
	same(t, tr, got)
	testenv.Require(t, testenv.Tool("fsck.ext4"))
	fsck(t, image)
	testenv.Require(t, root)
	dir, _ := mount(t, image, "loop,ro")
	seen, err := tree.FromDir(dir, tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, tr, seen)
}
