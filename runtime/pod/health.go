package pod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Times of looking after the agent. Requests fail once it has been silent, so that whoever asks learns the cause soon; the pod is given up only
// when it stays silent, for a host under load may be slow.
const (
	healthEvery = 3 * time.Second  // between checks
	silentAfter = 5 * time.Second  // requests fail from here on
	healthTime  = 30 * time.Second // the pod is given up
)

// ErrSilent says that the agent does not answer.
var ErrSilent = errors.New("the agent in the guest does not answer")

// pulse knows whether the agent answers.
type pulse struct {
	mu     sync.Mutex
	silent chan struct{} // closed while the agent is silent; guarded by mu
}

func newPulse() *pulse { return &pulse{silent: make(chan struct{})} }

// set says how the agent is.
func (p *pulse) set(answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
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

// context ends with ErrSilent as its cause when the agent is silent.
func (p *pulse) context(ctx context.Context) (context.Context, context.CancelFunc) {
	p.mu.Lock()
	silent := p.silent
	p.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		select {
		case <-silent:
			cancel(ErrSilent)
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
			p.sickErr = fmt.Errorf("%w: %w", ErrSilent, err)
			p.pulse.set(false)
			close(p.sick)
			return
		}
	}
}

// waits are the calls that take as long as they take: they wait for something in the guest.
var waits = []string{"/WaitProcess", "/ReadStdout", "/ReadStderr", "/WriteStdin", "/GetOOMEvent", "/Check"}

// intercept is around each call to the agent: it ends when the agent is silent, and its error is the agent's own words with the agent's code.
func (p *Pod) intercept(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, call ttrpc.Invoker) error {
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
	if why := p.vm.Why(); why != nil { // the connection is gone with the guest
		return explain(why)
	}
	return err
}

// agentError is what the agent said, without ttrpc's words around it. status.FromError finds its code.
type agentError struct{ s *status.Status }

func (e *agentError) Error() string              { return e.s.Message() }
func (e *agentError) GRPCStatus() *status.Status { return e.s }
