package ext4

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// sinkSize is how many bytes go to the image in one write.
const sinkSize = 256 << 10

// sink gathers blocks that follow each other into large writes.
type sink struct {
	ctx  context.Context
	w    io.WriterAt
	buf  []byte // what is not yet written
	base int64  // where buf goes
	seen func(b []byte)
}

func (s *sink) flush() error {
	if err := s.ctx.Err(); err != nil || len(s.buf) == 0 {
		return err
	}
	if s.seen != nil {
		s.seen(s.buf)
	}
	if _, err := s.w.WriteAt(s.buf, s.base); err != nil {
		return fmt.Errorf("ext4: image at %d: %w", s.base, err)
	}
	s.base += int64(len(s.buf))
	s.buf = s.buf[:0]
	return nil
}

// room makes sure that the next byte is one of block number, and returns where to put up to want bytes of it and those
// behind.
func (s *sink) room(number uint64, want int64) ([]byte, error) {
	at := int64(number) * blockSize
	if s.base+int64(len(s.buf)) != at || len(s.buf) == cap(s.buf) {
		if err := s.flush(); err != nil {
			return nil, err
		}
		s.base = at
	}
	return s.buf[len(s.buf):][:min(want, int64(cap(s.buf)-len(s.buf)))], nil
}

func (s *sink) put(number uint64, b []byte) error {
	for len(b) > 0 {
		to, err := s.room(number, int64(len(b)))
		if err != nil {
			return err
		}
		n := copy(to, b)
		s.buf = s.buf[:len(s.buf)+n]
		b = b[n:]
		number += uint64(n) / blockSize
	}
	return nil
}

