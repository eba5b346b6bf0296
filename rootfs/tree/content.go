package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/katabuild/katabuild/internal/digest"
)

// Content is a regular file's bytes. Reads may come from several goroutines at once, and always give the same bytes.
type Content interface {
	// Size is st_size, in bytes.
	Size() int64
	// Data lists the ranges that are not holes: in order, not touching, not empty, inside the size. Bytes outside them
	// are zero.
	Data() []Range
	// Open returns a reader of the whole, holes as zeros. The caller closes it.
	Open() (Reader, error)
}

// Reader reads a Content: from the start on, or anywhere.
type Reader interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// Range is a part of a file, in bytes.
type Range struct{ Offset, Length int64 }

// End is the offset of the byte after the range.
func (r Range) End() int64 { return r.Offset + r.Length }

func whole(size int64) []Range {
	if size == 0 {
		return nil
	}
	return []Range{{0, size}}
}

type inMemory []byte

// Bytes is content in memory.
func Bytes(b []byte) Content { return inMemory(b) }

func (b inMemory) Size() int64           { return int64(len(b)) }
func (b inMemory) Data() []Range         { return whole(int64(len(b))) }
func (b inMemory) Open() (Reader, error) { return memoryReader{bytes.NewReader(b)}, nil }

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// Section is content that lies in a file of the host, such as a blob of the store: whole files, or members of an
// unpacked archive. The file must not change while the tree is used.
type Section struct {
	Path   string
	Offset int64   // of the first byte in the file
	Length int64   // bytes
	Ranges []Range // what is not a hole, as Data; nil is all of it
	Shared bool    // other contents lie in the same file
}

// Size implements Content.
func (s *Section) Size() int64 { return s.Length }

// Data implements Content.
func (s *Section) Data() []Range {
	if s.Ranges == nil {
		return whole(s.Length)
	}
	return s.Ranges
}

// Open implements Content.
func (s *Section) Open() (Reader, error) {
	f, err := openHost(s.Path, 0)
	if err != nil {
		return nil, err
	}
	return newSectionReader(f, s.Offset, s.Length, f), nil
}

func (s *Section) openIn(o *Opener) (Reader, error) {
	if !s.Shared {
		return s.Open()
	}
	f, err := o.share(s.Path)
	if err != nil {
		return nil, err
	}
	return newSectionReader(f, s.Offset, s.Length, f), nil
}

type sectionReader struct {
	io.SectionReader
	io.Closer
}

func newSectionReader(r io.ReaderAt, off, n int64, c io.Closer) *sectionReader {
	return &sectionReader{*io.NewSectionReader(r, off, n), c}
}

// DigestOf reads the whole content, holes as zeros.
func DigestOf(c Content) (digest.Digest, error) {
	if c == nil {
		return digest.Of(nil), nil
	}
	r, err := c.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, n, err := digest.Reader(r)
	if err == nil && n != c.Size() {
		err = fmt.Errorf("%d bytes of %d: %w", n, c.Size(), io.ErrUnexpectedEOF)
	}
	return d, err
}

// SameContent says whether two files hold the same bytes. What both have as a hole is not read, so that a file of any
// size is compared soon.
func SameContent(ctx context.Context, m, n *Node) (bool, error) {
	if m.Size() != n.Size() {
		return false, nil
	}
	if m.Size() == 0 {
		return true, nil
	}
	a, err := m.Content.Open()
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := n.Content.Open()
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for _, d := range slices.Concat(m.Content.Data(), n.Content.Data()) { // what both have is compared twice
		for at := d.Offset; at < d.End(); at += int64(len(x)) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			size := min(int64(len(x)), d.End()-at)
			for _, side := range []struct {
				r   Reader
				buf []byte
			}{{a, x[:size]}, {b, y[:size]}} {
				if got, err := side.r.ReadAt(side.buf, at); err != nil && (err != io.EOF || got < len(side.buf)) {
					return false, fmt.Errorf("read at %d: %w", at, err)
				}
			}
			if !bytes.Equal(x[:size], y[:size]) {
				return false, nil
			}
		}
	}
	return true, nil
}

// ReadAll is the whole content of a small File; how small is the caller's to know. The content of a Live file stays in
// memory.
func ReadAll(n *Node) ([]byte, error) {
	size := n.Size()
	if size == 0 {
		return nil, nil
	}
	r, err := n.Content.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, size)
	if got, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%d bytes of %d: %w", got, size, errors.Join(io.ErrUnexpectedEOF, err))
	}
	if l, ok := n.Content.(*Live); ok && l.kept == nil {
		l.kept = b
	}
	return bytes.Clone(b), nil
}
