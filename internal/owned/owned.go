// Package owned tells whether files that a program believes could have been written by somebody else than its user and
// root.
package owned

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unsafe says that another user could have written a file, or put another in its place.
type Unsafe struct {
	Path string // the file or folder that is to blame
	Why  string // "belongs to user 1000, …"
}

func (e *Unsafe) Error() string { return e.Path + " " + e.Why }

// By refuses what another user than this one or root owns, or what its group or everybody may write to. path is for the
// error.
func By(path string, uid, mode uint32) error {
	switch {
	case int(uid) != os.Geteuid() && uid != 0:
		return &Unsafe{path, fmt.Sprintf("belongs to user %d, not to this one (%d)", uid, os.Geteuid())}
	case mode&0o022 != 0:
		return &Unsafe{path, fmt.Sprintf("has mode %04o: other users may write to it", mode&0o7777)}
	}
	return nil
}

// Folder refuses a folder that is a link, or another user's, or writable by others. One that is not there is fine.
func Folder(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return &Unsafe{path, "is a symbolic link, where a folder is wanted (name the folder that it leads to)"}
	case unix.S_IFDIR:
		return By(path, st.Uid, st.Mode)
	}
	return &Unsafe{path, "is no folder"}
}

// Above refuses a path that somebody else could put another file or folder at: one below a folder in which everybody
// may rename what is there. In a folder with the sticky bit, such as /tmp, only an entry's owner may. path is absolute.
func Above(path string) error {
	for d := filepath.Dir(path); ; d = filepath.Dir(d) {
		var st unix.Stat_t
		if err := unix.Stat(d, &st); err == nil && st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return &Unsafe{d, fmt.Sprintf("has mode %04o: other users can put something else in the place of %s",
				st.Mode&0o7777, path)}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// Read reads at most limit bytes of a regular file that nobody but this user and root could have written, or put in the
// place of another. An *Unsafe says which users could. path is absolute.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if err := errors.Join(By(path, st.Uid, st.Mode), around(filepath.Dir(path)), Above(path)); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// around refuses a folder in which another user could put one file in the place of another. Where the sticky bit keeps
// them from that, as in /tmp, the file's own owner decides.
func around(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_ISVTX != 0 && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) {
		return nil
	}
	return By(dir, st.Uid, st.Mode)
}
