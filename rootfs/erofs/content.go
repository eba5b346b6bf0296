package erofs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// content is a file of an image.
type content struct {
	r    *reader
	in   *onDisk
	list []uint32     // of chunks: first blocks; nullBlock is a hole
	bits uint         // of a chunk's size
	data []tree.Range // what is not a hole; nil is all of it
}

// content checks where the data of an inode is; of compressed data only when it is opened.
func (r *reader) content(in *onDisk) (*content, error) {
	c := &content{r: r, in: in}
	switch in.layout {
	case layoutPlain, layoutInline:
		whole := in.size
		if in.layout == layoutInline {
			whole = in.size &^ (r.blockSize - 1)
			if tail := in.size - whole; in.extra&(r.blockSize-1)+tail > r.blockSize {
				return nil, fmt.Errorf("last %d bytes cross a block's end at %d", tail, in.extra)
			} else if in.extra+tail > r.size {
				return nil, errCutShort
			}
		}
		if start := int64(in.union) << r.blockBits; whole > 0 && (start > r.size || whole > r.size-start) {
			return nil, fmt.Errorf("%d bytes from block %d on: %w", whole, in.union, errCutShort)
		}
	case layoutChunks:
		return c, c.readList()
	}
	return c, nil
}

// readList reads where the chunks are. It is as long as the file is large, so a size that the list would not fit for is
// refused.
func (c *content) readList() error {
	r, in := c.r, c.in
	if in.union&^(chunkBitsMask|chunkIndexes) != 0 {
		return fmt.Errorf("chunk format %#x: %w", in.union, errors.ErrUnsupported)
	}
	c.bits = r.blockBits + uint(in.union&chunkBitsMask)
	entry := int64(4)
	if in.union&chunkIndexes != 0 {
		entry = 8
	}
	chunk := int64(1) << c.bits
	n := in.size >> c.bits
	if in.size&(chunk-1) != 0 {
		n++
	}
	if n > r.size/entry {
		return errCutShort
	}
	if err := r.spend(n * entry); err != nil {
		return err
	}
	b, err := r.at(roundUp(in.extra, entry), int(n*entry))
	if err != nil {
		return err
	}
	c.list, c.data = make([]uint32, n), []tree.Range{}
	for i := range c.list {
		e := b[int64(i)*entry:]
		if entry == 8 {
			if device := le.Uint16(e[2:]); device != 0 {
				return fmt.Errorf("chunk on device %d: %w", device, errors.ErrUnsupported)
			}
			e = e[4:]
		}
		c.list[i] = le.Uint32(e)
		if c.list[i] == nullBlock {
			continue
		}
		at := int64(i) << c.bits
		length := min(chunk, in.size-at)
		if start := int64(c.list[i]) << r.blockBits; start > r.size || length > r.size-start {
			return fmt.Errorf("chunk of %d bytes from block %d on: %w", length, c.list[i], errCutShort)
		}
		if k := len(c.data) - 1; k >= 0 && c.data[k].End() == at {
			c.data[k].Length += length
		} else {
			c.data = append(c.data, tree.Range{Offset: at, Length: length})
		}
	}
	return nil
}

// Size implements tree.Content.
func (c *content) Size() int64 { return c.in.size }

// Data implements tree.Content.
func (c *content) Data() []tree.Range {
	if c.data == nil && c.in.size > 0 {
		return []tree.Range{{Offset: 0, Length: c.in.size}}
	}
	return c.data
}

// Open implements tree.Content.
func (c *content) Open() (tree.Reader, error) {
	f := &file{content: c}
	if c.in.layout == layoutFull || c.in.layout == layoutCompact {
		var err error
		if f.extents, err = c.r.extents(c.in); err != nil {
			return nil, err
		}
	}
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(f, 0, c.in.size), io.NopCloser(nil)}, nil
}

// file is an open content. Several goroutines may read it.
type file struct {
	*content
	extents []diskExtent

	mu    sync.Mutex // guards what follows
	cache []byte     // the extent read last, unpacked
	which int        // of extents
}

// ReadAt implements io.ReaderAt; off and the length of b are inside the file.
func (f *file) ReadAt(b []byte, off int64) (done int, err error) {
	for done < len(b) {
		n, err := f.some(b[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// some reads at least a byte.
func (f *file) some(b []byte, off int64) (int, error) {
	r, in := f.r, f.in
	b = b[:min(int64(len(b)), in.size-off)]
	if len(b) == 0 {
		return 0, io.EOF
	}
	switch in.layout {
	case layoutInline:
		whole := in.size &^ (r.blockSize - 1)
		if off >= whole {
			return r.raw(b, in.extra+off-whole)
		}
		return r.raw(b[:min(int64(len(b)), whole-off)], int64(in.union)<<r.blockBits+off)
	case layoutPlain:
		return r.raw(b, int64(in.union)<<r.blockBits+off)
	case layoutChunks:
		i := off >> f.bits
		within := off & (1<<f.bits - 1)
		b = b[:min(int64(len(b)), 1<<f.bits-within)]
		if f.list[i] == nullBlock {
			clear(b)
			return len(b), nil
		}
		return r.raw(b, int64(f.list[i])<<r.blockBits+within)
	}
	return f.unpacked(b, off)
}

// raw reads bytes that lie in the image as they are.
func (r *reader) raw(b []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("erofs: image at %d: %w", off, err)
}

// unpacked reads from the extent that holds off.
func (f *file) unpacked(b []byte, off int64) (int, error) {
	lo, hi := 0, len(f.extents)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; f.extents[mid].at <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	e := &f.extents[lo]
	within := off - e.at
	b = b[:min(int64(len(b)), e.length-within)]
	if e.fragment {
		return f.r.fragment(b, e.start, within)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cache == nil || f.which != lo {
		data, err := f.r.unpack(e)
		if err != nil {
			return 0, fmt.Errorf("erofs: extent of %d bytes at %d of %s: %w", e.length, e.at, f.in.path, err)
		}
		f.cache, f.which = data, lo
	}
	return copy(b, f.cache[within:]), nil
}

// fragment reads from the packed inode.
func (r *reader) fragment(b []byte, start, within int64) (int, error) {
	p := r.packed
	if p == nil || start < 0 || start > p.size || within > math.MaxInt64-start || start+within+int64(len(b)) > p.size {
		return 0, errors.New("erofs: a fragment beyond the packed inode")
	}
	f, err := r.decoders.packedFile(r)
	if err != nil {
		return 0, fmt.Errorf("erofs: packed inode: %w", err)
	}
	return f.ReadAt(b, start+within)
}
