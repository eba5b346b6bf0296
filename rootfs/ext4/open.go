package ext4

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Image is an ext4 image that was opened. Nothing of it is in memory but where its inode tables lie.
type Image struct {
	UUID      [16]byte
	Label     string
	Time      int64 // when the file system was made, in seconds since 1970
	BlockSize int
	Size      int64 // of the file system, in bytes; the image may be longer
	Free      int64 // bytes that no file takes
	Inodes    int64 // that there are, used or not
	Journal   bool
	Checksums bool // metadata carries checksums, which are checked

	r           io.ReaderAt
	blocks      uint64
	inodeCount  uint32
	perGroup    uint32 // inodes
	inodeSize   int
	tables      []uint64 // where groups have their inodes
	seed        uint32
	haveKinds   bool // entries of folders say what they lead to
	largeValues bool
}

// What a reader must say no to, and the causes that callers tell apart.
var (
	errFormat      = errors.New("not an ext4 file system")
	errUnsupported = errors.New("not supported")
	errDamaged     = errors.New("damaged")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// incompatible are the features that the reader understands among those a reader must understand. The rest of
// s_feature_incompat, such as inline data, encryption and a journal that has not been replayed, is refused.
const incompatible = incompatFileType | incompatExtents | incompat64 | incompatMMP | incompatFlex | incompatEAInode |
	incompatCsumSeed | incompatLargeDir

// Open reads the superblock and the group descriptors of an image of size bytes. Images may be hostile: whatever they
// say is checked against their size before it is used.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	im := &Image{r: r}
	if err := im.open(size); err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	return im, nil
}

func (im *Image) open(size int64) error {
	if size < superOffset+superSize {
		return fmt.Errorf("%w: %d bytes", errFormat, size)
	}
	b := make([]byte, superSize)
	if err := im.readAt(b, superOffset); err != nil {
		return err
	}
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	incompat, ro := u32(0x60), u32(0x64)
	wide := incompat&incompat64 != 0
	switch {
	case le.Uint16(b[0x38:]) != magic:
		return errFormat
	case u32(0x4c) != 1:
		return fmt.Errorf("%w: revision %d", errUnsupported, u32(0x4c))
	case incompat&^incompatible != 0:
		return fmt.Errorf("%w: incompatible features %#x", errUnsupported, incompat&^incompatible)
	case ro&roBigalloc != 0:
		return fmt.Errorf("%w: clusters of blocks (bigalloc)", errUnsupported)
	}
	im.Checksums = ro&roChecksums != 0
	if im.Checksums {
		if b[0x175] != 1 {
			return fmt.Errorf("%w: checksums of type %d", errUnsupported, b[0x175])
		}
		if got, want := u32(superChecksum), crc(^uint32(0), b[:superChecksum]); got != want {
			return damaged("superblock: checksum %08x, want %08x", got, want)
		}
	}
	im.UUID = [16]byte(b[0x68:])
	im.seed = fsSeed(im.UUID)
	if incompat&incompatCsumSeed != 0 {
		im.seed = u32(0x270)
	}
	label := b[0x78:0x88]
	for i, c := range label {
		if c == 0 {
			label = label[:i]
			break
		}
	}
	im.Label = string(label)
	im.Time = int64(u32(0x108)) | int64(b[0x276])<<32
	im.Journal = u32(0x5c)&compatJournal != 0
	im.haveKinds = incompat&incompatFileType != 0
	im.largeValues = incompat&incompatEAInode != 0

	if u32(0x18) > 5 {
		return damaged("block size of 2^%d", 10+u32(0x18))
	}
	im.BlockSize = 1024 << u32(0x18)
	im.blocks = uint64(u32(0x4))
	free := uint64(u32(0xc))
	if wide {
		im.blocks |= uint64(u32(0x150)) << 32
		free |= uint64(u32(0x158)) << 32
	}
	first := uint64(u32(0x14))
	if im.blocks > uint64(size)/uint64(im.BlockSize) || first >= im.blocks || free > im.blocks {
		return damaged("%d blocks of %d bytes from %d on, %d of them free, in an image of %d bytes", im.blocks,
			im.BlockSize, first, free, size)
	}
	im.Size, im.Free = int64(im.blocks)*int64(im.BlockSize), int64(free)*int64(im.BlockSize)
	im.inodeCount, im.perGroup, im.inodeSize = u32(0), u32(0x28), int(le.Uint16(b[0x58:]))
	im.Inodes = int64(im.inodeCount)
	perGroup := u32(0x20)
	if bits.OnesCount(uint(im.inodeSize)) != 1 || im.inodeSize < 128 || im.inodeSize > im.BlockSize {
		return damaged("inodes of %d bytes", im.inodeSize)
	}
	if perGroup == 0 || int64(perGroup) > 8*int64(im.BlockSize) || im.perGroup == 0 ||
		int64(im.perGroup) > 8*int64(im.BlockSize) {
		return damaged("groups of %d blocks and %d inodes", perGroup, im.perGroup)
	}
	groups := divUp(im.blocks-first, uint64(perGroup))
	if uint64(im.inodeCount) != groups*uint64(im.perGroup) {
		return damaged("%d inodes in %d groups of %d", im.inodeCount, groups, im.perGroup)
	}
	descriptor := uint64(32)
	if wide {
		descriptor = uint64(le.Uint16(b[0xfe:]))
		if descriptor < descriptorSize || descriptor > 1024 || bits.OnesCount64(descriptor) != 1 {
			return damaged("group descriptors of %d bytes", descriptor)
		}
	}
	return im.readGroups((first+1)*uint64(im.BlockSize), groups, descriptor)
}

