// Package early does what an init does first: mounts, links, host name, loopback, console, limits.
//
// Table makes the list of steps as values that print themselves; Run carries it out. The package knows nothing of
// containers.
package early

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Step is one deed of the table. String is a shell command that would do the same.
type Step interface {
	fmt.Stringer
	do() error
}

// Item is a step and how much it matters.
type Item struct {
	Step
	// without it the agent cannot work, so its failure ends the guest; any other failure is logged, and the guest goes
	// on
	Essential bool
}

// Table is what an init has to prepare, in order.
func Table() []Item {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []Item{
		{Mount{Type: "proc", Source: "proc", Target: "/proc", Flags: strict}, true},
		{Mount{Type: "sysfs", Source: "sysfs", Target: "/sys", Flags: strict}, true},
		// The kernel mounts it itself for a root file system on a disk, if so configured; never for an initrd.
		{Mount{Type: "devtmpfs", Source: "devtmpfs", Target: "/dev", Flags: unix.MS_NOSUID, Data: "mode=0755"}, true},
		// ptmxmode: the multiplexer inside a devpts is unusable by default. gid 5 is the group tty in every
		// distribution.
		{Mount{Type: "devpts", Source: "devpts", Target: "/dev/pts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC,
			Data: "mode=0620,gid=5,ptmxmode=0666"}, false},
		{Mount{Type: "tmpfs", Source: "tmpfs", Target: "/dev/shm", Flags: unix.MS_NOSUID | unix.MS_NODEV,
			Data: "mode=1777"}, false},
		{Mount{Type: "tmpfs", Source: "tmpfs", Target: "/run", Flags: unix.MS_NOSUID | unix.MS_NODEV,
			Data: "mode=0755"}, false},
		{Mount{Type: "cgroup2", Source: "cgroup2", Target: "/sys/fs/cgroup", Flags: strict | unix.MS_RELATIME,
			Data: "nsdelegate"}, false},
		{link{Target: "pts/ptmx", Path: "/dev/ptmx"}, false},
		{link{Target: "/proc/self/fd", Path: "/dev/fd"}, false},
		{link{Target: "/proc/self/fd/0", Path: "/dev/stdin"}, false},
		{link{Target: "/proc/self/fd/1", Path: "/dev/stdout"}, false},
		{link{Target: "/proc/self/fd/2", Path: "/dev/stderr"}, false},
	}
}

// Run does every step. It stops at the first essential one that fails; other failures go to complain.
func Run(table []Item, complain func(error)) error {
	for _, i := range table {
		err := i.do()
		switch {
		case err == nil:
		case i.Essential:
			return err
		default:
			complain(err)
		}
	}
	return nil
}

// Mount is a mount of a file system that needs no device.
type Mount struct {
	Type, Source, Target string
	Flags                uintptr // MS_ bits of mount(2)
	Data                 string
}

// flagNames are the flags a table may use, with their names in mount(8).
var flagNames = []struct {
	bit  uintptr
	name string
}{{unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}, {unix.MS_RELATIME, "relatime"}}

func (m Mount) String() string {
	var options []string
	for _, f := range flagNames {
		if m.Flags&f.bit != 0 {
			options = append(options, f.name)
		}
	}
	if m.Data != "" {
		options = append(options, m.Data)
	}
	return fmt.Sprintf("mount -t %s -o %s %s %s", m.Type, strings.Join(options, ","), m.Source, m.Target)
}

func (m Mount) do() error {
	switch err := os.MkdirAll(m.Target, 0o755); {
	case err != nil:
		// On a read-only root file system the folder has to be there already. A sysfs without cgroups has no place for
		// them.
		return fmt.Errorf("%s: %w", m, err)
	case mounted(m.Target):
		return nil
	}
	switch err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err {
	case nil, unix.EBUSY: // busy: the same file system is there already
		return nil
	case unix.ENODEV:
		return fmt.Errorf("%s: this kernel has no %s", m, m.Type)
	default:
		return fmt.Errorf("%s: %w", m, err)
	}
}

// mounted says whether something is mounted at path: its device is not that of the folder above.
func mounted(path string) bool {
	var here, above unix.Stat_t
	return unix.Stat(path, &here) == nil && unix.Stat(filepath.Dir(path), &above) == nil && here.Dev != above.Dev
}

// link is a symbolic link that takes the place of whatever file is there.
type link struct{ Target, Path string }

func (l link) String() string { return fmt.Sprintf("ln -snf %s %s", l.Target, l.Path) }

func (l link) do() error {
	if t, err := os.Readlink(l.Path); err == nil && t == l.Target {
		return nil
	}
	err := os.Symlink(l.Target, l.Path)
	if errors.Is(err, os.ErrExist) {
		if err = os.Remove(l.Path); err == nil {
			err = os.Symlink(l.Target, l.Path)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l, err)
	}
	return nil
}
