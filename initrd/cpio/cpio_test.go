package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	other "github.com/cavaliergopher/cpio"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
)

type entry struct {
	Header
	body string
}

// sample has one of each: folder, file, empty file, hard links with the bytes on the last, symbolic link, devices,
// FIFO, large owner.
func sample() []entry {
	return []entry{
		{Header{Name: "dev", Mode: TypeDir | 0o755, Inode: 1, Links: 2, Time: 1}, ""},
		{Header{Name: "dev/console", Mode: TypeChar | 0o600, Inode: 2, Links: 1, Time: 1, DeviceMajor: 5,
			DeviceMinor: 1}, ""},
		{Header{Name: "dev/vda", Mode: TypeBlock | 0o660, GID: 6, Inode: 3, Links: 1, DeviceMajor: 254,
			DeviceMinor: 0xfffff}, ""},
		{Header{Name: "empty", Mode: TypeRegular | 0o600, UID: 65534, GID: 1<<32 - 2, Inode: 4, Links: 1}, ""},
		{Header{Name: "hard1", Mode: TypeRegular | 0o4755, Inode: 5, Links: 2, Time: 1<<32 - 1}, ""},
		{Header{Name: "hard2", Mode: TypeRegular | 0o4755, Inode: 5, Links: 2, Time: 1<<32 - 1, Size: 5}, "bytes"},
		{Header{Name: "link", Mode: TypeSymlink | 0o777, Inode: 6, Links: 1, Size: 11}, "dev/console"},
		{Header{Name: "pipe", Mode: TypeFIFO | 0o640, Inode: 7, Links: 1}, ""},
		{Header{Name: "ünicode and\nnewline", Mode: TypeRegular | 0o644, Inode: 8, Links: 1, Size: 4}, "four"},
	}
}