func (p *plan) write(ctx context.Context, w io.WriterAt) error {
	// Contents first: what else there is carries checksums that begin with the UUID, and that may come from the
	// contents.
	files := p.o.Files
	if files == nil {
		files = &tree.Opener{}
		defer files.Close()
	}
	s := &sink{ctx: ctx, w: w, buf: make([]byte, 0, sinkSize)}
	s.seen = func(b []byte) {
		p.id.Write(le.AppendUint32(le.AppendUint32(nil, crc32.Checksum(b, castagnoli)), crc32.ChecksumIEEE(b)))
	}
	for _, i := range p.inodes {
		if i.n.Kind == tree.File && len(i.extents) > 0 {
			if err := s.content(i, files); err != nil {
				return err
			}
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.seen = nil
	if p.uuid == ([16]byte{}) {
		sum := sha256.Sum256(p.id.Sum(nil))
		p.uuid = [16]byte(sum[:])
		p.uuid[6] = p.uuid[6]&0x0f | 8<<4 // RFC 9562: version 8, made by rules of one's own
		p.uuid[8] = p.uuid[8]&0x3f | 0x80
	}
	p.checksums = fsSeed(p.uuid)
	if err := p.writeGroups(s); err != nil {
		return err
	}
	nodes, err := p.writeInodes(s)
	if err != nil {
		return err
	}
	if p.journal != nil {
		if err := s.put(p.journal.extents[0].block, p.journalSuper()); err != nil {
			return err
		}
	}
	for _, x := range p.xattrs {
		if err := s.put(x.at, x.finish(p.checksums)); err != nil {
			return err
		}
	}
	for _, i := range p.inodes {
		if err := p.writeMeta(s, i); err != nil {
			return err
		}
	}
	for _, b := range nodes {
		if err := s.put(b.number, b.bytes); err != nil {
			return err
		}
	}
	if k := len(p.free) - 1; k >= 0 && p.free[k].start+p.free[k].count == p.blocks { // the file gets its length
		if err := s.put(p.blocks-1, make([]byte, blockSize)); err != nil {
			return err
		}
	}
	return s.flush()
}

// content copies a file, the rest of its last block as zeros.
func (s *sink) content(i *inode, files *tree.Opener) (err error) {
	size := i.n.Size()
	r, err := files.Open(i.n)
	if err != nil {
		return i.pathError(err)
	}
	defer func() { err = errors.Join(err, closeError(i, r)) }()
	for _, e := range i.extents {
		at, left := int64(e.logical)*blockSize, int64(e.count)*blockSize
		for number := e.block; left > 0; {
			to, err := s.room(number, left)
			if err != nil {
				return err
			}
			n := int(max(0, min(int64(len(to)), size-at)))
			if got, err := r.ReadAt(to[:n], at); got < n {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return i.pathError(fmt.Errorf("content ends at %d of %d bytes: %w", at+int64(got), size, err))
			}
			clear(to[n:])
			s.buf = s.buf[:len(s.buf)+len(to)]
			at += int64(len(to))
			left -= int64(len(to))
			number += uint64(len(to)) / blockSize
		}
	}
	return nil
}

func closeError(i *inode, r io.Closer) error {
	if err := r.Close(); err != nil {
		return i.pathError(err)
	}
	return nil
}

// writeGroups writes superblocks, descriptors and bitmaps.
func (p *plan) writeGroups(s *sink) error {
	groups := p.makeGroups()
	var freeBlocks uint64
	descriptors := make([]byte, 0, p.descriptors*blockSize)
	for _, g := range groups {
		freeBlocks += g.freeBlocks
		descriptors = append(descriptors, g.descriptor...)
	}
	descriptors = descriptors[:cap(descriptors)]
	freeInodes := p.inodesPerGroup*uint32(p.groups) - uint32(firstInode-1+len(p.inodes)-1)
	for g := range groups {
		if !isBackup(g) {
			continue
		}
		b, at := make([]byte, blockSize), 0
		if g == 0 {
			at = superOffset
		}
		copy(b[at:], p.superblock(g, freeBlocks, freeInodes))
		number := uint64(g) * blocksPerGroup
		if err := errors.Join(s.put(number, b), s.put(number+1, descriptors)); err != nil {
			return err
		}
	}
	for g := range groups {
		if err := s.put(p.blockBitmaps+uint64(g), groups[g].blockBitmap); err != nil {
			return err
		}
	}
	for g := range groups {
		if err := s.put(p.inodeBitmaps+uint64(g), groups[g].inodeBitmap); err != nil {
			return err
		}
	}
	return nil
}

// writeInodes writes the inode tables as far as they are used, and returns the blocks of extent trees, which lie among
// the contents.
func (p *plan) writeInodes(s *sink) (nodes []block, err error) {
	rest := p.inodes
	for g := range p.groups {
		b := make([]byte, roundUp(p.usedInodes(g)*inodeSize, blockSize))
		first := uint32(g)*p.inodesPerGroup + 1
		put := func(i *inode) {
			enc, blocks := i.encode(p)
			copy(b[(i.num-first)*inodeSize:], enc)
			nodes = append(nodes, blocks...)
		}
		if p.journal != nil && journalInode >= first && journalInode < first+p.inodesPerGroup {
			put(p.journal)
		}
		for len(rest) > 0 && rest[0].num < first+p.inodesPerGroup {
			put(rest[0])
			rest = rest[1:]
		}
		if err := s.put(p.inodeTables[g], b); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(nodes, func(a, b block) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return nodes, nil
}

// writeMeta writes the blocks of a folder or of a long link.
func (p *plan) writeMeta(s *sink, i *inode) error {
	if i.n.Kind == tree.File || len(i.extents) == 0 {
		return nil
	}
	if i.folder == nil {
		b := make([]byte, blockSize)
		copy(b, i.n.Target)
		return s.put(i.extents[0].block, b)
	}
	extents, n := i.extents, uint32(0)
	return i.folder.each(i.num, i.parent.num, inodeSeed(p.checksums, i.num, 0), func(b []byte) error {
		if n == extents[0].count {
			extents, n = extents[1:], 0
		}
		n++
		return s.put(extents[0].block+uint64(n-1), b)
	})
}
