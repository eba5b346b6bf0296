package erofs

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Write writes an image of a tree, front to back and the first blocks last, and reads each file once. What w held
// before in the range of the image is overwritten; what it held behind it stays. After an error the image is no image.
// An error names the path it is about; those of w and of files pass through.
func Write(ctx context.Context, w io.WriterAt, t *tree.Tree, o Options) (Info, error) {
	o, err := o.complete()
	if err != nil {
		return Info{}, fmt.Errorf("erofs: %w", err)
	}
	if o.Files == nil {
		o.Files = &tree.Opener{}
		defer o.Files.Close()
	}
	i := &image{o: o, tree: t, at: map[*tree.Node]place{}}
	return i.write(ctx, w)
}

// image is one on its way out.
type image struct {
	o        Options
	tree     *tree.Tree
	out      *sink
	meta     metadata
	at       map[*tree.Node]place
	shared   sharedXattrs
	folders  []*folder // in the order of the tree, the root first
	inodes   int       // counted before anything is written
	ino      uint32    // the last inode's number for stat(2)
	incompat uint32    // features in use
	largest  int       // blocks of the largest compressed extent
	packed   packed
}

func (i *image) write(ctx context.Context, w io.WriterAt) (Info, error) {
	if err := i.plan(); err != nil {
		return Info{}, err
	}
	front, err := i.front()
	if err != nil {
		return Info{}, err
	}
	i.out = newSink(ctx, w, int64(len(front)), i.o.UUID == [16]byte{})
	xattrBlock := uint32(0)
	if len(i.shared.data) > 0 {
		xattrBlock = i.out.block()
		if err := i.out.write(i.shared.data); err != nil {
			return Info{}, err
		}
		if err := i.out.pad(); err != nil {
			return Info{}, err
		}
	}
	if err := i.files(ctx); err != nil {
		return Info{}, err
	}
	if err := i.writeFolders(front); err != nil {
		return Info{}, err
	}
	total := blocks(i.out.pos())
	if total > math.MaxUint32 {
		return Info{}, fmt.Errorf("erofs: image of %d blocks: want less than 2^32", total)
	}
	if err := i.out.flush(); err != nil {
		return Info{}, err
	}
	sb := superblock{
		Magic: magic, Compat: compatChecksum | compatMTime, BlockBits: 12, RootNid: rootOffset / slotSize,
		Inodes:    uint64(i.inodes),
		BuildTime: uint64(i.o.Time), Blocks: uint32(total), XattrBlock: xattrBlock, UUID: i.o.UUID,
		Incompat: i.incompat,
	}
	copy(sb.Label[:], i.o.Label)
	if i.packed.size > 0 {
		sb.PackedNid = i.meta.nid(i.packed.at)
	}
	i.compressionSettings(&sb, front[superOffset+superSize:rootOffset])
	return i.finish(w, front, sb)
}

// finish derives the UUID where none was given, and writes the first blocks.
func (i *image) finish(w io.WriterAt, front []byte, sb superblock) (Info, error) {
	put := func() {
		if _, err := binary.Encode(front[superOffset:], le, sb); err != nil {
			panic(err)
		}
	}
	put()
	if i.out.id != nil {
		i.out.addToID(front)
		copy(sb.UUID[:], i.out.id.Sum(nil))
		sb.UUID[6] = sb.UUID[6]&0x0f | 0x80 // version 8: RFC 9562, 5.8
		sb.UUID[8] = sb.UUID[8]&0x3f | 0x80
		put()
	}
	sb.Checksum = superChecksum(front[superOffset:blockLength])
	put()
	if _, err := w.WriteAt(front, 0); err != nil {
		return Info{}, fmt.Errorf("erofs: image at 0: %w", err)
	}
	return Info{Size: int64(sb.Blocks) * blockLength, Inodes: i.inodes, UUID: sb.UUID}, nil
}

// superChecksum is CRC-32C as the kernel's crc32c has it, which does not invert the result, over the rest of the block
// from the superblock on.
func superChecksum(b []byte) uint32 {
	return ^crc32.Checksum(b, castagnoli)
}

