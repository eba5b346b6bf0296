package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

type item struct {
	name, text, link string
	kind             byte // 0 is a file, or a folder where the name ends in a slash
	mode             int64
}

func tarOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: i.kind, Linkname: i.link, Size: int64(len(i.text)), Mode: i.mode,
			Format: tar.FormatGNU}
		switch {
		case i.kind == 0 && strings.HasSuffix(i.name, "/"):
			h.Typeflag = tar.TypeDir
		case i.kind == 0:
			h.Typeflag = tar.TypeReg
		}
		if i.mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
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

// ar packs members, name and content in turn.
func ar(members ...string) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d%s", members[i], 0, 0, 0, "100644", len(members[i+1]), arEnd)
		b.WriteString(members[i+1])
		if len(members[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// debOf is a .deb with the control member's files before "data" and the data member's behind it.
func debOf(t testing.TB, how, control string, more []item, data ...item) []byte {
	t.Helper()
	c := append([]item{{name: "./"}, {name: "./control", text: control}}, more...)
	return ar("debian-binary", "2.0\n", "control.tar"+how, string(treetest.Squeeze(t, how, tarOf(t, c...))),
		"data.tar"+how, string(treetest.Squeeze(t, how, tarOf(t, data...))))
}

func onDisk(t testing.TB, data []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

const helloControl = "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\nDescription: greets\n the world\n .\n " +
	"politely\n"

func hello(t testing.TB, how string) []byte {
	return debOf(t, how, helloControl, []item{
		{name: "./postinst", text: "#!/bin/sh\n", mode: 0o755}, {name: "./prerm", text: "#!/bin/sh\n"},
		{name: "./triggers", text: "x"},
		{name: "./md5sums", text: "5d41402abc4b2a76b9719d911017c592  usr/bin/hello\n"},
		{name: "./conffiles", text: "/etc/hello\nremove-on-upgrade /etc/old\n"},
	}, item{name: "./"}, item{name: "./usr/bin/hello", text: "hello", mode: 0o755}, item{name: "./etc/hello",
		text: "conf"})
}

func TestAHeaderOfArHas60Bytes(t *testing.T) {
	if arHeader != 60 {
		t.Error(arHeader)
	}
}

func TestDebsAreUnpacked(t *testing.T) {
	for _, how := range []string{"", ".gz", ".xz", ".zst"} {
		file, dir := onDisk(t, hello(t, how)), t.TempDir()
		d, err := Unpack(file, dir)
		if err != nil {
			t.Fatalf("%q: %v", how, err)
		}
		got := fmt.Sprint(d, d.Arch, d.Scripts, d.Conffiles, d.Control.Get("description"))
		want := "package hello 1:2.0-1amd64[postinst prerm] [/etc/hello]greets\n the world\n .\n politely"
		if got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", how, got, want)
		}
		if sum, size, err := digest.File(d.Tar); err != nil || sum != d.Digest || size != d.Size ||
			filepath.Dir(d.Tar) != dir {
			t.Errorf("%q: %s %s %d, %v", how, d.Tar, sum, size, err)
		}
		again, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		d.Tar, d.Digest, d.Size = "", "", 0
		if !reflect.DeepEqual(d, again) {
			t.Errorf("%q: Read gives %+v", how, again)
		}
	}
}

func TestHostileDebs(t *testing.T) {
	good := hello(t, "")
	control := string(tarOf(t, item{name: "control", text: helloControl}))
	data := string(tarOf(t))
	with := func(control string) []byte { return debOf(t, "", control, nil) }
	for name, c := range map[string]struct {
		deb  []byte
		want string
	}{
		"nothing":             {nil, "no ar archive"},
		"no members":          {[]byte(arMagic), "unexpected EOF"},
		"another first":       {ar("control.tar", control), "debian-binary"},
		"version 3":           {ar("debian-binary", "3.0\n"), "debian-binary"},
		"data before control": {ar("debian-binary", "2.0\n", "data.tar", data), "want control.tar"},
		"no data": {ar("debian-binary", "2.0\n", "control.tar", control),
			"member data.tar: header: unexpected EOF"},
		"other data": {ar("debian-binary", "2.0\n", "control.tar", control, "data.tar.bz2", "BZh"),
			"compressed in a way"},
		"a huge member":     {bytes.Replace(good, []byte("100644  4 "), []byte("100644  99999999999"), 1)[:200], ""},
		"a negative member": {bytes.Replace(good, []byte("100644  4  "), []byte("100644  -4 "), 1), "malformed"},
		"no control": {ar("debian-binary", "2.0\n", "control.tar", string(tarOf(t)), "data.tar", data),
			"control"},
		"name of a path":    {with("Package: ../x\nVersion: 1\nArchitecture: all\n"), "no name of a package"},
		"version of a path": {with("Package: xx\nVersion: 1/../..\nArchitecture: all\n"), "version"},
		"architecture":      {with("Package: xx\nVersion: 1\nArchitecture: a/b\n"), "architecture"},
		"two names":         {with("Package: xx\nPackage: yy\nVersion: 1\nArchitecture: all\n"), "twice"},
		"two stanzas":       {with("Package: xx\n\nVersion: 1\nArchitecture: all\n"), "empty line"},
		"conffile outside": {debOf(t, "", helloControl, []item{{name: "conffiles", text: "/etc/../x\n"}}),
			"no absolute path"},
	} {
		if _, err := Unpack(onDisk(t, c.deb), t.TempDir()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	for _, how := range []string{"", ".gz", ".xz", ".zst"} {
		good := hello(t, how)
		for n := 0; n < len(good)-1; n += 211 {
			dir := t.TempDir()
			// A plain tar may lose its trailing zeros; tarfile.Apply finds what else is missing.
			if _, err := Unpack(onDisk(t, good[:n]), dir); err == nil {
				t.Errorf("%q: cut after %d of %d bytes, and nothing said", how, n, len(good))
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%q: %s stays", how, left[0].Name())
			}
		}
	}
	odd := append(ar("debian-binary", "2.0\n", "_gpg", "x", "control.tar", control, "_more", "", "data.tar", data),
		"rubbish"...)
	if _, err := Unpack(onDisk(t, odd), t.TempDir()); err != nil {
		t.Errorf("members that deb(5) says to pass over: %v", err)
	}
}

// What dpkg-deb packs we read, and what we read is what dpkg-deb shows.
func TestDpkgDebAgrees(t *testing.T) {
	testenv.Require(t, testenv.Tool("dpkg-deb"))
	src := filepath.Join(t.TempDir(), "src")
	for p, s := range map[string]string{"DEBIAN/control": "Package: hello\nVersion: 1:2.0-1\nArchitecture: " +
		"all\nMaintainer: A <a@example.org>\nDescription: x\n y\n",
		"DEBIAN/conffiles": "/etc/hello\n", "etc/hello": "conf", "usr/share/hello/text": strings.Repeat("text ",
			5000)} {
		if err := os.MkdirAll(filepath.Join(src, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, p), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, how := range []string{"none", "gzip", "xz", "zstd"} {
		deb := filepath.Join(t.TempDir(), "x.deb")
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Z"+how, "-b", src,
			deb).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb -Z%s: %v: %s", how, err, out)
		}
		d, err := Unpack(deb, t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		want, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
		if err != nil {
			t.Fatal(err)
		}
		if d.Digest != digest.Of(want) || d.String() != "package hello 1:2.0-1" || len(d.Conffiles) != 1 {
			t.Errorf("%s: %+v, dpkg-deb has %d bytes", how, d, len(want))
		}
	}
}

// FuzzDeb: whatever a package holds, reading it ends, and nothing but its tar is written.
func FuzzDeb(f *testing.F) {
	for _, how := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(hello(f, how))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		d, err := readDeb(bufio.NewReader(bytes.NewReader(data)), dir)
		left, lerr := os.ReadDir(dir)
		if lerr != nil || err == nil && (len(left) != 1 || filepath.Join(dir, left[0].Name()) != d.Tar) ||
			err != nil && len(left) > 0 {
			t.Errorf("%v left %v, %v", err, left, lerr)
		}
	})
}
