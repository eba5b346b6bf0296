package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupOf is the number of a file's group.
func groupOf(fi fs.FileInfo) (uint32, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Gid, true
}

// removeAll removes p and what is in it; not there is no error.
func (p place) removeAll() error {
	dir, err := place{p.root, filepath.Dir(p.rest)}.open(unix.O_PATH | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()
	root, err := os.OpenRoot(dir.path())
	if err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	defer root.Close()
	if err := root.RemoveAll(filepath.Base(p.rest)); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}

// removeEmpty removes the folder p and the empty folders in it, and no file.
func (p place) removeEmpty() error {
	dir, err := p.open(unix.O_RDONLY | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()
	names, err := os.ReadDir(dir.path())
	if err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	for _, n := range names {
		if err := unix.Unlinkat(int(dir), n.Name(), unix.AT_REMOVEDIR); err != nil {
			return fmt.Errorf("remove %s in %s: %w", n.Name(), p, err)
		}
	}
	above, err := place{p.root, filepath.Dir(p.rest)}.open(unix.O_PATH | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer above.close()
	if err := unix.Unlinkat(int(above), filepath.Base(p.rest), unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}
