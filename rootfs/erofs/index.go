package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// diskExtent is a piece of a compressed file.
type diskExtent struct {
	at, length int64 // in the file
	start      int64 // in the image, or in the packed inode
	size       int64 // bytes in the image
	algorithm  uint8
	plain      bool
	interlaced bool // plain, and a byte's place in its block is that in the file
	partial    bool // the image holds more than length bytes of it
	fragment   bool
}

// cluster is an entry of an index.
type cluster struct {
	kind    uint8
	partial bool
	offset  int64  // of the extent's start in it
	block   uint32 // of the extent
	blocks  uint32 // of the extent that started one before it; 0 where it does not say
}

// extents reads a file's index.
func (r *reader) extents(in *onDisk) ([]diskExtent, error) {
	if in.size == 0 {
		return nil, nil
	}
	at := roundUp(in.extra, 8)
	b, err := r.at(at, mapHeaderSize)
	if err != nil {
		return nil, err
	}
	var h mapHeader
	if _, err := binary.Decode(b, le, &h); err != nil {
		return nil, err
	}
	if h.ClusterBits&fragmentInode != 0 {
		start := int64(le.Uint64(b) &^ (1 << 63))
		return []diskExtent{{length: in.size, start: start, fragment: true}}, nil
	}
	switch {
	case h.Advise&^adviseKnown != 0:
		return nil, fmt.Errorf("index features %#x: %w", h.Advise, errors.ErrUnsupported)
	case h.ClusterBits != 0:
		return nil, fmt.Errorf("logical clusters larger than a block: %w", errors.ErrUnsupported)
	}
	n := in.size >> r.blockBits
	if in.size&(r.blockSize-1) != 0 {
		n++
	}
	// Every entry takes 2 bytes at least: an index that would not fit is not worth a buffer.
	if n > r.size/2 {
		return nil, errCutShort
	}
	at += mapHeaderSize
	var clusters []cluster
	var end int64
	if in.layout == layoutFull {
		clusters, end, err = r.fullIndex(at+fullIndexGap, n, h)
	} else {
		clusters, end, err = r.compactIndex(at, n, h)
	}
	if err != nil {
		return nil, err
	}
	return r.join(in, h, clusters, end)
}

// fullIndex reads an index of 8 bytes an entry, and returns where it ends.
func (r *reader) fullIndex(at, n int64, h mapHeader) ([]cluster, int64, error) {
	if n > r.size/indexEntry {
		return nil, 0, errCutShort
	}
	b, err := r.at(at, int(n*indexEntry))
	if err != nil {
		return nil, 0, err
	}
	out := make([]cluster, n)
	for i := range out {
		e := b[i*indexEntry:]
		advise := le.Uint16(e)
		c := &out[i]
		c.kind, c.partial = uint8(advise&clusterMask), advise&partialRef != 0
		if c.kind == clusterNonHead {
			if back := le.Uint16(e[4:]); back&blockCount != 0 {
				c.blocks = uint32(back &^ blockCount)
			}
			continue
		}
		c.offset, c.block = int64(le.Uint16(e[2:])), le.Uint32(e[4:])
	}
	return out, at + n*indexEntry, nil
}

// compactIndex reads an index of packs: 2 entries in 8 bytes or 16 in 32, of which the last 4 are a block and the rest
// entries of the same length, an offset or distance in the lower bits and the kind in the upper 2. Packs of 32 bytes
// start at a multiple of 32.
func (r *reader) compactIndex(at, n int64, h mapHeader) ([]cluster, int64, error) {
	first, middle := (-at&31)/4, int64(0)
	if h.Advise&adviseCompact2B != 0 && first < n {
		if r.blockBits > 12 {
			return nil, 0, fmt.Errorf("2-byte index of blocks above 4 KiB: %w", errors.ErrUnsupported)
		}
		middle = (n - first) &^ 15
	} else {
		first = 0
	}
	if r.blockBits > 14 {
		return nil, 0, fmt.Errorf("compact index of blocks above 16 KiB: %w", errors.ErrUnsupported)
	}
	out := make([]cluster, 0, min(n, r.size/2))
	for int64(len(out)) < n {
		count, length := 2, 8
		if i := int64(len(out)); i >= first && i < first+middle {
			count, length = 16, 32
		}
		b, err := r.at(at, length)
		if err != nil {
			return nil, 0, err
		}
		at += int64(length)
		out = r.unpackEntries(out, b, count, h.Advise&adviseBig1 != 0)
	}
	return out[:n], at, nil
}

