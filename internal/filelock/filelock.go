// Package filelock lets one process at a time do something: by flock(2) on a file, which the kernel takes back from
// whoever dies.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Exclusive makes the file at path, if it is not there, and locks it for this process alone. It waits for others until
// ctx ends. Closing the file lets go of the lock; the file stays.
func Exclusive(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := Lock(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// pause is between two attempts: waiting in the kernel could not be ended.
const pause = 50 * time.Millisecond

// Lock locks an open file as Exclusive does.
func Lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process holds the lock %s: %w", f.Name(), ctx.Err())
		case <-time.After(pause):
		}
	}
}
