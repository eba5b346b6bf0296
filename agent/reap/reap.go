// Package reap is the one owner of wait4(2) in the agent: it collects every child, and tells those who started one how
// it ended.
//
// As PID 1 the agent inherits every orphan, so it must wait for children it knows nothing of; a second caller of wait4
// (os/exec's Wait, a library) would race with that. So every child of the agent is started by Reaper.Start, which makes
// the child known before it can be collected.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/slack"
)

// Exit is how a child ended.
type Exit struct {
	Code   int         // exit code, or 128 + the signal
	Signal unix.Signal // zero unless a signal ended it
}

// Child is a process that a Reaper started.
type Child struct {
	Pid  int
	r    *Reaper
	done chan struct{}
	exit Exit // valid once done is closed
}

// Reaper collects children. Get one from New; there may be only one in a process.
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Child // guarded by mu; started and not collected
}

// New makes a reaper and asks the kernel to hand it the orphans of its descendants, which PID 1 gets anyway.
func New() (*Reaper, error) {
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("become the reaper of orphans: %w", err)
		}
	}
	return &Reaper{children: map[int]*Child{}}, nil
}

// Run collects children until ctx ends. Call it once.
func (r *Reaper) Run(ctx context.Context) {
	c := make(chan os.Signal, 1) // one is enough: each wake-up collects all there are
	signal.Notify(c, unix.SIGCHLD)
	defer signal.Stop(c)
	for {
		r.collect()
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// collect waits for every child that has ended.
func (r *Reaper) collect() {
	for r.collectOne() {
	}
}

// collectOne holds the lock from wait4 to the notice, so a pid in children is always a living process or one not yet
// waited for, and never a stranger that got the same number.
func (r *Reaper) collectOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL, nil)
	if err == unix.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if c, ok := r.children[pid]; ok { // else an orphan, whose end nobody asks for
		delete(r.children, pid)
		c.exit = exit(status)
		close(c.done)
	}
	return true
}

func exit(s unix.WaitStatus) Exit {
	if s.Signaled() {
		return Exit{Code: 128 + int(s.Signal()), Signal: s.Signal()}
	}
	return Exit{Code: s.ExitStatus()}
}

// errPipes: os/exec copies in goroutines that only its own Wait ends.
var errPipes = errors.New("standard streams of a child must be files or nil")

// Start starts cmd, whose Wait, Run and Process must not be used afterwards and which has no context.
// Its standard streams are *os.File or nil.
func (r *Reaper) Start(cmd *exec.Cmd) (*Child, error) {
	for _, s := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if _, ok := s.(*os.File); s != nil && !ok {
			return nil, fmt.Errorf("start %s: %w", cmd.Path, errPipes)
		}
	}
	return r.StartWith(func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, fmt.Errorf("start %s: %w", cmd.Path, err)
		}
		pid := cmd.Process.Pid
		cmd.Process.Release() // only frees the handle that os keeps
		return pid, nil
	})
}

// StartWith starts a child in another way than os/exec has. No child is collected until start returns; with an error it
// must have collected whatever it started.
func (r *Reaper) StartWith(start func() (pid int, err error)) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := slack.Without(start)
	if err != nil {
		return nil, err
	}
	c := &Child{Pid: pid, r: r, done: make(chan struct{})}
	r.children[c.Pid] = c
	return c, nil
}

// Wait returns how the child ended. Any number of callers may wait.
func (c *Child) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-c.done:
		return c.exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for process %d: %w", c.Pid, ctx.Err())
	}
}

// Done is closed once the child was collected.
func (c *Child) Done() <-chan struct{} { return c.done }

// Ended says whether the child was collected.
func (c *Child) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Signal sends s to the child. It returns os.ErrProcessDone once the child was collected.
func (c *Child) Signal(s unix.Signal) error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.children[c.Pid] != c {
		return os.ErrProcessDone
	}
	if err := unix.Kill(c.Pid, s); err != nil {
		return fmt.Errorf("signal %s to process %d: %w", s, c.Pid, err)
	}
	return nil
}
