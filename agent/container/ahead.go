package container

import (
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/container/launch"
)

// aheadDelay is how long after a container was made the next stage is started, so that it does not compete with the one
// just made.
const aheadDelay = 100 * time.Millisecond

// ahead keeps one stage ready while there are containers.
type ahead struct {
	mu     sync.Mutex
	timer  *time.Timer   // guarded by mu; nil when none was asked for
	ready  *launch.Stage // guarded by mu
	closed bool          // guarded by mu
}

// take returns the stage that is ready, or nil.
func (a *ahead) take() *launch.Stage {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.ready
	a.ready = nil
	if s == nil {
		return nil
	}
	select {
	case <-s.Child.Done():
		s.Control.Close()
		return nil
	default:
		return s
	}
}

// ask has a stage started soon, unless there is one.
func (a *ahead) ask(start func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.ready != nil && !a.ready.Child.Ended() {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(aheadDelay, start)
}

// put keeps a stage for the next container, or ends it where none is wanted any more.
func (a *ahead) put(start func() (*launch.Stage, error)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer == nil { // drop came in between
		return nil
	}
	a.timer = nil
	if a.ready != nil {
		if !a.ready.Child.Ended() {
			return nil
		}
		a.ready.Control.Close()
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
		a.ready.End()
		a.ready = nil
	}
}

// Close ends what runs for no container: the stage that waits for the next one, and the watch for want of memory.
// Containers stay as they are, and others can still be made. Calling it again is a no-op.
func (r *Runner) Close() {
	r.ahead.drop(true)
	r.programs.Forget()
	r.outOfMemory.f.Close()
}

// forgetAhead gives up what is kept for the next container, when there is none left. Call it with mu held, so that the
// next one comes after it.
func (r *Runner) forgetAhead() {
	r.ahead.drop(false)
	r.programs.Forget()
}

// startNext has a stage ready for the next container, as there may be one.
func (r *Runner) startNext() {
	r.ahead.ask(func() {
		defer r.cfg.Guard()
		if err := r.ahead.put(r.stages.StartAhead); err != nil {
			r.cfg.Log.Warn(err.Error()) // the next container starts its own
		}
	})
}

// moving is a stage that was started ahead, on its way into a control group. To get there takes a while, mostly without
// work: the kernel waits until no processor looks at what changes.
type moving struct {
	*launch.Stage
	arrived chan error // has one, and is closed then
}

// takeAhead takes the stage that is ready for what it can serve, or returns nil. It moves into the request's group.
func (r *Runner) takeAhead(l *launch.Request) *moving {
	if !l.Fits() {
		return nil
	}
	s := r.ahead.take()
	if s == nil {
		return nil
	}
	m := &moving{s, make(chan error, 1)}
	r.background(func() {
		defer close(m.arrived)
		m.arrived <- l.Group.Add(s.Child.Pid)
	})
	return m
}

// discard ends it, and returns when it is nowhere any more.
func (m *moving) discard() {
	<-m.arrived // before its number can be another's
	m.End()
	<-m.Child.Done()
}
