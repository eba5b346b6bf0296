package erofs

import (
	"bytes"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	deflateWindowBits = 15 // all that DEFLATE has
	// zstdWindowBits bounds the memory that a kernel sets aside for each processor to read the image.
	zstdWindowBits = 17
)

// encoder compresses src to dst, which has room for more than src. Nil is "not smaller". It keeps nothing from one call
// for the next.
type encoder func(dst, src []byte) []byte

// encoders are the algorithms, by Compression.
var encoders = [...]struct {
	algorithm uint8
	// fragments puts what is left of a file into the packed inode, where it is compressed together with other files'.
	// LZ4 gains little by that, and its images should mount on kernels before 6.1: there it stands behind the inode,
	// compressed alone.
	fragments bool
	make      func(level int) (encoder, error)
}{
	LZ4: {algLZ4, false, func(int) (encoder, error) {
		c := new(lz4.Compressor)
		return func(dst, src []byte) []byte { return lz4Result(dst, c.CompressBlock)(src) }, nil
	}},
	LZ4HC: {algLZ4, false, func(level int) (encoder, error) {
		// How many earlier places are tried for a match. The library's own levels start at 512, which takes twice the
		// time of 64 for 1% less.
		c := &lz4.CompressorHC{Level: 4 << level}
		return func(dst, src []byte) []byte { return lz4Result(dst, c.CompressBlock)(src) }, nil
	}},
	Zstd: {algZstd, true, func(level int) (encoder, error) {
		// A kernel reads a frame only if its window fits in what the superblock promised; a single segment's window is
		// the whole.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevel(level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(1<<zstdWindowBits), zstd.WithSingleSegment(false), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, err
		}
		return func(dst, src []byte) []byte { return smaller(e.EncodeAll(src, dst[:0]), src) }, nil
	}},
	Deflate: {algDeflate, true, func(level int) (encoder, error) {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, level)
		if err != nil {
			return nil, err
		}
		return func(dst, src []byte) []byte {
			b.Reset()
			w.Reset(&b)
			// A bytes.Buffer takes everything.
			w.Write(src)
			w.Close()
			return smaller(append(dst[:0], b.Bytes()...), src)
		}, nil
	}},
}

func lz4Result(dst []byte, compress func(src, dst []byte) (int, error)) func(src []byte) []byte {
	return func(src []byte) []byte {
		n, err := compress(src, dst[:cap(dst)])
		if err != nil || n == 0 {
			return nil
		}
		return smaller(dst[:n], src)
	}
}

// smaller refuses what is not smaller, and what starts with a zero: zeros stand in front of compressed data in its
// first block, and a kernel skips them all. Only DEFLATE may start so.
func smaller(dst, src []byte) []byte {
	if len(dst) >= len(src) || dst[0] == 0 {
		return nil
	}
	return dst
}
