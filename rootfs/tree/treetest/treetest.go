// Package treetest makes trees that a writer of file systems must survive, and compares what a kernel shows of an image
// with its tree.
package treetest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// ACL is a POSIX ACL as getxattr(2) returns it, with an entry for user 1000: <linux/posix_acl_xattr.h>, version 2,
// entries of tag, permissions and id.
func ACL() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{0x01, 7, 0xffffffff}, // ACL_USER_OBJ
		{0x02, 5, 1000},       // ACL_USER
		{0x04, 5, 0xffffffff}, // ACL_GROUP_OBJ
		{0x10, 5, 0xffffffff}, // ACL_MASK
		{0x20, 4, 0xffffffff}, // ACL_OTHER
	} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// Capability is security.capability for cap_net_raw=ep: <linux/capability.h>, struct vfs_cap_data of revision 2 with
// the effective bit.
func Capability() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, v := range []uint32{1 << 13, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// Small has one of everything, in a few dozen entries.
func Small(t testing.TB) *tree.Tree {
	t.Helper()
	b := builder{t, tree.New()}
	b.root(&tree.Node{Mode: 0o755, Time: tree.Time{Sec: 1700000000}})
	b.put("/bin", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "usr/bin",
		Time: tree.Time{Sec: 1, Nsec: 999999999}})
	b.put("/usr", &tree.Node{Mode: 0o755})
	b.put("/usr/bin", &tree.Node{Mode: 0o755, Time: tree.Time{Sec: 5}})
	b.file("/usr/bin/ping", 0o4755, pattern(70000, 1), 0).SetXattr("security.capability", Capability())
	b.file("/usr/bin/sh", 0o755, pattern(4096, 2), 1700000001)
	b.link("/usr/bin/sh", "/usr/bin/bash")
	b.link("/usr/bin/sh", "/usr/sh-of-old")
	b.file("/usr/empty", 0o644, nil, 7)
	b.file("/usr/one", 0o600, []byte("x"), 7).UID = 1000
	b.file("/usr/4095", 0o600, pattern(4095, 3), 7)
	b.file("/usr/4097", 0o600, pattern(4097, 4), 7)
	b.file("/usr/text", 0o644, bytes.Repeat([]byte("all work and no play makes a dull guest\n"), 20000), 7)
	b.put("/dev", &tree.Node{Mode: 0o755})
	b.put("/dev/console", &tree.Node{Kind: tree.CharDevice, Mode: 0o600, Major: 5, Minor: 1})
	b.put("/dev/vda", &tree.Node{Kind: tree.BlockDevice, Mode: 0o660, GID: 6, Major: 254, Minor: 0xfffff})
	b.put("/dev/far", &tree.Node{Kind: tree.CharDevice, Mode: 0o600, Major: 4095, Minor: 300})
	b.put("/run", &tree.Node{Mode: 0o1777})
	b.put("/run/fifo", &tree.Node{Kind: tree.FIFO, Mode: 0o600})
	b.put("/run/socket", &tree.Node{Kind: tree.Socket, Mode: 0o700})
	acl := b.put("/srv", &tree.Node{Mode: 0o2755, UID: 4000000000, GID: 3000000000})
	acl.SetXattr("system.posix_acl_access", ACL())
	acl.SetXattr("system.posix_acl_default", ACL())
	f := b.file("/srv/hole", 0o640, nil, 9)
	f.Content = &Sparse{Length: 3<<20 + 5, Pieces: []Piece{{Offset: 1 << 20, Bytes: pattern(9000, 5)},
		{Offset: 3 << 20, Bytes: []byte("end")}}}
	b.file("/srv/all-hole", 0o640, nil, 9).Content = &Sparse{Length: 1 << 20}
	b.file("/srv/attributes", 0o644, []byte("a"), 9).SetXattr("user.long", pattern(1500, 6))
	b.file("/srv/same-attributes", 0o644, []byte("a"), 9).SetXattr("user.long", pattern(1500, 6))
	b.file("/srv/trusted", 0o644, []byte("a"), 9).SetXattr("trusted.overlay.opaque", []byte("y"))
	b.put("/srv/59", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: strings.Repeat("a", 59)})
	b.put("/srv/60", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: strings.Repeat("b", 60)})
	return b.Tree
}

