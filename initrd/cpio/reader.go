package cpio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Reader reads an archive strictly: it refuses whatever Writer would not write, save that hexadecimal digits may be
// upper case, the device that holds a file may have a number, and zeros may follow the end.
type Reader struct {
	r       *bufio.Reader
	name    string
	left    int64 // bytes of the body not yet read
	padding int   // behind it
	done    bool
}

// NewReader starts to read.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// Next goes to the next entry; what is left of the last body is skipped. At the end of the archive it returns io.EOF.
func (r *Reader) Next() (Header, error) {
	if r.done {
		return Header{}, io.EOF
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return Header{}, err
	}
	if err := r.zeros(r.padding); err != nil {
		return Header{}, fmt.Errorf("cpio: padding behind %s: %w", r.name, err)
	}
	h, err := r.header()
	if err != nil {
		return Header{}, fmt.Errorf("cpio: entry behind %q: %w", r.name, err)
	}
	if h.Name == trailer {
		r.done, r.left = true, 0
		return Header{}, r.end()
	}
	if err := h.check(); err != nil {
		return Header{}, fmt.Errorf("cpio entry %q: %w", h.Name, err)
	}
	r.name, r.left, r.padding = h.Name, h.Size, padding(h.Size)
	return h, nil
}

// Read reads the body of the entry that Next returned.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("cpio entry %q: %w", r.name, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (r *Reader) header() (Header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return Header{}, unexpected(err)
	}
	if string(b[:len(magic)]) != magic {
		return Header{}, fmt.Errorf("magic %q, want %q", b[:len(magic)], magic)
	}
	var f [13]uint32
	for i := range f {
		for _, c := range b[len(magic)+8*i:][:8] {
			d, ok := digit(c)
			if !ok {
				return Header{}, fmt.Errorf("field %d: %q is no hexadecimal digit", i, c)
			}
			f[i] = f[i]<<4 | d
		}
	}
	h := Header{
		// 7, 8: see Reader
		Inode: f[0], Mode: f[1], UID: f[2], GID: f[3], Links: f[4], Time: int64(f[5]), Size: int64(f[6]),
		DeviceMajor: f[9], DeviceMinor: f[10],
	}
	if f[12] != 0 {
		return Header{}, errors.New("a checksum, which this format does not have")
	}
	size := f[11]
	if size < 1 || size > maxName {
		return Header{}, fmt.Errorf("name of %d bytes: want 1 to %d", size, maxName)
	}
	name := make([]byte, size)
	if _, err := io.ReadFull(r.r, name); err != nil {
		return Header{}, unexpected(err)
	}
	if name[size-1] != 0 {
		return Header{}, fmt.Errorf("name %q: no NUL at its end", name)
	}
	h.Name = string(name[:size-1])
	if err := r.zeros(padding(headerSize + int64(size))); err != nil {
		return Header{}, fmt.Errorf("padding behind the name %q: %w", h.Name, err)
	}
	return h, nil
}

func digit(c byte) (uint32, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint32(c - '0'), true
	case c >= 'a' && c <= 'f':
		return uint32(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return uint32(c-'A') + 10, true
	}
	return 0, false
}

var errNotZero = errors.New("bytes that are not zero")

func (r *Reader) zeros(n int) error {
	for range n {
		b, err := r.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if b != 0 {
			return errNotZero
		}
	}
	return nil
}

// end reads to the end of the file and returns io.EOF.
func (r *Reader) end() error {
	for {
		b, err := r.r.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return fmt.Errorf("cpio: behind the end: %w", errNotZero)
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
