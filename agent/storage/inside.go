package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrOutside says that a path is not below a folder this agent may touch, or leaves it by a symbolic link.
var ErrOutside = errors.New("path outside of the folders of the guest API")

// inside is how every step below a root is opened: it stays below, and follows no link, not even one that stays below.
// openat2(2).
const inside = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// place is a path below a root. root is trusted and may have links in it; rest is "." or clean, relative and without
// "..".
type place struct{ root, rest string }

func (p place) String() string { return filepath.Join(p.root, p.rest) }

// placeIn finds the root that path is below. The root itself is below it too.
func placeIn(roots []string, path string) (place, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return place{}, fmt.Errorf("%q: %w: it is not absolute", path, ErrOutside)
	}
	for w := range strings.SplitSeq(path, "/") {
		if w == ".." {
			return place{}, fmt.Errorf("%q: %w: .. is in it", path, ErrOutside)
		}
	}
	clean := filepath.Clean(path)
	for _, r := range roots {
		if rest, err := filepath.Rel(r, clean); err == nil && filepath.IsLocal(rest) {
			return place{r, rest}, nil
		}
	}
	return place{}, fmt.Errorf("%q: %w: want one below %s", path, ErrOutside, strings.Join(roots, " or "))
}

// handle is an open file, by which others name it.
type handle int

func (h handle) close() { _ = unix.Close(int(h)) } // opened for its path or for reading: nothing to lose

// path names the very file, whatever happens to the names on the way to it.
func (h handle) path() string { return fmt.Sprintf("/proc/self/fd/%d", int(h)) }

// open opens what is there. Links on the way are ErrOutside.
func (p place) open(flags uint64) (handle, error) {
	root, err := unix.Open(p.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p.root, err)
	}
	defer unix.Close(root)
	h, err := openIn(root, p.rest, flags)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p, err)
	}
	return h, nil
}

func openIn(dir int, rest string, flags uint64) (handle, error) {
	for {
		fd, err := unix.Openat2(dir, rest, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: inside})
		switch err {
		case nil:
			return handle(fd), nil
		case unix.EAGAIN, unix.EINTR: // a rename elsewhere made the kernel unsure
		case unix.ELOOP, unix.EXDEV:
			return -1, fmt.Errorf("%w: %w", ErrOutside, err)
		default:
			return -1, err
		}
	}
}

// parent makes the folders above p with mode and opens the last, and returns p's name in it.
func (p place) parent(mode uint32, own func(handle) error) (handle, string, error) {
	if p.rest == "." {
		return -1, "", fmt.Errorf("%s: %w: it is the folder itself", p, ErrOutside)
	}
	dir, err := place{p.root, filepath.Dir(p.rest)}.makeDirs(mode, own)
	return dir, filepath.Base(p.rest), err
}

// makeDirs opens the folder p, making what is missing with mode, whatever the umask; own, where not nil, sees each one
// that was made.
func (p place) makeDirs(mode uint32, own func(handle) error) (handle, error) {
	fd, err := unix.Open(p.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p.root, err)
	}
	at := handle(fd)
	if p.rest == "." {
		return at, nil
	}
	for name := range strings.SplitSeq(p.rest, "/") {
		next, err := makeDir(at, name, mode, own)
		at.close()
		if err != nil {
			return -1, fmt.Errorf("folder %s: %w", p, err)
		}
		at = next
	}
	return at, nil
}

func makeDir(at handle, name string, mode uint32, own func(handle) error) (handle, error) {
	const folder = unix.O_PATH | unix.O_DIRECTORY
	h, err := openIn(int(at), name, folder)
	if !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	made := true
	if err := unix.Mkdirat(int(at), name, mode); err != nil {
		if err != unix.EEXIST {
			return -1, err
		}
		made = false // somebody else was faster
	}
	if h, err = openIn(int(at), name, folder); err != nil || !made {
		return h, err
	}
	if err := unix.Chmod(h.path(), mode); err != nil {
		h.close()
		return -1, err
	}
	if own != nil {
		if err := own(h); err != nil {
			h.close()
			return -1, err
		}
	}
	return h, nil
}

// makeFile opens p, an empty file where nothing was there: a place for a mount of a file.
func (p place) makeFile() (handle, error) {
	dir, name, err := p.parent(dirMode, nil)
	if err != nil {
		return -1, err
	}
	defer dir.close()
	h, err := openIn(int(dir), name, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) {
		fd, err := unix.Openat(int(dir), name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY,
			0o644)
		if err == nil {
			_ = unix.Close(fd)
		} else if err != unix.EEXIST {
			return -1, fmt.Errorf("file %s: %w", p, err)
		}
		h, err = openIn(int(dir), name, unix.O_PATH)
		if err != nil {
			return -1, fmt.Errorf("file %s: %w", p, err)
		}
		return h, nil
	}
	if err != nil {
		return -1, fmt.Errorf("file %s: %w", p, err)
	}
	return h, nil
}

// unmount takes away what is mounted at p, at once for new users; those who have it open keep it. Nothing mounted is no
// error.
func (p place) unmount() error {
	dir, err := place{p.root, filepath.Dir(p.rest)}.open(unix.O_PATH | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.close()
	switch err := unix.Unmount(filepath.Join(dir.path(), filepath.Base(p.rest)),
		unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
	case nil, unix.EINVAL, unix.ENOENT:
		return nil
	default:
		return fmt.Errorf("unmount %s: %w", p, err)
	}
}

// dirMode is the mode of folders made on the way.
const dirMode = 0o755
