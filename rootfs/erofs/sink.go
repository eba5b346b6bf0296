package erofs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// sinkSize is how many bytes go to the image in one write: few enough to stay in a processor's cache between the read
// and the write.
const sinkSize = 256 << 10

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroBlock  [blockLength]byte
)

// sink writes the image from front to back, and keeps what its UUID is derived from.
type sink struct {
	ctx  context.Context
	w    io.WriterAt
	buf  []byte // what is not yet written
	base int64  // where buf goes
	err  error  // the first failure to write; the image is lost then

	// id digests two checksums of each write; nil where the UUID is given. SHA-256 of all bytes would cost as much as
	// everything else together, and a UUID proves nothing.
	id hash.Hash
}

func newSink(ctx context.Context, w io.WriterAt, base int64, id bool) *sink {
	s := &sink{ctx: ctx, w: w, buf: make([]byte, 0, sinkSize), base: base}
	if id {
		s.id = sha256.New()
	}
	return s
}

// pos is where the next byte goes.
func (s *sink) pos() int64 { return s.base + int64(len(s.buf)) }

// block is the number of the next block, which must be a whole one.
func (s *sink) block() uint32 {
	if s.pos()%blockLength != 0 {
		panic("erofs: a block that does not start at a block")
	}
	return uint32(s.pos() / blockLength)
}

func (s *sink) flush() error {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil || len(s.buf) == 0 {
		return s.err
	}
	if s.id != nil {
		s.addToID(s.buf)
	}
	if _, err := s.w.WriteAt(s.buf, s.base); err != nil {
		s.err = fmt.Errorf("erofs: image at %d: %w", s.base, err)
	}
	s.base += int64(len(s.buf))
	s.buf = s.buf[:0]
	return s.err
}

func (s *sink) addToID(b []byte) {
	s.id.Write(le.AppendUint32(le.AppendUint32(nil, crc32.Checksum(b, castagnoli)), crc32.ChecksumIEEE(b)))
}

func (s *sink) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), sinkSize-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
		if len(s.buf) == sinkSize {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return s.err
}

// pad fills the block with zeros.
func (s *sink) pad() error { return s.write(zeroBlock[:-s.pos()&(blockLength-1)]) }

// read takes n bytes from r without a copy on the way. An error is r's unless s.err is set.
func (s *sink) read(r io.Reader, n int64) error {
	for n > 0 {
		part := int(min(n, int64(sinkSize-len(s.buf))))
		got, err := io.ReadFull(r, s.buf[len(s.buf):len(s.buf)+part])
		s.buf = s.buf[:len(s.buf)+got]
		if err != nil {
			return err
		}
		n -= int64(part)
		if len(s.buf) == sinkSize {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return s.err
}
