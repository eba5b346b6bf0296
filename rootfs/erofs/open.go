package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Image is a file system that was opened. Its tree's contents read from it.
type Image struct {
	Tree      *tree.Tree
	UUID      [16]byte
	Label     string
	BlockSize int64
	Size      int64 // bytes; what lies behind is no part of it
	Time      tree.Time
	Inodes    uint64 // that the superblock speaks of
	Features  []string
}

// features names the incompatible ones.
var features = []struct {
	bit  uint32
	name string
}{
	{incompatZeroPadding, "zero-padding"}, {incompatCompressed, "compression-settings"},
	{incompatChunked, "chunked-file"},
	{incompatDevices, "device-table-or-head2"}, {incompatTailPacking, "tail-packing"},
	{incompatFragments, "fragments-or-dedupe"},
}

// Bounds of what an image may hold. Paths are those of Linux, <linux/limits.h>: nobody can reach what lies deeper.
const (
	maxDepth     = 4096 / 2
	minBlockBits = 9
	maxBlockBits = 16
	maxFileSize  = 1<<63 - 1
)

// Open reads the folders and inodes of an image of size bytes, and data only when a content is read, from several
// goroutines perhaps. It refuses what a kernel would, and more: names out of order, folders with two parents, wrong
// counts of links, metadata used twice so often that it amounts to more than the image. The cause is
// errors.ErrUnsupported where an image uses what this package does not know: devices, LZMA, other prefixes of
// attributes, blocks above 64 KiB.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	rd := &reader{r: r, size: size, inodes: map[uint64]*onDisk{}, sharedXattrs: map[uint32]tree.Xattr{}}
	img, err := rd.open()
	if err != nil {
		return nil, fmt.Errorf("erofs: %w", err)
	}
	return img, nil
}

// reader is an image that is being opened, and later read.
type reader struct {
	r         io.ReaderAt
	size      int64
	sb        superblock
	blockBits uint
	blockSize int64
	packed    *onDisk // the packed inode, or nil
	decoders  decoders
	spent     int64 // bytes of metadata read

	inodes       map[uint64]*onDisk // by nid: what is no folder, and the folders above and below
	sharedXattrs map[uint32]tree.Xattr
}

// onDisk is an inode that was read.
type onDisk struct {
	node   *tree.Node
	nid    uint64
	size   int64
	layout int
	union  uint32
	links  uint32
	extra  int64  // where the index, the list of chunks or the tail starts
	path   string // of the first name
	found  int    // names that lead here
}

var errCutShort = errors.New("image is cut short")

// at reads n bytes of metadata.
func (r *reader) at(off int64, n int) ([]byte, error) {
	if off < 0 || off > r.size || int64(n) > r.size-off {
		return nil, fmt.Errorf("%d bytes at %d of %d: %w", n, off, r.size, errCutShort)
	}
	b := make([]byte, n)
	if got, err := r.r.ReadAt(b, off); got < n {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%d bytes at %d: %w", n, off, err)
	}
	return b, nil
}

// spend counts metadata, so that an image cannot make a reader remember much more than it holds.
func (r *reader) spend(n int64) error {
	if r.spent += n; r.spent > r.size {
		return errors.New("metadata overlaps")
	}
	return nil
}

func (r *reader) open() (*Image, error) {
	if err := r.superblock(); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	sb := &r.sb
	root, err := r.inode(uint64(sb.RootNid))
	if err != nil {
		return nil, fmt.Errorf("root folder: %w", err)
	}
	if root.node.Kind != tree.Dir {
		return nil, fmt.Errorf("root folder: is a %v", root.node.Kind)
	}
	if sb.Incompat&incompatFragments != 0 && sb.PackedNid != 0 {
		if r.packed, err = r.inode(sb.PackedNid); err != nil {
			return nil, fmt.Errorf("packed inode: %w", err)
		}
		if r.packed.node.Kind != tree.File {
			return nil, fmt.Errorf("packed inode: is a %v", r.packed.node.Kind)
		}
		delete(r.inodes, sb.PackedNid) // it has no name
	}
	t := tree.New()
	if err := t.Put("/", root.node); err != nil {
		return nil, err
	}
	root.path, root.found = "/", 1
	if err := r.folder(t, root, root, 0); err != nil {
		return nil, err
	}
	for _, in := range r.inodes {
		want := in.found
		if in.node.Kind == tree.Dir {
			n, err := t.Lookup(in.path)
			if err != nil {
				return nil, err
			}
			want = n.Links()
		}
		if int64(in.links) != int64(want) {
			return nil, fmt.Errorf("%s: %d links, of which %d are there", in.path, in.links, want)
		}
	}
	img := &Image{
		Tree: t, UUID: sb.UUID, Label: strings.TrimRight(string(sb.Label[:]), "\x00"), BlockSize: r.blockSize,
		Size: int64(sb.Blocks) << r.blockBits, Time: tree.Time{Sec: int64(sb.BuildTime), Nsec: sb.BuildTimeNsec},
		Inodes: sb.Inodes,
	}
	for _, f := range features {
		if sb.Incompat&f.bit != 0 {
			img.Features = append(img.Features, f.name)
		}
	}
	r.inodes, r.sharedXattrs = nil, nil
	return img, nil
}

