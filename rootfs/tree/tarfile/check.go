package tarfile

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/rootfs/compression"
)

// notATar says what a file is that should be a tar.
type notATar struct {
	Name string
	What string // such as "empty", "a zip archive"
}

func (e *notATar) Error() string {
	return fmt.Sprintf("%s is no tar but %s: want a tar, plain or compressed by gzip, xz or zstd", e.Name, e.What)
}

// Check reads the beginning of a tar, compressed or not, and returns a *notATar for what is none. name is for
// people.
func Check(name string, r io.Reader) error {
	in := bufio.NewReader(r)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return err
	}
	if what := foreign(head); what != "" {
		return &notATar{name, what}
	}
	plain, err := compression.Plain(in)
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
