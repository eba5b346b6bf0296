package erofs

import (
	"encoding/binary"
	"testing"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// The sizes that erofs_fs.h checks at compile time, and fields of ours at the offsets that its structures give them.
func TestTheFormatIsAsInTheHeader(t *testing.T) {
	for _, c := range []struct {
		name string
		v    any
		want int
	}{
		{"erofs_super_block", superblock{}, superSize},
		{"erofs_super_block", superblock{}, 128},
		{"erofs_inode_compact", compactInode{}, compactSize},
		{"erofs_inode_compact", compactInode{}, 32},
		{"erofs_inode_extended", extendedInode{}, extendedSize},
		{"erofs_inode_extended", extendedInode{}, 64},
		{"z_erofs_map_header", mapHeader{}, mapHeaderSize},
		{"z_erofs_map_header", mapHeader{}, 8},
	} {
		if n := binary.Size(c.v); n != c.want {
			t.Errorf("struct %s has %d bytes, want %d", c.name, n, c.want)
		}
	}
	if direntSize != 12 || xattrHeaderSize != 12 || xattrEntrySize != 4 || indexEntry != 8 || rootOffset != 1184 ||
		rootOffset/slotSize > 1<<16-1 {
		t.Error("a size or place is not that of the header")
	}
	for i, want := range []uint8{2, 1, 7, 3, 4, 5, 6} {
		if got := fileType(tree.Kind(i)); got != want {
			t.Errorf("type %d of a %v, want %d", got, tree.Kind(i), want)
		}
	}
	at := func(v any, off, size int, want uint64) {
		t.Helper()
		b, err := binary.Append(nil, le, v)
		if err != nil {
			t.Fatal(err)
		}
		var field [8]byte
		copy(field[:], b[off:off+size])
		if got := le.Uint64(field[:]); got != want {
			t.Errorf("%T at %d: %#x, want %#x", v, off, got, want)
		}
	}
	s := superblock{
		Magic: magic, Checksum: 1, Compat: 2, BlockBits: 3, ExtSlots: 4, RootNid: 5, Inodes: 6, BuildTime: 7,
		BuildTimeNsec: 8, Blocks: 9, MetaBlock: 10,
		XattrBlock: 11, UUID: [16]byte{12}, Label: [16]byte{13}, Incompat: 14, Algorithms: 15, ExtraDevices: 16,
		DeviceSlotOff: 17, DirBlockBits: 18,
		PrefixCount: 19, PrefixStart: 20, PackedNid: 21, FilterReserved: 22,
	}
	for _, f := range []struct{ off, size, want int }{
		{0, 4, magic}, {4, 4, 1}, {8, 4, 2}, {12, 1, 3}, {13, 1, 4}, {14, 2, 5}, {16, 8, 6}, {24, 8, 7}, {32, 4, 8},
		{36, 4, 9}, {40, 4, 10}, {44, 4, 11},
		{48, 1, 12}, {64, 1, 13}, {80, 4, 14}, {84, 2, 15}, {86, 2, 16}, {88, 2, 17}, {90, 1, 18}, {91, 1, 19},
		{92, 4, 20}, {96, 8, 21}, {104, 1, 22},
	} {
		at(s, f.off, f.size, uint64(f.want))
	}
	c := compactInode{Format: 1, XattrCount: 2, Mode: 3, Links: 4, Size: 5, Union: 6, Ino: 7, UID: 8, GID: 9}
	for _, f := range []struct{ off, size, want int }{{0, 2, 1}, {2, 2, 2}, {4, 2, 3}, {6, 2, 4}, {8, 4, 5},
		{12, 4, 0}, {16, 4, 6}, {20, 4, 7}, {24, 2, 8}, {26, 2, 9}} {
		at(c, f.off, f.size, uint64(f.want))
	}
	e := extendedInode{Format: 1, XattrCount: 2, Mode: 3, Size: 4, Union: 5, Ino: 6, UID: 7, GID: 8, Time: 9,
		Nsec: 10, Links: 11}
	for _, f := range []struct{ off, size, want int }{{0, 2, 1}, {2, 2, 2}, {4, 2, 3}, {8, 8, 4}, {16, 4, 5},
		{20, 4, 6}, {24, 4, 7}, {28, 4, 8}, {32, 8, 9}, {40, 4, 10}, {44, 4, 11}} {
		at(e, f.off, f.size, uint64(f.want))
	}
	h := mapHeader{Fragment: 1, Advise: 2, Algorithms: 3, ClusterBits: 4}
	for _, f := range []struct{ off, size, want int }{{0, 4, 1}, {4, 2, 2}, {6, 1, 3}, {7, 1, 4}} {
		at(h, f.off, f.size, uint64(f.want))
	}
}

// An extent's entries: where it starts, then how many blocks it has, then how far back its start and how far ahead the
// next one is.
func TestAnIndexSaysWhereExtentsStart(t *testing.T) {
	got := appendIndex(nil, 5*blockLength+7, []placed{
		{extent{length: 3*blockLength + 100, blocks: 2}, 50},
		{extent{length: 2*blockLength - 93, blocks: 1, plain: false}, 52},
	})
	var want []byte
	for _, e := range [][4]uint16{
		{1, 0, 50, 0}, {2, 0, blockCount | 2, 2}, {2, 0, 2, 1},
		{1, 100, 52, 0}, {2, 100, blockCount | 1, 2}, {2, 100, 2, 1},
	} {
		for _, v := range e {
			want = le.AppendUint16(want, v)
		}
	}
	if string(got) != string(want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}
