package storage

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

	"golang.org/x/sys/unix"
)

// A shared file system does not tell a guest of changes on the host, so small folders that programs watch with inotify
// are copied again and again. Above these limits, those of Kata Containers, a folder is only bound.
const (
	watchEvery    = 2 * time.Second
	maxWatched    = 16
	maxWatchBytes = 1 << 20
)

// errTooMuch says that a folder is beyond what is watched.
var errTooMuch = fmt.Errorf("more than %d files or %d bytes", maxWatched, maxWatchBytes)

// mountWatched mounts memory with a copy of the source, which is kept up to date.
func mountWatched(ctx context.Context, m *Manager, r request, u *undo) error {
	h := parseOptions(r.s.Options)
	bound := h
	bound.flags |= unix.MS_BIND
	src, err := m.source(r.s.Source)
	if err != nil {
		return err
	}
	defer src.close()
	var st unix.Stat_t
	if err := unix.Fstat(int(src), &st); err != nil {
		return fmt.Errorf("%s: %w", r.s.Source, err)
	}
	w := &watch{every: m.watchEvery()}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if w.from, err = os.OpenRoot(src.path()); err != nil {
			return fmt.Errorf("%s: %w", r.s.Source, err)
		}
	} else {
		if w.from, w.only, err = parentRoot(m, r.s.Source); err != nil {
			return err
		}
	}
	u.add(w.from.Close)
	list, err := w.list()
	if errors.Is(err, errTooMuch) {
		m.c.Log.Info("not watched", "source", r.s.Source, "why", err.Error())
		return m.bind(r.s.Source, r.at, bound, u)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.s.Source, err)
	}
	if w.only == "" {
		// Only we write: the mounts into containers have options of their own.
		memory := how{flags: h.flags &^ (unix.MS_RDONLY | unix.MS_BIND | unix.MS_REC),
			data: []string{fmt.Sprintf("size=%d", 4*maxWatchBytes), fmt.Sprintf("mode=%o", st.Mode&0o7777)}}
		if err := mounted("watchable", "tmpfs", r.at, memory, u); err != nil {
			return err
		}
		top, err := r.at.open(unix.O_PATH | unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer top.close()
		if w.to, err = os.OpenRoot(top.path()); err != nil {
			return fmt.Errorf("%s: %w", r.at, err)
		}
	} else {
		// A file bound elsewhere keeps its inode, so it is changed in place.
		at := place{m.c.Run, filepath.Join(r.container, "watched", strings.ReplaceAll(r.at.rest, "/", "-"))}
		dir, err := at.makeDirs(0o700, nil)
		if err != nil {
			return err
		}
		defer dir.close()
		u.add(at.removeAll)
		if w.to, err = os.OpenRoot(dir.path()); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := w.update(list); err != nil {
			return fmt.Errorf("copy %s: %w", r.s.Source, err)
		}
		if err := m.bindPlace(place{at.root, filepath.Join(at.rest, w.only)}, r.at, bound, u); err != nil {
			return err
		}
	}
	u.add(w.to.Close)
	if w.only == "" {
		if err := w.update(list); err != nil {
			return fmt.Errorf("copy %s: %w", r.s.Source, err)
		}
	}
	// The request's context ends with the call; the watch ends with the mount.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	m.c.Go(func() {
		defer close(done)
		w.run(running, func(err error) { m.c.Log.Error("watched folder", "source", r.s.Source, "error", err.Error()) })
	})
	u.add(func() error { stop(); <-done; return nil })
	return own(r.s.FsGroup, r.at)
}

func (m *Manager) watchEvery() time.Duration {
	if m.c.WatchEvery > 0 {
		return m.c.WatchEvery
	}
	return watchEvery
}

