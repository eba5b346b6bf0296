package launch

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/katabuild/katabuild/agent/container/child"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/osthread"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// program is what is started.
type program struct {
	path  string
	args  []string
	files []*os.File // file i of it
	group int        // the folder of its control group, open; negative leaves it in the caller's
}

// starter is a way to start a program in the namespaces where it belongs.
type starter interface {
	start(*reap.Reaper, program) (*reap.Child, error)
	close()
}

// starterOf is the way for a request. A Go program has threads and so joins no user namespace itself: where there is
// one to join, and where a time namespace is, the program is started by a fork that has a single thread.
func starterOf(r *Request) (starter, error) {
	switch {
	case r.Owner != "":
		owner, err := os.Open(r.Owner)
		if err != nil {
			return nil, fmt.Errorf("user namespace: %w", err)
		}
		return &forked{process: int(owner.Fd()), flags: unix.CLONE_NEWUSER, fresh: r.Clone, file: owner}, nil
	case r.Into != nil && r.Into.Enter != 0:
		return &forked{process: r.Into.Pidfd, flags: r.Into.Enter}, nil
	}
	return &cloned{namespaces: r.Clone, uids: r.UIDs, gids: r.GIDs, noGroups: r.NoGroups}, nil
}

// cloned starts a program in new namespaces, by clone(2).
type cloned struct {
	namespaces int // as CLONE_NEW flags
	uids, gids []specs.LinuxIDMapping
	noGroups   bool // as in Request
}

func (c *cloned) start(r *reap.Reaper, p program) (*reap.Child, error) {
	attr := &syscall.SysProcAttr{Cloneflags: uintptr(c.namespaces), UseCgroupFD: p.group >= 0, CgroupFD: p.group}
	if len(c.uids) > 0 {
		attr.UidMappings, attr.GidMappings = mappings(c.uids), mappings(c.gids)
		attr.GidMappingsEnableSetgroups = !c.noGroups
		attr.Credential = &syscall.Credential{NoSetGroups: c.noGroups}
	}
	return r.Start(&exec.Cmd{
		Path: p.path, Args: p.args, Env: environment, Dir: "/", Stdin: p.files[0], Stdout: p.files[1],
		Stderr: p.files[2], ExtraFiles: p.files[3:], SysProcAttr: attr,
	})
}

func (c *cloned) close() {}

// forked starts a program in namespaces that are there, by package child.
type forked struct {
	process int // a pidfd, or a namespace's file where flags are only one
	flags   int // which of its namespaces, as CLONE_NEW flags
	fresh   int // namespaces that are made in there, likewise
	file    *os.File
}

func (f *forked) start(r *reap.Reaper, p program) (*reap.Child, error) {
	c := child.Command{Program: p.path, Args: p.args, Env: environment, Files: p.files, Process: f.process,
		Flags: f.flags, New: f.fresh, Group: p.group}
	return r.StartWith(c.Start)
}

func (f *forked) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// startFrom starts a stage from the namespaces that it is to be in from the first, of those that a thread of ours can
// join.
func (l *Launcher) startFrom(r *Request, start func() (*reap.Child, error)) (c *reap.Child, err error) {
	do := func() error {
		for _, j := range r.Join {
			if err := join(j); err != nil {
				return err
			}
		}
		if r.Into != nil {
			if err := unix.Setns(r.Into.Pidfd, unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("join the process namespace of the container: %w", err)
			}
		}
		var err error
		if c, err = start(); err != nil {
			return fmt.Errorf("start the stage: %w", err)
		}
		return nil
	}
	if len(r.Join) > 0 || r.Into != nil {
		err = osthread.Run(l.Guard, do)
	} else {
		err = do()
	}
	return c, err
}

// join has the calling thread join a namespace.
func join(j stage.Join) error {
	fd, err := unix.Open(j.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", j.Path, err)
	}
	err = unix.Setns(fd, j.Flag)
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("join namespace %s: %w", j.Path, err)
	}
	return nil
}

// file is what the stage joins the container's namespaces by.
func (c *Container) file() (*os.File, error) {
	if c.Enter&unix.CLONE_NEWUSER != 0 {
		// Root of a user namespace may not look into every process in it, which joining by pidfd asks for. setns(2).
		return OpenMounts(c.PID, c.Pidfd)
	}
	fd, err := unix.FcntlInt(uintptr(c.Pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd of the container: %w", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// OpenMounts opens the mount namespace of the process that has this number and pidfd.
func OpenMounts(pid, pidfd int) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("mounts of the container: %w", err)
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil { // it ended, and its number may be another's
		f.Close()
		return nil, fmt.Errorf("mounts of the container: %w", err)
	}
	return f, nil
}

func mappings(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID),
			Size: int(m.Size)})
	}
	return out
}
