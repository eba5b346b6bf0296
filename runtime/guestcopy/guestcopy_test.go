package guestcopy

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPlaces(t *testing.T) {
	for in, want := range map[string]Place{
		"/a":        {Path: "/a"},
		"./a:b":     {Path: "./a:b"},
		"pod:/a/":   {Pod: "pod", Path: "/a"},
		"c@pod:/a":  {Pod: "pod", Container: "c", Path: "/a"},
		"pod:/a:b":  {Pod: "pod", Path: "/a:b"},
		"pod:/a//b": {Pod: "pod", Path: "/a/b"},
	} {
		if got, err := ParsePlace(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"": "empty", "pod:a": "not absolute", "pod:": "not absolute", ":/a": "pod", "@pod:/a": "container",
		"c@:/a": "pod", "pod:/a/../b": ".. is in", "pod:/": "whole root", "pod:/a\nb": "control character",
		"a b:/c": "pod",
	} {
		if got, err := ParsePlace(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", in, got, err, want)
		}
	}
}

// stream is a tar of some entries.
func stream(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := []byte(nil)
		if h.Typeflag == tar.TypeReg {
			body = []byte("text")
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestNothingLeavesTheFolder(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "top"}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, tc := range map[string]struct {
		entries []tar.Header
		want    string
	}{
		"an absolute path":          {[]tar.Header{file("/etc/evil")}, "an absolute path"},
		"dots":                      {[]tar.Header{dir, file("top/../../evil")}, ".. is in it"},
		"dots alone":                {[]tar.Header{file("..")}, ".. is in it"},
		"another top":               {[]tar.Header{dir, file("other/evil")}, "not below top"},
		"a name that begins as top": {[]tar.Header{file("topper")}, "not below top"},
		"through a link":            {[]tar.Header{dir, link("top/l", outside), file("top/l/evil")}, "escapes"},
		"through a relative link":   {[]tar.Header{dir, link("top/l", "../.."), file("top/l/evil")}, "escapes"},
		"over a link":               {[]tar.Header{dir, link("top/l", outside+"/mine"), file("top/l")}, ""},
		"a folder over a link": {
			[]tar.Header{dir, link("top/l", outside), {Typeflag: tar.TypeDir, Name: "top/l"}}, "exists"},
		"the top is a link": {[]tar.Header{link("top", outside), file("top/evil")}, "escapes"},
		"a hard link out": {
			[]tar.Header{dir,
				{Typeflag: tar.TypeLink, Name: "top/h", Linkname: outside + "/mine"}}, "a hard link to"},
		"a hard link through a link": {
			[]tar.Header{dir, link("top/l", outside),
				{Typeflag: tar.TypeLink, Name: "top/h", Linkname: "top/l/mine"}}, "escapes"},
		"a character device": {
			[]tar.Header{{Typeflag: tar.TypeChar, Name: "top", Devmajor: 1, Devminor: 3}}, "a device"},
		"a block device":              {[]tar.Header{{Typeflag: tar.TypeBlock, Name: "top", Devmajor: 8}}, "a device"},
		"a pipe":                      {[]tar.Header{{Typeflag: tar.TypeFifo, Name: "top"}}, "a pipe"},
		"more files than are allowed": {[]tar.Header{dir, dir, dir, dir, dir}, "more files"},
		"more bytes than are allowed": {
			[]tar.Header{dir, file("top/a"), file("top/b"), file("top/c")}, "more than are allowed"},
		"a folder that becomes a file": {[]tar.Header{dir, file("top")}, "a folder in its place"},
		"nothing":                      {nil, "sent nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			err := Unpack(stream(t, tc.entries...), to, "top", "here", Limits{Bytes: 10, Entries: 4}, nil)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if b, err := os.ReadFile(filepath.Join(outside, "mine")); err != nil || string(b) != "mine" {
				t.Errorf("what is outside is %q, %v", b, err)
			}
			if all, err := os.ReadDir(outside); err != nil || len(all) != 1 {
				t.Errorf("outside are %v, %v", all, err)
			}
		})
	}
}

