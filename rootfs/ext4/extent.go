package ext4

// Extents say where the blocks of a file lie. ifork.rst, "Extent Tree".
const (
	extentMagic  = 0xf30a
	extentHeader = 12 // bytes; an entry has as many
	extentEntry  = 12
	rootExtents  = (60 - extentHeader) / extentEntry                  // in the inode
	nodeExtents  = (blockSize - extentHeader - pointer) / extentEntry // in a block, 340, with the checksum behind them
)

// extent is a run of a file's blocks on disk.
type extent struct {
	logical uint32 // number of the first in the file
	count   uint32 // at most sparseExtent
	block   uint64 // where the first lies
}

// run is consecutive blocks.
type run struct{ start, count uint64 }

// addRun appends the extents of a run of blocks that holds a file's from logical on.
func addRun(out []extent, logical uint32, r run) []extent {
	for r.count > 0 {
		n := min(r.count, sparseExtent)
		out = append(out, extent{logical, uint32(n), r.start})
		logical += uint32(n)
		r = run{r.start + n, r.count - n}
	}
	return out
}

// extentNodes is how many blocks the tree over so many extents takes, below the root in the inode.
func extentNodes(n int) (blocks int) {
	for n > rootExtents {
		n = divUp(n, nodeExtents)
		blocks += n
	}
	return blocks
}

// block is a block of the image and what it holds.
type block struct {
	number uint64
	bytes  []byte
}

// extentTree makes the tree: the 60 bytes of the inode, and the blocks below, whose numbers nodes gives.
func extentTree(extents []extent, nodes []uint64, seed uint32) (root []byte, blocks []block) {
	type entry struct {
		logical uint32
		rest    [8]byte
	}
	level := make([]entry, len(extents))
	for i, e := range extents {
		level[i].logical = e.logical
		r := level[i].rest[:]
		le.PutUint16(r, uint16(e.count))
		le.PutUint16(r[2:], uint16(e.block>>32))
		le.PutUint32(r[4:], uint32(e.block))
	}
	put := func(b []byte, entries []entry, room, depth int) {
		le.PutUint16(b, extentMagic)
		le.PutUint16(b[2:], uint16(len(entries)))
		le.PutUint16(b[4:], uint16(room))
		le.PutUint16(b[6:], uint16(depth))
		for i, e := range entries {
			at := b[extentHeader+i*extentEntry:]
			le.PutUint32(at, e.logical)
			copy(at[4:], e.rest[:])
		}
	}
	depth := 0
	for ; len(level) > rootExtents; depth++ {
		var above []entry
		for len(level) > 0 {
			n := min(len(level), nodeExtents)
			b := make([]byte, blockSize)
			put(b, level[:n], nodeExtents, depth)
			le.PutUint32(b[blockSize-pointer:], crc(seed, b[:blockSize-pointer]))
			e := entry{logical: level[0].logical}
			le.PutUint32(e.rest[:], uint32(nodes[0]))
			le.PutUint16(e.rest[4:], uint16(nodes[0]>>32))
			blocks = append(blocks, block{nodes[0], b})
			above, level, nodes = append(above, e), level[n:], nodes[1:]
		}
		level = above
	}
	root = make([]byte, 60)
	put(root, level, rootExtents, depth)
	return root, blocks
}
