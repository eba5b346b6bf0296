package stage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// mount carries out one mount.
func (r *room) mount(m Mount, trees []int) error {
	if m.Bind {
		return r.bind(m, trees)
	}
	below, err := r.open(m.Destination)
	found := err == nil
	if found {
		unix.Close(below)
	}
	target, err := r.make(m.Destination, true)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if m.Exact {
		if err := r.exact(target, m.Destination); err != nil {
			return err
		}
	}
	data, flags := m.Data, m.Flags
	if m.AsBelow && found {
		var st unix.Stat_t
		if err := unix.Fstat(target, &st); err != nil {
			return err
		}
		data = strings.TrimSuffix(fmt.Sprintf("mode=%04o,%s", st.Mode&0o7777, data), ",")
	}
	if m.CopyUp || m.Late {
		flags &^= unix.MS_RDONLY // until the copy, or all, is there
	}
	if err := unix.Mount(m.Source, fdPath(target), m.Type, flags, data); err != nil {
		if err == unix.ENODEV {
			return fmt.Errorf("this kernel has no %s: %w", m.Type, err)
		}
		return err
	}
	if m.RSet|m.RClr == 0 && len(m.Propagation) == 0 && !m.CopyUp {
		return nil
	}
	top, err := r.open(m.Destination) // target is what lies below
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if m.CopyUp {
		if err := copyFolder(target, top); err != nil {
			return fmt.Errorf("copy what the folder below holds: %w", err)
		}
		if m.Flags&unix.MS_RDONLY != 0 {
			if err := setattr(top, 0, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
				return fmt.Errorf("make it read-only: %w", err)
			}
		}
	}
	if err := setattr(top, unix.AT_RECURSIVE, m.RSet, m.RClr, 0); err != nil {
		return fmt.Errorf("recursive flags: %w", err)
	}
	return propagate(top, m.Propagation)
}

// late makes the mount at a place read-only.
func (r *room) late(destination string) error {
	fd, err := r.open(destination)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setattr(fd, 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
}

// exact refuses a target that is elsewhere than it says.
func (r *room) exact(fd int, destination string) error {
	root, err := os.Readlink(fdPath(r.fd))
	if err != nil {
		return err
	}
	got, err := os.Readlink(fdPath(fd))
	if err != nil {
		return err
	}
	if want := path.Join(root, destination); got != want {
		return fmt.Errorf("a symbolic link leads to %s", got)
	}
	return nil
}

func (r *room) bind(m Mount, trees []int) error {
	tree := -1
	if m.Tree > 0 {
		if m.Tree > len(trees) {
			return errors.New("its tree did not come with the plan")
		}
		tree = trees[m.Tree-1]
	} else {
		var err error
		if tree, err = OpenTree(m.Source, m.Recursive); err != nil {
			return err
		}
	}
	defer unix.Close(tree)
	if err := setattr(tree, 0, m.Set, m.Clear, 0); err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	if err := setattr(tree, unix.AT_RECURSIVE, m.RSet, m.RClr, 0); err != nil {
		return fmt.Errorf("recursive flags: %w", err)
	}
	if err := propagate(tree, m.Propagation); err != nil {
		return err
	}
	if m.Exact {
		target, err := r.make(m.Destination, true)
		if err != nil {
			return err
		}
		err = r.exact(target, m.Destination)
		unix.Close(target)
		if err != nil {
			return err
		}
	}
	return r.attach(tree, m.Destination)
}

// OpenTree makes a detached copy of the mount that a path is on, seen from the path; and of those below, if recursive.
func OpenTree(source string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, fmt.Errorf("source %s: %w", source, err)
	}
	return tree, nil
}

// attach puts a tree of mounts at a place in the room.
func (r *room) attach(tree int, destination string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	target, err := r.make(destination, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// bindFile puts the open file at a place in the room.
func (r *room) bindFile(fd int, destination string) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return r.attach(tree, destination)
}

func setattr(fd int, flags uint, set, clr, propagation uint64) error {
	if set|clr|propagation == 0 {
		return nil
	}
	return unix.MountSetattr(fd, "", flags|unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: set, Attr_clr: clr,
		Propagation: propagation})
}

func propagate(fd int, kinds []uint64) error {
	for _, p := range kinds {
		var flags uint
		if p&unix.MS_REC != 0 {
			flags = unix.AT_RECURSIVE
		}
		if err := setattr(fd, flags, 0, 0, p&^unix.MS_REC); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	return nil
}

// mask hides a path, if it is there: a file behind the null device, a folder behind an empty file system.
func (r *room) mask(name string) error {
	fd, err := r.open(name)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Mount("tmpfs", fdPath(fd), "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
			"nr_blocks=1,nr_inodes=1")
	}
	// The guest's null device, never the container's, which could be anything.
	null, err := unix.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	if err := unix.Fstat(null, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return fmt.Errorf("/dev/null of the guest is not the null device")
	}
	return unix.MoveMount(null, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// readonly makes a path read-only, with all that is mounted below, if it is there.
func (r *room) readonly(name string) error {
	fd, err := r.open(name)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setattr(tree, unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY, 0, 0); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
