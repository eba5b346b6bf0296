package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// idmap is a mount that the agent makes for a stage: one that has other owners than its file system says, or one that
// only the owner of a namespace may make.
type idmap struct {
	mount      int  // index among the plan's mounts
	recursive  bool // also what is mounted below
	uids, gids []specs.LinuxIDMapping
	fs         string // the type of a file system that shows a namespace; empty for a bind
	attr       int    // of its mount, MOUNT_ATTR_ bits
	in         join   // the namespace that it shows, unless that is the agent's
}

// views are file systems that show a namespace, and may only be mounted by whoever owns that. namespaces(7), sysfs(5),
// mq_overview(7).
var views = map[string]int{"sysfs": unix.CLONE_NEWNET, "mqueue": unix.CLONE_NEWIPC}

// lend finds the mounts that a stage in a user namespace may not make, because what they show belongs to the pod: the
// agent makes them.
func (b *blueprint) lend() {
	if !b.user {
		return
	}
	for i := range b.stage.Mounts {
		m := &b.stage.Mounts[i]
		flag, ok := views[m.Type]
		if !ok || m.Bind || b.clone&flag != 0 {
			continue
		}
		out := idmap{mount: i, fs: m.Type, attr: int(m.Flags & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV |
			unix.MS_NOEXEC))}
		for _, j := range b.join {
			if j.flag == flag {
				out.in = j
			}
		}
		b.trees = append(b.trees, out)
		m.Bind, m.Type, m.Source, m.Flags, m.Data = true, "", out.fs, 0, ""
		m.Tree, b.stage.Trees = len(b.trees), len(b.trees)
	}
}

// view mounts a file system that shows a namespace, at no place yet. fsopen(2), fsmount(2).
func (t idmap) view() (fd int, err error) {
	err = within(t.in, func() error {
		fs, err := unix.Fsopen(t.fs, unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, t.attr)
		return err
	})
	return fd, err
}

// within does something in a namespace; the zero join is the agent's own.
func within(j join, do func() error) error {
	if j.path == "" {
		return do()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this goroutine
		fd, err := unix.Open(j.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, j.flag), unix.Close(fd))
		}
		if err != nil {
			err = fmt.Errorf("join namespace %s: %w", j.path, err)
		} else {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// settle sets what a stage in a user namespace may not, because it belongs to the pod: sysctls of its network and its
// IPC.
func (b *blueprint) settle() error {
	for _, s := range b.sysctls {
		file := s.Path()
		var in join
		for _, j := range b.join {
			if j.flag == sysctlNamespace(s.Name) {
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

// sysctlNamespace is the kind of namespace that a sysctl belongs to.
func sysctlNamespace(name string) int {
	if dotted := strings.ReplaceAll(name, "/", "."); strings.HasPrefix(dotted, "net.") {
		return unix.CLONE_NEWNET
	}
	return unix.CLONE_NEWIPC
}

// maxTrees is how many mounts of a container can have other owners. Their files have to stay below highFD, and within
// child.MaxFiles.
const maxTrees = 48

// idmaps finds the mounts of a specification that have other owners.
func (b *blueprint) idmaps(mounts []specs.Mount) error {
	for i, m := range mounts {
		wanted, recursive := len(m.UIDMappings)+len(m.GIDMappings) > 0, false
		for _, o := range m.Options {
			wanted, recursive = wanted || o == "idmap" || o == "ridmap", recursive || o == "ridmap"
		}
		if !wanted {
			continue
		}
		out := idmap{mount: i, recursive: recursive, uids: m.UIDMappings, gids: m.GIDMappings}
		fail := func(why string) error { return fmt.Errorf("mount %s: other owners: %s", m.Destination, why) }
		switch {
		case !b.stage.Mounts[i].Bind:
			return fail("only a bind can have them")
		case len(out.uids)+len(out.gids) == 0 && !b.user:
			return fail("neither mappings nor a user namespace of the container say which")
		case len(out.uids)+len(out.gids) > 0 && (len(out.uids) == 0 || len(out.gids) == 0):
			return fail("mappings of users and of groups only go together")
		}
		if len(out.uids) == 0 && b.owner == "" {
			out.uids, out.gids = b.uids, b.gids
		}
		if b.trees = append(b.trees, out); len(b.trees) > maxTrees {
			return fail(fmt.Sprintf("more than %d mounts with them", maxTrees))
		}
		b.stage.Mounts[i].Tree, b.stage.Trees = len(b.trees), len(b.trees)
	}
	return nil
}

// makeTrees makes mounts with other owners, which only who owns the file system may, and so not a stage in a user
// namespace. To be closed by the caller, also with an error.
func (r *Runner) makeTrees(b *blueprint) (out []*os.File, err error) {
	owners := map[string]*os.File{} // namespaces by mappings
	defer func() {
		for _, f := range owners {
			f.Close()
		}
	}()
	for _, t := range b.trees {
		m := b.stage.Mounts[t.mount]
		if t.fs != "" {
			fd, err := t.view()
			if err != nil {
				return out, fmt.Errorf("mount %s: %s of the pod: %w", m.Name, t.fs, err)
			}
			out = append(out, os.NewFile(uintptr(fd), t.fs))
			continue
		}
		fail := func(err error) ([]*os.File, error) {
			return out, fmt.Errorf("mount %s: other owners: %w", m.Name,
				err)
		}
		key := fmt.Sprint(t.uids, t.gids)
		if owners[key] == nil {
			var f *os.File
			if len(t.uids) == 0 {
				f, err = os.Open(b.owner)
			} else {
				f, err = r.mapping(t.uids, t.gids)
			}
			if err != nil {
				return fail(err)
			}
			owners[key] = f
		}
		fd, err := stage.OpenTree(m.Source, m.Recursive)
		if err != nil {
			return fail(err)
		}
		out = append(out, os.NewFile(uintptr(fd), m.Source))
		flags := uint(unix.AT_EMPTY_PATH)
		if t.recursive {
			flags |= unix.AT_RECURSIVE
		}
		err = unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP,
			Userns_fd: uint64(owners[key].Fd())})
		if err == unix.EINVAL {
			// The file system must say that it can. mount_setattr(2), which lists those.
			err = fmt.Errorf("the file system %s of %s cannot have them, or what is mounted below it cannot: %w",
				fileSystem(m.Source), m.Source, err)
		}
		if err != nil {
			return fail(err)
		}
	}
	return out, nil
}

// mapping makes a user namespace, which lives as long as its file is open. Its first process, which it cannot be made
// without, is a stage that gets no plan.
func (r *Runner) mapping(uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	s, err := r.idleStage(&syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: mappings(uids), GidMappings: mappings(gids),
		GidMappingsEnableSetgroups: true,
	})
	if err != nil {
		return nil, fmt.Errorf("user namespace with these mappings: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", s.child.Pid))
	gone := s.child.Signal(0) != nil // and its number perhaps another's
	s.end()
	<-s.child.Done()
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
