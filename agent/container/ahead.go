package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"golang.org/x/sys/unix"
)

// aheadDelay is how long after a container was made the next stage is started, so that it does not compete with the one
// just made.
const aheadDelay = 100 * time.Millisecond

// aheadScore makes the kernel take a stage that does nothing before anything else when memory is short. oom_score_adj
// of proc(5).
const aheadScore = 1000

// spare is a stage that was started ahead of its plan: process 1 of a new namespace, and otherwise still where the
// agent is. It ends when the agent's end of its socket is closed, by whatever means.
type spare struct {
	child *reap.Child
	ctl   *control
}

// end ends a stage that is not to be used.
func (s *spare) end() {
	s.ctl.close()
	s.child.Signal(unix.SIGKILL) // it may have ended already
}

// ahead keeps one stage ready while there are containers.
type ahead struct {
	mu     sync.Mutex
	timer  *time.Timer // guarded by mu; nil when none was asked for
	ready  *spare      // guarded by mu
	closed bool        // guarded by mu
}

// take returns the stage that is ready, or nil.
func (a *ahead) take() *spare {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.ready
	a.ready = nil
	if s == nil {
		return nil
	}
	select {
	case <-s.child.Done():
		s.ctl.close()
		return nil
	default:
		return s
	}
}

// ask has a stage started soon, unless there is one.
func (a *ahead) ask(start func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.ready != nil && !a.ready.child.Ended() {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(aheadDelay, start)
}

// put keeps a stage for the next container, or ends it where none is wanted any more.
func (a *ahead) put(start func() (*spare, error)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer == nil { // drop came in between
		return nil
	}
	a.timer = nil
	if a.ready != nil {
		if !a.ready.child.Ended() {
			return nil
		}
		a.ready.ctl.close()
		a.ready = nil
	}
	s, err := start()
	a.ready = s
	return err
}

// drop ends the stage that is ready, and starts none until the next ask; never again if for good.
func (a *ahead) drop(forGood bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = a.closed || forGood
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if a.ready != nil {
		a.ready.end()
		a.ready = nil
	}
}

// Close ends what runs for no container: the stage that waits for the next one, and the watch for want of memory.
// Containers stay as they are, and others can still be made. Calling it again is a no-op.
func (r *Runner) Close() {
	r.ahead.drop(true)
	r.programs.Forget()
	r.ears.f.Close()
}

// idle gives up what is kept for the next container, when there is none left. Call it with mu held, so that the next
// one comes after it.
func (r *Runner) idle() {
	r.ahead.drop(false)
	r.programs.Forget()
}

// prepare has a stage ready for the next container, as there may be one.
func (r *Runner) prepare() {
	r.ahead.ask(func() {
		defer r.cfg.Guard()
		if err := r.ahead.put(r.startAhead); err != nil {
			r.cfg.Log.Warn(err.Error()) // the next container starts its own
		}
	})
}

// startAhead starts a stage without a plan.
func (r *Runner) startAhead() (*spare, error) {
	return r.idleStage(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID})
}

// idleStage starts a stage that waits for its plan.
func (r *Runner) idleStage(attr *syscall.SysProcAttr) (*spare, error) {
	self, err := r.self()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := sockets()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := &exec.Cmd{
		Path: self, Args: []string{stage.Name, stage.WordAhead}, Env: stageEnvironment, Dir: "/",
		ExtraFiles: []*os.File{theirs}, SysProcAttr: attr,
	}
	child, err := r.cfg.Reaper.Start(cmd)
	if err != nil {
		ours.close()
		return nil, fmt.Errorf("start a stage ahead: %w", err)
	}
	score := aheadScore
	setOOM(child.Pid, &score)
	return &spare{child, ours}, nil
}

// recruit is a stage that was started ahead, on its way into a control group. To get there takes a while, mostly
// without work: the kernel waits until no processor looks at what changes.
type recruit struct {
	*spare
	arrived chan error // has one, and is closed then
}

// recruit takes the stage that is ready for what it can serve, or returns nil.
func (r *Runner) recruit(l *launch) *recruit {
	if !l.fits() {
		return nil
	}
	s := r.ahead.take()
	if s == nil {
		return nil
	}
	out := &recruit{s, make(chan error, 1)}
	r.goes(func() {
		defer close(out.arrived)
		out.arrived <- l.group.Add(s.child.Pid)
	})
	return out
}

// dismiss ends a recruit, and returns when it is nowhere any more.
func (s *recruit) dismiss() {
	<-s.arrived // before its number can be another's
	s.end()
	<-s.child.Done()
}

// fits says whether a stage that was started ahead can serve: one whose process namespace is new, and not that of
// another user.
func (l *launch) fits() bool {
	return l.into == nil && !l.user() && l.clone&unix.CLONE_NEWPID != 0
}

// give hands a stage its plan, after it is where all that it does from now on counts. What the stage says to it is kept
// for the next reader.
func (s *recruit) give(ctx context.Context, l *launch, streams []*os.File) error {
	p := *l.plan
	p.Unshare |= l.clone &^ unix.CLONE_NEWPID
	var files []int
	defer func() {
		for _, fd := range files {
			unix.Close(fd)
		}
	}()
	for _, j := range l.join {
		fd, err := unix.Open(j.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", j.path, err)
		}
		files = append(files, fd)
		p.Join = append(p.Join, stage.Join{Path: j.path, Flag: j.flag})
	}
	plan, err := memfd(&p)
	if err != nil {
		return err
	}
	defer plan.Close()
	if err := <-s.arrived; err != nil {
		return err
	}
	setOOM(s.child.Pid, l.oom)
	rights := []int{int(plan.Fd())}
	for _, f := range streams {
		rights = append(rights, int(f.Fd()))
	}
	rights = append(rights, files...)
	for _, f := range l.trees {
		rights = append(rights, int(f.Fd()))
	}
	if len(rights) > stage.MaxFiles {
		return errors.New("more files than a message holds")
	}
	if _, _, err := s.ctl.conn.WriteMsgUnix([]byte{1}, unix.UnixRights(rights...), nil); err != nil {
		return fmt.Errorf("hand over the plan: %w", err)
	}
	if err := s.ctl.peek(ctx); s.ctl.unread {
		return fmt.Errorf("it ended before it read the plan: %w", err)
	}
	return nil
}
