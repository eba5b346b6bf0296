package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveAll removes p and what is in it; not there is no error.
func (p Place) RemoveAll() error {
	dir, err := p.Folder().Open(unix.O_PATH | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := os.OpenRoot(dir.Path())
	if err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	defer root.Close()
	if err := root.RemoveAll(filepath.Base(p.rest)); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}

// RemoveEmpty removes the folder p and the empty folders in it, and no file.
func (p Place) RemoveEmpty() error {
	dir, err := p.Open(unix.O_RDONLY | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := os.ReadDir(dir.Path())
	if err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	for _, n := range names {
		if err := unix.Unlinkat(int(dir), n.Name(), unix.AT_REMOVEDIR); err != nil {
			return fmt.Errorf("remove %s in %s: %w", n.Name(), p, err)
		}
	}
	above, err := p.Folder().Open(unix.O_PATH | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer above.Close()
	if err := unix.Unlinkat(int(above), filepath.Base(p.rest), unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}
