package tree

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

// Decompress writes what r holds, compressed by gzip, xz or zstd or not at all, to a new file at path and returns the digest and the size of
// the plain bytes. The first bytes say which it is. More than limit bytes are an ErrTooLong: a few kilobytes can hold terabytes. After an
// error there is no file.
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
	size, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, f)}, struct{ io.Reader }{io.LimitReader(plain, limit+1)}, buf)
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
	case strings.HasPrefix(m, "\xfd7zXZ\x00"): // The .xz File Format 2.1.1.1
		x, err := xz.NewReader(in, xz.DefaultDictMax)
		return io.NopCloser(x), err
	case strings.HasPrefix(m, "\x1f\x8b"): // RFC 1952 2.3.1
		g, err := gzip.NewReader(in)
		return g, err
	case strings.HasPrefix(m, "\x28\xb5\x2f\xfd"): // RFC 8878 3.1.1
		// One goroutine: whoever has many archives reads several at once.
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// maxZstdWindow is the memory a frame may ask for, in bytes: what `zstd --long` makes, the most that decompressors take without being told.
const maxZstdWindow = 128 << 20