func TestWhatIsNoTarIsRefused(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"text":            strings.NewReader(strings.Repeat("no tar\n", 1000)),
		"half of one":     io.LimitReader(stream(t, tar.Header{Typeflag: tar.TypeReg, Name: "top"}), 514),
		"noise with ends": bytes.NewReader(bytes.Repeat([]byte{0, 255}, 4096)),
	} {
		if err := Unpack(r, t.TempDir(), "top", "top", Limits{}, nil); err == nil {
			t.Errorf("%s is unpacked", name)
		}
	}
}

func TestATreeComesBackAsItWas(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	tree := filepath.Join(from, "tree")
	then := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(tree, "closed"), 0o755),
		os.WriteFile(filepath.Join(tree, "file"), bytes.Repeat([]byte("x"), 100_000), 0o640),
		os.WriteFile(filepath.Join(tree, "closed/empty"), nil, 0o600),
		os.Link(filepath.Join(tree, "file"), filepath.Join(tree, "second")),
		os.Symlink("/nowhere", filepath.Join(tree, "link")),
		unix.Mkfifo(filepath.Join(tree, "pipe"), 0o600),
		os.Chmod(filepath.Join(tree, "file"), fs.ModeSetuid|0o755),
		os.Chtimes(filepath.Join(tree, "file"), then, then),
		os.Chmod(filepath.Join(tree, "closed"), 0o500),
		os.Chtimes(filepath.Join(tree, "closed"), then, then),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	var skipped []string
	var out, in int64
	if err := Pack(&b, tree, "top", func(p string) { skipped = append(skipped, filepath.Base(p)) },
		func(n int64) { out += n }); err != nil {
		t.Fatal(err)
	}
	if len(skipped) != 1 || skipped[0] != "pipe" {
		t.Errorf("left out: %q", skipped)
	}
	if err := Unpack(&b, to, "top", "new", Limits{}, func(n int64) { in += n }); err != nil {
		t.Fatal(err)
	}
	if out != 100_000 || in != out {
		t.Errorf("%d bytes out, %d in", out, in)
	}
	for name, mode := range map[string]fs.FileMode{"new": fs.ModeDir | 0o755, "new/file": 0o755,
		"new/closed": fs.ModeDir | 0o500, "new/closed/empty": 0o600} {
		if st, err := os.Lstat(filepath.Join(to, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", name, st, err, mode)
		}
	}
	for _, name := range []string{"new/file", "new/closed"} {
		if st, err := os.Stat(filepath.Join(to, name)); err != nil || !st.ModTime().Equal(then) {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "new/link")); err != nil || target != "/nowhere" {
		t.Errorf("%q, %v", target, err)
	}
	one, err1 := os.Stat(filepath.Join(to, "new/file"))
	two, err2 := os.Stat(filepath.Join(to, "new/second"))
	if errors.Join(err1, err2) != nil || !os.SameFile(one, two) {
		t.Errorf("a hard link is lost: %v, %v", err1, err2)
	}
	if err := os.Chmod(filepath.Join(to, "new/closed"), 0o700); err != nil { // for those who tidy up
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(tree, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func FuzzUnpack(f *testing.F) {
	t := &testing.T{}
	f.Add(stream(t, tar.Header{Typeflag: tar.TypeDir, Name: "top"},
		tar.Header{Typeflag: tar.TypeReg, Name: "top/a"}).Bytes())
	f.Add(stream(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "top", Linkname: ".."},
		tar.Header{Typeflag: tar.TypeReg, Name: "top/a"}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		outside := t.TempDir()
		to := filepath.Join(outside, "to")
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(b), to, "top", "top", Limits{Bytes: 1 << 20, Entries: 100}, nil)
		if all, err := os.ReadDir(outside); err != nil || len(all) != 1 {
			t.Errorf("outside are %v, %v", all, err)
		}
		if all, err := os.ReadDir(to); err == nil && len(all) > 1 {
			t.Errorf("in the folder are %v", all)
		}
	})
}
