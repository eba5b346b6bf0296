package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DirOptions says what of a host's folder counts.
type DirOptions struct {
	// Owner replaces the owners that the host's files have; nil keeps them, which only makes sense where the files were
	// made by root.
	Owner *Owner
	// Time replaces the times of all files; nil keeps them.
	Time *Time
	// Origin of every node; its path is appended.
	Origin string
	// IgnoreHoles takes holes for zeros. Which holes a file has is the host's file system's business, so a build that
	// must not depend on the host ignores them.
	IgnoreHoles bool
}

// Owner is a user and a group by number.
type Owner struct{ UID, GID uint32 }

// FromDir reads a folder of the host: types, modes, attributes, links, holes, but never access times, inode numbers or
// the order in which the host lists names. Links are not followed. Contents stay in the folder, which must not change
// while the tree is used.
func FromDir(dir string, o DirOptions) (*Tree, error) {
	t := New()
	links := map[[2]uint64]string{} // device and inode of a file with several names, to its first name
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		in := "/" + filepath.ToSlash(rel)
		if rel == "." {
			in = "/"
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: p, Err: err}
		}
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first, ok := links[id]; ok {
				return t.Link(first, in)
			}
			links[id] = in
		}
		n, err := fromStat(p, &st, o.IgnoreHoles)
		if err != nil {
			return err
		}
		if o.Owner != nil {
			n.UID, n.GID = o.Owner.UID, o.Owner.GID
		}
		if o.Time != nil {
			n.Time = *o.Time
		}
		if o.Origin != "" {
			n.Origin = o.Origin + in
		}
		return t.Put(in, n)
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func fromStat(p string, st *unix.Stat_t, ignoreHoles bool) (*Node, error) {
	n := &Node{Mode: uint16(st.Mode & PermMask), UID: st.Uid, GID: st.Gid, Time: Time{Sec: st.Mtim.Sec,
		Nsec: uint32(st.Mtim.Nsec)}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Kind = Dir
	case unix.S_IFREG:
		n.Kind = File
		c := &Section{Path: p, Length: st.Size}
		// stat(2) counts blocks of 512 bytes. A file that has as many as its size takes has no holes to look for.
		if !ignoreHoles && st.Blocks*512 < st.Size {
			var err error
			if c.Ranges, err = dataRanges(p, st.Size); err != nil {
				return nil, err
			}
		}
		n.Content = c
	case unix.S_IFLNK:
		n.Kind = Symlink
		target, err := os.Readlink(p)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Kind = CharDevice
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			n.Kind = BlockDevice
		}
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFIFO:
		n.Kind = FIFO
	case unix.S_IFSOCK:
		n.Kind = Socket
	default:
		return nil, fmt.Errorf("%s: mode %o is no type of file", p, st.Mode)
	}
	names, err := listXattrs(p)
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: p, Err: err}
	}
	for _, name := range names {
		value, err := getXattr(p, name)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // gone, or of a kind that cannot be read here
		}
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + name, Path: p, Err: err}
		}
		n.SetXattr(name, value)
	}
	return n, nil
}

// dataRanges asks the host's file system for a file's holes; where it knows none, all is data.
func dataRanges(p string, size int64) ([]Range, error) {
	if size == 0 {
		return nil, nil
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := []Range{}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole from here on
			break
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil, nil
		}
		if err != nil {
			return nil, &os.PathError{Op: "lseek", Path: p, Err: err}
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, &os.PathError{Op: "lseek", Path: p, Err: err}
		}
		if end = min(end, size); start >= end {
			break
		}
		out = append(out, Range{start, end - start})
		at = end
	}
	if len(out) == 1 && out[0] == (Range{0, size}) {
		return nil, nil
	}
	return out, nil
}

func listXattrs(p string) ([]string, error) {
	for {
		size, err := unix.Llistxattr(p, nil)
		if errors.Is(err, unix.EOPNOTSUPP) || (err == nil && size == 0) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size)
		size, err = unix.Llistxattr(p, buf)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var names []string
		for n := range bytes.SplitSeq(buf[:size], []byte{0}) {
			// What a security module of the host says of its own files is no property of the tree.
			if s := string(n); s != "" && s != "security.selinux" && !strings.HasPrefix(s, "system.nfs") {
				names = append(names, s)
			}
		}
		slices.Sort(names)
		return names, nil
	}
}

func getXattr(p, name string) ([]byte, error) {
	for {
		size, err := unix.Lgetxattr(p, name, nil)
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size)
		if size > 0 {
			if size, err = unix.Lgetxattr(p, name, buf); errors.Is(err, unix.ERANGE) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		return buf[:size], nil
	}
}
