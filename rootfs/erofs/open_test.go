package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

// mini is a tree whose image is small enough to be changed byte by byte, with a file for every layout.
func mini(t testing.TB) *tree.Tree {
	tr := tree.New()
	if err := tr.Put("/d", &tree.Node{Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	putFile(t, tr, "/d/words", words(9000, 1))
	putFile(t, tr, "/d/noise", noise(4100, 1))
	f := putFile(t, tr, "/d/small", []byte("small"))
	f.SetXattr("user.same", noise(40, 1))
	f.SetXattr("system.posix_acl_access", []byte("as it is"))
	putFile(t, tr, "/d/two", words(20000, 7)).SetXattr("user.same", noise(40, 1))
	sparse := &tree.Node{Kind: tree.File, Content: &treetest.Sparse{Length: 1 << 20,
		Pieces: []treetest.Piece{{Offset: 50000, Bytes: []byte("here")}}}}
	for p, n := range map[string]*tree.Node{
		"/d/sparse": sparse, "/link": {Kind: tree.Symlink, Target: "d/small"}, "/null": {Kind: tree.CharDevice,
			Major: 1, Minor: 3}, "/fifo": {Kind: tree.FIFO},
	} {
		if err := tr.Put(p, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Link("/d/small", "/hard"); err != nil {
		t.Fatal(err)
	}
	return tr
}

// unchecked is an image without a checksum, so that a change is judged by what it changes.
func unchecked(b []byte) []byte {
	b = slices.Clone(b)
	b[superOffset+8] &^= compatChecksum
	return b
}

// readAll opens an image and reads what it holds, up to a limit: hostile files can be larger than anyone's patience.
func readAll(b []byte) error {
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	left := int64(4 << 20)
	return img.Tree.Walk(func(p string, n *tree.Node, first bool) error {
		if n.Content == nil || !first || left <= 0 {
			return nil
		}
		n.Content.Data()
		r, err := n.Content.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		defer r.Close()
		got, err := io.CopyN(io.Discard, r, min(left, 256<<10, n.Size()))
		left -= got
		if err == nil && n.Size() > 0 {
			_, err = r.ReadAt(make([]byte, 1), n.Size()-1)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		return nil
	})
}

func TestAnImageCutShortIsRefused(t *testing.T) {
	for way, o := range ways() {
		b := write(t, mini(t), o)
		if err := readAll(b); err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		for n := 0; n < len(b); n += 100 {
			if err := readAll(b[:n]); err == nil {
				t.Errorf("%s: cut to %d of %d bytes: no error", way, n, len(b))
			}
		}
	}
}

func TestWhatAKernelWouldRefuseIsRefused(t *testing.T) {
	tr := tree.New()
	for _, p := range []string{"/a", "/a/b", "/c"} {
		if err := tr.Put(p, &tree.Node{Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	n := putFile(t, tr, "/f", []byte("f"))
	n.Time.Sec = 1 // an inode of 64 bytes
	n.SetXattr("user.x", []byte("y"))
	whole := write(t, tr, Options{})
	if err := readAll(whole); err != nil {
		t.Fatal(err)
	}
	// The root's inode has 32 bytes, then come the entries of ".", "..", "a", "c", "f" and their names.
	const entries = rootOffset + compactSize
	const names = entries + 5*direntSize
	child := func(i int) int64 { return int64(le.Uint64(whole[entries+i*direntSize:])) * slotSize }
	a, f := child(2), child(4)
	for name, c := range map[string]struct {
		at   int64
		put  string
		want string
	}{
		"another format":         {superOffset, "1", "magic"},
		"blocks of 2^30 bytes":   {superOffset + 12, "\x1e", "unsupported"},
		"an unknown feature":     {superOffset + 83, "\x80", "unsupported"},
		"a device table":         {superOffset + 86, "\x01", "devices"},
		"more blocks than bytes": {superOffset + 36, "\xff\xff", "cut short"},
		"a root far away":        {superOffset + 14, "\xff\xff", "cut short"},
		"a root that is a file":  {superOffset + 14, string(le.AppendUint16(nil, uint16(f/slotSize))), "is a file"},
		"a folder in itself": {entries + 3*direntSize, string(le.AppendUint64(nil, rootOffset/slotSize)),
			"folder"},
		"a folder with two parents": {entries + 3*direntSize, string(le.AppendUint64(nil, uint64(a/slotSize))),
			"the folder is /a too"},
		"another self": {entries, string(le.AppendUint64(nil, uint64(a/slotSize))), `"." is inode`},
		"another parent": {a + compactSize + direntSize, string(le.AppendUint64(nil, uint64(a/slotSize))),
			`".." is inode`},
		"a number beyond the end":   {entries + 3*direntSize, "\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"},
		"names out of order":        {names + 3, "z", "out of order"},
		"a name twice":              {names + 3, "c", "out of order"},
		"a name with a slash":       {names + 4, "/", "name"},
		"a name of nothing":         {names + 5, "\x00", "name"},
		"names that start at 0":     {entries + 8, "\x00\x00", "names from"},
		"names behind the end":      {entries + 8, "\xfc\x0f", "names from"},
		"names that overlap":        {entries + direntSize + 8, "\x01\x00", "name from"},
		"a type that is another":    {entries + 2*direntSize + 10, "\x01", "type 1 of a folder"},
		"too many links":            {f + 44, "\x02", "2 links"},
		"too few links":             {rootOffset + 6, "\x02", "links"},
		"an unknown layout":         {f, "\x0b", "unsupported"},
		"an unknown format":         {f, "\x41", "unsupported"},
		"a type that is none":       {f + 4, "\x00\x00", "no type of file"},
		"nanoseconds":               {f + 40, "\xff\xff\xff\xff", "nanoseconds"},
		"a size beyond the end":     {f + 8, "\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"},
		"a size below zero":         {f + 8, "\xff\xff\xff\xff\xff\xff\xff\xff", "size"},
		"data beyond the end":       {f + 16, "\xff\xff\xff\xff", "cut short"},
		"attributes behind the end": {f + 2, "\xff\xff", ""},
		"more shared attributes":    {f + extendedSize + 4, "\xff", "shared"},
		"an unknown prefix":         {f + extendedSize + xattrHeaderSize + 1, "\x85", "prefix"},
		"a long value":              {f + extendedSize + xattrHeaderSize + 2, "\xff\xff", "bytes in"},
		"a folder beyond memory":    {a + 8, "\xff\xff\xff\xff", "overlaps"},
	} {
		b := unchecked(whole)
		copy(b[c.at:], c.put)
		if err := readAll(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, err, c.want)
		}
		if bytes.Equal(b, unchecked(whole)) {
			t.Errorf("%s: nothing was changed", name)
		}
	}
	b := slices.Clone(whole)
	b[superOffset+64] = 'x'
	if err := readAll(b); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("another label: %v", err)
	}
}

// Damage in compressed data is mostly seen; where EROFS has no checksum that sees it, that is verity's business.
func TestDamagedDataIsAnError(t *testing.T) {
	for _, c := range []Compression{LZ4, Zstd, Deflate} {
		tr := tree.New()
		putFile(t, tr, "/f", words(100_000, 1))
		whole := write(t, tr, Options{Compression: c})
		bad, same := 0, 0
		for at := 2 * blockLength; at+40 < 6*blockLength; at += 1000 {
			b := unchecked(whole)
			copy(b[at:], strings.Repeat("\xff", 24))
			if err := readAll(b); err != nil {
				bad++
			} else {
				same++
			}
		}
		if bad == 0 {
			t.Errorf("%v: no damage was seen, %d times", c, same)
		}
	}
}

func TestUnsupportedIsSaid(t *testing.T) {
	b := unchecked(write(t, mini(t), Options{Compression: Zstd}))
	b[superOffset+84] |= 1 << algLZMA
	if err := readAll(b); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// LZ4's blocks of the library, unpacked by our own code in any length.
func TestOurLZ4UnpacksAnyLength(t *testing.T) {
	encode, err := encoders[LZ4].make(0)
	if err != nil {
		t.Fatal(err)
	}
	src := append(words(3000, 1), make([]byte, 2000)...)
	packed := slices.Clone(encode(make([]byte, 0, 10000), src))
	for n := range len(src) + 1 {
		dst := make([]byte, n)
		if err := unlz4(dst, packed); err != nil || !bytes.Equal(dst, src[:n]) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if err := unlz4(make([]byte, len(src)+1), packed); err == nil {
		t.Error("more than there is")
	}
	for n := range len(packed) {
		if err := unlz4(make([]byte, len(src)), packed[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
}

// FuzzOpen changes a good image: a patch is 2 bytes of an offset, which reach all of it, one byte of a length up to 16,
// and bytes. Whole images would be too large for the fuzzer to try many.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for _, way := range slices.Sorted(maps.Keys(ways())) {
		images = append(images, unchecked(write(f, mini(f), ways()[way])))
		f.Add(uint8(len(images)-1), []byte{})
	}
	at := func(off int, put string) []byte {
		return append(le.AppendUint16(nil, uint16(off)), append([]byte{byte(len(put) - 1)}, put...)...)
	}
	f.Add(uint8(0), at(rootOffset+16, "\xff\xff\xff\xff"))
	f.Add(uint8(1), at(superOffset+14, "\xff\xff"))
	f.Add(uint8(5), at(superOffset+96, "\x25\x00"))
	f.Fuzz(func(t *testing.T, which uint8, patches []byte) {
		b := slices.Clone(images[int(which)%len(images)])
		for len(patches) > 3 {
			off, n := int(le.Uint16(patches)), int(patches[2]%16)+1
			n = min(n, len(patches)-3)
			copy(b[min(off, len(b)):], patches[3:3+n])
			patches = patches[3+n:]
		}
		// Any answer will do that comes soon and without a panic.
		start := time.Now()
		_ = readAll(b)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
