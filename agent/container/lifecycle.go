package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cleanTimeout bounds what is done after a failure.
const cleanTimeout = 10 * time.Second

// shared are the namespaces that an exec joins beside those of processes, users and time.
const shared = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Stats is what a container has used.
type Stats = cgroup.Stats

// now is what the container does now.
func (c *Container) now() phase {
	if c.init.ended() {
		return stateStopped
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// want returns an error unless the container is in one of the states.
func (c *Container) want(deed string, states ...phase) error {
	now := c.now()
	for _, s := range states {
		if s == now {
			return nil
		}
	}
	return fmt.Errorf("%s container %s, which is %s: %w", deed, c.id, now, ErrState)
}

// Start lets the program begin. Once it returns nil, the program has replaced the stage.
func (c *Container) Start(ctx context.Context) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.want("start", stateCreated); err != nil {
		return err
	}
	c.mu.Lock()
	ctl := c.control
	c.control = nil
	c.mu.Unlock()
	if ctl == nil {
		return fmt.Errorf("start container %s a second time: %w", c.id, ErrState)
	}
	defer ctl.Close()
	if err := ctl.Continue(); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, c.init.early(ctx, err))
	}
	if err := c.init.begun(ctx, ctl); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	c.mu.Lock()
	c.state = stateRunning
	c.mu.Unlock()
	if h := c.spec.Hooks; h != nil {
		s := c.plan.Stage.State
		s.Pid, s.Status = c.init.pid, string(stateRunning)
		for _, hook := range blueprint.Hooks("poststart", h.Poststart) {
			if err := c.r.stages.Hook(ctx, hook, s); err != nil {
				c.r.cfg.Log.Error(err.Error(), "container", c.id)
			}
		}
	}
	return nil
}

// Exec starts another process in a container. What p does not say of rights and limits is as the container's first
// process has it.
func (c *Container) Exec(ctx context.Context, execID string, p *specs.Process, stdio Stdio) (*Process, error) {
	fail := func(err error) (*Process, error) {
		stdio.close()
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.id, err)
	}
	if execID == "" || p == nil {
		return fail(errors.New("no id or no process"))
	}
	if err := c.want("exec in", stateCreated, stateRunning); err != nil {
		stdio.close()
		return nil, err
	}
	linux := c.spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	whole := inherit(*p, c.spec.Process)
	proc, odd, err := blueprint.Process(&whole, linux)
	if err != nil {
		return fail(err)
	}
	c.warn(odd)
	proc.Personality, proc.Locks = c.plan.Stage.Process.Personality, c.plan.Stage.Process.Locks
	c.mu.Lock()
	_, there := c.procs[execID]
	going := c.going
	if !there && !going && execID != c.id {
		c.procs[execID] = nil
	}
	c.mu.Unlock()
	if going {
		return fail(errGoing)
	}
	if there || execID == c.id {
		return fail(ErrExists)
	}
	plan := &stage.Plan{Exec: true, Flags: shared, Process: *proc}
	enter := c.plan.Stage.Unshare & unix.CLONE_NEWTIME
	if c.plan.User { // from within, a namespace that is not of this user namespace could not be joined
		plan.Flags = unix.CLONE_NEWNS
		enter |= unix.CLONE_NEWUSER | shared&^plan.Flags
	}
	request := &launch.Request{Plan: plan, Group: c.group, OOM: whole.OOMScoreAdj,
		Into: &launch.Container{PID: c.init.pid, Enter: enter}}
	out, err := c.exec(ctx, execID, request, stdio)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.procs, execID)
		if c.going { // whatever went wrong, that is why
			return fail(fmt.Errorf("%w (%w)", errGoing, err))
		}
		return fail(err)
	}
	if c.going { // Remove may have killed what there was before this one was there
		delete(c.procs, execID)
		c.abandon(out)
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.id, errGoing)
	}
	c.procs[execID] = out
	return out, nil
}

// errGoing refuses what comes after Remove has begun.
var errGoing = fmt.Errorf("the container is being removed: %w", ErrState)

// abandon ends a process that nobody will know.
func (c *Container) abandon(p *Process) {
	p.child.Signal(unix.SIGKILL) // it may have ended already
	c.r.background(func() {
		<-p.drained
		p.io.close()
	})
}

func (c *Container) exec(ctx context.Context, execID string, l *launch.Request, stdio Stdio) (*Process, error) {
	var err error
	if l.Into.Pidfd, err = c.init.dupPidfd(); err != nil {
		return nil, err
	}
	defer unix.Close(l.Into.Pidfd)
	p, ctl, err := c.r.launch(ctx, c, l, stdio, nil)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	p.id = execID
	if err := p.begun(ctx, ctl); err != nil {
		c.abandon(p)
		return nil, err
	}
	p.io.begin()
	return p, nil
}

