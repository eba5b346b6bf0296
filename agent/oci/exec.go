package oci

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/stage"
)

// shared are the namespaces that an exec joins beside those of processes, users and time.
const shared = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Execution says how another process is started.
type Execution struct {
	Streams
	Detached   bool // nobody stays with it
	EvenPaused bool // in a paused container it stops at once
}

// Exec starts another process in a container. What p does not say of capabilities is as the first process has it. A
// paused container is refused unless how says otherwise.
func (c *Container) Exec(ctx context.Context, p *specs.Process, how Execution) (*Started, error) {
	if err := checkConsole(p.Terminal, how.Detached, how.Console); err != nil {
		return nil, err
	}
	states := []Status{created, running}
	if how.EvenPaused {
		states = append(states, paused)
	}
	if err := c.want("exec in", states...); err != nil {
		return nil, err
	}
	s, err := c.exec(ctx, p, how.Streams)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return s, nil
}

func (c *Container) exec(ctx context.Context, p *specs.Process, how Streams) (_ *Started, err error) {
	spec, err := c.Spec()
	if err != nil {
		return nil, err
	}
	linux := spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	whole := *p
	if whole.Capabilities == nil && spec.Process != nil {
		whole.Capabilities = spec.Process.Capabilities
	}
	proc, unknown, err := blueprint.Process(&whole, linux)
	if err != nil {
		return nil, err
	}
	for _, u := range unknown {
		c.r.log().Warn("capability " + u + " is unknown here, and left out")
	}
	proc.Profile = whole.ApparmorProfile
	pidfd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotRunning, err)
	}
	defer unix.Close(pidfd)
	if !c.alive() {
		return nil, errNotRunning
	}
	l, err := c.r.launcher()
	if err != nil {
		return nil, err
	}
	group := c.groups.V2()
	plan := &stage.Plan{Exec: true, Flags: shared, Process: *proc, Keep: how.Keep, AskGroup: group == nil}
	enter := 0
	if c.Join.Time {
		enter = unix.CLONE_NEWTIME
	}
	if c.Join.User { // from within, a namespace that is not of this user namespace could not be joined
		plan.Flags = unix.CLONE_NEWNS
		enter |= unix.CLONE_NEWUSER | shared&^plan.Flags
	}
	req := &launch.Request{Plan: plan, Group: group, OOM: whole.OOMScoreAdj, More: kept(how.Keep),
		Into: &launch.Container{PID: c.Process.Pid, Pidfd: pidfd, Enter: enter}}
	if req.OOM == nil {
		req.OOM = ownScore()
	}
	s, err := l.Start(req, how.Files[:])
	if err != nil {
		return nil, err
	}
	out := &Started{Pid: s.Child.Pid, stage: s, launch: l}
	if err := out.begin(ctx, c, how); err != nil {
		if out.Master != nil {
			out.Master.Close()
		}
		s.Child.Signal(unix.SIGKILL) // it may have ended already
		if errors.Is(err, io.EOF) {
			err = early(ctx, l, s, err)
		}
		s.Control.Close()
		return nil, err
	}
	s.Control.Close()
	return out, nil
}

// begin has the stage become the program.
func (s *Started) begin(ctx context.Context, c *Container, how Streams) error {
	ctl := s.stage.Control
	announced := false
	for {
		msg, err := ctl.Next(ctx)
		switch {
		case errors.Is(err, io.EOF) && announced: // exec has closed the socket
			return writePid(how.PidFile, s.Pid)
		case err != nil:
			return err
		case msg.Kind == stage.Exec:
			announced = true
		case msg.Kind == stage.Terminal:
			if s.Master, err = handConsole(ctl.TakeFile(), how.Console); err != nil {
				return err
			}
		case msg.Kind == stage.Group:
			if err := c.groups.Add(s.Pid); err != nil {
				return err
			}
			if err := ctl.Continue(); err != nil {
				return err
			}
		}
	}
}
