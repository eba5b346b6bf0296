package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// item is one entry of an archive; a name that ends in a slash is a folder.
type item struct {
	name, text, link string
	kind             byte // 0: what the name says
	mode             int64
}

// kernelTree is the least that is taken for a kernel's source.
func kernelTree(more ...item) []item {
	return append([]item{{name: "linux/"}, {name: "linux/Makefile", text: "VERSION = 6\n"},
		{name: "linux/Kconfig", text: "mainmenu \"x\"\n"}}, more...)
}

func tarball(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Linkname: i.link, Typeflag: i.kind, Mode: 0o644, Size: int64(len(i.text))}
		if i.mode != 0 {
			h.Mode = i.mode
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(i.name, "/") {
				h.Typeflag, h.Mode = tar.TypeDir, 0o700
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compressed by name of the method: "", gz, xz or zst.
func compressed(t testing.TB, method string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch method {
	case "":
		return data
	case "gz":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("unknown method %q", method)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// member is one member of an ar archive.
func member(name string, data []byte) []byte {
	b := fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	b = append(b, data...)
	if len(data)%2 == 1 {
		b = append(b, '\n')
	}
	return b
}

func ar(members ...[]byte) []byte { return append([]byte(arMagic), bytes.Join(members, nil)...) }

// deb is a package like Debian's linux-source.
func deb(t testing.TB, outer, inner string, linux []byte) []byte {
	name := "./usr/src/linux-source-6.12.tar"
	if inner != "" {
		name += "." + inner
	}
	data := tarball(t, item{name: "./"}, item{name: "./usr/"},
		item{name: "./usr/share/doc/linux-source-6.12/copyright", text: "GPL"},
		item{name: "./usr/src/linux-patch-6.12-rt.patch.xz", text: "no"},
		item{name: name, text: string(compressed(t, inner, linux))})
	end := "data.tar"
	if outer != "" {
		end += "." + outer
	}
	return ar(member("debian-binary", []byte("2.0\n")), member("control.tar.xz", []byte("odd")),
		member(end, compressed(t, outer, data)))
}

// unpack writes the bytes to a file and unpacks that.
func unpack(t testing.TB, kind string, data []byte, o Options) (dir string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "linux")
	return dir, Unpack(t.Context(), Source{Kind: kind, Path: path, Digest: digest.Of(data)}, dir, o)
}

func mustRead(t testing.TB, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func TestEveryCompressionIsUnpacked(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 40_000) // some blocks of the read-ahead
	linux := tarball(t, kernelTree(item{name: "linux/scripts/run", text: "#!", mode: 0o700},
		item{name: "linux/big", text: big},
		item{name: "linux/a/link", link: "../Makefile", kind: tar.TypeSymlink}, item{name: "linux/twin",
			link: "linux/Makefile", kind: tar.TypeLink})...)
	when := time.Unix(1_700_000_000, 0)
	var first digest.Digest
	check := func(name, kind string, data []byte) {
		t.Run(name, func(t *testing.T) {
			old := syscall.Umask(0o077)
			defer syscall.Umask(old)
			var last, total int64
			dir, err := unpack(t, kind, data, Options{Time: when, Progress: func(d, n int64) { last, total = d, n }})
			if err != nil {
				t.Fatal(err)
			}
			mustRead(t, filepath.Join(dir, "Makefile"), "VERSION = 6\n")
			mustRead(t, filepath.Join(dir, "a/link"), "VERSION = 6\n")
			mustRead(t, filepath.Join(dir, "twin"), "VERSION = 6\n")
			mustRead(t, filepath.Join(dir, "big"), big)
			for p, want := range map[string]os.FileMode{"Makefile": 0o644, "scripts/run": 0o755, "scripts": 0o755,
				".": 0o755} {
				fi, err := os.Stat(filepath.Join(dir, p))
				if err != nil || fi.Mode().Perm() != want || !fi.ModTime().Equal(when) {
					t.Errorf("%s: %v of %v, %v", p, fi.Mode(), fi.ModTime(), err)
				}
			}
			if last != int64(len(data)) || total != last {
				t.Errorf("progress ended with %d of %d, the file has %d", last, total, len(data))
			}
			d, err := TreeDigest(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = d
			}
			if d != first {
				t.Errorf("another tree: %s, not %s", d, first)
			}
		})
	}
	for _, m := range []string{"", "gz", "xz", "zst"} {
		check("tar "+m, Tarball, compressed(t, m, linux))
		check("deb with data "+m, Debian, deb(t, m, "xz", linux))
		check("deb with inner "+m, Debian, deb(t, "xz", m, linux))
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		items []item
		want  string
	}{
		"a parent folder":     {kernelTree(item{name: "linux/../../evil"}), "lies outside"},
		"a parent of the top": {kernelTree(item{name: "../evil"}), "lies outside"},
		"an absolute path":    {kernelTree(item{name: "/etc/evil"}), "lies outside"},
		"a second top folder": {kernelTree(item{name: "linux/a/../../other/evil"}),
			`outside of the top folder "linux"`},
		"a file at the top": {[]item{{name: "Makefile"}}, "want one top folder"},
		"an absolute link": {kernelTree(item{name: "linux/l", link: "/etc", kind: tar.TypeSymlink}),
			`symbolic link to the absolute path "/etc"`},
		"a link outside": {kernelTree(item{name: "linux/a/l", link: "../../x", kind: tar.TypeSymlink}),
			"which lies outside"},
		"a link to the parent": {kernelTree(item{name: "linux/l", link: "..", kind: tar.TypeSymlink}),
			"which lies outside"},
		"a file through a link": {kernelTree(item{name: "linux/d/"}, item{name: "linux/l", link: "d",
			kind: tar.TypeSymlink}, item{name: "linux/l/f"}), "something else"},
		"a folder over a link": {kernelTree(item{name: "linux/d/"}, item{name: "linux/l", link: "d",
			kind: tar.TypeSymlink}, item{name: "linux/l/"}), "something else"},
		"a file over a link": {kernelTree(item{name: "linux/l", link: "Makefile", kind: tar.TypeSymlink},
			item{name: "linux/l"}), "comes twice"},
		"a hard link outside": {kernelTree(item{name: "linux/h", link: "/etc/passwd", kind: tar.TypeLink}),
			"hard link to"},
		"a hard link upwards": {kernelTree(item{name: "linux/h", link: "linux/../../x", kind: tar.TypeLink}),
			"hard link to"},
		"a hard link to nothing": {kernelTree(item{name: "linux/h", link: "linux/x", kind: tar.TypeLink}),
			"did not come before"},
		"a hard link to a folder": {kernelTree(item{name: "linux/d/"}, item{name: "linux/h", link: "linux/d",
			kind: tar.TypeLink}), "did not come before"},
		"a character device": {kernelTree(item{name: "linux/null", kind: tar.TypeChar}),
			"neither file, folder nor link"},
		"a block device": {kernelTree(item{name: "linux/sda", kind: tar.TypeBlock}),
			"neither file, folder nor link"},
		"a pipe": {kernelTree(item{name: "linux/pipe", kind: tar.TypeFifo}),
			"neither file, folder nor link"},
		"a name twice":              {kernelTree(item{name: "linux/Makefile"}), "comes twice"},
		"a name twice, spelt apart": {kernelTree(item{name: "linux/./Makefile"}), "comes twice"},
		"a file over a folder":      {kernelTree(item{name: "linux/d/f"}, item{name: "linux/d"}), "comes twice"},
		"a file below a file":       {kernelTree(item{name: "linux/Makefile/f"}), "something else"},
		"nothing":                   {nil, "empty"},
		"no kernel":                 {[]item{{name: "x/"}, {name: "x/Makefile"}}, "no Kconfig at its top"},
		"a folder for a Makefile":   {[]item{{name: "x/Makefile/"}, {name: "x/Kconfig"}}, "no Makefile at its top"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := unpack(t, Tarball, tarball(t, c.items...), Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			entries, _ := os.ReadDir(filepath.Dir(dir))
			if len(entries) > 1 {
				t.Errorf("something lies beside the folder: %v", entries)
			}
		})
	}
}

func TestBombsStopAtTheLimit(t *testing.T) {
	bomb := tarball(t, kernelTree(item{name: "linux/a", text: strings.Repeat("\x00", 3<<20)},
		item{name: "linux/b", text: strings.Repeat("\x00", 3<<20)})...)
	for _, m := range []string{"", "gz", "xz", "zst"} {
		dir, err := unpack(t, Tarball, compressed(t, m, bomb), Options{limit: 4 << 20})
		if err == nil || !strings.Contains(err.Error(), `"linux/b": the archive unpacks to more than 4194304 bytes`) {
			t.Errorf("%s: %v", m, err)
		}
		if fi, err := os.Stat(filepath.Join(dir, "b")); err == nil && fi.Size() > 2<<20 {
			t.Errorf("%s: %d bytes of b were written", m, fi.Size())
		}
	}
}

func TestTruncatedArchivesAreRefused(t *testing.T) {
	var noise strings.Builder
	for i := range 40_000 {
		fmt.Fprint(&noise, i*i)
	}
	linux := tarball(t, kernelTree(item{name: "linux/noise", text: noise.String()})...)
	sources := map[string][]byte{}
	for _, m := range []string{"gz", "xz", "zst"} {
		sources[Tarball+" "+m] = compressed(t, m, linux)
		sources[Debian+" "+m] = deb(t, m, "xz", linux)
	}
	for name, data := range sources {
		kind, _, _ := strings.Cut(name, " ")
		// The last cut leaves every entry whole and takes the end of the compressed stream.
		for _, n := range []int{0, 1, 7, 30, len(data) / 2, len(data) - 3} {
			if _, err := unpack(t, kind, data[:n], Options{}); err == nil {
				t.Errorf("%s of %d bytes, cut to %d, was taken", name, len(data), n)
			}
		}
	}
}

func TestMalformedPackagesAreRefused(t *testing.T) {
	linux := tarball(t, kernelTree()...)
	good := deb(t, "", "", linux)
	header := bytes.Index(good, []byte("data.tar"))
	bad := func(at int, s string) []byte {
		b := bytes.Clone(good)
		copy(b[header+at:], s)
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"no ar archive":  {linux, "no ar archive"},
		"no data member": {ar(member("debian-binary", []byte("2.0\n"))), "no data member"},
		"no tarball inside": {ar(member("data.tar", tarball(t, item{name: "./usr/"}))),
			"holds no usr/src/linux-source"},
		"a link as tarball": {ar(member("data.tar", tarball(t, item{name: "./usr/src/linux-source-6.12.tar.xz",
			link: "/etc/passwd", kind: tar.TypeSymlink}))), "holds no usr/src/linux-source"},
		"a negative size":     {bad(48, "-1        "), "malformed header"},
		"a size of no number": {bad(48, "1e3       "), "malformed header"},
		"a huge size":         {bytes.Replace(good, []byte("4         `\n2.0"), []byte("9223372036`\n2.0"), 1), "EOF"},
		"a huge data size":    {bad(48, "9999999999"), ""},
		"a wrong end":         {bad(58, "xx"), "malformed header"},
	} {
		_, err := unpack(t, Debian, c.data, Options{})
		if c.want == "" {
			continue // only must not hang or panic
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestAWrongDigestIsAMismatch(t *testing.T) {
	data := tarball(t, kernelTree()...)
	path := filepath.Join(t.TempDir(), "linux.tar")
	// what follows the end of the tar counts too
	if err := os.WriteFile(path, append(data, make([]byte, 4096)...), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := makeTree(t)
	for kind, p := range map[string]string{Tarball: path, Tree: tree} {
		err := Unpack(t.Context(), Source{Kind: kind, Path: p, Digest: digest.Of(data)}, filepath.Join(t.TempDir(),
			"linux"), Options{})
		var m *digest.Mismatch
		if !errors.As(err, &m) || m.Name != filepath.Base(p) || m.Want != digest.Of(data) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestTheFolderMustBeNew(t *testing.T) {
	data := tarball(t, kernelTree()...)
	path, dir := filepath.Join(t.TempDir(), "linux.tar"), t.TempDir()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), Source{Kind: Tarball, Path: path, Digest: digest.Of(data)}, dir,
		Options{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if err := Unpack(t.Context(), Source{Kind: "zip", Path: path, Digest: digest.Of(data)}, dir,
		Options{}); err == nil || !strings.Contains(err.Error(), "debian, tarball, tree") {
		t.Errorf("got %v", err)
	}
}

func TestUnpackingStopsWhenToldTo(t *testing.T) {
	var noise strings.Builder
	for i := range 800_000 {
		fmt.Fprint(&noise, i*i)
	}
	linux := tarball(t, kernelTree(item{name: "linux/noise", text: noise.String()})...)
	path := filepath.Join(t.TempDir(), "linux.tar")
	if err := os.WriteFile(path, linux, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen int64
	err := Unpack(ctx, Source{Kind: Tarball, Path: path, Digest: digest.Of(linux)}, filepath.Join(t.TempDir(),
		"linux"), Options{
		Progress: func(done, _ int64) { seen = done; cancel() },
	})
	if !errors.Is(err, context.Canceled) || seen >= int64(len(linux)) {
		t.Errorf("after %d of %d bytes: %v", seen, len(linux), err)
	}
	if _, err := TreeDigest(ctx, filepath.Dir(path)); !errors.Is(err, context.Canceled) {
		t.Errorf("TreeDigest: %v", err)
	}
}

// FuzzDeb: whatever a package holds, nothing is written outside, and it ends.
func FuzzDeb(f *testing.F) {
	linux := tarball(f, kernelTree()...)
	for _, m := range []string{"", "gz", "xz", "zst"} {
		f.Add(deb(f, m, m, linux))
	}
	f.Add(deb(f, "", "", tarball(f, kernelTree(item{name: "linux/../../evil"}, item{name: "linux/l", link: "..",
		kind: tar.TypeSymlink})...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		path := filepath.Join(top, "deb")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		Unpack(t.Context(), Source{Kind: Debian, Path: path, Digest: digest.Of(data)}, filepath.Join(top, "linux"),
			Options{limit: 1 << 20})
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) > 2 {
			t.Errorf("%v, %v", entries, err)
		}
	})
}

func TestSkippedFilesAreReadAndNotWritten(t *testing.T) {
	data := tarball(t, kernelTree(item{name: "linux/drivers/a.c", text: "a"}, item{name: "linux/drivers/Kconfig",
		text: "b"},
		item{name: "linux/drivers/b.c", kind: tar.TypeLink, link: "linux/drivers/a.c"})...)
	path := filepath.Join(t.TempDir(), "linux.tar")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tree")
	err := Unpack(t.Context(), Source{Kind: Tarball, Path: path, Digest: digest.Of(data)}, dir,
		Options{Skip: func(name string) bool { return strings.HasSuffix(name, ".c") }})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "drivers"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "Kconfig" {
		t.Errorf("%v, %v", entries, err)
	}
}
