package stage

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// room is the future root file system, before it is one.
type room struct{ fd int }

// fdPath names an open file for system calls that want a path.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// enter separates the mounts of this process from the agent's, and makes the root file system a mount of its own.
func (r *Root) enter() (*room, error) {
	shared := r.Propagation&unix.MS_SHARED != 0
	propagation := uintptr(unix.MS_SLAVE | unix.MS_REC)
	if r.Propagation&unix.MS_PRIVATE != 0 {
		propagation = unix.MS_PRIVATE | unix.MS_REC
	}
	if !shared {
		if err := unix.Mount("", "/", "", propagation, ""); err != nil {
			return nil, fmt.Errorf("stop sharing mounts with the guest: %w", err)
		}
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, r.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("root file system %s: %w", r.Path, err)
	}
	defer unix.Close(tree)
	if shared {
		// pivot_root(2) refuses where the mount above is shared.
		if err := makeParentPrivate(r.Path); err != nil {
			return nil, err
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, r.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("bind root file system %s to itself: %w", r.Path, err)
	}
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("root file system %s: %w", r.Path, err)
	}
	return &room{fd}, nil
}

// makeParentPrivate does so with the mount that path is on.
func makeParentPrivate(p string) error {
	for {
		err := unix.Mount("", p, "", unix.MS_PRIVATE, "")
		if err == nil {
			return nil
		}
		if err != unix.EINVAL || p == "/" {
			return fmt.Errorf("stop sharing the mount above the root file system: %s: %w", p, err)
		}
		p = path.Dir(p)
	}
}

// leave makes the room the root of this process's mount namespace.
func (r *room) leave(root *Root) error {
	if root.Readonly {
		if err := setattr(r.fd, 0, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
			return fmt.Errorf("make the root file system read-only: %w", err)
		}
	}
	if err := unix.Fchdir(r.fd); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if root.NoPivot {
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move the root file system to /: %w", err)
		}
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	} else {
		// pivot_root(2), notes: with the same folder twice the old root ends up on top of the new one, and needs no
		// place in it.
		if err := unix.PivotRoot(".", "."); err != nil {
			return fmt.Errorf("pivot_root: %w", err)
		}
		if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("let go of the guest's root: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("let go of the guest's root: %w", err)
		}
	}
	unix.Close(r.fd)
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if root.Propagation != 0 {
		if err := unix.Mount("", "/", "", uintptr(root.Propagation), ""); err != nil {
			return fmt.Errorf("propagation of the root file system: %w", err)
		}
	}
	return nil
}

// open opens a path in the room without reading it. Links are followed, none leads out.
func (r *room) open(name string) (int, error) {
	return openIn(r.fd, name, unix.O_PATH)
}

func openIn(dir int, name string, flags uint64) (int, error) {
	name = strings.TrimLeft(path.Clean("/"+name), "/")
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// make opens a path in the room, and makes it where it is missing: folders, and at the end a folder or a file. A link
// that leads to what is not there yet has that made.
func (r *room) make(name string, folder bool) (int, error) {
	fd, err := r.open(name)
	if err != unix.ENOENT {
		return fd, err
	}
	parts, err := r.resolve(name)
	if err != nil {
		return -1, err
	}
	dir, err := unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for i, part := range parts {
		next, err := r.openPlain(parts[:i+1])
		if err == unix.ENOENT {
			next, err = makeAt(dir, part, folder || i < len(parts)-1)
		}
		unix.Close(dir)
		if err != nil {
			return -1, fmt.Errorf("make /%s: %w", strings.Join(parts[:i+1], "/"), err)
		}
		dir = next
	}
	return dir, nil
}

// maxLinks is how many symbolic links a path may lead through, as for Linux itself: path_resolution(7).
const maxLinks = 40

// resolve follows the links of a path that leads to nothing yet, as if what is missing were there, and returns the
// names from the room's root on. None of these is a link, and none leads out of the room: there, ".." of the root is
// the root.
func (r *room) resolve(name string) ([]string, error) {
	var done []string
	links := 0
	rest := strings.Split(path.Clean("/"+name), "/")
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = done[:max(0, len(done)-1)]
			continue
		}
		done = append(done, part)
		target, err := r.readlink(done)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", strings.Join(done, "/"), err)
		}
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: %w", name, unix.ELOOP)
		}
		done = done[:len(done)-1]
		if path.IsAbs(target) {
			done = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// readlink is where the last of the names leads, or empty if it is no link or is not there.
func (r *room) readlink(names []string) (string, error) {
	fd, err := r.openPlain(names)
	if err == unix.ENOENT {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf) // readlinkat(2): with an empty path that of the open link itself
	return string(buf[:max(0, n)]), err
}

// openPlain opens what names lead to from the room's root on. None may be a link, but the last, which is opened itself.
func (r *room) openPlain(names []string) (int, error) {
	for {
		fd, err := unix.Openat2(r.fd, strings.Join(names, "/"), &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// workingFolder makes the working folder of a container's first process where it is missing: before the root file
// system becomes read-only.
func (r *room) workingFolder(name string) error {
	if name == "" {
		return nil
	}
	fd, err := r.make(name, true)
	switch err {
	case nil:
		return unix.Close(fd)
	case unix.ELOOP, unix.ENOTDIR, unix.EACCES: // entering it says what is wrong
		return nil
	}
	return fmt.Errorf("working folder %s: %w", name, err)
}

// makeAt makes one folder or empty file in dir and opens it.
func makeAt(dir int, name string, folder bool) (int, error) {
	if folder {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil && err != unix.EEXIST {
			return -1, err
		}
	} else {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_WRONLY, 0o644)
		if err != nil && err != unix.EEXIST {
			return -1, err
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		unix.Close(fd)
		return -1, errReplaced
	}
	return fd, nil
}

// errReplaced: somebody else puts links where folders are being made.
var errReplaced = errors.New("a symbolic link took the place of what was being made")