func (r *reader) superblock() error {
	b, err := r.at(superOffset, superSize)
	if err != nil {
		return err
	}
	sb := &r.sb
	if _, err := binary.Decode(b, le, sb); err != nil {
		return err
	}
	switch {
	case sb.Magic != magic:
		return fmt.Errorf("magic %08x, want %08x", sb.Magic, uint32(magic))
	case sb.BlockBits < minBlockBits || sb.BlockBits > maxBlockBits:
		return fmt.Errorf("blocks of 2^%d bytes: %w", sb.BlockBits, errors.ErrUnsupported)
	case sb.Incompat&^incompatKnown != 0:
		return fmt.Errorf("features %#x: %w", sb.Incompat&^incompatKnown, errors.ErrUnsupported)
	case sb.ExtraDevices != 0:
		return fmt.Errorf("%d more devices: %w", sb.ExtraDevices, errors.ErrUnsupported)
	case sb.DirBlockBits != 0:
		return fmt.Errorf("folders with blocks of their own size: %w", errors.ErrUnsupported)
	case sb.Incompat&incompatCompressed != 0 && sb.Algorithms&^(1<<algLZ4|1<<algDeflate|1<<algZstd) != 0:
		return fmt.Errorf("compression algorithms %#x: %w", sb.Algorithms, errors.ErrUnsupported)
	case sb.BuildTimeNsec >= 1e9:
		return fmt.Errorf("%d nanoseconds in a second", sb.BuildTimeNsec)
	}
	if sb.Incompat&incompatCompressed == 0 {
		sb.Algorithms = 1 << algLZ4 // the field is LZ4's furthest match, and LZ4 the only algorithm
	}
	r.blockBits, r.blockSize = uint(sb.BlockBits), 1<<sb.BlockBits
	if int64(sb.Blocks) > r.size>>r.blockBits {
		return fmt.Errorf("%d blocks of %d bytes in %d: %w", sb.Blocks, r.blockSize, r.size, errCutShort)
	}
	if sb.Compat&compatChecksum != 0 && r.blockSize > superOffset {
		b, err := r.at(superOffset, int(r.blockSize-superOffset))
		if err != nil {
			return err
		}
		clear(b[4:8])
		if sum := superChecksum(b); sum != sb.Checksum {
			return fmt.Errorf("checksum %08x, want %08x", sum, sb.Checksum)
		}
	}
	return nil
}

// inode reads one, or returns the one that was read before.
func (r *reader) inode(nid uint64) (*onDisk, error) {
	if in := r.inodes[nid]; in != nil {
		return in, nil
	}
	in, err := r.readInode(nid)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	r.inodes[nid] = in
	return in, nil
}

func (r *reader) readInode(nid uint64) (*onDisk, error) {
	if nid > uint64(r.size)/slotSize {
		return nil, errCutShort
	}
	off := int64(r.sb.MetaBlock)<<r.blockBits + int64(nid)*slotSize
	b, err := r.at(off, compactSize)
	if err != nil {
		return nil, err
	}
	format := le.Uint16(b)
	in := &onDisk{nid: nid, layout: int(format >> formatLayoutShift)}
	n := &tree.Node{}
	var mode, xattrs uint16
	length := int64(compactSize)
	switch {
	case format&^formatAll != 0 || in.layout > layoutChunks:
		return nil, fmt.Errorf("format %#x: %w", format, errors.ErrUnsupported)
	case format&formatExtended != 0:
		length = extendedSize
		if b, err = r.at(off, extendedSize); err != nil {
			return nil, err
		}
		var e extendedInode
		if _, err := binary.Decode(b, le, &e); err != nil {
			return nil, err
		}
		mode, xattrs, in.union, in.links = e.Mode, e.XattrCount, e.Union, e.Links
		if e.Size > maxFileSize {
			return nil, fmt.Errorf("size %d", e.Size)
		}
		in.size = int64(e.Size)
		n.UID, n.GID, n.Time = e.UID, e.GID, tree.Time{Sec: int64(e.Time), Nsec: e.Nsec}
	default:
		var c compactInode
		if _, err := binary.Decode(b, le, &c); err != nil {
			return nil, err
		}
		mode, xattrs, in.union, in.links, in.size = c.Mode, c.XattrCount, c.Union, uint32(c.Links), int64(c.Size)
		n.UID, n.GID, n.Time = uint32(c.UID), uint32(c.GID), tree.Time{Sec: int64(r.sb.BuildTime),
			Nsec: r.sb.BuildTimeNsec}
	}
	in.node = n
	if err := r.spend(length); err != nil {
		return nil, err
	}
	if err := kindOf(mode, n); err != nil {
		return nil, err
	}
	in.extra = off + length
	if xattrs > 0 {
		size := int64(xattrHeaderSize) + 4*(int64(xattrs)-1)
		if err := r.xattrs(n, in.extra, int(size)); err != nil {
			return nil, err
		}
		in.extra += size
	}
	return in, r.fill(in)
}

