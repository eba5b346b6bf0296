package stage

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// links are the symbolic links every container has in /dev. config-linux.md, "Default Devices" and "Dev symbolic
// links".
var links = []struct{ name, target string }{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// devices makes the nodes and, if there are any, the links of /dev.
func (r *room) devices(list []Device) error {
	if len(list) == 0 {
		return nil
	}
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, d := range list {
		if err := r.device(d); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	dev, err := r.make("dev", true)
	if err != nil {
		return fmt.Errorf("make /dev: %w", err)
	}
	defer unix.Close(dev)
	for _, l := range links {
		if err := unix.Symlinkat(l.target, dev, l.name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make /dev/%s: %w", l.name, err)
		}
	}
	// devpts, Documentation/filesystems/devpts.rst: each instance has its own multiplexer.
	if fd, err := r.open("dev/pts/ptmx"); err == nil {
		unix.Close(fd)
		unix.Unlinkat(dev, "ptmx", 0)
		if err := unix.Symlinkat("pts/ptmx", dev, "ptmx"); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make /dev/ptmx: %w", err)
		}
	}
	return nil
}

func (r *room) device(d Device) error {
	if d.Bind {
		fd, err := unix.Open(d.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return r.bindFile(fd, d.Path)
	}
	dir, err := r.make(path.Dir(d.Path), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(d.Path)
	number := unix.Mkdev(d.Major, d.Minor)
	if err := unix.Mknodat(dir, name, d.Type|d.Mode, int(number)); err != nil {
		var st unix.Stat_t
		// What is there already is left alone if it is the same device: an image brought it, or a mount.
		if err == unix.EEXIST && unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
			st.Mode&unix.S_IFMT == d.Type && st.Rdev == number {
			return nil
		}
		return err
	}
	return unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
}
