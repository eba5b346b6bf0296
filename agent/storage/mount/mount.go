// Package mount mounts file systems at places that requests name.
//
// In come words of mount(8) and a place; out goes a mount, or an error and none. Options says what is to be done,
// without doing it; Place and the overlay's folders must be below the folders of the guest API already.
package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
)

// option is a word of mount(8) that is a flag of mount(2).
type option struct {
	name  string
	bit   uintptr
	clear bool // the word takes the flag away
}

// options are the words that are flags; every other word is the file system's own. mount(8), "FILESYSTEM-INDEPENDENT
// MOUNT OPTIONS".
var options = []option{
	{"ro", unix.MS_RDONLY, false}, {"rw", unix.MS_RDONLY, true},
	{"nosuid", unix.MS_NOSUID, false}, {"suid", unix.MS_NOSUID, true},
	{"nodev", unix.MS_NODEV, false}, {"dev", unix.MS_NODEV, true},
	{"noexec", unix.MS_NOEXEC, false}, {"exec", unix.MS_NOEXEC, true},
	{"sync", unix.MS_SYNCHRONOUS, false}, {"async", unix.MS_SYNCHRONOUS, true},
	{"dirsync", unix.MS_DIRSYNC, false},
	{"noatime", unix.MS_NOATIME, false}, {"atime", unix.MS_NOATIME, true},
	{"nodiratime", unix.MS_NODIRATIME, false}, {"diratime", unix.MS_NODIRATIME, true},
	{"relatime", unix.MS_RELATIME, false}, {"norelatime", unix.MS_RELATIME, true},
	{"strictatime", unix.MS_STRICTATIME, false}, {"nostrictatime", unix.MS_STRICTATIME, true},
	{"lazytime", unix.MS_LAZYTIME, false}, {"nolazytime", unix.MS_LAZYTIME, true},
	{"mand", unix.MS_MANDLOCK, false}, {"nomand", unix.MS_MANDLOCK, true},
	{"bind", unix.MS_BIND, false}, {"rbind", unix.MS_BIND | unix.MS_REC, false},
}

// propagations are the words that change what a mount passes on. They go into a call of their own.
var propagations = []option{
	{"private", unix.MS_PRIVATE, false}, {"rprivate", unix.MS_PRIVATE | unix.MS_REC, false},
	{"shared", unix.MS_SHARED, false}, {"rshared", unix.MS_SHARED | unix.MS_REC, false},
	{"slave", unix.MS_SLAVE, false}, {"rslave", unix.MS_SLAVE | unix.MS_REC, false},
	{"unbindable", unix.MS_UNBINDABLE, false}, {"runbindable", unix.MS_UNBINDABLE | unix.MS_REC, false},
}

// perMount are the flags that a bind takes only in a second call.
const perMount = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME |
	unix.MS_NODIRATIME | unix.MS_RELATIME

// hostOnly are words for programs on the host that come along now and then; the kernel knows none of them.
var hostOnly = []string{"defaults", "nofail", "_netdev", "auto", "noauto", "user", "nouser"}

// Options is a list of options, read. The zero value has none.
type Options struct {
	Flags uintptr  // of mount(2)
	Data  []string // the file system's own, in order

	propagation []uintptr // each for a call of its own
}

// Parse reads options; each word may be a list, separated by commas. What is neither a flag nor for the host alone is
// the file system's own.
func Parse(words []string) Options {
	var h Options
	for _, list := range words {
		for w := range strings.SplitSeq(list, ",") {
			is := func(o option) bool { return o.name == w }
			if i := slices.IndexFunc(options, is); i >= 0 {
				if options[i].clear {
					h.Flags &^= options[i].bit
				} else {
					h.Flags |= options[i].bit
				}
			} else if i := slices.IndexFunc(propagations, is); i >= 0 {
				h.propagation = append(h.propagation, propagations[i].bit)
			} else if w != "" && !slices.Contains(hostOnly, w) {
				h.Data = append(h.Data, w)
			}
		}
	}
	return h
}

// Take removes the word key=VALUE from the file system's own options and returns its value; the last one counts.
func (h *Options) Take(key string) (string, bool) {
	value, found := "", false
	h.Data = slices.DeleteFunc(h.Data, func(w string) bool {
		v, ok := strings.CutPrefix(w, key+"=")
		if ok {
			value, found = v, true
		}
		return ok
	})
	return value, found
}

