package ext4

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// walker reads the tree of an image. It is for one goroutine.
type walker struct {
	*Image
	claimed []uint64                // bits of blocks that belong to a folder or a map of blocks: to none but one
	xattrs  map[uint64][]tree.Xattr // blocks of attributes that were read
	window  []byte                  // a part of the image, so that not every inode costs a read
	start   int64                   // where it lies
}

const windowSize = 64 << 10

// bytes are a part of the image, valid until the next call.
func (w *walker) bytes(at int64, n int) ([]byte, error) {
	if at < w.start || at+int64(n) > w.start+int64(len(w.window)) {
		w.start = at
		w.window = w.window[:min(int64(cap(w.window)), w.Size-at)]
		if len(w.window) < n {
			return nil, damaged("%d bytes at %d of %d", n, at, w.Size)
		}
		if err := w.readAt(w.window, at); err != nil {
			w.window = w.window[:0]
			return nil, err
		}
	}
	return w.window[at-w.start:][:n], nil
}

// claim takes a block for one owner: what is reached twice is a loop, or a way to make a small image a large tree.
func (w *walker) claim(number uint64) error {
	if number == 0 || number >= w.blocks {
		return damaged("block %d of %d", number, w.blocks)
	}
	if w.claimed[number/64]>>(number%64)&1 != 0 {
		return damaged("block %d is used twice", number)
	}
	w.claimed[number/64] |= 1 << (number % 64)
	return nil
}

// rawInode is an inode as it lies on disk.
type rawInode struct {
	num   uint32
	b     []byte
	seed  uint32 // where its checksums begin
	mode  uint16
	flags uint32
	size  int64
	acl   uint64 // block of attributes
}

func (w *walker) inode(num uint32) (*rawInode, error) {
	if num == 0 || num > w.inodeCount {
		return nil, damaged("inode %d of %d", num, w.inodeCount)
	}
	g, k := (num-1)/w.perGroup, (num-1)%w.perGroup
	at := int64(w.tables[g])*int64(w.BlockSize) + int64(k)*int64(w.inodeSize)
	raw, err := w.bytes(at, w.inodeSize)
	if err != nil {
		return nil, err
	}
	b := slices.Clone(raw)
	i := &rawInode{num: num, b: b, mode: le.Uint16(b), flags: le.Uint32(b[0x20:])}
	size := uint64(le.Uint32(b[0x4:])) | uint64(le.Uint32(b[0x6c:]))<<32
	i.acl = uint64(le.Uint32(b[0x68:])) | uint64(le.Uint16(b[0x76:]))<<32
	i.seed = inodeSeed(w.seed, num, le.Uint32(b[0x64:]))
	extra := i.extra()
	switch {
	case extra < 0 || 128+extra > len(b) || extra%4 != 0:
		return nil, damaged("inode %d: %d bytes more", num, extra)
	case size > 1<<32*uint64(w.BlockSize):
		return nil, damaged("inode %d: %d bytes", num, size)
	case i.flags&(flagEncrypted|flagInline) != 0:
		return nil, fmt.Errorf("inode %d: encryption and data in inodes: %w", num, errUnsupported)
	case le.Uint16(b[0x1a:]) == 0:
		return nil, damaged("inode %d has no name", num)
	}
	i.size = int64(size)
	if w.Checksums {
		want := inodeChecksum(i.seed, b)
		got := uint32(le.Uint16(b[0x7c:]))
		if extra >= 4 {
			got |= uint32(le.Uint16(b[0x82:])) << 16
		} else {
			want &= 0xffff
		}
		if got != want {
			return nil, damaged("inode %d: checksum %08x, want %08x", num, got, want)
		}
	}
	return i, nil
}

// extra is i_extra_isize, how much of what lies behind the first 128 bytes are fields.
func (i *rawInode) extra() int {
	if len(i.b) <= 128 {
		return 0
	}
	return int(le.Uint16(i.b[0x80:]))
}

// node is the inode as a file of a tree.
func (w *walker) node(i *rawInode) (*tree.Node, error) {
	b := i.b
	n := &tree.Node{
		Mode: i.mode & tree.PermMask,
		UID:  uint32(le.Uint16(b[0x2:])) | uint32(le.Uint16(b[0x78:]))<<16,
		GID:  uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16,
		Time: tree.Time{Sec: int64(int32(le.Uint32(b[0x10:])))},
	}
	if i.extra() >= 12 { // up to i_mtime_extra
		n.Time = decodeTime(le.Uint32(b[0x10:]), le.Uint32(b[0x88:]))
	}
	if n.Time.Nsec >= 1e9 {
		return nil, damaged("inode %d: %d nanoseconds", i.num, n.Time.Nsec)
	}
	kind := slices.IndexFunc(kinds, func(k tree.Kind) bool { return k.Type() == uint32(i.mode)&^tree.PermMask })
	if kind < 0 {
		return nil, damaged("inode %d: mode %o is no type of file", i.num, i.mode)
	}
	n.Kind = kinds[kind]
	var err error
	switch n.Kind {
	case tree.File:
		if i.size == 0 {
			break
		}
		c := &content{im: w.Image, size: i.size}
		c.extents, err = w.mappings(i)
		n.Content = c
	case tree.Symlink:
		n.Target, err = w.target(i)
	case tree.CharDevice, tree.BlockDevice:
		n.Major, n.Minor = decodeDevice(b[0x28:])
	}
	if err != nil {
		return nil, err
	}
	return n, w.readXattrs(i, n)
}

