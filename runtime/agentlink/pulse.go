package agentlink

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrSilent says that the agent does not answer.
var ErrSilent = errors.New("the agent in the guest does not answer")

// Times of looking after the agent. Requests fail once it has been silent, so that whoever asks learns the cause soon;
// the pod is given up only when it stays silent, for a host under load may be slow.
const (
	healthEvery = 3 * time.Second  // between checks
	silentAfter = 5 * time.Second  // requests fail from here on
	healthTime  = 30 * time.Second // the pod is given up
)

// pulse knows whether the agent answers.
type pulse struct {
	mu     sync.Mutex    // guards what follows
	silent chan struct{} // closed while the agent is silent
	why    error         // what requests fail with: ErrSilent, unless the pod is lost
	lost   chan struct{} // closed when it is silent for good
}

func newPulse() *pulse {
	return &pulse{silent: make(chan struct{}), lost: make(chan struct{}), why: ErrSilent}
}

// isLost says whether the agent is silent for good.
func (p *pulse) isLost() bool {
	select {
	case <-p.lost:
		return true
	default:
		return false
	}
}

// set says how the agent is.
func (p *pulse) set(answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isLost() {
		return
	}
	p.setLocked(answers)
}

// lose has requests fail with why from here on.
func (p *pulse) lose(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = why
	if !p.isLost() {
		close(p.lost)
	}
	p.setLocked(false)
}

func (p *pulse) setLocked(answers bool) {
	select {
	case <-p.silent:
		if answers {
			p.silent = make(chan struct{})
		}
	default:
		if !answers {
			close(p.silent)
		}
	}
}

// context ends when the agent is silent, with why as its cause.
func (p *pulse) context(ctx context.Context) (context.Context, context.CancelFunc) {
	p.mu.Lock()
	silent, why := p.silent, p.why
	p.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	select {
	case <-silent: // already: no request may get through before the goroutine has seen it
		cancel(why)
	default:
	}
	done := make(chan struct{})
	go func() {
		select {
		case <-silent:
			p.mu.Lock()
			why := p.why
			p.mu.Unlock()
			cancel(why)
		case <-done:
		}
	}()
	return ctx, sync.OnceFunc(func() { close(done); cancel(nil) })
}