// inherit fills in what a host leaves out.
func inherit(p specs.Process, from *specs.Process) specs.Process {
	if p.Capabilities == nil {
		p.Capabilities = from.Capabilities
	}
	if len(p.Rlimits) == 0 {
		p.Rlimits = from.Rlimits
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = from.OOMScoreAdj
	}
	if p.User.Umask == nil {
		p.User.Umask = from.User.Umask
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = from.SelinuxLabel
	}
	if p.Scheduler == nil {
		p.Scheduler = from.Scheduler
	}
	if p.IOPriority == nil {
		p.IOPriority = from.IOPriority
	}
	p.NoNewPrivileges = p.NoNewPrivileges || from.NoNewPrivileges
	return p
}

// Process finds a process. "" and the container's id are its first one.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" || execID == c.id {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.procs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q of container %s: %w", execID, c.id, ErrNotFound)
}

// pids are the processes in the container, by the guest's numbers.
func (c *Container) pids() ([]int, error) {
	pids, err := c.group.Pids()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// SignalAll signals every process in the container.
func (c *Container) SignalAll(_ context.Context, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		if err := c.group.Kill(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("kill container %s: %w", c.id, err)
		}
		return nil
	}
	pids, err := c.pids()
	if err != nil {
		return fmt.Errorf("signal container %s: %w", c.id, err)
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("signal process %d of container %s: %w", pid, c.id, err))
		}
	}
	return errors.Join(errs...)
}

// Update changes limits. What is not set stays as it is.
func (c *Container) Update(res *specs.LinuxResources) error {
	files, err := cgroup.Files(res)
	if err == nil {
		err = c.group.Set(files)
	}
	if err == nil && res != nil && len(res.Devices) > 0 {
		var rules []cgroup.Rule
		if rules, err = c.rules(res); err == nil {
			err = c.group.SetDevices(&c.r.programs, rules)
		}
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// Stats reads the counters of the control group.
func (c *Container) Stats() (Stats, error) { return c.group.Stats() }

// Pause stops every process where it is.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, "pause", stateRunning, statePaused)
}

// Resume lets paused processes go on.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, "resume", statePaused, stateRunning)
}

func (c *Container) freeze(ctx context.Context, deed string, from, to phase) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.want(deed, from); err != nil {
		return err
	}
	if err := c.group.Freeze(ctx, to == statePaused); err != nil {
		return fmt.Errorf("%s container %s: %w", deed, c.id, err)
	}
	c.mu.Lock()
	c.state = to
	c.mu.Unlock()
	return nil
}

// Remove ends all processes and takes away what Create made. After an error it may be called again.
func (c *Container) Remove(ctx context.Context) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.undo(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.containers[c.id] == c {
		delete(c.r.containers, c.id)
		if len(c.r.containers) == 0 { // also of those being made, which want it themselves
			c.r.forgetAhead()
		}
	}
	return nil
}

// undo takes away whatever there is of a container.
func (c *Container) undo(ctx context.Context) error {
	c.mu.Lock()
	c.going = true
	ctl := c.control
	c.control = nil
	var all []*Process
	for _, p := range c.procs {
		if p != nil {
			all = append(all, p)
		}
	}
	c.mu.Unlock()
	if ctl != nil {
		ctl.Close()
	}
	if c.group != nil {
		if err := c.SignalAll(ctx, unix.SIGKILL); err != nil {
			return err
		}
	}
	if c.init != nil {
		all = append(all, c.init)
		c.init.child.Signal(unix.SIGKILL) // in case it never got into the group
	}
	for _, p := range all {
		if _, err := p.Wait(ctx); err != nil {
			return err
		}
		p.io.close()
	}
	if c.group != nil {
		c.r.outOfMemory.unwatch(c.id)
		if err := c.group.Empty(ctx); err != nil {
			return err
		}
		if err := c.group.Remove(); err != nil {
			return err
		}
	}
	if c.init != nil {
		c.init.closePidfd()
		c.poststop(ctx)
	}
	if err := c.mounts.drop(ctx, c.r.background); err != nil {
		return err
	}
	return removeFolder(c.dir)
}

// poststop runs the hooks of that name once.
func (c *Container) poststop(ctx context.Context) {
	c.mu.Lock()
	done := c.stopped
	c.stopped = true
	c.mu.Unlock()
	if done || c.spec.Hooks == nil {
		return
	}
	s := c.plan.Stage.State
	s.Status = string(stateStopped)
	for _, h := range blueprint.Hooks("poststop", c.spec.Hooks.Poststop) {
		if err := c.r.stages.Hook(ctx, h, s); err != nil {
			c.r.cfg.Log.Error(err.Error(), "container", c.id)
		}
	}
}

// removeFolder removes a container's folder after unmounting all in it. What cannot be unmounted is not removed from
// within.
func removeFolder(dir string) error {
	mounts, err := mountinfo.Self()
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	for i := len(mounts) - 1; i >= 0; i-- { // what was mounted last lies on top
		if p := mounts[i].Point; p == dir || strings.HasPrefix(p, dir+string(filepath.Separator)) {
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
				!errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", p, err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}