var kinds = []tree.Kind{tree.Dir, tree.File, tree.Symlink, tree.CharDevice, tree.BlockDevice, tree.FIFO, tree.Socket}

func (w *walker) target(i *rawInode) (string, error) {
	if i.size == 0 || i.size > tree.MaxTarget {
		return "", damaged("inode %d: link to %d bytes", i.num, i.size)
	}
	if i.size < fastTarget && i.flags&flagExtents == 0 {
		return string(i.b[0x28:][:i.size]), nil
	}
	b, err := w.readAll(i)
	return string(b), err
}

// readAll is the content of a short file.
func (w *walker) readAll(i *rawInode) ([]byte, error) {
	m, err := w.mappings(i)
	if err != nil {
		return nil, err
	}
	b := make([]byte, i.size)
	_, err = contentAt{&content{w.Image, i.size, m}}.ReadAt(b, 0)
	return b, err
}

// mappings are where a file's blocks lie, in order.
func (w *walker) mappings(i *rawInode) (out []mapping, err error) {
	root := i.b[0x28 : 0x28+60]
	if i.flags&flagExtents == 0 {
		err = w.readMap(root, uint64(divUp(i.size, int64(w.BlockSize))), &out)
	} else {
		err = w.readExtents(root, -1, 0, 1<<32, i.seed, &out)
	}
	if err != nil {
		err = fmt.Errorf("inode %d: %w", i.num, err)
	}
	return out, err
}

// addMapping appends a run, joined to the last where it goes on there.
func (w *walker) addMapping(out *[]mapping, m mapping) error {
	if m.block == 0 || m.block >= w.blocks || m.count > w.blocks-m.block {
		return damaged("%d blocks from %d on of %d", m.count, m.block, w.blocks)
	}
	if k := len(*out) - 1; k >= 0 {
		if last := &(*out)[k]; last.logical+last.count == m.logical && last.block+last.count == m.block {
			last.count += m.count
			return nil
		}
	}
	*out = append(*out, m)
	return nil
}

// readExtents reads a node of an extent tree that covers the file's blocks from one to before another. depth is what
// the node must have; -1 at the root, which says how deep the tree is.
func (w *walker) readExtents(b []byte, depth int, from, to uint64, seed uint32, out *[]mapping) error {
	count, room, d := int(le.Uint16(b[2:])), int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || count > room || room > (len(b)-extentHeader)/extentEntry || d > 5 ||
		depth >= 0 && d != depth {
		return damaged("extents: magic %04x, %d of %d entries, depth %d", le.Uint16(b), count, room, d)
	}
	if depth >= 0 && w.Checksums {
		at := extentHeader + room*extentEntry
		if at+pointer > len(b) || le.Uint32(b[at:]) != crc(seed, b[:at]) {
			return damaged("extents: wrong checksum")
		}
	}
	for i := range count {
		e := b[extentHeader+i*extentEntry:]
		logical := uint64(le.Uint32(e))
		if logical < from || logical >= to {
			return damaged("extents: block %d of the file among those from %d to %d", logical, from, to)
		}
		if d > 0 {
			number := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
			end := to
			if i+1 < count {
				end = min(to, uint64(le.Uint32(e[extentEntry:])))
			}
			if err := w.claim(number); err != nil {
				return err
			}
			below := make([]byte, w.BlockSize)
			if err := w.readAt(below, int64(number)*int64(w.BlockSize)); err != nil {
				return err
			}
			if err := w.readExtents(below, d-1, logical, end, seed, out); err != nil {
				return err
			}
			from = end
			continue
		}
		n := uint64(le.Uint16(e[4:]))
		unwritten := n > sparseExtent
		if unwritten {
			n -= sparseExtent
		}
		if n == 0 || n > to-logical {
			return damaged("extents: %d blocks of the file from %d on", n, logical)
		}
		from = logical + n
		if unwritten { // has room on disk, and reads as zeros
			continue
		}
		if err := w.addMapping(out, mapping{logical, n,
			uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32}); err != nil {
			return err
		}
	}
	return nil
}

// readMap reads a map of blocks, the form before extents: 12 blocks of the file, then a block of blocks, one of blocks
// of them, and one more. blockmap.rst.
func (w *walker) readMap(b []byte, blocks uint64, out *[]mapping) error {
	at := uint64(0)
	for i := range 12 {
		if err := w.readPointer(le.Uint32(b[4*i:]), 0, &at, blocks, out); err != nil {
			return err
		}
	}
	for depth := 1; depth <= 3; depth++ {
		if err := w.readPointer(le.Uint32(b[4*(11+depth):]), depth, &at, blocks, out); err != nil {
			return err
		}
	}
	return nil
}