func write(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, e := range entries {
		if err := w.Next(e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The length of a header, and where its fields are: buffer-format.rst, in its order.
func TestHeaderLayout(t *testing.T) {
	if headerSize != 110 {
		t.Errorf("header of %d bytes, want 110", headerSize)
	}
	b := write(t, []entry{{Header{
		Name: "n", Mode: TypeChar | 0o4567, UID: 0x11111111, GID: 0x22222222, Inode: 0x33333333, Links: 0x44444444,
		Time:        0x55555555,
		DeviceMajor: 0x678, DeviceMinor: 0x9abcd,
	}, ""}})
	at := 6
	for _, f := range []struct{ name, want string }{
		{"c_ino", "33333333"}, {"c_mode", "00002977"}, {"c_uid", "11111111"}, {"c_gid", "22222222"},
		{"c_nlink", "44444444"},
		{"c_mtime", "55555555"}, {"c_filesize", "00000000"}, {"c_maj", "00000000"}, {"c_min", "00000000"},
		{"c_rmaj", "00000678"},
		{"c_rmin", "0009abcd"}, {"c_namesize", "00000002"}, {"c_chksum", "00000000"},
	} {
		if got := string(b[at : at+8]); got != f.want {
			t.Errorf("%s at %d: %s, want %s", f.name, at, got, f.want)
		}
		at += 8
	}
	if at != headerSize || string(b[:6]) != "070701" || string(b[at:at+2]) != "n\x00" {
		t.Errorf("%q", b[:headerSize+2])
	}
}

func TestArchiveStaysTheSame(t *testing.T) { golden.Check(t, "sample.cpio", write(t, sample())) }

func TestReaderReturnsWhatWasWritten(t *testing.T) {
	r := NewReader(bytes.NewReader(write(t, sample())))
	for _, want := range sample() {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if h != want.Header || string(body) != want.body || err != nil {
			t.Errorf("got %+v %q %v, want %+v", h, body, err, want)
		}
	}
	for range 2 {
		if _, err := r.Next(); err != io.EOF {
			t.Error(err)
		}
	}
}

func TestReaderSkipsBodies(t *testing.T) {
	r := NewReader(bytes.NewReader(append(write(t, sample()), make([]byte, 512)...)))
	n := 0
	for ; ; n++ {
		if _, err := r.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n != len(sample()) {
		t.Error(n, "entries")
	}
}

func TestAnotherLibraryAgrees(t *testing.T) {
	r := other.NewReader(bytes.NewReader(write(t, sample())))
	for _, want := range sample() {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		body := []byte(h.Linkname) // it reads the target of a symbolic link itself
		if want.Mode&TypeMask != TypeSymlink {
			if body, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if h.Name != want.Name || uint32(h.Mode) != want.Mode || uint32(h.Uid) != want.UID ||
			uint32(h.Guid) != want.GID ||
			h.Inode != int64(want.Inode) || h.Links != int(want.Links) || h.ModTime.Unix() != want.Time ||
			string(body) != want.body {
			t.Errorf("got %+v %q, want %+v", h, body, want)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

func TestGNUCpioAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("cpio"))
	list := func(archive []byte) string {
		cmd := exec.Command("cpio", "--quiet", "-itvn")
		cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
		cmd.Stdin = bytes.NewReader(archive)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	got := list(write(t, sample()))
	want := []string{
		"drwxr-xr-x   2 0        0               0 Jan  1  1970 dev",
		"crw-------   1 0        0          5,   1 Jan  1  1970 dev/console",
		"brw-rw----   1 0        6        254, 1048575 Jan  1  1970 dev/vda",
		"-rw-------   1 65534    4294967294        0 Jan  1  1970 empty",
		"-rwsr-xr-x   2 0        0               0 Feb  7  2106 hard1",
		"-rwsr-xr-x   2 0        0               5 Feb  7  2106 hard2",
		"lrwxrwxrwx   1 0        0              11 Jan  1  1970 link -> dev/console",
		"prw-r-----   1 0        0               0 Jan  1  1970 pipe",
		"-rw-r--r--   1 0        0               4 Jan  1  1970 ünicode and", "newline",
	}
	if fields(got) != fields(strings.Join(want, "\n")) {
		t.Errorf("cpio -itvn says:\n%swant:\n%s", got, strings.Join(want, "\n"))
	}
}

// fields evens out runs of spaces, which differ between versions of cpio.
func fields(s string) string {
	var lines []string
	for l := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

func TestWriterRefuses(t *testing.T) {
	good := Header{Name: "a", Mode: TypeRegular | 0o644, Links: 1}
	for name, change := range map[string]func(*Header){
		"an absolute name":          func(h *Header) { h.Name = "/a" },
		"no name":                   func(h *Header) { h.Name = "" },
		"a name that leaves":        func(h *Header) { h.Name = "../a" },
		"a name that is not clean":  func(h *Header) { h.Name = "a//b" },
		"a NUL in a name":           func(h *Header) { h.Name = "a\x00b" },
		"the name of the trailer":   func(h *Header) { h.Name = "TRAILER!!!" },
		"a name too long":           func(h *Header) { h.Name = strings.Repeat("a", 4096) },
		"a file of 4 GiB":           func(h *Header) { h.Size = 1 << 32 },
		"a negative size":           func(h *Header) { h.Size = -1 },
		"a time before 1970":        func(h *Header) { h.Time = -1 },
		"a time after 2106":         func(h *Header) { h.Time = 1 << 32 },
		"no type":                   func(h *Header) { h.Mode = 0o644 },
		"no links":                  func(h *Header) { h.Links = 0 },
		"a folder with a body":      func(h *Header) { h.Mode, h.Size = TypeDir, 1 },
		"a device with a body":      func(h *Header) { h.Mode, h.Size = TypeChar, 1 },
		"a FIFO with a body":        func(h *Header) { h.Mode, h.Size = TypeFIFO, 1 },
		"a link to nothing":         func(h *Header) { h.Mode = TypeSymlink },
		"a link too long":           func(h *Header) { h.Mode, h.Size = TypeSymlink, 4096 },
		"device numbers on a file":  func(h *Header) { h.DeviceMinor = 1 },
		"a major number of 13 bits": func(h *Header) { h.Mode, h.DeviceMajor = TypeBlock, 1<<12 },
		"a minor number of 21 bits": func(h *Header) { h.Mode, h.DeviceMinor = TypeBlock, 1<<20 },
		"bits beyond the mode":      func(h *Header) { h.Mode |= 1 << 16 },
	} {
		h := good
		change(&h)
		if err := NewWriter(io.Discard).Next(h); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	good.Size = 3
	w := NewWriter(io.Discard)
	if err := w.Next(good); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "four"); err == nil {
		t.Error("more bytes than the size")
	}
	if err := w.Next(good); err == nil {
		t.Error("fewer bytes than the size")
	}
	if err := w.Close(); err == nil {
		t.Error("fewer bytes than the size at the end")
	}
}

func TestWriterEndsOnce(t *testing.T) {
	w := NewWriter(io.Discard)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Next(Header{Name: "a", Mode: TypeDir, Links: 1}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func readAll(b []byte) (entries []entry, err error) {
	r := NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return entries, err
		}
		entries = append(entries, entry{h, string(body)})
	}
}

func TestReaderRefuses(t *testing.T) {
	whole := write(t, sample())
	for n := range len(whole) { // whatever is cut off, the end is missed
		if _, err := readAll(whole[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(whole))
		}
	}
	if _, err := readAll(append(slices.Clone(whole), "more"...)); err == nil {
		t.Error("bytes behind the end")
	}
	change := func(at int, b string) []byte {
		c := slices.Clone(whole)
		copy(c[at:], b)
		return c
	}
	for name, b := range map[string][]byte{
		"another format":            change(0, "070702"),
		"a field that is no number": change(6, "0000000g"),
		"a field with a sign":       change(6, "-0000001"),
		"a name of 4 GiB":           change(6+11*8, "ffffffff"),
		"an empty name":             change(6+11*8, "00000000"),
		"a checksum":                change(6+12*8, "00000001"),
		"a name without a NUL":      change(headerSize+3, "x"),
		"padding that is not zero":  change(headerSize+5, "x"),
		"a folder with a body":      change(6+6*8, "00000001"),
	} {
		if e, err := readAll(b); err == nil {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	if _, err := readAll(change(6, "ABCDEF01")); err != nil {
		t.Error("upper case digits:", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(write(f, sample()))
	f.Add(write(f, nil))
	f.Add(fmt.Appendf(nil, "070701%0104d", 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := readAll(b)
		if err != nil {
			return
		}
		// What the reader accepts the writer can write, and it means the same.
		again, err := readAll(write(t, entries))
		if err != nil || !slices.Equal(again, entries) {
			t.Errorf("%v: %+v, want %+v", err, again, entries)
		}
	})
}
