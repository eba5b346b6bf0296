package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/katabuild/katabuild/agent/container/stage"
	"golang.org/x/sys/unix"
)

// aheadScore makes the kernel take a stage that does nothing before anything else when memory is short. oom_score_adj
// of proc(5).
const aheadScore = 1000

// StartAhead starts a stage that waits for its plan: process 1 of a new namespace, and otherwise still where the agent
// is. It ends when the agent's end of its socket is closed, by whatever means.
func (l *Launcher) StartAhead() (*Stage, error) {
	s, err := l.idle(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, stage.WordAhead)
	if err == nil {
		score := aheadScore
		setOOM(s.Child.Pid, &score)
	}
	return s, err
}

// StartSoon is StartAhead for a plan that comes at once.
func (l *Launcher) StartSoon() (*Stage, error) {
	return l.idle(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, stage.WordSoon)
}

// idle starts a stage that waits for its plan.
func (l *Launcher) idle(attr *syscall.SysProcAttr, word string) (*Stage, error) {
	self, err := l.Self()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := sockets()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: self, Args: []string{stage.Name, word}, Env: environment, Dir: "/",
		ExtraFiles: []*os.File{theirs}, SysProcAttr: attr,
	}
	child, err := l.Reaper.Start(cmd)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start a stage ahead: %w", err)
	}
	return &Stage{child, ours}, nil
}

// Fits says whether a stage that was started ahead can serve: one whose process namespace is new, and not that of
// another user.
func (r *Request) Fits() bool {
	return r.Into == nil && len(r.UIDs) == 0 && r.Owner == "" && r.Clone&unix.CLONE_NEWPID != 0
}

// HandOver hands a stage that was started ahead its plan, once arrived says that it is in the request's control group:
// all that it does from then on counts there. What the stage says to it is kept for the next reader of its Control.
// After an error the stage is of no use.
func (s *Stage) HandOver(ctx context.Context, r *Request, streams []*os.File, arrived <-chan error) error {
	p := *r.Plan
	p.Unshare |= r.Clone &^ unix.CLONE_NEWPID
	var files []int
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	for _, j := range r.Join {
		fd, err := unix.Open(j.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", j.Path, err)
		}
		files = append(files, fd)
		p.Join = append(p.Join, j)
	}
	plan, err := memfd(&p)
	if err != nil {
		return err
	}
	defer plan.Close()
	if err := <-arrived; err != nil {
		return err
	}
	setOOM(s.Child.Pid, r.OOM)
	rights := []int{int(plan.Fd())}
	for _, f := range streams {
		rights = append(rights, int(f.Fd()))
	}
	rights = append(rights, files...)
	for _, f := range append(append([]*os.File{}, r.Trees...), r.More...) {
		rights = append(rights, int(f.Fd()))
	}
	if len(rights) > stage.MaxFiles {
		return errors.New("more files than a message holds")
	}
	if _, _, err := s.Control.conn.WriteMsgUnix([]byte{1}, unix.UnixRights(rights...), nil); err != nil {
		return fmt.Errorf("hand over the plan: %w", err)
	}
	if err := s.Control.peek(ctx); s.Control.unread {
		return fmt.Errorf("it ended before it read the plan: %w", err)
	}
	return nil
}
