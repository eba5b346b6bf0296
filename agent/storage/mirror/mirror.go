// Package mirror keeps a small folder, or a file, as another one is.
//
// In come two open folders; what changes in the one is copied to the other until the mirror is told to stop. It does
// not know what they are for and where they are mounted.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/agent/storage/place"
)

// The limits of Kata Containers: a shared file system does not tell a guest of changes on the host, so small folders
// that programs watch with inotify are looked at and copied again and again.
const (
	// Every is the time between two looks.
	Every = 2 * time.Second
	// MaxFiles is how many files a folder may have.
	MaxFiles = 16
	// MaxBytes is how many bytes they may have together.
	MaxBytes = 1 << 20
)

// ErrTooMuch says that a folder is beyond the limits.
var ErrTooMuch = fmt.Errorf("more than %d files or %d bytes", MaxFiles, MaxBytes)

// Mirror keeps a copy. It is used by one goroutine at a time.
type Mirror struct {
	From, To *os.Root // not closed by the mirror
	Only     string   // the one file in From, which is changed in place; empty is all of it
	Every    time.Duration
	last     map[string]seen // what was copied
}

// seen is what tells a changed file from the one that was copied.
type seen struct {
	mode     fs.FileMode
	size     int64
	modified time.Time
	inode    uint64
	link     string
	uid, gid uint32
}

// Run looks and copies until ctx ends, and complains of what stays wrong once.
func (w *Mirror) Run(ctx context.Context, complain func(error)) {
	t := time.NewTicker(w.Every)
	defer t.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := w.Copy()
		// A folder in the middle of a change is looked at again; what stays wrong is said once.
		if err != nil && err.Error() != said {
			said = err.Error()
			complain(err)
		} else if err == nil {
			said = ""
		}
	}
}

// Check says whether there is more to copy than ErrTooMuch allows, or it cannot be read.
func (w *Mirror) Check() error {
	_, err := w.list()
	return err
}

// Copy copies what changed since the last call.
func (w *Mirror) Copy() error {
	list, err := w.list()
	if err != nil {
		return err
	}
	return w.update(list)
}

// list is what there is to copy.
func (w *Mirror) list() (map[string]seen, error) {
	found := map[string]seen{}
	files, size := 0, int64(0)
	add := func(name string, fi fs.FileInfo) error {
		s := seen{mode: fi.Mode(), modified: fi.ModTime()}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			s.inode, s.uid, s.gid = st.Ino, st.Uid, st.Gid
		}
		switch {
		case fi.IsDir():
			s.modified, s.inode = time.Time{}, 0 // what is in it tells
		case fi.Mode().IsRegular():
			s.size = fi.Size()
			files++
			size += s.size
		case fi.Mode()&fs.ModeSymlink != 0:
			var err error
			if s.link, err = w.From.Readlink(name); err != nil {
				return err
			}
			s.modified = time.Time{}
		default:
			return nil // a socket or a device means nothing elsewhere
		}
		if files > MaxFiles || size > MaxBytes {
			return ErrTooMuch
		}
		found[name] = s
		return nil
	}
	if w.Only != "" {
		fi, err := w.From.Stat(w.Only)
		if err != nil {
			return nil, err
		}
		return found, add(w.Only, fi)
	}
	entries := 0
	err := fs.WalkDir(w.From.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// Folders and links are counted too, only more of them are fine.
		if entries++; entries > 8*MaxFiles {
			return ErrTooMuch
		}
		fi, err := e.Info()
		if err != nil || name == "." {
			return err
		}
		return add(name, fi)
	})
	return found, err
}

// update copies what changed: folders and files first, then links, such as Kubernetes swaps to publish new files, and
// last it removes what went.
func (w *Mirror) update(list map[string]seen) error {
	names := slices.Sorted(maps.Keys(list))
	pass := func(want func(seen) bool, do func(string, seen) error) error {
		for _, n := range names {
			s := list[n]
			if !want(s) || w.last[n] == s {
				continue
			}
			if before, there := w.last[n]; there && before.mode.Type() != s.mode.Type() {
				if err := w.To.RemoveAll(n); err != nil {
					return err
				}
				maps.DeleteFunc(w.last, func(name string, _ seen) bool { return strings.HasPrefix(name, n+"/") })
			}
			if err := do(n, s); err != nil {
				return err
			}
			if w.last == nil {
				w.last = map[string]seen{}
			}
			w.last[n] = s
		}
		return nil
	}
	isDir := func(s seen) bool { return s.mode.IsDir() }
	isFile := func(s seen) bool { return s.mode.IsRegular() }
	isLink := func(s seen) bool { return s.mode&fs.ModeSymlink != 0 }
	if err := pass(isDir, w.folder); err != nil {
		return err
	}
	if err := pass(isFile, w.file); err != nil {
		return err
	}
	if err := pass(isLink, w.link); err != nil {
		return err
	}
	gone := slices.Sorted(maps.Keys(w.last))
	for _, n := range slices.Backward(gone) {
		if _, there := list[n]; there {
			continue
		}
		if err := w.To.RemoveAll(n); err != nil {
			return err
		}
		delete(w.last, n)
	}
	return nil
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func (w *Mirror) folder(name string, s seen) error {
	if err := w.To.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := w.To.Lchown(name, int(s.uid), int(s.gid)); err != nil {
		return err
	}
	return w.To.Chmod(name, s.mode&modeBits)
}

func (w *Mirror) link(name string, s seen) error {
	temp := filepath.Join(filepath.Dir(name), place.TempName(filepath.Base(name)))
	if err := w.To.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.To.Symlink(s.link, temp); err != nil {
		return err
	}
	if err := w.To.Lchown(temp, int(s.uid), int(s.gid)); err != nil {
		return err
	}
	return w.To.Rename(temp, name)
}

// file copies a file, whole; the one of a bind in place.
func (w *Mirror) file(name string, s seen) error {
	in, err := w.From.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, MaxBytes+1))
	if err != nil {
		return err
	}
	if len(data) > MaxBytes {
		return ErrTooMuch
	}
	temp := name
	if w.Only == "" {
		temp = filepath.Join(filepath.Dir(name), place.TempName(filepath.Base(name)))
	}
	out, err := w.To.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Chown(int(s.uid), int(s.gid)), out.Chmod(s.mode&modeBits),
		out.Close()); err != nil || temp == name {
		return err
	}
	return w.To.Rename(temp, name)
}
