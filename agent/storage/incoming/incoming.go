// Package incoming takes the files, folders and links that the host copies into the guest.
//
// In come chunks of the guest API; out come whole files, which appear at their paths when their last chunk came, and
// never half. It does not know where they may lie: it is given a place below a folder.
package incoming

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// maxLink is the longest target of a symbolic link. <linux/limits.h>, PATH_MAX, with its NUL.
const maxLink = 4095

// Files are the files that the host is copying. The zero value has none. Its methods may be called from several
// goroutines.
type Files struct {
	mu   sync.Mutex
	open map[string]*copying // guarded by mu; by path
}

// copying is a file of which some chunks came.
type copying struct {
	mu   sync.Mutex
	fd   int
	next int64 // the offset of the next chunk
	size int64
	dir  place.Handle
	temp string // its name in dir until it is complete
}

// Take takes a chunk of a file, a folder or a symbolic link for a place. A file appears there when its last chunk came:
// chunks come in order, and one at 0 begins anew. What is a link's target is not looked at, but no parent folder may be
// one.
func (c *Files) Take(at place.Place, r *katapb.CopyFileRequest) error {
	var err error
	switch r.FileMode & unix.S_IFMT {
	case unix.S_IFREG:
		err = c.chunk(at, r)
	case unix.S_IFDIR:
		err = copyFolder(at, r)
	case unix.S_IFLNK:
		err = copyLink(at, r)
	default:
		err = fmt.Errorf("mode %o: want a file, a folder or a symbolic link", r.FileMode)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", at, err)
	}
	return nil
}

// parentOf opens the folder that a copied file is to be in. Folders on the way get the file's owner.
func parentOf(at place.Place, r *katapb.CopyFileRequest) (place.Handle, string, error) {
	mode := r.DirMode & 0o7777
	if mode == 0 {
		mode = place.DirMode
	}
	return at.Parent(mode, func(h place.Handle) error { return unix.Chown(h.Path(), int(r.Uid), int(r.Gid)) })
}

func copyFolder(at place.Place, r *katapb.CopyFileRequest) error {
	dir, name, err := parentOf(at, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	h, err := place.MakeDir(dir, name, r.FileMode&0o7777, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := unix.Chown(h.Path(), int(r.Uid), int(r.Gid)); err != nil {
		return err
	}
	return unix.Chmod(h.Path(), r.FileMode&0o7777) // after the owner, whose change clears bits
}

func copyLink(at place.Place, r *katapb.CopyFileRequest) error {
	if len(r.Data) == 0 || len(r.Data) > maxLink {
		return fmt.Errorf("target of %d bytes: want 1 to %d", len(r.Data), maxLink)
	}
	dir, name, err := parentOf(at, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	temp := place.TempName(name)
	_ = unix.Unlinkat(int(dir), temp, 0) // of an attempt that was cut short
	if err := unix.Symlinkat(string(r.Data), int(dir), temp); err != nil {
		return err
	}
	if err := unix.Fchownat(int(dir), temp, int(r.Uid), int(r.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return errors.Join(err, unix.Unlinkat(int(dir), temp, 0))
	}
	if err := unix.Renameat(int(dir), temp, int(dir), name); err != nil {
		return errors.Join(err, unix.Unlinkat(int(dir), temp, 0))
	}
	return nil
}

// chunk takes a chunk of a regular file.
func (c *Files) chunk(at place.Place, r *katapb.CopyFileRequest) error {
	n := int64(len(r.Data))
	switch {
	case r.FileSize < 0 || r.Offset < 0:
		return fmt.Errorf("offset %d of %d bytes", r.Offset, r.FileSize)
	case n > r.FileSize-r.Offset:
		return fmt.Errorf("%d bytes at %d: the file is to have %d", n, r.Offset, r.FileSize)
	case n == 0 && r.FileSize > 0:
		return fmt.Errorf("no bytes at %d of %d", r.Offset, r.FileSize)
	}
	key := at.String()
	c.mu.Lock()
	f := c.open[key]
	c.mu.Unlock()
	if r.Offset == 0 {
		if f != nil {
			_ = c.forget(key, f) // its bytes do not matter any more
		}
		var err error
		if f, err = begin(at, r); err != nil {
			return err
		}
		c.mu.Lock()
		if c.open == nil {
			c.open = map[string]*copying{}
		}
		c.open[key] = f
		c.mu.Unlock()
	}
	if f == nil {
		return fmt.Errorf("a chunk at %d, but none before it came", r.Offset)
	}
	done, err := f.take(at, r)
	if done || err != nil {
		// A sequence with a hole never becomes a file: the host begins anew.
		err = errors.Join(err, c.forget(key, f))
	}
	return err
}

func begin(at place.Place, r *katapb.CopyFileRequest) (*copying, error) {
	dir, name, err := parentOf(at, r)
	if err != nil {
		return nil, err
	}
	temp := place.TempName(name)
	_ = unix.Unlinkat(int(dir), temp, 0)
	fd, err := unix.Openat(int(dir), temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &copying{fd: fd, size: r.FileSize, dir: dir, temp: temp}, nil
}

// take writes a chunk, and with the last one puts the file in its place.
func (f *copying) take(at place.Place, r *katapb.CopyFileRequest) (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fd < 0:
		return false, errors.New("another call began it anew")
	case r.FileSize != f.size:
		return false, fmt.Errorf("a chunk of a file of %d bytes, but it began as one of %d", r.FileSize, f.size)
	case r.Offset != f.next:
		return false, fmt.Errorf("a chunk at %d: want the one at %d", r.Offset, f.next)
	}
	for b := r.Data; len(b) > 0; {
		n, err := unix.Pwrite(f.fd, b, f.next)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		b = b[n:]
		f.next += int64(n)
	}
	if f.next < f.size {
		return false, nil
	}
	if err := unix.Fchown(f.fd, int(r.Uid), int(r.Gid)); err != nil {
		return false, err
	}
	if err := unix.Fchmod(f.fd, r.FileMode&0o7777); err != nil {
		return false, err
	}
	if err := unix.Renameat(int(f.dir), f.temp, int(f.dir), at.Name()); err != nil {
		return false, err
	}
	f.temp = ""
	return true, nil
}

// forget closes a file and removes what is not complete.
func (c *Files) forget(key string, f *copying) error {
	c.mu.Lock()
	if c.open[key] == f {
		delete(c.open, key)
	}
	c.mu.Unlock()
	return f.close()
}

func (f *copying) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	var err error
	if f.temp != "" {
		if err = unix.Unlinkat(int(f.dir), f.temp, 0); err == unix.ENOENT {
			err = nil
		}
	}
	err = errors.Join(err, unix.Close(f.fd))
	f.dir.Close()
	f.fd = -1
	return err
}

// Close forgets every file that is not complete. The value may be used again afterwards.
func (c *Files) Close() error {
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	var errs []error
	for _, f := range open {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}
