package mount

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
)

// Overlay is what an overlay file system is made of. Documentation/filesystems/overlayfs.rst.
type Overlay struct {
	Lower       []string // the topmost first
	Upper, Work string   // empty is read-only
}

// options is the text mount(2) takes. Folders of ours have neither colons nor commas nor backslashes; others' may not.
func (o Overlay) options(rest []string) ([]string, error) {
	for _, p := range append([]string{o.Upper, o.Work}, o.Lower...) {
		if strings.ContainsAny(p, ":,\\") {
			return nil, fmt.Errorf(
				"folder %q of an overlay: it has a character that the options of an overlay give a meaning to", p)
		}
	}
	words := []string{"lowerdir=" + strings.Join(o.Lower, ":")}
	if o.Upper != "" {
		words = append(words, "upperdir="+o.Upper, "workdir="+o.Work)
	}
	return append(words, rest...), nil
}

// Mount mounts it at a place, whose folder it makes: by mount(2) where the options fit a page, else with a call for
// each folder. h is as for At, and as with At nothing is mounted after an error.
func (o Overlay) Mount(at place.Place, h Options) error {
	words, err := o.options(h.Data)
	if err != nil {
		return err
	}
	if (o.Upper == "") != (o.Work == "") {
		return errors.New("overlay: upperdir and workdir need each other")
	}
	if len(strings.Join(words, ",")) < pageSize {
		h.Data = words
		return At("overlay", "overlay", at, h)
	}
	dir, err := at.MakeDirs(place.DirMode, nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := o.mountEach(dir, h); err != nil {
		return fmt.Errorf("mount an overlay of %d folders at %s: %w", len(o.Lower), at, err)
	}
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
func (o Overlay) mountEach(dir place.Handle, h Options) error {
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
	for _, l := range o.Lower {
		if err := set("lowerdir+", l); err != nil {
			return err
		}
	}
	if o.Upper != "" {
		if err := errors.Join(set("upperdir", o.Upper), set("workdir", o.Work)); err != nil {
			return err
		}
	}
	for _, w := range h.Data {
		if key, value, ok := strings.Cut(w, "="); ok {
			err = set(key, value)
		} else {
			err = unix.FsconfigSetFlag(fd, key)
		}
		if err != nil {
			return err
		}
	}
	if h.Flags&unix.MS_RDONLY != 0 {
		if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return err
	}
	attr := 0
	for _, a := range attributes {
		if h.Flags&a.flag != 0 {
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
