package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"golang.org/x/sys/unix"
)

// drainTime is how long output is waited for after a process has ended, when a child of it keeps its streams. As Kata's
// agent has it.
const drainTime = 500 * time.Millisecond

// launch starts a stage. The process is known to the reaper; its control must be read. ahead, where not nil, is the
// stage to use; when it cannot be used, for whatever reason, another one is started, which says what is wrong if it is
// not the stage.
func (r *Runner) launch(ctx context.Context, c *Container, l *launch.Request, stdio Stdio, ahead *moving) (*Process,
	*launch.Control, error) {
	sio, files, err := newStreams(r, stdio, l.Plan.Process.Terminal)
	if err != nil {
		if ahead != nil {
			ahead.discard()
		}
		return nil, nil, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var s *launch.Stage
	if ahead != nil {
		if err := ahead.HandOver(ctx, l, files, ahead.arrived); err == nil {
			s = ahead.Stage
		} else {
			r.cfg.Log.Warn("a stage that was started ahead is of no use: " + err.Error())
			ahead.discard()
		}
	}
	if s == nil {
		if s, err = r.stages.Start(l, files); err != nil {
			sio.close()
			return nil, nil, err
		}
	}
	p := &Process{c: c, id: c.id, pid: s.Child.Pid, child: s.Child, io: sio, done: make(chan struct{}),
		drained: make(chan struct{}), pidfd: -1}
	p.openPidfd()
	r.background(p.watch)
	return p, s.Control, nil
}

// Process is a process that was started in a container, also after its end.
type Process struct {
	c       *Container
	id      string
	pid     int
	child   *reap.Child
	io      *streams
	done    chan struct{}
	exit    reap.Exit // valid once done is closed
	drained chan struct{}

	mu    sync.Mutex
	pidfd int // guarded by mu; -1 once closed
}

// PID is the process's number in the guest.
func (p *Process) PID() int { return p.pid }

// Drained is closed when the process has ended and all its output was handed to the connections of its Stdio, or is
// given up.
func (p *Process) Drained() <-chan struct{} { return p.drained }

// Wait returns the exit code, or 128 and the signal that ended the process. Any number of callers may wait, also after
// the end.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.exit.Code, nil
	case <-ctx.Done():
		select {
		case <-p.done:
			return p.exit.Code, nil
		default:
			return 0, fmt.Errorf("wait for process %d of container %s: %w", p.pid, p.c.id, ctx.Err())
		}
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// watch is the goroutine of a process.
func (p *Process) watch() {
	p.exit, _ = p.child.Wait(context.Background())
	if p == p.c.init {
		p.c.checkOOM() // the event may be read too late
	}
	close(p.done)
	p.io.end(drainTime)
	close(p.drained)
	if p.id != p.c.id {
		p.closePidfd()
	}
}

// early is the error for a stage that ended too soon; err is what was seen of it.
func (p *Process) early(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	if code > 128 {
		return fmt.Errorf("killed by %s before it began", unix.SignalName(unix.Signal(code-128)))
	}
	return fmt.Errorf("ended with %d before it began", code)
}

// begun reads messages until the program runs.
func (p *Process) begun(ctx context.Context, ctl *launch.Control) error {
	announced := false
	for {
		m, err := ctl.Next(ctx)
		switch {
		case err == nil && m.Kind == stage.Exec:
			announced = true
		case err == nil && m.Kind == stage.Terminal:
			p.io.terminal(ctl.TakeFile())
		case err == nil && m.Kind == stage.Locks:
			if f := ctl.TakeFile(); f != nil {
				p.c.r.background(func() { p.c.answerLocks(f) })
			}
		case err == nil:
		case errors.Is(err, io.EOF) && announced:
			return nil // exec has closed the socket
		default:
			return p.early(ctx, err)
		}
	}
}

// answerLocks answers whoever takes locks, as long as anybody can ask.
func (c *Container) answerLocks(listener *os.File) {
	if err := c.locks.Answer(listener, c.init.pid); err != nil {
		c.r.cfg.Log.Error(err.Error(), "container", c.id)
	}
}

// Signal sends a signal. Process 1 of a namespace is not ended by those that it does not handle, but by SIGKILL:
// pid_namespaces(7). One that is not started yet, and so handles nothing, ends by SIGTERM.
func (p *Process) Signal(sig unix.Signal) error {
	if p.id == p.c.id && sig == unix.SIGTERM {
		p.c.mu.Lock()
		waiting := p.c.state == stateCreated
		p.c.mu.Unlock()
		if waiting {
			sig = unix.SIGKILL
		}
	}
	return p.signal(sig)
}

// SignalOrKill is Signal with the rule of Kata Containers: a first process that does not handle SIGTERM gets SIGKILL
// instead.
func (p *Process) SignalOrKill(sig unix.Signal) error {
	if p.id == p.c.id && sig == unix.SIGTERM && !handles(p.pid, sig) {
		return p.signal(unix.SIGKILL)
	}
	return p.Signal(sig)
}

func (p *Process) signal(sig unix.Signal) error {
	if err := p.child.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// handles says whether a process catches, blocks or ignores a signal.
func handles(pid int, sig unix.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || handlesIn(string(b), sig)
}

func handlesIn(status string, sig unix.Signal) bool {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "SigBlk", "SigIgn", "SigCgt":
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err == nil && set>>(sig-1)&1 == 1 {
				return true
			}
		}
	}
	return false
}