func (r *reader) unpackEntries(out []cluster, pack []byte, count int, big bool) []cluster {
	low := max(r.blockBits, 12)
	width := uint(len(pack)-4) * 8 / uint(count)
	block := le.Uint32(pack[len(pack)-4:])
	open := false // an extent started, and its blocks are not yet counted
	for i := range uint(count) {
		var word [8]byte
		copy(word[:], pack[i*width/8:])
		v := le.Uint64(word[:]) >> (i * width % 8)
		c := cluster{kind: uint8(v >> low & clusterMask)}
		value := uint32(v & (1<<low - 1))
		switch {
		case c.kind != clusterNonHead:
			if open || !big {
				block++ // without counts every extent has one block, and the pack's is that before its first
			}
			open = true
			c.offset, c.block = int64(value), block
		case big && value&blockCount != 0:
			c.blocks = value &^ blockCount
			block += c.blocks
			open = false
		}
		out = append(out, c)
	}
	return out
}

// join makes extents of entries: one starts in every entry but those of kind clusterNonHead, and ends where the next
// one starts.
func (r *reader) join(in *onDisk, h mapHeader, clusters []cluster, end int64) ([]diskExtent, error) {
	var out []diskExtent
	for i, c := range clusters {
		if c.kind == clusterNonHead {
			if c.blocks > 0 && (i == 0 || clusters[i-1].kind == clusterNonHead) {
				return nil, fmt.Errorf("entry %d of the index counts blocks of no extent", i)
			}
			continue
		}
		at := int64(i)<<r.blockBits + c.offset
		if at == in.size && i == len(clusters)-1 && i > 0 {
			break // mkfs.erofs marks the end as the start of what would follow
		}
		if c.offset >= r.blockSize || at >= in.size || (len(out) == 0) != (at == 0) {
			return nil, fmt.Errorf("entry %d of the index starts an extent at %d of %d", i, at, in.size)
		}
		if k := len(out) - 1; k >= 0 {
			out[k].length = at - out[k].at
		}
		e := diskExtent{at: at, length: in.size - at, start: int64(c.block) << r.blockBits, size: r.blockSize,
			partial: c.partial}
		if i+1 < len(clusters) && clusters[i+1].kind == clusterNonHead && clusters[i+1].blocks > 0 {
			e.size = int64(clusters[i+1].blocks) << r.blockBits
		}
		switch c.kind {
		case clusterPlain:
			e.plain, e.interlaced = true, h.Advise&adviseInterlaced != 0
		case clusterHead1:
			e.algorithm = h.Algorithms & 0xf
		case clusterHead2:
			e.algorithm = h.Algorithms >> 4
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("an index without an extent")
	}
	last := &out[len(out)-1]
	switch {
	case h.Advise&adviseFragment != 0:
		start := int64(h.Fragment)
		if in.layout == layoutFull {
			start |= last.start >> r.blockBits << 32
		}
		last.start, last.fragment = start, true
	case h.Advise&adviseInline != 0 && h.Fragment>>16 > 0:
		last.start, last.size, last.interlaced = end, int64(h.Fragment>>16), false
		if last.start&(r.blockSize-1)+last.size > r.blockSize {
			return nil, fmt.Errorf("last %d packed bytes cross a block's end", last.size)
		}
	}
	for _, e := range out {
		switch {
		case e.fragment:
		case e.size > maxPacked || e.length > maxUnpacked:
			return nil, fmt.Errorf("extent of %d bytes in %d: too large", e.length, e.size)
		case e.start > r.size || e.size > r.size-e.start:
			return nil, fmt.Errorf("extent of %d bytes at %d: %w", e.size, e.start, errCutShort)
		case e.plain && e.length > e.size:
			return nil, fmt.Errorf("plain extent of %d bytes in %d", e.length, e.size)
		}
	}
	return out, nil
}
