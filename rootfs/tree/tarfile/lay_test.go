package tarfile_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

func TestALaterLayerWins(t *testing.T) {
	usr := []item{folder("usr/lib"), reg("usr/lib/old", "o"), symlink("lib", "usr/lib")}
	for name, c := range map[string]struct {
		below, above []item
		replace      bool
		want         string
	}{
		"a folder on a link to a folder": {usr, []item{folder("lib"), reg("lib/x", "x")}, false,
			"/lib symbolic link\n/usr folder\n/usr/lib folder\n/usr/lib/old file\n/usr/lib/x file"},
		"the same, where links give way": {usr, []item{folder("lib"), reg("lib/x", "x")}, true,
			"/lib folder\n/lib/x file\n/usr folder\n/usr/lib folder\n/usr/lib/old file"},
		"a folder on a link to nothing yet": {[]item{symlink("lib", "usr/lib")},
			[]item{folder("lib"), reg("lib/x", "x")}, false,
			"/lib symbolic link\n/usr folder\n/usr/lib folder\n/usr/lib/x file"},
		"a folder on a link to a file": {[]item{reg("f", "f"), symlink("l", "f")},
			[]item{folder("l"), reg("l/x", "x")}, false, "/f file\n/l folder\n/l/x file"},
		"a file below a link to a file": {[]item{reg("f", "f"), symlink("l", "f")}, []item{reg("l/x", "x")},
			false, "/f file\n/l folder\n/l/x file"},
		"a file below a link to itself": {[]item{symlink("l", "l")}, []item{reg("l/x", "x")}, false,
			"/l folder\n/l/x file"},
		"a folder on links to links": {append(slices.Clone(usr), symlink("a", "lib")),
			[]item{folder("a"), reg("a/x", "x")}, false,
			"/a symbolic link\n/lib symbolic link\n/usr folder\n/usr/lib folder\n/usr/lib/old file\n/usr/lib/x file"},
		"a file below a file": {[]item{reg("a", "1")}, []item{reg("a/b/c", "2")}, false,
			"/a folder\n/a/b folder\n/a/b/c file"},
		"a file on a folder": {[]item{reg("a/b", "1")}, []item{reg("a", "2")}, false, "/a file"},
		"a link on a folder": {[]item{reg("a/b", "1")}, []item{symlink("a", "x")}, false,
			"/a symbolic link"},
		"a hard link on a folder": {[]item{reg("a/b", "1"), reg("c", "2")}, []item{hard("a", "c")}, false,
			"/a file\n/c file"},
		"a hard link to a file of a layer": {[]item{reg("a", "1")}, []item{hard("b", "a")}, false,
			"/a file\n/b file"},
		"a folder on a folder": {[]item{reg("a/b", "1")}, []item{folder("a")}, false,
			"/a folder\n/a/b file"},
		"a link with dots that leads outside": {[]item{symlink("l", "../../..")},
			[]item{folder("l"), reg("l/x", "x")}, false, "/l symbolic link\n/x file"},
	} {
		tr := tree.New()
		for _, layer := range [][]item{c.below, c.above} {
			o := tarfile.Options{Layering: &tree.Layering{ReplaceLinks: c.replace}}
			if err := tarfile.Apply(tr, onDisk(t, tarOf(t, layer...)), o); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := strings.TrimPrefix(list(tr), "/ folder\n"); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestAttributesOfAllTarsAreKeptOrNamed(t *testing.T) {
	acl := treetest.ACL()
	text := "user::rwx,user:lisa:r-x:1000,group::r-x,mask::r-x,other::r--"
	for key, c := range map[string]struct{ value, name, want string }{
		"SCHILY.xattr.user.x": {"a\x00b", "user.x", "a\x00b"},
		"SCHILY.xattr.security.capability": {string(treetest.Capability()), "security.capability",
			string(treetest.Capability())},
		"LIBARCHIVE.xattr.user.a%20b": {base64.StdEncoding.EncodeToString([]byte("v\x00")), "user.a b", "v\x00"},
		"LIBARCHIVE.xattr.security.selinux": {base64.RawStdEncoding.EncodeToString([]byte("l")), "security.selinux",
			"l"},
		"RHT.security.selinux": {"system_u:object_r:bin_t:s0", "security.selinux",
			"system_u:object_r:bin_t:s0"},
		"SCHILY.acl.access": {text, "system.posix_acl_access", string(acl)},
		"SCHILY.acl.default": {strings.ReplaceAll(text, ",", "\n"), "system.posix_acl_default",
			string(acl)},
		"SCHILY.xattr.com.apple.provenance": {"x", "",
			`the attribute "com.apple.provenance" is left out: no Linux guest reads it`},
		"SCHILY.xattr.system.nfs4_acl":       {"x", "", `the attribute "system.nfs4_acl" is left out`},
		"SCHILY.xattr.user.":                 {"x", "", `the attribute "user." is left out`},
		"LIBARCHIVE.xattr.btrfs.compression": {"eA", "", `the attribute "btrfs.compression" is left out`},
		"SCHILY.fflags":                      {"schg", "", `the record "SCHILY.fflags" of the tar is left out`},
		"SCHILY.acl.ace": {"owner@:rwx::allow", "",
			`the record "SCHILY.acl.ace" of the tar is left out`},
		"VENDOR.unknown":          {"x", "", `the record "VENDOR.unknown" of the tar is left out`},
		"LIBARCHIVE.creationtime": {"1", "", ""},
		"comment":                 {"x", "", ""},
	} {
		tr := tree.New()
		i := item{tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{key: c.value}}, ""}
		if err := tarfile.Apply(tr, onDisk(t, tarOf(t, i)), tarfile.Options{}); err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		n, err := tr.Lookup("/f")
		if err != nil {
			t.Fatal(err)
		}
		remarks := ""
		for r := range tr.TakeRemarks() {
			remarks += r
		}
		switch value, has := n.Xattr(c.name); {
		case c.name != "" && (!has || string(value) != c.want || remarks != ""):
			t.Errorf("%s: %q, %v, %s", key, value, has, remarks)
		case c.name == "" && (len(n.Xattrs) > 0 || !strings.HasPrefix(remarks, c.want) ||
			(remarks == "") != (c.want == "")):
			t.Errorf("%s: %v, %q, want %q", key, n.Xattrs, remarks, c.want)
		}
	}
	for _, bad := range []string{"user:lisa:r-x,mask::rwx", "user::rwz", "user::rwxr", "who::rwx",
		"user::rwx,user::r-x", "mask:1:rwx", "user", "user::rw"} {
		i := item{tar.Header{Name: "f", Typeflag: tar.TypeReg,
			PAXRecords: map[string]string{"SCHILY.acl.access": bad}}, ""}
		if err := tarfile.Apply(tree.New(), onDisk(t, tarOf(t, i)), tarfile.Options{}); err == nil ||
			!strings.Contains(err.Error(), "SCHILY.acl.access") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWhatIsNoTarIsNamed(t *testing.T) {
	good := tarOf(t, reg("a", "x"))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"tar":             {good, ""},
		"tar.gz":          {treetest.Squeeze(t, "gzip", good), ""},
		"tar.xz":          {treetest.Squeeze(t, "xz", good), ""},
		"tar.zst":         {treetest.Squeeze(t, "zstd", good), ""},
		"empty tar":       {make([]byte, 1024), ""},
		"nothing":         {nil, "no tar but empty"},
		"bzip2":           {[]byte("BZh91AY&SY"), "compressed by bzip2"},
		"zip":             {[]byte("PK\x03\x04xxxxxxxxx"), "a zip archive"},
		"page":            {[]byte("\n<!DOCTYPE html><html>"), "a page of the web"},
		"page in gzip":    {treetest.Squeeze(t, "gzip", []byte("<html>")), "a page of the web"},
		"package":         {[]byte("!<arch>\ndebian-binary"), "an ar archive"},
		"LFS":             {[]byte("version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"},
		"cut off":         {good[:100], "cut off?"},
		"cut off in gzip": {treetest.Squeeze(t, "gzip", good)[:30], "cut off?"},
		"other bytes":     {bytes.Repeat([]byte("x"), 2048), "no header of a tar"},
		"damaged gzip":    {[]byte("\x1f\x8b\x08zzzzzzzzzzzzzz"), "damaged"},
	} {
		err := tarfile.Check("user.tar", bytes.NewReader(c.data))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "user.tar")) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// A tape has blocks of one size, and what is behind the end of an archive on it is zeros.
func TestPaddingBehindAnArchiveIsNothing(t *testing.T) {
	good := tarOf(t, reg("a", "x"))
	var two bytes.Buffer
	for _, part := range [][]byte{good[:700], good[700:]} {
		w := gzip.NewWriter(&two)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{
		"gzip and zeros":         append(treetest.Squeeze(t, "gzip", good), make([]byte, 5000)...),
		"two members and a zero": append(two.Bytes(), 0), "tar and zeros": append(slices.Clone(good),
			make([]byte, 9*1024)...),
	} {
		r, err := compression.Plain(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.HasPrefix(got, good) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := tarfile.Apply(tree.New(), onDisk(t, got), tarfile.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := compression.Plain(bytes.NewReader(append(treetest.Squeeze(t, "gzip", good), 0, 'x')))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("bytes behind the end: %v", err)
	}
}

// A volume's name, and a folder as an incremental archive has it, are what only GNU tar writes.
func TestEntriesOfGNUTarAreTaken(t *testing.T) {
	tr := tree.New()
	data := tarOf(t, item{tar.Header{Name: "my volume", Typeflag: 'V', Format: tar.FormatGNU}, ""},
		item{tar.Header{Name: "d/", Typeflag: 'D', Mode: 0o755, Size: 4, Format: tar.FormatGNU}, "Ya\x00\x00"},
		reg("./d/a", "x"))
	if err := tarfile.Apply(tr, onDisk(t, data), tarfile.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := list(tr); got != "/ folder\n/d folder\n/d/a file" {
		t.Error(got)
	}
}
