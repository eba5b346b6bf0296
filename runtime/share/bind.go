package share

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Access is what a guest may do with what is bound.
type Access int

// The accesses, by the options of mounts that ask for them.
const (
	Writable    Access = iota // rw
	ReadOnly                  // ro: what is mounted below is as it is at the source
	ReadOnlyAll               // rro: neither can that be written to
)

// bind mounts a copy of what is at source, with everything below it, at target. It is made ready before it is attached:
// what receives it by propagation gets a copy of it as it is then, and would not hear of later changes. open_tree(2),
// mount_setattr(2), move_mount(2). The attributes are those of the top alone, or of what is mounted below too.
func bind(source, target string, set uint64, below bool, owners Owners) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "copy the mounts at", Path: source, Err: err}
	}
	defer unix.Close(tree)
	// Mounts that come and go below source have to appear here, none of ours there, and others receive ours.
	for _, a := range []unix.MountAttr{{Propagation: unix.MS_SLAVE}, {Propagation: unix.MS_SHARED}} {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &a); err != nil {
			return &os.PathError{Op: "set the propagation of", Path: source, Err: err}
		}
	}
	if set != 0 {
		flags := uint(unix.AT_EMPTY_PATH)
		if below {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{Attr_set: set}); err != nil {
			return &os.PathError{Op: "set the attributes of the mount", Path: source, Err: err}
		}
	}
	if err := owners.apply(tree, source, true); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.LinkError{Op: "mount", Old: source, New: target, Err: err}
	}
	return nil
}

// attributes are the flags of mount(2) that a bind may have, as attributes of mount_setattr(2).
var attributes = []struct {
	flag uintptr
	attr uint64
}{
	{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
	{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
}

var errBindOption = errors.New("an option that a bind cannot have")

// attributesOf translates the flags of a bind. Access times stay as they are at the source.
func attributesOf(flags uintptr) (set uint64, err error) {
	for _, a := range attributes {
		if flags&a.flag != 0 {
			set |= a.attr
			flags &^= a.flag
		}
	}
	if flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_RELATIME|unix.MS_NOATIME|unix.MS_STRICTATIME) != 0 {
		return 0, errBindOption
	}
	return set, nil
}