// readPointer follows one pointer of a map and moves at behind what it covers.
func (w *walker) readPointer(number uint32, depth int, at *uint64, blocks uint64, out *[]mapping) error {
	span := uint64(1)
	for range depth {
		span *= uint64(w.BlockSize / pointer)
	}
	if *at >= blocks || number == 0 { // behind the end, or a hole
		*at += span
		return nil
	}
	if depth == 0 {
		*at++
		return w.addMapping(out, mapping{*at - 1, 1, uint64(number)})
	}
	if err := w.claim(uint64(number)); err != nil {
		return err
	}
	b := make([]byte, w.BlockSize)
	if err := w.readAt(b, int64(number)*int64(w.BlockSize)); err != nil {
		return err
	}
	for ; len(b) > 0; b = b[pointer:] {
		if err := w.readPointer(le.Uint32(b), depth-1, at, blocks, out); err != nil {
			return err
		}
	}
	return nil
}

// readXattrs gives a node the attributes behind its inode and those in its block.
func (w *walker) readXattrs(i *rawInode, n *tree.Node) error {
	if at := 128 + i.extra(); len(i.b)-at >= 4 && i.extra() > 0 && le.Uint32(i.b[at:]) == xattrMagic {
		xs, err := w.parseXattrs(i.b[at+4:], 0, 0)
		if err != nil {
			return fmt.Errorf("inode %d: %w", i.num, err)
		}
		n.Xattrs = xs
	}
	if i.acl != 0 {
		xs, err := w.xattrBlock(i.acl)
		if err != nil {
			return fmt.Errorf("inode %d: %w", i.num, err)
		}
		n.Xattrs = append(n.Xattrs, xs...)
	}
	slices.SortFunc(n.Xattrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return nil // two of a name are for the tree to refuse
}

func (w *walker) xattrBlock(number uint64) ([]tree.Xattr, error) {
	if xs, ok := w.xattrs[number]; ok {
		return xs, nil
	}
	if number >= w.blocks {
		return nil, damaged("attributes in block %d of %d", number, w.blocks)
	}
	b := make([]byte, w.BlockSize)
	if err := w.readAt(b, int64(number)*int64(w.BlockSize)); err != nil {
		return nil, err
	}
	if le.Uint32(b) != xattrMagic || le.Uint32(b[8:]) != 1 {
		return nil, damaged("block %d holds no attributes", number)
	}
	if got, want := le.Uint32(b[16:]), xattrChecksum(w.seed, number, b); w.Checksums && got != want {
		return nil, damaged("attributes in block %d: checksum %08x, want %08x", number, got, want)
	}
	xs, err := w.parseXattrs(b, xattrHeader, 0)
	if err == nil {
		w.xattrs[number] = xs
	}
	return xs, err
}

// parseXattrs reads entries from b[at:] on; their values lie at offsets that count from base.
func (w *walker) parseXattrs(b []byte, at, base int) (out []tree.Xattr, err error) {
	for at+xattrEnd <= len(b) && le.Uint32(b[at:]) != 0 {
		if at+xattrEntry > len(b) {
			return nil, damaged("attribute at %d of %d bytes", at, len(b))
		}
		e := b[at:]
		nameLength, index, offset, large, size := int(e[0]), e[1], int(le.Uint16(e[2:])), le.Uint32(e[4:]),
			le.Uint32(e[8:])
		at += xattrEntry + roundUp(nameLength, aclAlign)
		acl := index == indexAccess || index == indexDefault
		if at > len(b) || size > tree.MaxXattrValue || acl && nameLength > 0 {
			return nil, damaged("attribute with a name of %d and a value of %d bytes", nameLength, size)
		}
		x := tree.Xattr{Name: stored{index: index, name: string(e[xattrEntry:][:nameLength])}.fullName()}
		switch {
		case large != 0:
			if x.Value, err = w.largeValue(large, size); err != nil {
				return nil, err
			}
		case base+offset+int(size) > len(b):
			return nil, damaged("attribute %q: %d bytes at %d", x.Name, size, offset)
		default:
			x.Value = slices.Clone(b[base+offset:][:size])
		}
		if acl {
			if x.Value, err = unpackACL(x.Value); err != nil {
				return nil, damaged("attribute %q: %v", x.Name, err)
			}
		}
		if strings.HasPrefix(x.Name, "(") {
			return nil, fmt.Errorf("attribute %q: %w", x.Name, errUnsupported)
		}
		out = append(out, x)
	}
	return out, nil
}

// largeValue is a value that has an inode of its own. eainode.rst.
func (w *walker) largeValue(num, size uint32) ([]byte, error) {
	i, err := w.inode(num)
	if err != nil {
		return nil, err
	}
	if !w.largeValues || i.flags&flagEAInode == 0 || i.size != int64(size) {
		return nil, damaged("inode %d is no value of %d bytes", num, size)
	}
	return w.readAll(i)
}
