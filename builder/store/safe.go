package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/internal/regular"
)

// The folders of a store that hold what builds believe.
var folders = []string{"blobs/sha256", "actions", "last", "locks", "tmp", "placed", "logs"}

// Unsafe says that somebody else than this user could change a store.
type Unsafe struct{ *owned.Unsafe }

func (e *Unsafe) Error() string { return "store: " + e.Unsafe.Error() }

func unsafe(err error) error {
	var no *owned.Unsafe
	if errors.As(err, &no) {
		return &Unsafe{no}
	}
	return err
}

// checkPrivate refuses a store that anybody but this user and root could write to.
func checkPrivate(dir string) error {
	for _, d := range append([]string{".", "blobs"}, folders...) {
		if err := owned.Folder(filepath.Join(dir, d)); err != nil {
			return unsafe(err)
		}
	}
	return unsafe(owned.Above(dir))
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
			return &Unsafe{&owned.Unsafe{Path: filepath.Join(dir, d),
				Why: "is no folder; sweep and gc would remove files elsewhere"}}
		}
	}
	return nil
}

// Private is a folder for what only this user's own programs may have written, such as package lists: DIR/name in a
// private store, one of this user's own in a shared one.
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
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EROFS) &&
		!errors.Is(err, fs.ErrPermission) {
		return s.wrap("write to", err)
	}
	return unsafe(owned.Folder(dir))
}

// ReadLog opens what the last run of a step left at Log.
func (s *Store) ReadLog(name string) (*os.File, error) {
	return regular.Open(filepath.Join(s.dir, "logs", name+".log"))
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