// Forget takes an exec's process out of its container, and closes its streams. The process goes on if it has not ended.
func (p *Process) Forget() {
	p.c.mu.Lock()
	if p.c.procs[p.id] == p {
		delete(p.c.procs, p.id)
	}
	p.c.mu.Unlock()
	if p.ended() && p.id != p.c.id {
		p.io.close()
	}
}

func (p *Process) openPidfd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd, err := unix.PidfdOpen(p.pid, 0); err == nil {
		p.pidfd = fd
	}
}

func (p *Process) closePidfd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

func (p *Process) dupPidfd() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return -1, fmt.Errorf("process %d has ended: %w", p.pid, ErrState)
	}
	return unix.FcntlInt(uintptr(p.pidfd), unix.F_DUPFD_CLOEXEC, 0)
}

// Resize tells the terminal its size in characters.
func (p *Process) Resize(rows, cols uint16) error {
	if err := p.io.resize(rows, cols); err != nil {
		return fmt.Errorf("resize the terminal of process %d of container %s: %w", p.pid, p.c.id, err)
	}
	return nil
}

// WriteStdin writes to the process's standard input, all or until ctx ends.
func (p *Process) WriteStdin(ctx context.Context, b []byte) (int, error) {
	n, err := p.io.write(ctx, b)
	if err != nil {
		return n, fmt.Errorf("write to process %d of container %s: %w", p.pid, p.c.id, err)
	}
	return n, nil
}

// CloseStdin ends the process's standard input. A terminal has no such end, and stays as it is.
func (p *Process) CloseStdin() error { return p.io.closeStdin() }

// ReadStdout reads up to max bytes, as soon as there are any. No bytes mean the end.
func (p *Process) ReadStdout(ctx context.Context, max int) ([]byte, error) {
	return p.read(ctx, p.io.out, max)
}

// ReadStderr likewise. A terminal has no standard error of its own: it ends at once.
func (p *Process) ReadStderr(ctx context.Context, max int) ([]byte, error) {
	return p.read(ctx, p.io.err, max)
}

func (p *Process) read(ctx context.Context, o *outlet, max int) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	b := make([]byte, min(max, maxRead))
	n, err := o.read(ctx, b)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read from process %d of container %s: %w", p.pid, p.c.id, err)
	}
	return b[:n], nil
}

// maxRead bounds what one read allocates; a pipe holds no more by default.
const maxRead = 64 << 10
