package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/mirror"
	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
)

// mountWatched mounts a copy of the source, which is kept up to date: of a folder in memory, of a file beside the
// container. One that is too big is only bound.
func mountWatched(ctx context.Context, m *Manager, r request, u *undo) error {
	h := mount.Parse(r.s.Options)
	src, err := m.source(r.s.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(src), &st); err != nil {
		return fmt.Errorf("%s: %w", r.s.Source, err)
	}
	w := &mirror.Mirror{Every: m.watchEvery()}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if w.From, err = os.OpenRoot(src.Path()); err != nil {
			return fmt.Errorf("%s: %w", r.s.Source, err)
		}
	} else {
		if w.From, w.Only, err = parentRoot(m, r.s.Source); err != nil {
			return err
		}
	}
	u.add(w.From.Close)
	err = w.Check()
	if errors.Is(err, mirror.ErrTooMuch) {
		m.c.Log.Info("not watched", "source", r.s.Source, "why", err.Error())
		return bound(src, r.at, h, u)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.s.Source, err)
	}
	if w.Only == "" {
		err = mirrorFolder(w, r, h, st.Mode, u)
	} else {
		err = mirrorFile(m, w, r, h, u)
	}
	if err != nil {
		return err
	}
	// The request's context ends with the call; the watch ends with the mount.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	m.c.Go(func() {
		defer close(done)
		w.Run(running, func(err error) { m.c.Log.Error("watched folder", "source", r.s.Source, "error", err.Error()) })
	})
	u.add(func() error { stop(); <-done; return nil })
	return own(r.s.FsGroup, r.at)
}

// mirrorFolder mounts memory with the mode of the source, and copies into it.
func mirrorFolder(w *mirror.Mirror, r request, h mount.Options, mode uint32, u *undo) error {
	// Only we write: the mounts into containers have options of their own.
	memory := mount.Options{Flags: h.Flags &^ (unix.MS_RDONLY | unix.MS_BIND | unix.MS_REC),
		Data: []string{fmt.Sprintf("size=%d", 4*mirror.MaxBytes), fmt.Sprintf("mode=%o", mode&0o7777)}}
	if err := mounted("watchable", "tmpfs", r.at, memory, u); err != nil {
		return err
	}
	return copyTo(w, r, r.at, u)
}

// mirrorFile copies a file into a folder of the container's own, and binds that: a file bound elsewhere keeps its
// inode, so it is changed in place.
func mirrorFile(m *Manager, w *mirror.Mirror, r request, h mount.Options, u *undo) error {
	folder := place.Root(m.c.Run).Join(r.container, "watched", strings.ReplaceAll(r.at.Rest(), "/", "-"))
	dir, err := folder.MakeDirs(0o700, nil)
	if err != nil {
		return err
	}
	dir.Close()
	u.add(folder.RemoveAll)
	if err := copyTo(w, r, folder, u); err != nil {
		return err
	}
	file, err := folder.Join(w.Only).Open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer file.Close()
	return bound(file, r.at, h, u)
}

// copyTo opens the folder that the copy is to be in, and makes the first one.
func copyTo(w *mirror.Mirror, r request, folder place.Place, u *undo) error {
	dir, err := folder.Open(unix.O_PATH | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if w.To, err = os.OpenRoot(dir.Path()); err != nil {
		return fmt.Errorf("%s: %w", folder, err)
	}
	u.add(w.To.Close)
	if err := w.Copy(); err != nil {
		return fmt.Errorf("copy %s: %w", r.s.Source, err)
	}
	return nil
}

func (m *Manager) watchEvery() time.Duration {
	if m.c.WatchEvery > 0 {
		return m.c.WatchEvery
	}
	return mirror.Every
}

// parentRoot opens the folder of a source that is a file.
func parentRoot(m *Manager, source string) (*os.Root, string, error) {
	p, err := place.In(m.c.Below, source)
	if err != nil {
		return nil, "", err
	}
	h, err := p.Folder().Open(unix.O_PATH | unix.O_DIRECTORY)
	if err != nil {
		return nil, "", err
	}
	defer h.Close()
	root, err := os.OpenRoot(h.Path())
	return root, p.Name(), err
}
