package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// decoders are what reading compressed data of an image needs; they are made when first used.
type decoders struct {
	zstdOnce sync.Once
	zstd     *zstd.Decoder
	zstdErr  error

	packedOnce sync.Once
	packed     *file
	packedErr  error
}

// packedFile is the packed inode, open.
func (d *decoders) packedFile(r *reader) (*file, error) {
	d.packedOnce.Do(func() {
		c, ok := r.packed.node.Content.(*content)
		if !ok {
			d.packedErr = errors.New("no content")
			return
		}
		f := &file{content: c}
		if c.in.layout == layoutFull || c.in.layout == layoutCompact {
			f.extents, d.packedErr = r.extents(c.in)
		}
		for _, e := range f.extents {
			if e.fragment {
				d.packedErr = errors.New("a fragment of itself")
			}
		}
		d.packed = f
	})
	return d.packed, d.packedErr
}

// unpack reads an extent, whose sizes extents has checked.
func (r *reader) unpack(e *diskExtent) ([]byte, error) {
	src, err := r.at(e.start, int(e.size))
	if err != nil {
		return nil, err
	}
	if e.plain {
		if e.interlaced {
			// The extent's first bytes are at the end of its last block, from the place on that they have in the
			// file's.
			head := e.at & (r.blockSize - 1)
			last := len(src) - int(r.blockSize)
			src = append(src[last+int(head):], src[:last+int(head)]...)
		}
		return src[:e.length], nil
	}
	if r.sb.Algorithms&(1<<e.algorithm) == 0 {
		return nil, fmt.Errorf("algorithm %d, which the superblock does not announce", e.algorithm)
	}
	size := int(e.length)
	dst := make([]byte, size)
	if r.sb.Incompat&incompatZeroPadding == 0 {
		if e.algorithm != algLZ4 {
			return nil, fmt.Errorf("algorithm %d that starts with its block: %w", e.algorithm, errors.ErrUnsupported)
		}
		// The first images, for kernels before 5.3: data starts with the block, and only its length unpacked is known.
		return dst, unlz4(dst, src)
	}
	// Zeros come before compressed data.
	if src = bytes.TrimLeft(src, "\x00"); len(src) == 0 {
		return nil, errors.New("nothing but zeros")
	}
	switch e.algorithm {
	case algLZ4:
		if e.partial {
			return dst, unlz4(dst, src)
		}
		n, err := lz4.UncompressBlock(src, dst)
		if err != nil {
			return nil, err
		}
		dst = dst[:n]
	case algDeflate:
		n, err := io.ReadFull(flate.NewReader(bytes.NewReader(src)), dst)
		if err != nil {
			return nil, err
		}
		dst = dst[:n]
	case algZstd:
		if dst, err = r.decoders.unzstd(src, dst, e.partial); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("algorithm %d: %w", e.algorithm, errors.ErrUnsupported)
	}
	if len(dst) < size || len(dst) > size && !e.partial {
		return nil, fmt.Errorf("%d bytes came out", len(dst))
	}
	return dst[:size], nil
}

func (d *decoders) unzstd(src, dst []byte, partial bool) ([]byte, error) {
	d.zstdOnce.Do(func() {
		d.zstd, d.zstdErr = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderMaxWindow(maxPacked))
	})
	if d.zstdErr != nil {
		return nil, d.zstdErr
	}
	if !partial {
		return d.zstd.DecodeAll(src, dst[:0])
	}
	return d.zstd.DecodeAll(src, nil)
}

// unlz4 unpacks as much of an LZ4 block as fills dst, and lets the rest be. lz4_Block_format.md: a token with the
// length of literals in its upper 4 bits and the length of a match less 4 in its lower, 15 being continued by bytes up
// to one that is not 255; the literals; how far back the match is, in 2 bytes. The last sequence has no match.
func unlz4(dst, src []byte) error {
	next := func() (b byte, ok bool) {
		if len(src) == 0 {
			return 0, false
		}
		b, src = src[0], src[1:]
		return b, true
	}
	length := func(n int) (int, bool) {
		for more := n == 15; more; {
			b, ok := next()
			if !ok || n > maxUnpacked {
				return 0, false
			}
			n += int(b)
			more = b == 255
		}
		return n, true
	}
	for at := 0; at < len(dst); {
		token, ok := next()
		if !ok {
			return errCutLZ4
		}
		literals, ok := length(int(token >> 4))
		if literals = min(literals, len(dst)-at); !ok || literals > len(src) {
			return errCutLZ4
		}
		at += copy(dst[at:], src[:literals])
		src = src[literals:]
		if at == len(dst) {
			return nil
		}
		if len(src) < 2 {
			return errCutLZ4
		}
		back := int(le.Uint16(src))
		src = src[2:]
		n, ok := length(int(token & 15))
		if !ok {
			return errCutLZ4
		}
		if back == 0 || back > at {
			return fmt.Errorf("LZ4 match %d bytes back from %d", back, at)
		}
		for range min(n+4, len(dst)-at) { // it may overlap what it makes
			dst[at] = dst[at-back]
			at++
		}
	}
	return nil
}

var errCutLZ4 = errors.New("LZ4 block is cut short")
