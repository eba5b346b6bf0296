package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/internal/wake"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/template"
)

// Saved is a guest that waits to be woken, as Save leaves it.
type Saved struct {
	// Copies are memory and state, which stay the caller's. One machine alone may have them: it writes to its memory.
	template.Copies
	// Template is what the guest comes from, for its verdict. Its zero value is one that has no document yet.
	Template verdict.Template
}

// errServes says that a guest which was to wait does not.
var errServes = errors.New("the guest serves, and was to wait until it is woken: its agent knows no templates")

// saves says whether the guest is one that is saved.
func (s *Sandbox) saves() bool { return s.cfg.Template && s.cfg.Saved == nil && s.cfg.Held == nil }

// giveMemory gives the machine its memory: what was saved, or new.
func (s *Sandbox) giveMemory(o *machine.Start) error {
	if s.cfg.Saved != nil {
		o.Memory, o.State = s.cfg.Saved.Memory, s.cfg.Saved.State
		return nil
	}
	f, err := template.NewMemory(int64(s.plan.Machine.Size().MemoryMiB) << 20)
	if err != nil {
		return err
	}
	s.memory, o.Memory = f, f
	return nil
}

// Save saves a guest that waits, and ends it. The files are the caller's to close.
func (s *Sandbox) Save(ctx context.Context) (_ *template.Copies, err error) {
	vm, ok := s.vm.(machine.Saver)
	if !ok || !s.saves() {
		return nil, fmt.Errorf("save the guest: %w", machine.ErrNoTemplate)
	}
	state, err := template.NewMemory(0)
	if err != nil {
		return nil, err
	}
	saved := &template.Copies{Memory: s.memory, State: state}
	err = vm.Save(ctx, state)
	s.memory = nil // it is no longer ours
	if err := errors.Join(err, s.Stop()); err != nil {
		return nil, errors.Join(err, saved.Close())
	}
	return saved, nil
}

// Times of waking a guest.
const (
	wakeTime  = time.Minute           // for one connection, with the answer: a busy host may not run for seconds
	wakePause = 20 * time.Millisecond // between two attempts
)

// wake has a restored guest become one of its own. It is there before anybody else can ask the guest for anything: the
// agent that serves begins with it.
func (s *Sandbox) wake(ctx context.Context) {
	select {
	case <-s.links.Driver:
	case <-s.over:
		return
	case <-ctx.Done():
		return
	}
	for {
		sent, err := s.wakeOnce(ctx)
		if err == nil {
			s.progress.event("woken")
			return
		}
		if sent {
			s.unwoken <- fmt.Errorf("wake the guest: %w", err)
			return
		}
		s.log.Debug("the guest does not take connections yet", "err", err)
		select {
		case <-time.After(wakePause): // its driver may still be on its way
		case <-s.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// wakeOnce says whether the guest may have got the request, of which there is only one.
func (s *Sandbox) wakeOnce(ctx context.Context) (sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, wakeTime)
	defer cancel()
	c, err := s.Dial(ctx, agentapi.WakePort)
	if err != nil {
		return false, err
	}
	defer c.Close() //nolint:errcheck // the answer says whether all was written
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	r, err := wake.New(rand.Reader, time.Now(), s.cfg.Hostname)
	if err != nil {
		return true, err
	}
	if err := r.Send(c); err != nil {
		return true, err
	}
	if err := wake.Await(c); err != nil {
		return true, errors.Join(err, context.Cause(ctx))
	}
	return true, nil
}
