// Package place reaches files below known folders, and follows no links on the way.
//
// In come the folders of the guest API, which are trusted, and paths that requests name, which are not; out go open
// files. Whatever happens to the names meanwhile, a Handle stays the very file that was opened.
package place

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

// Place is a path below a root. The root is trusted and may have links in it; the rest is "." or clean, relative and
// without "..". Places can be compared.
type Place struct{ root, rest string }

func (p Place) String() string { return filepath.Join(p.root, p.rest) }

// Rest is the part below the root, "." for the root itself.
func (p Place) Rest() string { return p.rest }

// Name is the last part of the path.
func (p Place) Name() string { return filepath.Base(p.rest) }

// Join is a place below p. The names are our own, not a request's: without links, "/" or "..".
func (p Place) Join(names ...string) Place {
	return Place{p.root, filepath.Join(append([]string{p.rest}, names...)...)}
}

// Folder is the place of the folder that p is in; that of a root is the root.
func (p Place) Folder() Place { return Place{p.root, filepath.Dir(p.rest)} }

// Root is the place of a root itself.
func Root(root string) Place { return Place{root, "."} }

// In finds the root that path is below. The root itself is below it too. A path that is not clean of ".." or below none
// of the roots is ErrOutside.
func In(roots []string, path string) (Place, error) {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return Place{}, fmt.Errorf("%q: %w: it is not absolute", path, ErrOutside)
	}
	for w := range strings.SplitSeq(path, "/") {
		if w == ".." {
			return Place{}, fmt.Errorf("%q: %w: .. is in it", path, ErrOutside)
		}
	}
	clean := filepath.Clean(path)
	for _, r := range roots {
		if rest, err := filepath.Rel(r, clean); err == nil && filepath.IsLocal(rest) {
			return Place{r, rest}, nil
		}
	}
	return Place{}, fmt.Errorf("%q: %w: want one below %s", path, ErrOutside, strings.Join(roots, " or "))
}

// Handle is an open file, by which others name it. Whoever gets one closes it.
type Handle int

// Close gives the file up.
func (h Handle) Close() { _ = unix.Close(int(h)) } // opened for its path or for reading: nothing to lose

// Path names the very file, whatever happens to the names on the way to it.
func (h Handle) Path() string { return fmt.Sprintf("/proc/self/fd/%d", int(h)) }

// Open opens what is there, with flags of open(2). Links on the way are ErrOutside.
func (p Place) Open(flags uint64) (Handle, error) {
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

func openIn(dir int, rest string, flags uint64) (Handle, error) {
	for {
		fd, err := unix.Openat2(dir, rest, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: inside})
		switch err {
		case nil:
			return Handle(fd), nil
		case unix.EAGAIN, unix.EINTR: // a rename elsewhere made the kernel unsure
		case unix.ELOOP, unix.EXDEV:
			return -1, fmt.Errorf("%w: %w", ErrOutside, err)
		default:
			return -1, err
		}
	}
}

// Parent makes the folders above p with mode and opens the last, and returns p's name in it. own is as in MakeDirs.
func (p Place) Parent(mode uint32, own func(Handle) error) (Handle, string, error) {
	if p.rest == "." {
		return -1, "", fmt.Errorf("%s: %w: it is the folder itself", p, ErrOutside)
	}
	dir, err := p.Folder().MakeDirs(mode, own)
	return dir, filepath.Base(p.rest), err
}

// MakeDirs opens the folder p, making what is missing with mode, whatever the umask; own, where not nil, sees each one
// that was made.
func (p Place) MakeDirs(mode uint32, own func(Handle) error) (Handle, error) {
	fd, err := unix.Open(p.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p.root, err)
	}
	at := Handle(fd)
	if p.rest == "." {
		return at, nil
	}
	for name := range strings.SplitSeq(p.rest, "/") {
		next, err := MakeDir(at, name, mode, own)
		at.Close()
		if err != nil {
			return -1, fmt.Errorf("folder %s: %w", p, err)
		}
		at = next
	}
	return at, nil
}

// MakeDir is MakeDirs for one folder in an open one.
func MakeDir(at Handle, name string, mode uint32, own func(Handle) error) (Handle, error) {
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
	if err := unix.Chmod(h.Path(), mode); err != nil {
		h.Close()
		return -1, err
	}
	if own != nil {
		if err := own(h); err != nil {
			h.Close()
			return -1, err
		}
	}
	return h, nil
}

// MakeFile opens p, an empty file where nothing was there: a place for a mount of a file.
func (p Place) MakeFile() (Handle, error) {
	dir, name, err := p.Parent(DirMode, nil)
	if err != nil {
		return -1, err
	}
	defer dir.Close()
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

// DirMode is the mode of folders made on the way.
const DirMode = 0o755

// TempName is a name beside the final one, for what is not complete; a long one is cut, so that it stays within
// NAME_MAX.
func TempName(name string) string {
	const room = 200
	return "." + name[:min(len(name), room)] + ".copying"
}
