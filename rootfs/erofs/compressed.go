package erofs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// packed is the packed inode: a file without a name that holds the last bytes of other files, compressed together.
type packed struct {
	size    int64  // bytes taken so far
	pending []byte // the last of them, not yet compressed
	offsets map[[sha256.Size]byte]int64
	extents []placed
	at      place
}

// placed is an extent and its first block.
type placed struct {
	extent
	block uint32
}

// compressed writes the segments of a file as they come out of the pipeline, and places its inode.
func (i *image) compressed(p string, n *tree.Node, in *pipeline) error {
	var extents []placed
	var last squeezed
	for at := int64(0); at < n.Size(); at += segmentSize {
		g, err := in.next()
		if err != nil {
			return pathError(p, err)
		}
		if g.path != p {
			panic(fmt.Sprintf("erofs: a segment of %s in place of one of %s", g.path, p))
		}
		if extents, err = i.place(extents, &g.out); err != nil {
			return err
		}
		last = g.out
		if !g.final {
			in.recycle(g)
		} else {
			defer in.recycle(g) // its rest is still needed
		}
	}
	plain := true
	for _, e := range extents {
		plain = plain && e.plain
	}
	fragment := len(last.rest) > 0 && encoders[i.o.Compression].fragments
	switch {
	case plain && (len(extents) > 0 || !fragment) && last.packed == nil && len(last.rest) <= maxTail:
		// Nothing was worth compressing, and its blocks stand in a row.
		f := inode{layout: layoutPlain, size: n.Size()}
		if len(extents) > 0 {
			f.union = extents[0].block
		}
		if len(last.rest) > 0 {
			f.layout = layoutInline
		}
		return i.add(p, n, f, nil, last.rest)
	case fragment:
		offset, err := i.pack(last.rest, in)
		if err != nil {
			return err
		}
		return i.addFragment(p, n, extents, int64(len(last.rest)), offset)
	case len(last.rest) > 0:
		tail, isPlain := last.packed, last.packed == nil
		if isPlain {
			tail = last.rest
		}
		i.incompat |= incompatCompressed | incompatZeroPadding | incompatTailPacking
		h := mapHeader{Fragment: uint32(len(tail)) << 16, Advise: adviseBig1 | adviseInline}
		all := append(extents, placed{extent{length: len(last.rest), plain: isPlain}, 0})
		return i.addIndexed(p, n, h, all, tail)
	}
	i.incompat |= incompatCompressed | incompatZeroPadding
	return i.addIndexed(p, n, mapHeader{Advise: adviseBig1}, extents, nil)
}

// place writes a segment's blocks and says where they are.
func (i *image) place(extents []placed, q *squeezed) ([]placed, error) {
	at := i.out.block()
	for _, e := range q.extents {
		extents = append(extents, placed{e, at})
		at += uint32(e.blocks)
		if !e.plain {
			i.largest = max(i.largest, e.blocks)
		}
	}
	return extents, i.out.write(q.data)
}

// pack adds to the packed inode what no file added before, and returns its offset there. It keeps no rest.
func (i *image) pack(rest []byte, in *pipeline) (int64, error) {
	sum := sha256.Sum256(rest)
	if at, ok := i.packed.offsets[sum]; ok {
		return at, nil
	}
	if i.packed.offsets == nil {
		i.packed.offsets = map[[sha256.Size]byte]int64{}
	}
	at := i.packed.size
	i.packed.offsets[sum] = at
	i.packed.size += int64(len(rest))
	i.packed.pending = append(i.packed.pending, rest...)
	for len(i.packed.pending) >= segmentSize {
		if err := i.packSegment(in, i.packed.pending[:segmentSize]); err != nil {
			return 0, err
		}
		i.packed.pending = append(i.packed.pending[:0], i.packed.pending[segmentSize:]...)
	}
	return at, nil
}

func (i *image) packSegment(in *pipeline, data []byte) (err error) {
	q := in.one.squeeze(data, false)
	i.packed.extents, err = i.place(i.packed.extents, &q)
	return err
}

// finishPacked places the packed inode, behind all others.
func (i *image) finishPacked(in *pipeline) error {
	if i.packed.size == 0 {
		return nil
	}
	if err := i.packSegment(in, i.packed.pending); err != nil {
		return err
	}
	n := &tree.Node{Kind: tree.File, Time: tree.Time{Sec: i.o.Time}}
	if err := i.addSized("the packed inode", n, i.packed.size, mapHeader{Advise: adviseBig1}, i.packed.extents,
		nil); err != nil {
		return err
	}
	i.packed.at = i.at[n]
	return nil
}

// addFragment places the inode of a file whose last bytes are in the packed inode.
func (i *image) addFragment(p string, n *tree.Node, extents []placed, rest, offset int64) error {
	i.incompat |= incompatCompressed | incompatZeroPadding | incompatFragments
	if len(extents) == 0 {
		// All of it is: then the header is the offset, with its uppermost bit set, and there is no index.
		return i.add(p, n, inode{layout: layoutFull, size: n.Size()}, func(at int) []byte {
			return le.AppendUint64(make([]byte, -at&7), uint64(offset)|fragmentInode<<56)
		}, nil)
	}
	h := mapHeader{Fragment: uint32(offset), Advise: adviseBig1 | adviseFragment}
	// The upper half of the offset stands in place of the last extent's block.
	return i.addIndexed(p, n, h, append(extents, placed{extent{length: int(rest)}, uint32(offset >> 32)}), nil)
}

func (i *image) addIndexed(p string, n *tree.Node, h mapHeader, extents []placed, tail []byte) error {
	return i.addSized(p, n, n.Size(), h, extents, tail)
}

func (i *image) addSized(p string, n *tree.Node, size int64, h mapHeader, extents []placed, tail []byte) error {
	h.Algorithms = encoders[i.o.Compression].algorithm
	total := uint32(0)
	for _, e := range extents {
		total += uint32(e.blocks)
	}
	return i.add(p, n, inode{layout: layoutFull, size: size, union: total}, func(at int) []byte {
		b, err := binary.Append(make([]byte, -at&7), le, h)
		if err != nil {
			panic(err)
		}
		return appendIndex(append(b, zeroBlock[:fullIndexGap]...), size, extents)
	}, tail)
}

// appendIndex appends a full index: for every 4 KiB of the file whether an extent starts there, and where it is, or how
// far back its start and how far ahead the next one is. No two extents may start in the same 4 KiB.
func appendIndex(b []byte, size int64, extents []placed) []byte {
	at := int64(0)
	for _, e := range extents {
		head, next := at/blockLength, (at+int64(e.length))/blockLength
		if at+int64(e.length) == size {
			next = blocks(size)
		}
		if next <= head {
			panic(fmt.Sprintf("erofs: an extent of %d bytes at %d starts where another does", e.length, at))
		}
		kind := uint16(clusterHead1)
		if e.plain {
			kind = clusterPlain
		}
		b = le.AppendUint16(le.AppendUint16(b, kind), uint16(at%blockLength))
		b = le.AppendUint32(b, e.block)
		for c := head + 1; c < next; c++ {
			back := uint16(c - head)
			if c == head+1 && e.blocks > 0 {
				back = blockCount | uint16(e.blocks)
			}
			b = le.AppendUint16(le.AppendUint16(b, clusterNonHead), uint16(at%blockLength))
			b = le.AppendUint16(le.AppendUint16(b, back), uint16(next-c))
		}
		at += int64(e.length)
	}
	if at != size {
		panic(fmt.Sprintf("erofs: extents of %d bytes for a file of %d", at, size))
	}
	return b
}
