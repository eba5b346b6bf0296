package container

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// idmap is that a mount has other owners than its file system says.
type idmap struct {
	mount      int  // index among the plan's mounts
	recursive  bool // also what is mounted below
	uids, gids []specs.LinuxIDMapping
}

// maxTrees is how many mounts of a container can have other owners. Their files have to stay below highFD, and within child.MaxFiles.
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

// makeTrees makes mounts with other owners, which only who owns the file system may, and so not a stage in a user namespace. To be closed
// by the caller, also with an error.
func (r *Runner) makeTrees(b *blueprint) (out []*os.File, err error) {
	owners := map[string]*os.File{} // namespaces by mappings
	defer func() {
		for _, f := range owners {
			f.Close()
		}
	}()
	for _, t := range b.trees {
		m := b.stage.Mounts[t.mount]
		fail := func(err error) ([]*os.File, error) { return out, fmt.Errorf("mount %s: other owners: %w", m.Name, err) }
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
		err = unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(owners[key].Fd())})
		if err == unix.EINVAL {
			// The file system must say that it can. mount_setattr(2), which lists those.
			err = fmt.Errorf("the file system %s of %s cannot have them, or what is mounted below it cannot: %w", fileSystem(m.Source), m.Source, err)
		}
		if err != nil {
			return fail(err)
		}
	}
	return out, nil
}

// mapping makes a user namespace, which lives as long as its file is open. Its first process, which it cannot be made without, is a stage
// that gets no plan.
func (r *Runner) mapping(uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	s, err := r.idleStage(&syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: mappings(uids), GidMappings: mappings(gids), GidMappingsEnableSetgroups: true,
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
