package storage

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
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

// how is a list of options, read.
type how struct {
	flags       uintptr
	propagation []uintptr
	data        []string // the file system's own, in order
}

func parseOptions(words []string) how {
	var h how
	for _, list := range words {
		for w := range strings.SplitSeq(list, ",") {
			is := func(o option) bool { return o.name == w }
			if i := slices.IndexFunc(options, is); i >= 0 {
				if options[i].clear {
					h.flags &^= options[i].bit
				} else {
					h.flags |= options[i].bit
				}
			} else if i := slices.IndexFunc(propagations, is); i >= 0 {
				h.propagation = append(h.propagation, propagations[i].bit)
			} else if w != "" && !slices.Contains(hostOnly, w) {
				h.data = append(h.data, w)
			}
		}
	}
	return h
}

// take removes the word key=VALUE from the file system's own options and returns its value; the last one counts.
func (h *how) take(key string) (string, bool) {
	value, found := "", false
	h.data = slices.DeleteFunc(h.data, func(w string) bool {
		v, ok := strings.CutPrefix(w, key+"=")
		if ok {
			value, found = v, true
		}
		return ok
	})
	return value, found
}

// get is the value of key=VALUE; the last one counts.
func (h how) get(key string) (string, bool) {
	value, found := "", false
	for _, w := range h.data {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			value, found = v, true
		}
	}
	return value, found
}

// pageSize bounds what mount(2) takes as data, with its NUL.
const pageSize = 4096

// mountAt mounts a file system on an open folder or file. name is the path of at, for errors.
func mountAt(source, fstype string, at handle, name string, h how) error {
	target := at.path()
	data := strings.Join(h.data, ",")
	wrap := func(err error) error {
		switch err {
		case unix.ENODEV:
			return fmt.Errorf("mount %s at %s: this kernel has no %s", source, name, fstype)
		default:
			return fmt.Errorf("mount %s at %s (%s): %w", source, name, strings.TrimSpace(fstype+" "+data), err)
		}
	}
	switch {
	case len(data) >= pageSize:
		return fmt.Errorf("mount %s at %s: %d bytes of options: want fewer than %d", source, name, len(data), pageSize)
	case h.flags&unix.MS_BIND != 0:
		if err := unix.Mount(source, target, "", unix.MS_BIND|h.flags&unix.MS_REC, ""); err != nil {
			return wrap(err)
		}
	default:
		if err := unix.Mount(source, target, fstype, h.flags, data); err != nil {
			return wrap(err)
		}
	}
	// What follows concerns what is now on top of at, which a handle from before does not reach.
	return nil
}

// settle does the second calls a bind and propagation need, on the mount that is now at p.
func settle(p place, h how) error {
	second := h.flags&unix.MS_BIND != 0 && h.flags&perMount != 0
	if !second && len(h.propagation) == 0 {
		return nil
	}
	top, err := p.open(unix.O_PATH)
	if err != nil {
		return err
	}
	defer top.close()
	if second {
		// In a user namespace, flags that the source has may not go: they are asked for again.
		var st unix.Statfs_t
		if err := unix.Statfs(top.path(), &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := unix.Mount("", top.path(), "", unix.MS_BIND|unix.MS_REMOUNT|h.flags&perMount|flagsOf(st),
			""); err != nil {
			return fmt.Errorf("mount options of %s: %w", p, err)
		}
	}
	for _, f := range h.propagation {
		if err := unix.Mount("", top.path(), "", f, ""); err != nil {
			return fmt.Errorf("propagation of %s: %w", p, err)
		}
	}
	return nil
}

// flagsOf are the flags of a mount as mount(2) takes them. statfs(2): only ST_RELATIME has another bit there.
func flagsOf(st unix.Statfs_t) uintptr {
	const same = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_SYNCHRONOUS |
		unix.ST_NOATIME | unix.ST_NODIRATIME
	f := uintptr(st.Flags) & same
	if st.Flags&unix.ST_RELATIME != 0 {
		f |= unix.MS_RELATIME
	}
	return f
}
