package storage

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is what an overlay file system is made of. Documentation/filesystems/overlayfs.rst.
type overlay struct {
	lower       []string // the topmost first
	upper, work string   // empty is read-only
}

// options is the text mount(2) takes. Folders of ours have neither colons nor commas nor backslashes; others' may not.
func (o overlay) options(rest []string) ([]string, error) {
	for _, p := range append([]string{o.upper, o.work}, o.lower...) {
		if strings.ContainsAny(p, ":,\\") {
			return nil, fmt.Errorf(
				"folder %q of an overlay: it has a character that the options of an overlay give a meaning to", p)
		}
	}
	words := []string{"lowerdir=" + strings.Join(o.lower, ":")}
	if o.upper != "" {
		words = append(words, "upperdir="+o.upper, "workdir="+o.work)
	}
	return append(words, rest...), nil
}

// mount mounts it: by mount(2) where the options fit a page, else with a call for each folder.
func (o overlay) mount(at place, h how, u *undo) error {
	words, err := o.options(h.data)
	if err != nil {
		return err
	}
	if (o.upper == "") != (o.work == "") {
		return errors.New("overlay: upperdir and workdir need each other")
	}
	if len(strings.Join(words, ",")) < pageSize {
		h.data = words
		return mounted("overlay", "overlay", at, h, u)
	}
	dir, err := at.makeDirs(dirMode, nil)
	if err != nil {
		return err
	}
	defer dir.close()
	if err := o.mountEach(dir, h); err != nil {
		return fmt.Errorf("mount an overlay of %d folders at %s: %w", len(o.lower), at, err)
	}
	u.add(at.unmount)
	return settle(at, h)
}

// attributes are mount(2)'s flags as fsmount(2) takes them.
var attributes = []struct {
	flag      uintptr
	attribute int
}{
	{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
	{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
	{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
	{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
}

// mountEach uses the key lowerdir+, which Linux has since 6.7.
func (o overlay) mountEach(dir handle, h how) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
		return nil
	}
	for _, l := range o.lower {
		if err := set("lowerdir+", l); err != nil {
			return err
		}
	}
	if o.upper != "" {
		if err := errors.Join(set("upperdir", o.upper), set("workdir", o.work)); err != nil {
			return err
		}
	}
	for _, w := range h.data {
		if key, value, ok := strings.Cut(w, "="); ok {
			err = set(key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return err
		}
	}
	if h.flags&unix.MS_RDONLY != 0 {
		if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return err
	}
	attr := 0
	for _, a := range attributes {
		if h.flags&a.flag != 0 {
			attr |= a.attribute
		}
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return err
	}
	defer unix.Close(m)
	return unix.MoveMount(m, "", int(dir), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// upperFolders makes the upper and work folders of o, below the known ones, and takes them away with what the container
// wrote.
func (m *Manager) upperFolders(o overlay, mode uint32, u *undo) error {
	for _, p := range []string{o.upper, o.work} {
		at, err := placeIn([]string{m.c.Run}, p)
		if err != nil {
			return err
		}
		h, err := at.makeDirs(mode, nil)
		if err != nil {
			return err
		}
		h.close()
		u.add(at.removeAll)
	}
	return nil
}