// parentRoot opens the folder of a source that is a file.
func parentRoot(m *Manager, source string) (*os.Root, string, error) {
	p, err := placeIn(m.c.Below, source)
	if err != nil {
		return nil, "", err
	}
	h, err := place{p.root, filepath.Dir(p.rest)}.open(unix.O_PATH | unix.O_DIRECTORY)
	if err != nil {
		return nil, "", err
	}
	defer h.close()
	root, err := os.OpenRoot(h.path())
	return root, filepath.Base(p.rest), err
}

// bindPlace binds one of our own files.
func (m *Manager) bindPlace(from, at place, h how, u *undo) error {
	src, err := from.open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer src.close()
	t, err := at.makeFile()
	if err != nil {
		return err
	}
	defer t.close()
	if err := mountAt(src.path(), "", t, at.String(), h); err != nil {
		return err
	}
	u.add(at.unmount)
	return settle(at, h)
}

// watch keeps a copy. It is used by one goroutine at a time.
type watch struct {
	from, to *os.Root
	only     string // the one file in from; empty is all of it
	every    time.Duration
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

func (w *watch) run(ctx context.Context, complain func(error)) {
	t := time.NewTicker(w.every)
	defer t.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		list, err := w.list()
		if err == nil {
			err = w.update(list)
		}
		// A folder in the middle of a change is looked at again; what stays wrong is said once.
		if err != nil && err.Error() != said {
			said = err.Error()
			complain(err)
		} else if err == nil {
			said = ""
		}
	}
}

// list is what there is to copy.
func (w *watch) list() (map[string]seen, error) {
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
			if s.link, err = w.from.Readlink(name); err != nil {
				return err
			}
			s.modified = time.Time{}
		default:
			return nil // a socket or a device means nothing elsewhere
		}
		if files > maxWatched || size > maxWatchBytes {
			return errTooMuch
		}
		found[name] = s
		return nil
	}
	if w.only != "" {
		fi, err := w.from.Stat(w.only)
		if err != nil {
			return nil, err
		}
		return found, add(w.only, fi)
	}
	entries := 0
	err := fs.WalkDir(w.from.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// Folders and links are counted too, only more of them are fine.
		if entries++; entries > 8*maxWatched {
			return errTooMuch
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
func (w *watch) update(list map[string]seen) error {
	names := slices.Sorted(maps.Keys(list))
	pass := func(want func(seen) bool, do func(string, seen) error) error {
		for _, n := range names {
			s := list[n]
			if !want(s) || w.last[n] == s {
				continue
			}
			if before, there := w.last[n]; there && before.mode.Type() != s.mode.Type() {
				if err := w.to.RemoveAll(n); err != nil {
					return err
				}
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
		if err := w.to.RemoveAll(n); err != nil {
			return err
		}
		delete(w.last, n)
	}
	return nil
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func (w *watch) folder(name string, s seen) error {
	if err := w.to.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := w.to.Lchown(name, int(s.uid), int(s.gid)); err != nil {
		return err
	}
	return w.to.Chmod(name, s.mode&modeBits)
}

func (w *watch) link(name string, s seen) error {
	temp := filepath.Join(filepath.Dir(name), tempName(filepath.Base(name)))
	if err := w.to.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.to.Symlink(s.link, temp); err != nil {
		return err
	}
	if err := w.to.Lchown(temp, int(s.uid), int(s.gid)); err != nil {
		return err
	}
	return w.to.Rename(temp, name)
}

// file copies a file, whole; the one of a bind in place.
func (w *watch) file(name string, s seen) error {
	in, err := w.from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxWatchBytes+1))
	if err != nil {
		return err
	}
	if len(data) > maxWatchBytes {
		return errTooMuch
	}
	temp := name
	if w.only == "" {
		temp = filepath.Join(filepath.Dir(name), tempName(filepath.Base(name)))
	}
	out, err := w.to.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Chown(int(s.uid), int(s.gid)), out.Chmod(s.mode&modeBits),
		out.Close()); err != nil || temp == name {
		return err
	}
	return w.to.Rename(temp, name)
}
