package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usersLock is the flock(2) file that everybody who reads or writes blobs holds shared, and a gc alone.
const usersLock = "users"

// Use keeps a gc of any process from removing anything until done is called. Uses do not exclude each other. A store
// that cannot be written to and has no lock yet is used without one: nobody can remove anything from it either.
func (s *Store) Use(ctx context.Context) (done func(), err error) {
	f, err := openLock(filepath.Join(s.dir, "locks", usersLock))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return func() {}, nil
	}
	if err != nil {
		return nil, s.wrap("lock", err)
	}
	if err := waitLock(ctx, f, syscall.LOCK_SH, nil); err != nil {
		return nil, errors.Join(s.wrap("lock", err), f.Close())
	}
	return func() { f.Close() }, nil
}

// alone waits until nobody uses the store, and keeps everybody from beginning to until done is called.
func (s *Store) alone(ctx context.Context, waiting func()) (done func(), err error) {
	f, err := openLock(filepath.Join(s.dir, "locks", usersLock))
	if err != nil {
		return nil, s.wrap("lock", err)
	}
	if err := waitLock(ctx, f, syscall.LOCK_EX, waiting); err != nil {
		return nil, errors.Join(s.wrap("lock", err), f.Close())
	}
	return func() { f.Close() }, nil
}

// lockPoll is how often a lock that others hold is tried again: flock(2) cannot be given up when a context ends.
const lockPoll = 50 * time.Millisecond

// waitLock locks f, or gives up when ctx ends. waiting, which may be nil, is called once if there is a wait.
func waitLock(ctx context.Context, f *os.File, how int, waiting func()) error {
	for {
		err := flock(f, how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