// kindOf divides st_mode.
func kindOf(mode uint16, n *tree.Node) error {
	n.Mode = mode & tree.PermMask
	for k := tree.Dir; k <= tree.Socket; k++ {
		if uint16(k.Type()) == mode&^tree.PermMask {
			n.Kind = k
			return nil
		}
	}
	return fmt.Errorf("mode %o is no type of file", mode)
}

// fill reads what a node says beyond its inode.
func (r *reader) fill(in *onDisk) error {
	n := in.node
	switch n.Kind {
	case tree.CharDevice, tree.BlockDevice:
		// <linux/kdev_t.h>, new_decode_dev.
		n.Major, n.Minor = in.union>>8&0xfff, in.union&0xff|in.union>>12&0xfff00
	case tree.Symlink:
		if in.size == 0 || in.size > tree.MaxTarget {
			return fmt.Errorf("symbolic link to %d bytes", in.size)
		}
		b, err := r.all(in)
		if err != nil {
			return err
		}
		n.Target = string(b)
	case tree.File:
		c, err := r.content(in)
		if err != nil {
			return err
		}
		n.Content = c
	}
	return nil
}

// all reads the data of a link or folder, which is metadata.
func (r *reader) all(in *onDisk) ([]byte, error) {
	if err := r.spend(in.size); err != nil {
		return nil, err
	}
	c, err := r.content(in)
	if err != nil {
		return nil, err
	}
	b := make([]byte, in.size)
	rd, err := c.Open()
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(rd, b); err != nil {
		return nil, err
	}
	return b, rd.Close()
}

// folder puts what a folder holds into the tree.
func (r *reader) folder(t *tree.Tree, in, parent *onDisk, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%.100s...: more than %d folders deep", in.path, maxDepth)
	}
	data, err := r.all(in)
	if err != nil {
		return fmt.Errorf("%s: %w", in.path, err)
	}
	last := ""
	for at := int64(0); at < in.size; at += r.blockSize {
		err := eachName(data[at:min(at+r.blockSize, in.size)], func(name string, nid uint64, kind uint8) error {
			if last >= name {
				return fmt.Errorf("names %q and %q out of order", last, name)
			}
			last = name
			switch {
			case name == "." && nid != in.nid, name == ".." && nid != parent.nid:
				return fmt.Errorf("%q is inode %d", name, nid)
			case name == ".", name == "..":
				return nil
			}
			return r.entry(t, in, path.Join(in.path, name), nid, kind, depth)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", in.path, err)
		}
	}
	return nil
}

// eachName calls f for the entries of a block of a folder. What is behind the last name up to the block's end is zeros.
func eachName(b []byte, f func(name string, nid uint64, kind uint8) error) error {
	if len(b) < direntSize {
		return fmt.Errorf("block of %d bytes", len(b))
	}
	first := int(le.Uint16(b[8:]))
	if first == 0 || first%direntSize != 0 || first > len(b) {
		return fmt.Errorf("names from byte %d on", first)
	}
	for e := 0; e < first; e += direntSize {
		start, end := int(le.Uint16(b[e+8:])), len(b)
		if e+direntSize < first {
			end = int(le.Uint16(b[e+direntSize+8:]))
		}
		if start < first || start >= end || end > len(b) {
			return fmt.Errorf("name from byte %d to %d", start, end)
		}
		name := string(b[start:end])
		if e+direntSize >= first {
			name, _, _ = strings.Cut(name, "\x00")
		}
		if name == "" || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("name %.300q", name)
		}
		if err := f(name, le.Uint64(b[e:]), b[e+10]); err != nil {
			return err
		}
	}
	return nil
}

// entry puts one name into the tree.
func (r *reader) entry(t *tree.Tree, parent *onDisk, p string, nid uint64, kind uint8, depth int) error {
	in, err := r.inode(nid)
	if err != nil {
		return fmt.Errorf("%s: %w", path.Base(p), err)
	}
	if want := fileType(in.node.Kind); kind != want {
		return fmt.Errorf("%s: type %d of a %v", path.Base(p), kind, in.node.Kind)
	}
	in.found++
	if in.found == 1 {
		in.path = p
		if err := t.Put(p, in.node); err != nil {
			return err
		}
	} else if in.node.Kind == tree.Dir {
		return fmt.Errorf("%s: the folder is %s too", path.Base(p), in.path)
	} else if err := t.Link(in.path, p); err != nil {
		return err
	}
	if in.node.Kind == tree.Dir {
		return r.folder(t, in, parent, depth+1)
	}
	return nil
}
