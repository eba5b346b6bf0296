package tree

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
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

// WithContext is r until ctx ends; then reading fails with the cause.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &untilDone{ctx, r} }

type untilDone struct {
	ctx context.Context // the reader lives as long as the work it is read for
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(b)
}

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

// notATar says what a file is that should be a tar.
type notATar struct {
	Name string
	What string // such as "empty", "a zip archive"
}

func (e *notATar) Error() string {
	return fmt.Sprintf("%s is no tar but %s: want a tar, plain or compressed by gzip, xz or zstd", e.Name, e.What)
}

// CheckTar reads the beginning of a tar, compressed or not, and returns a *notATar for what is none. name is for
// people.
func CheckTar(name string, r io.Reader) error {
	in := bufio.NewReader(r)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	if what := foreign(head); what != "" {
		return &notATar{name, what}
	}
	plain, err := Plain(in)
	if err != nil {
		return &notATar{name, "damaged: " + err.Error()}
	}
	defer plain.Close()
	block := make([]byte, 512)
	n, err := io.ReadFull(plain, block)
	switch {
	case err == io.EOF && len(head) == 0:
		return &notATar{name, "empty"}
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		if what := foreign(block[:n]); what != "" {
			return &notATar{name, what}
		}
		return &notATar{name, fmt.Sprintf("%d bytes, which is too short (cut off?)", n)}
	case err != nil:
		return &notATar{name, "damaged: " + err.Error()}
	}
	if what := foreign(block); what != "" {
		return &notATar{name, "in its compression " + what}
	}
	if !isHeader(block) {
		return &notATar{name, "something else: its first 512 bytes are no header of a tar"}
	}
	return nil
}

// isHeader says whether a block is a tar's header by its checksum, or the end of an empty tar. POSIX.1-2017, pax,
// "ustar Interchange Format": the sum of all bytes, those of the checksum itself taken as spaces; old programs summed
// signed bytes.
func isHeader(b []byte) bool {
	sum, signed, any := int64(0), int64(0), false
	for i, c := range b[:512] {
		any = any || c != 0
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum, signed = sum+int64(c), signed+int64(int8(c))
	}
	if !any {
		return true
	}
	want, err := strconv.ParseInt(strings.Trim(string(b[148:156]), " \x00"), 8, 64)
	return err == nil && (want == sum || want == signed)
}

// foreign knows the beginnings of files that people take for tars; "" is none of them.
func foreign(head []byte) string {
	for _, f := range []struct{ magic, what string }{
		{"BZh", "a file compressed by bzip2, which is not read: pack it again with gzip, xz or zstd"},
		{"PK\x03\x04", "a zip archive"}, {"7z\xbc\xaf\x27\x1c", "a 7z archive"}, {"Rar!", "a RAR archive"},
		{"LZIP", "a file compressed by lzip, which is not read: pack it again with gzip, xz or zstd"},
		{"\x04\x22\x4d\x18", "a file compressed by lz4, which is not read: pack it again with gzip, xz or zstd"},
		{"\x5d\x00\x00", "a file compressed by lzma, which is not read: pack it again with gzip, xz or zstd"},
		{"\x1f\x9d", "a file compressed by compress, which is not read: pack it again with gzip, xz or zstd"},
		{"!<arch>", "an ar archive, such as a Debian package"}, {"070701", "a cpio archive"},
		{"070707", "a cpio archive"},
		{"\x7fELF", "a program"}, {"hsqs", "a SquashFS image"}, {"\xed\xab\xee\xdb", "an RPM package"},
		{"{", "JSON text"}, {"%PDF", "a PDF document"},
		{"version https://git-lfs", "a pointer of Git LFS, whose content was not checked out: run git lfs pull"},
	} {
		if strings.HasPrefix(string(head), f.magic) {
			return f.what
		}
	}
	text := strings.ToLower(strings.TrimLeft(string(head), " \t\r\n\ufeff"))
	for _, page := range []string{"<!doctype", "<html", "<?xml", "<head"} {
		if strings.HasPrefix(text, page) {
			return "a page of the web (an error that a server sent, or a login?)"
		}
	}
	return ""
}

// maxZstdWindow is the memory a frame may ask for, in bytes: what `zstd --long` makes, the most that decompressors take
// without being told.
const maxZstdWindow = 128 << 20
