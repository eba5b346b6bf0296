// Package compression unpacks what gzip, xz or zstd has compressed. What comes in is hostile: callers say how many
// bytes may come out, and a file that asks for more memory than zstd's own default is refused. It knows nothing of what
// the bytes are.
package compression

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/katabuild/katabuild/internal/digest"
)

// ErrTooLong says that more bytes came out of a compressed file than the caller allows.
var ErrTooLong = errors.New("more bytes than allowed")

// Decompress writes what r holds, compressed by gzip, xz or zstd or not at all, to a new file at path and returns the
// digest and the size of the plain bytes. The first bytes say which it is. More than limit bytes are an ErrTooLong: a
// few kilobytes can hold terabytes. After an error there is no file.
func Decompress(r io.Reader, path string, limit int64) (d digest.Digest, size int64, err error) {
	plain, err := Plain(r)
	if err != nil {
		return "", 0, err
	}
	defer plain.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	w := digest.New()
	buf := make([]byte, 256<<10)
	size, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, f)},
		struct{ io.Reader }{io.LimitReader(plain, limit+1)}, buf)
	if err == nil && size > limit {
		err = fmt.Errorf("%w: %d", ErrTooLong, limit)
	}
	return w.Digest(), size, err
}

// Plain is r without its compression, if it has one that Decompress knows. Closing it does not close r.
func Plain(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch m := string(magic); {
	case strings.HasPrefix(m, magicXZ):
		x, err := xz.NewReader(in, xz.DefaultDictMax)
		return io.NopCloser(x), err
	case strings.HasPrefix(m, magicGzip):
		g, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		g.Multistream(false)
		return &members{g, in}, nil
	case strings.HasPrefix(m, magicZstd):
		// One goroutine: whoever has many archives reads several at once.
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// Compressed says whether what r holds begins as something that Plain unpacks.
func Compressed(r io.Reader) (bool, error) {
	magic := make([]byte, 6)
	n, err := io.ReadFull(r, magic)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return false, err
	}
	for _, m := range []string{magicXZ, magicGzip, magicZstd} {
		if strings.HasPrefix(string(magic[:n]), m) {
			return true, nil
		}
	}
	return false, nil
}

// The first bytes of what is compressed.
const (
	magicXZ   = "\xfd7zXZ\x00"     // The .xz File Format 2.1.1.1
	magicGzip = "\x1f\x8b"         // RFC 1952 2.3.1
	magicZstd = "\x28\xb5\x2f\xfd" // RFC 8878 3.1.1
)

// members reads gzip's members one after another, and takes zeros behind the last for the padding of a tape, as gzip(1)
// does.
type members struct {
	*gzip.Reader
	in *bufio.Reader
}

func (m *members) Read(b []byte) (int, error) {
	for {
		n, err := m.Reader.Read(b)
		if n > 0 && err == io.EOF {
			err = nil // the next read looks for what follows
		}
		if err != io.EOF {
			return n, err
		}
		next, err := m.in.Peek(1)
		if err != nil {
			return 0, err
		}
		if next[0] == 0 {
			return 0, m.zeros()
		}
		if err := m.Reset(m.in); err != nil {
			return 0, fmt.Errorf("behind the end of the compressed bytes: %w", err)
		}
		m.Multistream(false)
	}
}

// zeros reads to the end, where nothing else may come.
func (m *members) zeros() error {
	for {
		c, err := m.in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errors.New("bytes behind the end of what is compressed")
		}
	}
}

// maxZstdWindow is the memory a frame may ask for, in bytes: what `zstd --long` makes, the most that decompressors take
// without being told.
const maxZstdWindow = 128 << 20
