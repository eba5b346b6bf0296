// Package removal removes trees of many files, such as a kernel's source.
package removal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// width is how many files are removed at once. A file system that is mounted with discard tells the disk of each file's
// blocks and waits for its answer, a millisecond or two: a kernel's tree of 90,000 files would take minutes.
const width = 16

// All removes a path and everything below it, also folders that their maker made unwritable. It follows no link. That
// there is nothing is no error. Nobody may change the tree meanwhile.
func All(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && fi.IsDir() {
		r := remover{slots: make(chan struct{}, width)}
		r.folder(path)
	}
	return os.RemoveAll(path) // what is left, such as a path that is too long for one name, and why
}

// remover removes folders side by side. What it cannot remove it leaves.
type remover struct{ slots chan struct{} }

func (r *remover) folder(path string) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(path, 0o700) == nil {
		entries, _ = os.ReadDir(path)
	}
	var inner sync.WaitGroup
	defer inner.Wait()
	writable := false
	for _, e := range entries {
		p := filepath.Join(path, e.Name())
		if e.IsDir() { // and no link to one
			select {
			case r.slots <- struct{}{}:
				inner.Go(func() {
					defer func() { <-r.slots }()
					r.folder(p)
				})
			default:
				r.folder(p)
			}
			continue
		}
		if err := os.Remove(p); errors.Is(err, fs.ErrPermission) && !writable {
			writable = true
			if os.Chmod(path, 0o700) == nil {
				_ = os.Remove(p)
			}
		}
	}
	inner.Wait()
	for _, e := range entries {
		if p := filepath.Join(path, e.Name()); e.IsDir() && errors.Is(os.Remove(p), fs.ErrPermission) {
			_ = os.Chmod(path, 0o700) // its own folder's names
			_ = os.Remove(p)
		}
	}
}
