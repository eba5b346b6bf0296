package tarfile

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Names of the attributes that hold POSIX ACLs. acl(5).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// forLinux says whether a Linux guest can read an attribute of this name from its own disk. xattr(7) has four
// namespaces, and of "system" a disk holds nothing but ACLs. Other names are those of other systems, such as
// com.apple.quarantine, or of one file system, such as btrfs.compression.
func forLinux(name string) bool {
	for _, space := range []string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, space); ok && rest != "" {
			return true
		}
	}
	return name == aclAccess || name == aclDefault
}

// setRecords takes attributes from a tar's extended header, in whichever way a program wrote them down:
//   - SCHILY.xattr.NAME, the bytes (star, GNU tar, Docker, libarchive; star(5)),
//   - LIBARCHIVE.xattr.NAME, with a name encoded as in addresses and bytes in base64 (libarchive's tar(5)),
//   - RHT.security.NAME, as GNU tar has SELinux's labels,
//   - SCHILY.acl.access and SCHILY.acl.default, ACLs as text (star(5)).
//
// SCHILY.xattr counts where several say the same attribute.
func setRecords(n *tree.Node, records map[string]string, remark func(string)) error {
	for _, k := range slices.Sorted(maps.Keys(records)) {
		v := records[k]
		name, value := "", []byte(v)
		var err error
		switch {
		case strings.HasPrefix(k, "SCHILY.xattr."):
			name = strings.TrimPrefix(k, "SCHILY.xattr.")
		case strings.HasPrefix(k, "LIBARCHIVE.xattr."):
			name, value, err = libarchiveAttribute(strings.TrimPrefix(k, "LIBARCHIVE.xattr."), v)
		case strings.HasPrefix(k, "RHT.security."):
			name = strings.TrimPrefix(k, "RHT.")
		case k == "SCHILY.acl.access", k == "SCHILY.acl.default":
			name = aclAccess
			if k == "SCHILY.acl.default" {
				name = aclDefault
			}
			if value, err = parseACL(v); err == nil && value == nil {
				continue // which says no more than the mode
			}
		case knownRecord(k):
			continue
		default:
			remark(fmt.Sprintf("the record %q of the tar is left out: it is no attribute that a Linux guest reads", k))
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		if !forLinux(name) {
			remark(fmt.Sprintf("the attribute %q is left out: no Linux guest reads it", name))
			continue
		}
		n.SetXattr(name, value)
	}
	return nil
}

// knownRecord says whether a record is one that the reader of headers has dealt with, or that says nothing of the file
// itself. POSIX.1-2017, pax, "pax Extended Header"; star(5); libarchive's tar(5).
func knownRecord(k string) bool {
	switch k {
	case "atime", "charset", "comment", "ctime", "gid", "gname", "hdrcharset", "linkpath", "mtime", "path", "size",
		"uid", "uname",
		"SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.devmajor", "SCHILY.devminor", "SCHILY.realsize",
		"SCHILY.filetype", "SCHILY.dir",
		"SCHILY.offset", "SCHILY.tarfiletype", "SCHILY.release", "SCHILY.archtype", "LIBARCHIVE.creationtime",
		"LIBARCHIVE.symlinktype":
		return true
	}
	return strings.HasPrefix(k, "GNU.sparse.") || strings.HasPrefix(k, "SCHILY.volhdr.") ||
		strings.HasPrefix(k, "realtime.")
}

func libarchiveAttribute(name, value string) (string, []byte, error) {
	plain, err := url.PathUnescape(name)
	if err != nil {
		return "", nil, err
	}
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "=\n"))
	return plain, data, err
}

// Tags of an ACL's entries, in the order in which they are stored. Linux: include/uapi/linux/posix_acl.h.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion = 2          // include/uapi/linux/posix_acl_xattr.h
	aclNobody  = 0xffffffff // the id of entries that have none
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL turns the text of an ACL into what the attribute holds: a version and 8 bytes an entry. It is nil where the
// ACL says no more than a mode. acl(5), "LONG TEXT FORM"; star adds the number behind a user's or group's name.
func parseACL(text string) ([]byte, error) {
	var list []aclEntry
	seen := map[aclEntry]bool{}
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		part, _, _ = strings.Cut(part, "#")
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		e, err := parseACLEntry(part)
		if err != nil {
			return nil, fmt.Errorf("ACL entry %q: %w", part, err)
		}
		if key := (aclEntry{tag: e.tag, id: e.id}); seen[key] {
			return nil, fmt.Errorf("ACL entry %q: a second one for the same", part)
		} else {
			seen[key] = true
		}
		if list = append(list, e); len(list)*8 > tree.MaxXattrValue {
			return nil, errors.New("an ACL of too many entries")
		}
	}
	slices.SortFunc(list, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	out := binary.LittleEndian.AppendUint32(nil, aclVersion)
	named := false
	for _, e := range list {
		named = named || e.tag != aclUserObj && e.tag != aclGroupObj && e.tag != aclOther
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	if !named {
		return nil, nil
	}
	return out, nil
}

func parseACLEntry(s string) (aclEntry, error) {
	e := aclEntry{id: aclNobody}
	fields := strings.Split(s, ":")
	if len(fields) < 3 || len(fields) > 4 {
		return e, errors.New("want tag:name:permissions")
	}
	who := strings.TrimSpace(fields[1])
	switch fields[0] {
	case "user", "u":
		e.tag = aclUserObj
	case "group", "g":
		e.tag = aclGroupObj
	case "mask", "m":
		e.tag = aclMask
	case "other", "o":
		e.tag = aclOther
	default:
		return e, fmt.Errorf("tag %q is unknown", fields[0])
	}
	if who != "" {
		if e.tag != aclUserObj && e.tag != aclGroupObj {
			return e, errors.New("a name where none belongs")
		}
		e.tag <<= 1 // from the owner's entry to that of a named user or group
		if len(fields) == 4 {
			who = fields[3]
		}
		id, err := strconv.ParseUint(who, 10, 32)
		if err != nil {
			return e, fmt.Errorf(
				"%q has no number: pack the archive with --numeric-owner, or with --xattrs instead of --acls", who)
		}
		e.id = uint32(id)
	}
	perm := strings.TrimSpace(fields[2])
	for i, c := range perm {
		switch {
		case i < 3 && c == rune("rwx"[i]):
			e.perm |= 4 >> i
		case i < 3 && c == '-':
		default:
			return e, fmt.Errorf("permissions %q: want such as r-x", perm)
		}
	}
	if len(perm) != 3 {
		return e, fmt.Errorf("permissions %q: want such as r-x", perm)
	}
	return e, nil
}
