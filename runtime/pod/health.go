package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Times of looking after the agent. Requests fail once it has been silent, so that whoever asks learns the cause soon;
// the pod is given up only when it stays silent, for a host under load may be slow.
const (
	healthEvery = 3 * time.Second  // between checks
	silentAfter = 5 * time.Second  // requests fail from here on
	healthTime  = 30 * time.Second // the pod is given up
)

// ErrSilent says that the agent does not answer.
var ErrSilent = errors.New("the agent in the guest does not answer")

// ErrStuck says that a process in the guest does not end although it was killed, as one that waits in the kernel for a
// device that never answers.
var ErrStuck = errors.New("a process in the guest outlives SIGKILL")

// pulse knows whether the agent answers.
type pulse struct {
	mu     sync.Mutex    // guards what follows
	silent chan struct{} // closed while the agent is silent
	why    error         // what requests fail with: ErrSilent, unless the pod is lost
	lost   bool          // for good
}

func newPulse() *pulse { return &pulse{silent: make(chan struct{}), why: ErrSilent} }

// set says how the agent is.
func (p *pulse) set(answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost {
		return
	}
	p.setLocked(answers)
}

// lose has requests fail with why from here on.
func (p *pulse) lose(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost, p.why = true, why
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
	silent := p.silent
	p.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
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

// watch looks whether the agent still answers, until ctx or the guest ends.
func (p *Pod) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.vm.Done():
			return
		case <-p.sick:
			return
		case <-time.After(healthEvery):
		}
		late := time.AfterFunc(silentAfter, func() {
			p.log.Error(ErrSilent.Error(), "for", silentAfter)
			p.pulse.set(false)
		})
		check, cancel := context.WithTimeout(ctx, healthTime)
		_, err := p.health.Check(check, &katapb.CheckRequest{})
		cancel()
		if late.Stop() || err == nil {
			p.pulse.set(true)
		}
		if err != nil && ctx.Err() == nil && p.vm.Why() == nil {
			p.lose(fmt.Errorf("%w: %w", ErrSilent, err))
			return
		}
	}
}

// lose gives the pod up: why is the first reason given.
func (p *Pod) lose(why error) {
	p.lost.Do(func() {
		p.sickErr = why
		p.pulse.lose(why)
		close(p.sick)
	})
}

// because puts why a pod is of no use any more before an error that follows from it.
func (p *Pod) because(err error) error {
	if p.vm != nil {
		p.graceFor(err)
	}
	why := p.reason()
	if why == nil || errors.Is(err, why) {
		return err
	}
	return fmt.Errorf("%w (%w)", explain(why), err)
}

// reason is why a pod is of no use any more; nil while it is. QEMU's is the better one of two, unless its end follows
// from the other.
func (p *Pod) reason() error {
	var sick error
	select {
	case <-p.sick:
		sick = p.sickErr
	default:
	}
	if p.vm != nil && !errors.Is(sick, ErrStuck) {
		if w := p.vm.Why(); w != nil {
			p.starved.Do(func() { p.ended = p.outOfMemory(w) })
			return p.ended
		}
	}
	return sick
}

// ErrOutOfMemory says that the host ended processes of a pod, since its control group had no memory left.
var ErrOutOfMemory = errors.New(
	"the host had no more memory for the pod: its control group's limit has to hold the guest's memory and " +
		"what QEMU, " +
		"virtiofsd and the shim need themselves")

// outOfMemory puts that reason before what followed from it.
func (p *Pod) outOfMemory(err error) error {
	if err == nil || p.cgroup.OOMKills() == 0 {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrOutOfMemory, err)
}

// graceFor waits a moment for QEMU's end where err says that its connections ended: it may be seen later, and is the
// better reason.
func (p *Pod) graceFor(err error) {
	if _, broken := errors.AsType[*net.OpError](err); !broken && !errors.Is(err, ttrpc.ErrClosed) {
		return
	}
	select {
	case <-p.vm.Done():
	case <-time.After(endGrace):
	}
}

// GiveUp ends the waiting for a guest that is to end anyway: why is what requests fail with from here on. Sick is
// closed then.
func (p *Pod) GiveUp(why error) { p.lose(why) }

// watchFS gives the pod up when the program that shares its files ends, until ctx does: the guest waits for it in vain,
// and cannot be given another.
func (p *Pod) watchFS(ctx context.Context) {
	select {
	case <-p.fs.Done():
	case <-ctx.Done():
		return
	}
	// It ends with QEMU too, whose reason is the better one.
	select {
	case <-time.After(fsGrace):
	case <-ctx.Done():
		return
	}
	p.lose(fsGone(p.fs.ExitError(), strings.TrimSpace(p.fs.Stderr())))
}

// fsGone is one line of how virtiofsd ended and what it said at last; it talks when nothing is wrong too.
func fsGone(err error, said string) error {
	how := "it ended"
	if err != nil {
		how = strings.TrimSuffix(err.Error(), ": "+said)
	}
	if said != "" {
		how += "; its last words: " + said[strings.LastIndexByte(said, '\n')+1:]
	}
	return fmt.Errorf("the program that serves the pod's files is gone: %s", how)
}

// endGrace is how much later than the end of the agent's connection QEMU's may be seen.
const endGrace = time.Second

// fsGrace is how much later than virtiofsd's end QEMU's may be seen.
const fsGrace = 300 * time.Millisecond

// waits are the calls that take as long as they take: they wait for something in the guest.
var waits = []string{"/WaitProcess", "/ReadStdout", "/ReadStderr", "/WriteStdin", "/GetOOMEvent", "/Check"}

// intercept is around each call to the agent: it ends when the agent is silent, and its error is the agent's own words
// with the agent's code.
func (p *Pod) intercept(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo,
	call ttrpc.Invoker) error {
	long := false
	for _, w := range waits {
		long = long || strings.HasSuffix(info.FullMethod, w)
	}
	if !long {
		var cancel context.CancelFunc
		ctx, cancel = p.pulse.context(ctx)
		defer cancel()
	}
	err := call(ctx, req, resp)
	if err == nil {
		if s := status.FromProto(resp.GetStatus()); s.Code() != codes.OK {
			return &agentError{s}
		}
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	p.graceFor(err)
	if why := p.vm.Why(); why != nil { // the connection is gone with the guest
		return explain(why)
	}
	return err
}

// agentError is what the agent said, without ttrpc's words around it. status.FromError finds its code.
type agentError struct{ s *status.Status }

func (e *agentError) Error() string              { return e.s.Message() }
func (e *agentError) GRPCStatus() *status.Status { return e.s }
