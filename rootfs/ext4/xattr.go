package ext4

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Extended attributes lie behind the inode, or in one block that files with the same may share. attributes.rst.
const (
	xattrMagic  = 0xea020000
	xattrHeader = 32 // bytes of a block's header
	xattrEntry  = 16 // bytes of an entry without its name
	xattrEnd    = 4  // zeros behind the last
	maxSharing  = 1024
)

// prefixes stand for their number in an entry. attributes.rst, "Attribute Name Indices". The ACLs' are whole names.
var prefixes = [...]struct {
	index  byte
	prefix string
	whole  bool
}{
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{1, "user.", false},
	{4, "trusted.", false},
	{6, "security.", false},
}

const (
	indexAccess  = 2
	indexDefault = 3
)

// stored is an attribute as it lies on disk.
type stored struct {
	index byte
	name  string // without its prefix
	value []byte
}

func (s stored) size() int {
	return xattrEntry + roundUp(len(s.name), aclAlign) + roundUp(len(s.value), aclAlign)
}

// hash is e_hash: of the name's bytes, and then of the value's words. Linux: fs/ext4/xattr.c, ext4_xattr_hash_entry.
func (s stored) hash() (h uint32) {
	for i := range len(s.name) {
		h = h<<5 ^ h>>27 ^ uint32(s.name[i])
	}
	v := append(bytes.Clone(s.value), make([]byte, -len(s.value)&3)...)
	for ; len(v) > 0; v = v[4:] {
		h = h<<16 ^ h>>16 ^ le.Uint32(v)
	}
	return h
}

