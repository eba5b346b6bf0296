package launch

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/osthread"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// view mounts a file system that shows a namespace, at no place yet. fsopen(2), fsmount(2).
func view(t blueprint.Tree) (fd int, err error) {
	err = within(t.In, func() error {
		fs, err := unix.Fsopen(t.FS, unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, t.Attr)
		return err
	})
	return fd, err
}

// within does something in a namespace; the zero value is the agent's own.
func within(j stage.Join, do func() error) error {
	if j.Path == "" {
		return do()
	}
	return osthread.Run(nil, func() error {
		if err := join(j); err != nil {
			return err
		}
		return do()
	})
}

// SetSysctls sets what a stage in a user namespace may not, because it belongs to the pod: sysctls of its network and
// its IPC.
func SetSysctls(b *blueprint.Blueprint) error {
	for _, s := range b.Sysctls {
		file := s.Path()
		var in stage.Join
		for _, j := range b.Join {
			if j.Flag == blueprint.SysctlNamespace(s.Name) {
				in = j
			}
		}
		// O_TRUNC says nothing to such a file, and one that is not there must not be made.
		err := within(in, func() error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(s.Value)
			return errors.Join(err, f.Close())
		})
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", s.Name, err)
		}
	}
	return nil
}

// Trees makes the mounts that a stage cannot: those with other owners, which only the owner of the file system may
// make, and those that show a namespace of the pod. The caller closes them, also with an error.
func (l *Launcher) Trees(b *blueprint.Blueprint) (out []*os.File, err error) {
	owners := map[string]*os.File{} // namespaces by mappings
	defer func() {
		for _, f := range owners {
			f.Close()
		}
	}()
	for _, t := range b.Trees {
		m := b.Stage.Mounts[t.Mount]
		if t.FS != "" {
			fd, err := view(t)
			if err != nil {
				return out, fmt.Errorf("mount %s: %s of the pod: %w", m.Name, t.FS, err)
			}
			out = append(out, os.NewFile(uintptr(fd), t.FS))
			continue
		}
		key := fmt.Sprint(t.UIDs, t.GIDs)
		if owners[key] == nil {
			if owners[key], err = l.owner(b, t); err != nil {
				return out, fmt.Errorf("mount %s: other owners: %w", m.Name, err)
			}
		}
		f, err := ownedTree(m, t.Recursive, owners[key])
		if f != nil {
			out = append(out, f)
		}
		if err != nil {
			return out, fmt.Errorf("mount %s: other owners: %w", m.Name, err)
		}
	}
	return out, nil
}

// owner opens the user namespace whose mappings a tree has: the container's own where it has none itself.
func (l *Launcher) owner(b *blueprint.Blueprint, t blueprint.Tree) (*os.File, error) {
	if len(t.UIDs) == 0 {
		return os.Open(b.Owner)
	}
	return l.mapping(t.UIDs, t.GIDs)
}

// ownedTree makes a mount whose owners are as a user namespace maps them. The file is returned with an error, too, once
// there is one.
func ownedTree(m stage.Mount, recursive bool, owner *os.File) (*os.File, error) {
	fd, err := stage.OpenTree(m.Source, m.Recursive)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), m.Source)
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err = unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(owner.Fd())})
	if err == unix.EINVAL {
		// The file system must say that it can. mount_setattr(2), which lists those.
		err = fmt.Errorf("the file system %s of %s cannot have them, or what is mounted below it cannot: %w",
			fileSystem(m.Source), m.Source, err)
	}
	return f, err
}

// mapping makes a user namespace, which lives as long as its file is open. Its first process, which it cannot be made
// without, is a stage that gets no plan.
func (l *Launcher) mapping(uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	s, err := l.idle(&syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: mappings(uids), GidMappings: mappings(gids),
		GidMappingsEnableSetgroups: true,
	}, stage.WordAhead)
	if err != nil {
		return nil, fmt.Errorf("user namespace with these mappings: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", s.Child.Pid))
	gone := s.Child.Signal(0) != nil // and its number perhaps another's
	s.End()
	<-s.Child.Done()
	if err == nil && gone {
		f.Close()
		err = errors.New("its process has ended")
	}
	if err != nil {
		return nil, fmt.Errorf("user namespace with these mappings: %w", err)
	}
	return f, nil
}

// fileSystem is the name of the file system that a path is on.
func fileSystem(p string) string {
	var st unix.Statx_t
	all, err := mountinfo.Self()
	if err != nil || unix.Statx(unix.AT_FDCWD, p, 0, unix.STATX_MNT_ID, &st) != nil {
		return "(unknown)"
	}
	for _, m := range all {
		if m.ID == st.Mnt_id {
			return m.Type
		}
	}
	return "(unknown)"
}