// plan looks at all of the tree before anything is written.
func (i *image) plan() error {
	err := i.tree.Walk(func(p string, n *tree.Node, first bool) error {
		if !first {
			return nil
		}
		i.inodes++
		if err := i.shared.countOne(n); err != nil {
			return pathError(p, err)
		}
		if n.Links() > math.MaxUint32 {
			return pathError(p, fmt.Errorf("%d links: EROFS holds at most %d", n.Links(), uint32(math.MaxUint32)))
		}
		if n.Kind == tree.Dir {
			f := &folder{path: p, node: n, parent: n}
			f.measure()
			i.folders = append(i.folders, f)
		}
		return nil
	})
	if err != nil || len(i.shared.count) == 0 {
		return err
	}
	return i.tree.Walk(func(p string, n *tree.Node, first bool) error {
		for _, x := range n.Xattrs {
			entry, err := encodeXattr(x)
			if err == nil {
				err = i.shared.choose(entry)
			}
			if err != nil {
				return pathError(p, err)
			}
		}
		return nil
	})
}

// rootOffset is where the root folder's inode starts: it must lie in the first 2 MiB, since the superblock has 16 bits
// for its number, so it follows the superblock and the settings of a compression, 16 bytes at most.
const rootOffset = (superOffset + superSize + 16 + slotSize - 1) &^ (slotSize - 1) // 1184

// front makes the first blocks, in which the root folder's inode has its place but not yet its content.
func (i *image) front() ([]byte, error) {
	root := i.folders[0]
	i.ino++
	root.ino = i.ino
	head, err := i.head(root.path, root.node, inode{layout: layoutInline, size: root.size(), ino: root.ino})
	if err != nil {
		return nil, err
	}
	root.head = head
	root.inline = root.inline && !crosses(rootOffset+len(head), root.last)
	i.meta.bases = append(i.meta.bases, 0)
	root.at = rootOffset
	i.at[root.node] = root.at
	return make([]byte, roundUp(rootOffset+len(head)+root.tail(), blockLength)), nil
}

// inode is what an inode says beyond its node.
type inode struct {
	layout uint16
	size   int64
	union  uint32
	ino    uint32
}

// head makes an inode and its attributes.
func (i *image) head(p string, n *tree.Node, in inode) ([]byte, error) {
	body, count, err := i.shared.body(n)
	if err != nil {
		return nil, pathError(p, err)
	}
	mode := uint16(n.Kind.Type()) | n.Mode
	links := n.Links()
	var b []byte
	if n.Time == (tree.Time{Sec: i.o.Time}) && n.UID <= math.MaxUint16 && n.GID <= math.MaxUint16 &&
		links <= math.MaxUint16 && in.size <= math.MaxUint32 {
		b, err = binary.Append(nil, le, compactInode{
			Format: in.layout << formatLayoutShift, XattrCount: count, Mode: mode, Links: uint16(links),
			Size:  uint32(in.size),
			Union: in.union, Ino: in.ino, UID: uint16(n.UID), GID: uint16(n.GID),
		})
	} else {
		b, err = binary.Append(nil, le, extendedInode{
			Format: in.layout<<formatLayoutShift | formatExtended, XattrCount: count, Mode: mode,
			Size: uint64(in.size), Union: in.union,
			Ino: in.ino, UID: n.UID, GID: n.GID, Time: uint64(n.Time.Sec), Nsec: n.Time.Nsec, Links: uint32(links),
		})
	}
	if err != nil {
		panic(err) // both have a fixed size
	}
	return append(b, body...), nil
}

// add places the inode of a node that is no folder. extra stands behind the attributes; the tail follows in one block.
func (i *image) add(p string, n *tree.Node, in inode, extra func(at int) []byte, tail []byte) error {
	i.ino++
	in.ino = i.ino
	head, err := i.head(p, n, in)
	if err != nil {
		return err
	}
	if extra != nil {
		head = append(head, extra(len(head))...)
	}
	i.at[n] = i.meta.add(head, tail)
	if i.meta.full() {
		return i.meta.write(i.out)
	}
	return nil
}

// files writes everything but the folders.
func (i *image) files(ctx context.Context) error {
	in := newPipeline(ctx, i)
	defer in.stop()
	err := i.tree.Walk(func(p string, n *tree.Node, first bool) error {
		switch {
		case !first || n.Kind == tree.Dir:
			return nil
		case n.Kind == tree.File:
			return i.file(p, n, in)
		case n.Kind == tree.Symlink:
			return i.symlink(p, n)
		case n.Kind == tree.CharDevice || n.Kind == tree.BlockDevice:
			// <linux/kdev_t.h>, new_encode_dev.
			return i.add(p, n, inode{union: n.Minor&0xff | n.Major<<8 | n.Minor&^0xff<<12}, nil, nil)
		}
		return i.add(p, n, inode{}, nil, nil)
	})
	if err != nil {
		return err
	}
	if err := i.finishPacked(in); err != nil {
		return err
	}
	return i.meta.write(i.out)
}

