package ext4

import (
	"cmp"
	"fmt"
	"slices"
)

// Folders. directory.rst.
const (
	entryHeader = 8  // bytes of an entry without its name
	dirTail     = 12 // the false entry at a block's end that holds its checksum
	leafRoom    = blockSize - dirTail
	dotsSize    = 2 * (entryHeader + dirAlign) // "." and ".."
	indexHeader = dotsSize + 8                 // of a tree's root: what precedes its index
	nodeHeader  = entryHeader                  // of a block below it
	indexEntry  = 8
	hashHalfMD4 = 1 // table dirhash; that bytes are unsigned the superblock says
)

// rootIndex and nodeIndex are how many blocks the root and a block below it can point to, with the checksum at the end.
const (
	rootIndex = (blockSize-indexHeader)/indexEntry - 1 // 507
	nodeIndex = (blockSize-nodeHeader)/indexEntry - 1  // 510
)

type entry struct {
	name  string
	inode *inode
}

func (e entry) size() int { return entryHeader + roundUp(len(e.name), dirAlign) }

// folder is the content of a folder, decided: which names go into which block.
type folder struct {
	entries []entry  // hashed: in order of their hashes
	leaves  []int    // hashed: number of the first entry of each block; nil in a folder of one block
	hashes  []uint32 // what the index has for each
}

// newFolder packs entries, sorted by name, into blocks. What does not fit into one gets an index of hashes, so that a
// name is found without reading all.
func newFolder(entries []entry, seed hashSeed) (*folder, error) {
	f := &folder{entries: entries}
	room := leafRoom - dotsSize
	for _, e := range entries {
		room -= e.size()
	}
	if room >= 0 {
		return f, nil
	}
	type hashed struct {
		major, minor uint32
		entry
	}
	sorted := make([]hashed, len(entries))
	for i, e := range entries {
		major, minor := halfMD4(e.name, seed)
		sorted[i] = hashed{major, minor, e}
	}
	slices.SortFunc(sorted, func(a, b hashed) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor), cmp.Compare(a.name, b.name))
	})
	room = 0
	for i, h := range sorted {
		f.entries[i] = h.entry
		if room < h.size() {
			room = leafRoom
			hash := h.major
			if i > 0 && sorted[i-1].major == hash {
				hash |= 1 // names of this hash begin in the block before
			}
			f.leaves, f.hashes = append(f.leaves, i), append(f.hashes, hash)
		}
		room -= h.size()
	}
	if len(f.leaves) > rootIndex*nodeIndex {
		return nil, fmt.Errorf("%d names: a folder's index ends at %d blocks", len(entries), rootIndex*nodeIndex)
	}
	return f, nil
}

// nodes is how many blocks of index lie between the root and the leaves.
func (f *folder) nodes() int {
	if len(f.leaves) <= rootIndex {
		return 0
	}
	return divUp(len(f.leaves), nodeIndex)
}

// blocks is the folder's length: the root of the index, its nodes, then the leaves.
func (f *folder) blocks() int {
	if f.leaves == nil {
		return 1
	}
	return 1 + f.nodes() + len(f.leaves)
}

// each makes one block after the other, in the same buffer.
func (f *folder) each(self, parent, seed uint32, do func(b []byte) error) error {
	b := make([]byte, blockSize)
	putEntry(b, self, 2, ".", entryHeader+dirAlign)
	if f.leaves == nil {
		putEntry(b[entryHeader+dirAlign:], parent, 2, "..", entryHeader+dirAlign)
		putLeaf(b, dotsSize, entryHeader+dirAlign, f.entries, seed)
		return do(b)
	}
	putEntry(b[entryHeader+dirAlign:], parent, 2, "..", blockSize-entryHeader-dirAlign)
	info := b[dotsSize:]
	info[4], info[5] = hashHalfMD4, 8
	nodes := f.nodes()
	if nodes == 0 {
		putIndex(b, indexHeader, rootIndex, f.hashes, 1, seed)
	} else {
		info[6] = 1 // indirect_levels
		var first []uint32
		for i := range nodes {
			first = append(first, f.hashes[i*nodeIndex])
		}
		putIndex(b, indexHeader, rootIndex, first, 1, seed)
	}
	if err := do(b); err != nil {
		return err
	}
	for i := range nodes {
		clear(b)
		putEntry(b, 0, 0, "", blockSize)
		from := i * nodeIndex
		putIndex(b, nodeHeader, nodeIndex, f.hashes[from:min(len(f.hashes), from+nodeIndex)], 1+nodes+from, seed)
		if err := do(b); err != nil {
			return err
		}
	}
	for i, from := range f.leaves {
		clear(b)
		to := len(f.entries)
		if i+1 < len(f.leaves) {
			to = f.leaves[i+1]
		}
		putLeaf(b, 0, 0, f.entries[from:to], seed)
		if err := do(b); err != nil {
			return err
		}
	}
	return nil
}

func putEntry(b []byte, inode uint32, kind byte, name string, length int) {
	le.PutUint32(b, inode)
	le.PutUint16(b[4:], uint16(length))
	b[6], b[7] = byte(len(name)), kind
	copy(b[entryHeader:], name)
}

// putLeaf writes entries from b[at:] on and the checksum. The last entry reaches up to the checksum; last is its length
// so far, where b holds some already.
func putLeaf(b []byte, at, last int, entries []entry, seed uint32) {
	for _, e := range entries {
		last = e.size()
		putEntry(b[at:], e.inode.num, fileType(e.inode.n.Kind), e.name, last)
		at += last
	}
	le.PutUint16(b[at-last+4:], uint16(leafRoom-at+last))
	tail := b[leafRoom:]
	le.PutUint16(tail[4:], dirTail)
	tail[7] = 0xde
	le.PutUint32(tail[8:], crc(seed, b[:leafRoom]))
}

// putIndex writes an index of the blocks from number first on. The first block's hash is not written: how many there
// are and can be stands there.
func putIndex(b []byte, at, limit int, hashes []uint32, first int, seed uint32) {
	for i, h := range hashes {
		le.PutUint32(b[at+i*indexEntry:], h)
		le.PutUint32(b[at+i*indexEntry+4:], uint32(first+i))
	}
	le.PutUint16(b[at:], uint16(limit))
	le.PutUint16(b[at+2:], uint16(len(hashes)))
	tail := b[at+limit*indexEntry:]
	le.PutUint32(tail[4:], indexChecksum(seed, b, at, len(hashes), tail))
}

// indexChecksum is over the used part of an index block and its tail of 8 bytes, with the checksum in it as zeros.
func indexChecksum(seed uint32, b []byte, at, count int, tail []byte) uint32 {
	var zero [pointer]byte
	c := crc(seed, b[:at+count*indexEntry])
	return crc(crc(c, tail[:4]), zero[:])
}