func (im *Image) readGroups(at, groups, size uint64) error {
	if at+groups*size > uint64(im.Size) {
		return damaged("descriptors of %d groups reach out of the image", groups)
	}
	all := make([]byte, groups*size)
	if err := im.readAt(all, int64(at)); err != nil {
		return err
	}
	for g := range groups {
		d := all[g*size : (g+1)*size]
		if im.Checksums {
			var sum uint16
			if size > 32 {
				sum = descriptorChecksum(im.seed, uint32(g), d)
			} else {
				c := crc(crc32of(im.seed, uint32(g)), d[:0x1e])
				sum = uint16(crc(c, make([]byte, 2)))
			}
			if got := le.Uint16(d[0x1e:]); got != sum {
				return damaged("descriptor of group %d: checksum %04x, want %04x", g, got, sum)
			}
		}
		table := uint64(le.Uint32(d[0x8:]))
		if size > 32 {
			table |= uint64(le.Uint32(d[0x28:])) << 32
		}
		length := divUp(uint64(im.perGroup)*uint64(im.inodeSize), uint64(im.BlockSize))
		if table == 0 || table >= im.blocks || length > im.blocks-table {
			return damaged("inodes of group %d lie at block %d of %d", g, table, im.blocks)
		}
		im.tables = append(im.tables, table)
	}
	return nil
}

// readAt fills b or fails.
func (im *Image) readAt(b []byte, at int64) error {
	if n, err := im.r.ReadAt(b, at); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("image at %d: %w", at+int64(n), err)
	}
	return nil
}

// content is a file's bytes, in the image.
type content struct {
	im      *Image
	size    int64
	extents []mapping // in order
}

// mapping is a run of a file's blocks that lie one after the other on the image.
type mapping struct{ logical, count, block uint64 }

// Size implements tree.Content.
func (c *content) Size() int64 { return c.size }

// Data implements tree.Content.
func (c *content) Data() (out []tree.Range) {
	bs := int64(c.im.BlockSize)
	for _, m := range c.extents {
		r := tree.Range{Offset: int64(m.logical) * bs, Length: int64(m.count) * bs}
		if r.Offset >= c.size {
			break // blocks that were reserved behind the end
		}
		r.Length = min(r.Length, c.size-r.Offset)
		if k := len(out) - 1; k >= 0 && out[k].End() == r.Offset {
			out[k].Length += r.Length
			continue
		}
		out = append(out, r)
	}
	return out
}

// Open implements tree.Content.
func (c *content) Open() (tree.Reader, error) {
	return contentReader{io.NewSectionReader(contentAt{c}, 0, c.size)}, nil
}

type contentReader struct{ *io.SectionReader }

func (contentReader) Close() error { return nil }

type contentAt struct{ *content }

func (c contentAt) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fmt.Errorf("read at %d", at)
	}
	n := int(max(0, min(int64(len(b)), c.size-at)))
	bs := int64(c.im.BlockSize)
	low, high := 0, len(c.extents) // the first that ends behind at
	for low < high {
		if mid := (low + high) / 2; int64(c.extents[mid].logical+c.extents[mid].count)*bs > at {
			high = mid
		} else {
			low = mid + 1
		}
	}
	for done := 0; done < n; {
		here := at + int64(done)
		if low == len(c.extents) || int64(c.extents[low].logical)*bs > here { // a hole
			end := n
			if low < len(c.extents) {
				end = int(min(int64(n), int64(c.extents[low].logical)*bs-at))
			}
			clear(b[done:end])
			done = end
			continue
		}
		m := c.extents[low]
		within := here - int64(m.logical)*bs
		part := min(int64(n-done), int64(m.count)*bs-within)
		if err := c.im.readAt(b[done:done+int(part)], int64(m.block)*bs+within); err != nil {
			return done, fmt.Errorf("ext4: %w", err)
		}
		done += int(part)
		low++
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