// symlink has its target behind the inode, or in a block of its own where it is too long for that.
func (i *image) symlink(p string, n *tree.Node) error {
	in := inode{layout: layoutInline, size: n.Size()}
	// One that does not lie in the block of its inode is read through the page cache by the kernel; that is no reason
	// to waste a block.
	if len(n.Target) <= maxTail {
		return i.add(p, n, in, nil, []byte(n.Target))
	}
	in.layout, in.union = layoutPlain, i.out.block()
	if err := i.out.write([]byte(n.Target)); err != nil {
		return err
	}
	if err := i.out.pad(); err != nil {
		return err
	}
	return i.add(p, n, in, nil, nil)
}

// writeFolders writes the folders, whose entries need the number of every inode: all but the root's side by side, then
// whole blocks.
func (i *image) writeFolders(front []byte) error {
	parents := map[*tree.Node]*tree.Node{}
	bodies := make([][]byte, len(i.folders))
	for j, f := range i.folders {
		for _, name := range f.names {
			if c := f.node.Child(name); c != nil && c.Kind == tree.Dir { // nil is "." or ".."
				parents[c] = f.node
			}
		}
		if j == 0 {
			bodies[0] = front[rootOffset : rootOffset+len(f.head)+f.tail()]
			continue
		}
		f.parent = parents[f.node]
		i.ino++
		f.ino = i.ino
		var err error
		if f.head, err = i.head(f.path, f.node, inode{layout: layoutInline, size: f.size(), ino: f.ino}); err != nil {
			return err
		}
		f.at, _ = i.meta.reserve(len(f.head), f.tail())
		i.at[f.node] = f.at
	}
	// The region's place is known before it is written, since nothing comes in between.
	region := i.meta.buf
	base := int64(i.out.block()) * blockLength
	next := int64(i.out.block()) + int64(blocks(len(region)))
	nid := func(n *tree.Node) uint64 {
		p := i.at[n]
		if int(p>>32) == len(i.meta.bases) {
			return uint64(base+int64(p&math.MaxUint32)) / slotSize
		}
		return i.meta.nid(p)
	}
	for j, f := range i.folders {
		if j > 0 {
			bodies[j] = region[f.at&math.MaxUint32:][:len(f.head)+f.tail()]
		}
		in := inode{layout: layoutPlain, size: f.size(), ino: f.ino}
		if f.inline {
			in.layout = layoutInline
		}
		if n := f.wholeBlocks(); n > 0 {
			f.first, in.union = uint32(next), uint32(next)
			next += int64(n)
		}
		head, err := i.head(f.path, f.node, in)
		if err != nil {
			return err
		}
		tail := bodies[j][copy(bodies[j], head):]
		if f.inline {
			f.block(tail, len(f.starts)-1, nid)
		}
	}
	if err := i.meta.write(i.out); err != nil {
		return err
	}
	b := make([]byte, blockLength)
	for _, f := range i.folders {
		for k := range f.wholeBlocks() {
			clear(b)
			f.block(b, k, nid)
			if err := i.out.write(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// compressionSettings fills in what a kernel must know before it reads compressed data: b holds what stands behind the
// superblock.
func (i *image) compressionSettings(sb *superblock, b []byte) {
	if i.incompat&incompatCompressed == 0 {
		return
	}
	e := encoders[i.o.Compression]
	sb.Algorithms = 1 << e.algorithm
	var settings []byte
	switch e.algorithm {
	case algLZ4: // struct z_erofs_lz4_cfgs: furthest match, blocks of the largest extent, 10 bytes
		settings = le.AppendUint16(le.AppendUint16(nil, math.MaxUint16), uint16(i.largest))
		settings = append(settings, make([]byte, 10)...)
	case algDeflate: // struct z_erofs_deflate_cfgs: bits of the window, 5 bytes
		settings = []byte{deflateWindowBits, 0, 0, 0, 0, 0}
	case algZstd: // struct z_erofs_zstd_cfgs: format, bits of the window beyond 10, 4 bytes
		settings = []byte{0, zstdWindowBits - 10, 0, 0, 0, 0}
	}
	le.PutUint16(b, uint16(len(settings)))
	copy(b[2:], settings)
}