// Torture has what breaks writers: a folder of 20,000 names, names with line breaks, Unicode and 255 bytes, a link of
// 4,000 bytes, 30 attributes on a file, ACLs, capabilities, a sparse file of 200 MB, owners above 2^31, and times from
// before 1970 to after 2106.
func Torture(t testing.TB) *tree.Tree {
	t.Helper()
	b := builder{t, Small(t)}
	b.put("/many", &tree.Node{Mode: 0o755})
	for i := range 20000 {
		b.file(fmt.Sprintf("/many/entry-%05d", i), 0o644, fmt.Appendf(nil, "%d\n", i), int64(i))
	}
	b.put("/deep"+strings.Repeat("/d", 60), &tree.Node{Mode: 0o700})
	b.file("/names/a\nb\tc \\ \"", 0o644, []byte("line break"), 1)
	b.file("/names/größe-\u4e2d\u6587-\U0001f427", 0o644, []byte("unicode"), 1)
	b.file("/names/\xff\xfe not UTF-8", 0o644, []byte("bytes"), 1)
	b.file("/names/"+strings.Repeat("n", 255), 0o644, []byte("255"), 1)
	b.put("/names/"+strings.Repeat("ü", 127), &tree.Node{Mode: 0o755})
	b.put("/links/4000", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: strings.Repeat("/0123456789abcdef789",
		200)})
	b.put("/links/4095", &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: strings.Repeat("l", 4095)})
	n := b.file("/thirty", 0o644, []byte("thirty"), 1)
	for i := range 30 {
		n.SetXattr(fmt.Sprintf("user.attribute-%02d", i), pattern(20+i, byte(i)))
	}
	big := b.file("/sparse", 0o644, nil, 1)
	big.Content = &Sparse{Length: 200 << 20, Pieces: []Piece{{Offset: 0, Bytes: []byte("start")},
		{Offset: 100 << 20, Bytes: pattern(1<<20, 8)}, {Offset: 200<<20 - 10, Bytes: []byte("0123456789")}}}
	owner := b.file("/owner", 0o644, []byte("o"), 1)
	owner.UID, owner.GID = 1<<32-2, 1<<31+1
	for i, sec := range []int64{-1, -1 << 31, -1<<31 - 1, -5000000000, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32,
		4291747200, 1<<34 - 1, 1 << 34} {
		b.file(fmt.Sprintf("/times/%02d", i), 0o644, []byte("t"), sec).Time.Nsec = 123456789
	}
	for i := range 300 { // many names of one inode
		if i == 0 {
			b.file("/hard/000", 0o644, []byte("hard"), 1)
			continue
		}
		b.link("/hard/000", fmt.Sprintf("/hard/%03d", i))
	}
	return b.Tree
}

type builder struct {
	t testing.TB
	*tree.Tree
}

func (b builder) root(n *tree.Node) {
	if err := b.Put("/", n); err != nil {
		b.t.Fatal(err)
	}
}

func (b builder) put(p string, n *tree.Node) *tree.Node {
	if err := b.Put(p, n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b builder) file(p string, mode uint16, content []byte, sec int64) *tree.Node {
	n := &tree.Node{Kind: tree.File, Mode: mode, Time: tree.Time{Sec: sec}}
	if content != nil {
		n.Content = tree.Bytes(content)
	}
	return b.put(p, n)
}

func (b builder) link(old, new string) {
	if err := b.Link(old, new); err != nil {
		b.t.Fatal(err)
	}
}

// pattern is bytes that do not compress.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint64(seed)*2654435761 + 88172645463325252
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// Squeeze compresses data: "gz", "xz" or "zst", and "" not at all. The names of media types, "gzip" and "zstd", and
// file endings with their dot are understood too.
func Squeeze(t testing.TB, how string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch strings.TrimPrefix(how, ".") {
	case "":
		return data
	case "gz", "gzip":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst", "zstd":
		w, err = zstd.NewWriter(&b)
	default:
		t.Fatalf("no compression is called %q here", how)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