// toStored brings attributes into the form and order of the disk.
func toStored(xs []tree.Xattr) ([]stored, error) {
	out := make([]stored, 0, len(xs))
	for _, x := range xs {
		s := stored{value: x.Value}
		for _, p := range prefixes {
			if rest, ok := strings.CutPrefix(x.Name, p.prefix); ok && (rest == "") == p.whole {
				s.index, s.name = p.index, rest
			}
		}
		if s.index == 0 {
			return nil, fmt.Errorf(
				"attribute %q: ext4 keeps names that begin with user., trusted. or security., and POSIX ACLs", x.Name)
		}
		if s.index == indexAccess || s.index == indexDefault {
			var err error
			if s.value, err = packACL(x.Value); err != nil {
				return nil, fmt.Errorf("attribute %q: %w", x.Name, err)
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return out, nil
}

// fits says whether attributes find room in so many bytes.
func fits(xs []stored, room int) bool {
	n := xattrEnd
	for _, x := range xs {
		n += x.size()
	}
	return n <= room
}

// place decides which attributes lie behind the inode and which in a block: all there, or else all in a block, which
// may then be shared, or else as many behind the inode as find room.
func place(xs []stored) (inline, block []stored, err error) {
	const inlineRoom, blockRoom = inlineSize - 4, blockSize - xattrHeader
	switch {
	case fits(xs, inlineRoom):
		return xs, nil, nil
	case fits(xs, blockRoom):
		return nil, xs, nil
	}
	for _, x := range xs {
		if fits(append(slices.Clip(inline), x), inlineRoom) {
			inline = append(inline, x)
		} else {
			block = append(block, x)
		}
	}
	if !fits(block, blockRoom) {
		largest := slices.MaxFunc(xs, func(a, b stored) int { return cmp.Compare(len(a.value), len(b.value)) })
		return nil, nil, fmt.Errorf(
			"attributes, the largest %q of %d bytes, do not fit: ext4 has %d bytes for them in a block and %d in "+
				"the inode",
			largest.fullName(), len(largest.value), blockRoom, inlineRoom)
	}
	return inline, block, nil
}

func (s stored) fullName() string {
	for _, p := range prefixes {
		if p.index == s.index {
			return p.prefix + s.name
		}
	}
	return fmt.Sprintf("(index %d).%s", s.index, s.name)
}

// putXattrs writes entries from b[at:] on, and their values from the end of b backwards. Offsets of values count from
// base. Hashes are of use in a block only; in an inode they are zero, because the kernel does not keep them up there.
func putXattrs(b []byte, at, base int, xs []stored, hashes bool) {
	end := len(b)
	for _, x := range xs {
		e := b[at:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= roundUp(len(x.value), aclAlign)
			copy(b[end:], x.value)
			le.PutUint16(e[2:], uint16(end-base))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		if hashes {
			le.PutUint32(e[12:], x.hash())
		}
		copy(e[xattrEntry:], x.name)
		at += xattrEntry + roundUp(len(x.name), aclAlign)
	}
}

// inlineXattrs are the bytes behind an inode.
func inlineXattrs(xs []stored) []byte {
	if len(xs) == 0 {
		return nil
	}
	b := make([]byte, inlineSize)
	le.PutUint32(b, xattrMagic)
	putXattrs(b, 4, 4, xs, false)
	return b
}

// xattrBlock is one block of attributes.
type xattrBlock struct {
	bytes []byte // without what depends on where it lies and who uses it
	at    uint64
	users uint32
}

func newXattrBlock(xs []stored) *xattrBlock {
	b := make([]byte, blockSize)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[8:], 1) // h_blocks
	var h uint32           // Linux: fs/ext4/xattr.c, ext4_xattr_rehash
	for _, x := range xs {
		e := x.hash()
		if e == 0 { // the kernel then shares the block with nobody
			h = 0
			break
		}
		h = h<<16 ^ h>>16 ^ e
	}
	le.PutUint32(b[12:], h)
	putXattrs(b, xattrHeader, 0, xs, true)
	return &xattrBlock{bytes: b}
}

// finish puts the users and the checksum in: over the block's number, and the block with the checksum as zeros.
func (x *xattrBlock) finish(seed uint32) []byte {
	le.PutUint32(x.bytes[4:], x.users)
	le.PutUint32(x.bytes[16:], 0)
	le.PutUint32(x.bytes[16:], xattrChecksum(seed, x.at, x.bytes))
	return x.bytes
}

func xattrChecksum(seed uint32, at uint64, b []byte) uint32 {
	var zero [4]byte
	c := crc(crc(seed, le.AppendUint64(nil, at)), b[:16])
	return crc(crc(c, zero[:]), b[20:])
}

// POSIX ACLs. In memory: <linux/posix_acl_xattr.h>, version 2, entries of 8 bytes. On disk: Linux, fs/ext4/acl.h,
// version 1, and only named users and groups have an id.
const (
	aclUser, aclGroup = 0x02, 0x08
	aclMemory         = 2
	aclDisk           = 1
	aclNobody         = 1<<32 - 1 // the id of the other entries in memory
)

var errACL = errors.New("not a POSIX ACL of version 2")

func packACL(b []byte) ([]byte, error) {
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != aclMemory {
		return nil, errACL
	}
	out := le.AppendUint32(nil, aclDisk)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		out = append(out, b[:4]...)
		if tag := le.Uint16(b); tag == aclUser || tag == aclGroup {
			out = append(out, b[4:8]...)
		}
	}
	return out, nil
}

func unpackACL(b []byte) ([]byte, error) {
	if len(b) < 4 || le.Uint32(b) != aclDisk {
		return nil, errors.New("not a POSIX ACL of ext4")
	}
	out := le.AppendUint32(nil, aclMemory)
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, errors.New("POSIX ACL ends within an entry")
		}
		out = append(out, b[:4]...)
		tag := le.Uint16(b)
		b = b[4:]
		if tag != aclUser && tag != aclGroup {
			out = le.AppendUint32(out, aclNobody)
			continue
		}
		if len(b) < 4 {
			return nil, errors.New("POSIX ACL ends within an entry")
		}
		out, b = append(out, b[:4]...), b[4:]
	}
	return out, nil
}
