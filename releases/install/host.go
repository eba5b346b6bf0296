// Package install puts guests and the programs that run them on a host, changes to others, goes back, and takes
// everything off again.
//
// All it writes lies in one prefix, a release beside the other. What has to lie elsewhere are symbolic links into the
// prefix, through one link that says what is in force: renaming that link is the change, and it is made or not. The one
// exception is a block in containerd's main file, where that file does not import others. docs/formats/installation.md
// owns the layout.
package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// host is the root file system that is installed into. Nothing that lies in it leads out of it.
type host struct {
	root *os.Root
	base string // its path on this machine
}

// openHost opens a root file system; / is this machine's own.
func openHost(base string) (*host, error) {
	r, err := os.OpenRoot(base)
	if err != nil {
		return nil, fmt.Errorf("the root file system %s: %w", base, err)
	}
	return &host{r, base}, nil
}

// live says whether it is this machine's own.
func (h *host) live() bool { return path.Clean(h.base) == "/" }

// rel is an absolute path of the host as os.Root wants it.
func rel(p string) string {
	if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p == "" {
		return "."
	}
	return p
}

// lstat is the file itself; nil where there is none.
func (h *host) lstat(p string) (fs.FileInfo, error) {
	fi, err := h.root.Lstat(rel(p))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return fi, err
}

// maxText is the largest text file of a host that is read, in bytes: containerd's configurations have some 10,000.
const maxText = 4 << 20

// text reads a file, within bounds; ok is whether there is one.
func (h *host) text(p string) (data []byte, ok bool, err error) {
	fi, err := h.root.Stat(rel(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case !fi.Mode().IsRegular():
		return nil, false, fmt.Errorf("%s is no plain file", p)
	case fi.Size() > maxText:
		return nil, false, fmt.Errorf("%s has %d bytes, more than the %d that are read", p, fi.Size(), maxText)
	}
	data, err = h.root.ReadFile(rel(p))
	return data, err == nil, err
}

// link is where a symbolic link leads; empty where there is none at this path.
func (h *host) link(p string) (string, error) {
	fi, err := h.lstat(p)
	if err != nil || fi == nil || fi.Mode()&fs.ModeSymlink == 0 {
		return "", err
	}
	return h.root.Readlink(rel(p))
}

// temporary is what a file is called while it is written.
func temporary(p string) string { return path.Join(path.Dir(p), ".katabuild-new-"+path.Base(p)) }

// setLink makes a symbolic link, in the place of what is there.
func (h *host) setLink(p, target string) error {
	tmp := temporary(p)
	if err := h.root.Remove(rel(tmp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := h.root.Symlink(target, rel(tmp)); err != nil {
		return err
	}
	if err := h.root.Rename(rel(tmp), rel(p)); err != nil {
		return errors.Join(err, h.root.Remove(rel(tmp)))
	}
	return h.sync(path.Dir(p))
}

// write writes a file, in the place of what is there, whose mode and owner it takes.
func (h *host) write(p string, data []byte) (err error) {
	mode, uid, gid := fs.FileMode(0o644), -1, -1
	if fi, err := h.lstat(p); err != nil {
		return err
	} else if fi != nil {
		mode = fi.Mode().Perm()
		if s, ok := fi.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	tmp := temporary(p)
	f, err := h.root.OpenFile(rel(tmp), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		err = f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = h.root.Rename(rel(tmp), rel(p))
	}
	if err != nil {
		return errors.Join(err, h.root.Remove(rel(tmp)))
	}
	return h.sync(path.Dir(p))
}

// remove removes a file or an empty folder; that there is none is no error.
func (h *host) remove(p string) error {
	if err := h.root.Remove(rel(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sync writes a folder's names to the disk.
func (h *host) sync(dir string) error {
	d, err := h.root.Open(rel(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// missing are the folders on the way to p, p among them, that are not there, outermost first.
func (h *host) missing(p string) ([]string, error) {
	var out []string
	for ; p != "/" && p != "."; p = path.Dir(p) {
		fi, err := h.root.Stat(rel(p))
		if err == nil && !fi.IsDir() {
			return nil, fmt.Errorf("%s is no folder", p)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		out = append([]string{p}, out...)
	}
	return out, nil
}

// mkdirs makes folders that anybody may read.
func (h *host) mkdirs(p string) error {
	dirs, err := h.missing(p)
	for _, d := range dirs {
		if err == nil {
			err = h.root.Mkdir(rel(d), 0o755)
		}
		if err == nil {
			err = h.root.Chmod(rel(d), 0o755) // whatever the umask
		}
	}
	return err
}

// checkPrefix refuses a prefix that others than the user and root decide about, or that a symbolic link leads to.
func (h *host) checkPrefix(prefix string) error {
	if !path.IsAbs(prefix) || path.Clean(prefix) != prefix || strings.Count(prefix, "/") < 2 {
		return fmt.Errorf("prefix %q: want an absolute path of two folders or more, without . and .., such as %s",
			prefix,
			DefaultPrefix)
	}
	for p := prefix; p != "/"; p = path.Dir(p) {
		fi, err := h.lstat(p)
		if err != nil {
			return fmt.Errorf("prefix %s: %w", prefix, err)
		}
		if fi == nil {
			continue
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("prefix %s: %s is a symbolic link; name the folder that it leads to", prefix, p)
		}
		if !fi.IsDir() {
			return fmt.Errorf("prefix %s: %s is no folder", prefix, p)
		}
		owner, mode := uint32(0), fi.Mode()
		if s, ok := fi.Sys().(*syscall.Stat_t); ok {
			owner = s.Uid
		}
		if owner != 0 && owner != uint32(os.Geteuid()) {
			return fmt.Errorf("prefix %s: %s belongs to user %d, who could change what is installed; want root's",
				prefix,
				p, owner)
		}
		if mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
			return fmt.Errorf("prefix %s: others may write to %s, and change what is installed: chmod go-w %[2]s",
				prefix, p)
		}
	}
	return nil
}
