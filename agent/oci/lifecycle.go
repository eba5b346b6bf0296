package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/cgroup"
)

// Kill signals the container's first process. One that shares its process namespace with others leaves those behind
// when it ends, so SIGKILL then is for all.
func (c *Container) Kill(sig unix.Signal) error {
	if err := c.want("kill", created, running, paused); err != nil {
		return err
	}
	if sig == unix.SIGKILL && !c.Join.PIDs {
		return c.KillAll(sig)
	}
	return c.signal(sig)
}

// KillAll signals every process in the container, also when the first one has ended.
func (c *Container) KillAll(sig unix.Signal) error {
	if err := c.groups.Signal(sig); err != nil {
		return fmt.Errorf("kill all of container %s: %w", c.ID, err)
	}
	return nil
}

// Delete takes a container away that has stopped, or has not begun. With force any.
func (c *Container) Delete(ctx context.Context, force bool) error {
	status, err := c.status()
	if err != nil {
		return err
	}
	if status != stopped {
		if status != created && !force {
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.ID, status)
		}
		if err := c.end(ctx); err != nil {
			return err
		}
	}
	return c.remove(ctx)
}

// end kills the container, and waits until its first process has ended.
func (c *Container) end(ctx context.Context) error {
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	defer unix.Close(fd)
	if err := c.signal(unix.SIGKILL); err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	if frozen, _ := c.groups.Frozen(); frozen {
		if err := c.groups.Freeze(ctx, false); err != nil {
			return fmt.Errorf("delete container %s: %w", c.ID, err)
		}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(cleanTimeout)
	}
	for c.alive() {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("delete container %s: its process %d does not end", c.ID, c.Process.Pid)
		}
		// A pidfd can be read once its process has ended. pidfd_open(2).
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("delete container %s: %w", c.ID, err)
		}
	}
	return nil
}

// remove takes away whatever there is of a container whose first process has ended.
func (c *Container) remove(ctx context.Context) error {
	if err := c.groups.Remove(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	if spec, err := c.Spec(); err != nil {
		c.r.log().Warn(err.Error())
	} else if err := c.poststop(ctx, spec); err != nil {
		return err
	}
	if err := os.RemoveAll(c.r.dir(c.ID)); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID, err)
	}
	return nil
}

func (c *Container) poststop(ctx context.Context, spec *specs.Spec) error {
	if spec.Hooks == nil || len(spec.Hooks.Poststop) == 0 {
		return nil
	}
	l, err := c.r.launcher()
	if err != nil {
		return err
	}
	defer collect(l)()
	for _, h := range blueprint.Hooks("poststop", spec.Hooks.Poststop) {
		if err := l.Hook(ctx, h, c.hookState(stopped)); err != nil { // runtime.md, "Lifecycle": a warning
			c.r.log().Warn(err.Error())
		}
	}
	return nil
}

// Pause stops every process where it is.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, "pause", true, running, created)
}

// Resume lets paused processes go on.
func (c *Container) Resume(ctx context.Context) error { return c.freeze(ctx, "resume", false, paused) }

func (c *Container) freeze(ctx context.Context, deed string, on bool, from ...Status) error {
	if err := c.want(deed, from...); err != nil {
		return err
	}
	if err := c.groups.Freeze(ctx, on); err != nil {
		return fmt.Errorf("%s container %s: %w", deed, c.ID, err)
	}
	return nil
}

// Pids are the processes in the container, by the host's numbers.
func (c *Container) Pids() ([]int, error) {
	pids, err := c.groups.Pids()
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", c.ID, err)
	}
	return pids, nil
}

// Update changes limits. What is not set stays as it is.
func (c *Container) Update(res *specs.LinuxResources) error {
	if err := c.want("update", created, running, paused); err != nil {
		return err
	}
	err := c.groups.Set(res)
	if err == nil && res != nil && len(res.Devices) > 0 {
		var rules []cgroup.Rule
		if rules, err = cgroup.Rules(res.Devices, nil); err == nil {
			err = c.groups.SetDevices(rules)
		}
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return nil
}