// Get is the value of key=VALUE; the last one counts.
func (h Options) Get(key string) (string, bool) {
	value, found := "", false
	for _, w := range h.Data {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			value, found = v, true
		}
	}
	return value, found
}

// pageSize bounds what mount(2) takes as data, with its NUL.
const pageSize = 4096

// At mounts a file system of a type at a place, whose folder it makes. It has the flags and the propagation once it
// returns; after an error nothing is mounted.
func At(source, fstype string, at place.Place, h Options) error {
	dir, err := at.MakeDirs(place.DirMode, nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	return on(source, fstype, dir, at, h)
}

// Bind makes an open folder or file visible at a place too, which it makes as the one or the other.
func Bind(from place.Handle, at place.Place, h Options) error {
	h.Flags |= unix.MS_BIND
	var st unix.Stat_t
	if err := unix.Fstat(int(from), &st); err != nil {
		return fmt.Errorf("bind at %s: %w", at, err)
	}
	target := at.MakeFile
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		target = func() (place.Handle, error) { return at.MakeDirs(place.DirMode, nil) }
	}
	t, err := target()
	if err != nil {
		return err
	}
	defer t.Close()
	return on(from.Path(), "", t, at, h)
}

// on mounts on an open folder or file, that of at.
func on(source, fstype string, target place.Handle, at place.Place, h Options) error {
	data := strings.Join(h.Data, ",")
	if len(data) >= pageSize {
		return fmt.Errorf("mount %s at %s: %d bytes of options: want fewer than %d", source, at, len(data), pageSize)
	}
	mount := func() error { return unix.Mount(source, target.Path(), fstype, h.Flags, data) }
	if h.Flags&unix.MS_BIND != 0 {
		mount = func() error { return unix.Mount(source, target.Path(), "", unix.MS_BIND|h.Flags&unix.MS_REC, "") }
	}
	switch err := mount(); err {
	case nil:
		return settle(at, h)
	case unix.ENODEV:
		return fmt.Errorf("mount %s at %s: this kernel has no %s", source, at, fstype)
	default:
		return fmt.Errorf("mount %s at %s (%s): %w", source, at, strings.TrimSpace(fstype+" "+data), err)
	}
}

// settle does the second calls that a bind and propagation need, on the mount that is now at p: what concerns it does
// not reach it by a handle from before. A mount that does not become what was asked for is taken away.
func settle(p place.Place, h Options) error {
	if err := again(p, h); err != nil {
		return errors.Join(err, Unmount(p))
	}
	return nil
}

func again(p place.Place, h Options) error {
	second := h.Flags&unix.MS_BIND != 0 && h.Flags&perMount != 0
	if !second && len(h.propagation) == 0 {
		return nil
	}
	top, err := p.Open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer top.Close()
	if second {
		// In a user namespace, flags that the source has may not go: they are asked for again.
		var st unix.Statfs_t
		if err := unix.Statfs(top.Path(), &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := unix.Mount("", top.Path(), "", unix.MS_BIND|unix.MS_REMOUNT|h.Flags&perMount|FlagsOf(st),
			""); err != nil {
			return fmt.Errorf("mount options of %s: %w", p, err)
		}
	}
	for _, f := range h.propagation {
		if err := unix.Mount("", top.Path(), "", f, ""); err != nil {
			return fmt.Errorf("propagation of %s: %w", p, err)
		}
	}
	return nil
}

// FlagsOf are the flags of a mount as mount(2) takes them. statfs(2): only ST_RELATIME has another bit there.
func FlagsOf(st unix.Statfs_t) uintptr {
	const same = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_SYNCHRONOUS |
		unix.ST_NOATIME | unix.ST_NODIRATIME
	f := uintptr(st.Flags) & same
	if st.Flags&unix.ST_RELATIME != 0 {
		f |= unix.MS_RELATIME
	}
	return f
}

// Unmount takes away what is mounted at p, at once for new users; those who have it open keep it. Nothing mounted is no
// error.
func Unmount(p place.Place) error {
	dir, err := p.Folder().Open(unix.O_PATH | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	switch err := unix.Unmount(filepath.Join(dir.Path(), p.Name()),
		unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
	case nil, unix.EINVAL, unix.ENOENT:
		return nil
	default:
		return fmt.Errorf("unmount %s: %w", p, err)
	}
}
