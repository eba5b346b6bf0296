// Package atomicfile writes files whole: under another name, synced, then renamed, so that a reader or a crash never
// meets half of one.
package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Write puts data at path with the permissions perm, replacing what was there.
func Write(path string, data []byte, perm os.FileMode) error {
	return With(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// With lets fill write the file at path. When fill fails, what was at path is untouched and nothing else remains.
func With(path string, perm os.FileMode, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignore(f.Close(), os.ErrClosed), ignore(os.Remove(f.Name()), os.ErrNotExist))
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	// Chmod, not the mode at creation: the umask has no say in what we write.
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
