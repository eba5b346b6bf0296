package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The folders of a store that hold what builds believe.
var folders = []string{"blobs/sha256", "actions", "last", "locks", "tmp", "placed", "logs"}

// Unsafe says that somebody else than this user could change a store.
type Unsafe struct {
	Path string // the store, or a folder in it
	Why  string
}

func (e *Unsafe) Error() string { return fmt.Sprintf("store: %s %s", e.Path, e.Why) }

// checkOwned refuses a folder that is a link, or another user's, or writable by others. A folder that is not there is fine.
func checkOwned(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return &Unsafe{path, "is a symbolic link; a store's folders are folders (name the folder that it leads to)"}
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return &Unsafe{path, "is no folder"}
	}
	return ownedBy(path, st.Uid, st.Mode)
}

// ownedBy refuses what another user than this one or root owns or may write.
func ownedBy(path string, uid, mode uint32) error {
	switch {
	case int(uid) != os.Geteuid() && uid != 0:
		return &Unsafe{path, fmt.Sprintf("belongs to user %d, not to this one (%d)", uid, os.Geteuid())}
	case mode&0o022 != 0:
		return &Unsafe{path, fmt.Sprintf("has mode %04o: other users may write to it", mode&0o7777)}
	}
	return nil
}

// checkPrivate refuses a store that anybody but this user and root could write to.
func checkPrivate(dir string) error {
	for _, d := range append([]string{".", "blobs"}, folders...) {
		if err := checkOwned(filepath.Join(dir, d)); err != nil {
			return err
		}
	}
	// Whoever may write to a folder above can put another store in this one's place, except where only an entry's owner may rename it.
	for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
		var st unix.Stat_t
		if err := unix.Stat(d, &st); err == nil && st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return &Unsafe{d, fmt.Sprintf("has mode %04o: other users can put another store into it", st.Mode&0o7777)}
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// checkNoLinks refuses a shared store whose folders are links: sweep and gc remove what lies in them.
func checkNoLinks(dir string) error {
	for _, d := range append([]string{"blobs"}, folders...) {
		fi, err := os.Lstat(filepath.Join(dir, d))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return &Unsafe{filepath.Join(dir, d), "is no folder; sweep and gc would remove files elsewhere"}
		}
	}
	return nil
}

// Private is a folder for what only this user's own programs may have written, such as package lists: DIR/name in a private store, one of this
// user's own in a shared one.
func (s *Store) Private(name string) string {
	if !s.o.Shared {
		return filepath.Join(s.dir, name)
	}
	return filepath.Join(s.dir, fmt.Sprintf("user-%d", os.Geteuid()), name)
}

// makePrivate makes the folder that Private is below in a shared store.
func (s *Store) makePrivate() error {
	if !s.o.Shared {
		return nil
	}
	dir := s.Private(".")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EROFS) && !errors.Is(err, fs.ErrPermission) {
		return s.wrap("write to", err)
	}
	return checkOwned(dir)
}

// Log opens the file NAME.log among the logs, empty, for one run of a step.
func (s *Store) Log(name string) (*os.File, error) {
	dir := filepath.Join(s.dir, "logs")
	if err := os.MkdirAll(dir, s.dirMode()); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".log")
	// A new file each time: an old one could be a link that somebody else has left.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
}
