// Package agentlink is a pod's connection to the agent of its guest.
//
// In comes a connection; out come the agent's services, and processes of the guest with their standard streams. A call
// ends when the agent has been silent for a while, or with a better reason that the pod knows: nobody waits for answers
// that cannot come. It does not know what a container is made of.
package agentlink

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RequestTime bounds a request to the agent that has no time of its own, as Kata's.
const RequestTime = 60 * time.Second

// StreamsWord is the word of the kernel's command line that has the agent listen for streams; agents of Kata Containers
// understand it too.
func StreamsWord() string { return fmt.Sprintf("agent.passfd_listener_port=%d", agentapi.StreamsPort) }

// Features are what our agent can do and Kata's cannot.
type Features struct {
	Streams      bool // a process's streams have connections of their own; Kata's agent can do that, too
	SignalAll    bool // a signal goes to all processes of a container, or to the first as it is
	PIDOf        bool // a container shares the processes of any other
	GuestDevices bool // a container has devices of the guest, by their names
	ForeignLocks bool // locks on a mount can be refused
	Forward      bool // TCP ports of the guest's loopback interface can be reached
}

func featuresOf(list []string) Features {
	has := func(name string) bool { return slices.Contains(list, name) }
	return Features{has(agentapi.StreamsFeature), has(agentapi.SignalAllFeature), has(agentapi.PIDOfFeature),
		has(agentapi.GuestDevicesFeature), has(agentapi.ForeignLocksFeature), has(agentapi.ForwardFeature)}
}

// Link is the connection. Get one from New; it is of use once it is connected. Its methods may be called from several
// goroutines.
type Link struct {
	katapb.AgentServiceService          // the agent's calls
	Can                        Features // set by Introduce
	// Observe is told of each call of the agent, by its request's name, and how long it took; nil is not. It is set
	// before Connect.
	Observe func(request string, took time.Duration)

	dial   func(ctx context.Context, port uint32) (net.Conn, error)
	reason func(error) error
	every  time.Duration // between looks whether the agent answers: healthEvery
	pulse  *pulse
	client *ttrpc.Client
	health katapb.HealthService
}

// New makes a link that is not connected yet. dial connects to a port of the guest. reason is asked when a call has
// failed for a reason that is neither the agent's nor the caller's, and may know a better one than that; otherwise it
// is nil.
func New(dial func(ctx context.Context, port uint32) (net.Conn, error), reason func(error) error) *Link {
	return &Link{dial: dial, reason: reason, every: healthEvery, pulse: newPulse()}
}

// Connect connects to the agent.
func (l *Link) Connect(ctx context.Context) error {
	conn, err := l.dial(ctx, agentapi.Port)
	if err != nil {
		return fmt.Errorf("connect to the agent: %w", err)
	}
	l.client = ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(l.intercept))
	l.AgentServiceService, l.health = katapb.NewAgentServiceClient(l.client), katapb.NewHealthClient(l.client)
	return nil
}

// Introduce asks the agent what it can do, before anything else is asked of it.
func (l *Link) Introduce(ctx context.Context) (*katapb.AgentDetails, error) {
	d, err := l.GetGuestDetails(ctx, &katapb.GuestDetailsRequest{})
	if err != nil {
		return nil, fmt.Errorf("details of the guest: %w", err)
	}
	l.Can = featuresOf(d.GetAgentDetails().GetExtraFeatures())
	return d.GetAgentDetails(), nil
}

// Connected says whether Connect has succeeded.
func (l *Link) Connected() bool { return l.client != nil }

// Close hangs up.
func (l *Link) Close() error { return l.client.Close() }

// Lose has all requests fail with why from here on, those that wait too.
func (l *Link) Lose(why error) { l.pulse.lose(why) }

// Ping asks the agent whether it is well.
func (l *Link) Ping(ctx context.Context) error {
	_, err := l.health.Check(ctx, &katapb.CheckRequest{})
	return err
}

// Watch looks whether the agent still answers, and returns an ErrSilent when it no longer does. It returns nil when ctx
// ends or the agent is lost.
func (l *Link) Watch(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.pulse.lost:
			return nil
		case <-time.After(l.every):
		}
		late := time.AfterFunc(silentAfter, func() {
			log.Error(ErrSilent.Error(), "for", silentAfter)
			l.pulse.set(false)
		})
		check, cancel := context.WithTimeout(ctx, healthTime)
		_, err := l.health.Check(check, &katapb.CheckRequest{})
		cancel()
		if late.Stop() || err == nil {
			l.pulse.set(true)
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", ErrSilent, err)
		}
	}
}

// Serves asks an agent that does not say by itself that it is ready, Kata's. The connection stays the caller's.
func Serves(ctx context.Context, c net.Conn) error {
	client := ttrpc.NewClient(c)
	defer client.Close() // its connection is the caller's
	r, err := katapb.NewHealthClient(client).Check(ctx, &katapb.CheckRequest{})
	if err != nil {
		return err
	}
	if s := r.GetStatus(); s != katapb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the agent's health is %s", s)
	}
	return nil
}

// waits are the calls that take as long as they take: they wait for something in the guest.
var waits = []string{"/WaitProcess", "/ReadStdout", "/ReadStderr", "/WriteStdin", "/GetOOMEvent", "/Check"}

// intercept is around each call to the agent: it ends when the agent is silent, and its error is the agent's own words
// with the agent's code.
func (l *Link) intercept(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo,
	call ttrpc.Invoker) error {
	waits := slices.ContainsFunc(waits, func(w string) bool { return strings.HasSuffix(info.FullMethod, w) })
	if !waits {
		var cancel context.CancelFunc
		ctx, cancel = l.pulse.context(ctx)
		defer cancel()
		if ctx.Err() != nil { // ttrpc would send it, and might see the answer before the end of ctx
			return context.Cause(ctx)
		}
	}
	begun := time.Now()
	name := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	traced, span := trace.StartCall(ctx, "agent/"+name)
	if span != nil {
		req.Metadata = append(req.Metadata,
			&ttrpc.KeyValue{Key: spans.Parent, Value: span.Context().Traceparent()},
			&ttrpc.KeyValue{Key: spans.HostTime, Value: strconv.FormatInt(begun.UnixNano(), 10)})
	}
	err := l.answer(traced, req, resp, call)
	span.End(err)
	if l.Observe != nil {
		l.Observe("grpc."+name+"Request", time.Since(begun))
	}
	return err
}

// answer makes the call, and an error of an answer that is one.
func (l *Link) answer(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, call ttrpc.Invoker) error {
	err := call(ctx, req, resp)
	if err == nil {
		s := status.FromProto(resp.GetStatus())
		if s.Code() == codes.OK {
			return nil
		}
		// The agent knows the call's deadline, and may tell of its end before ctx does.
		if end, ok := ctx.Deadline(); ok && !time.Now().Before(end) && (s.Code() == codes.Canceled ||
			s.Code() == codes.DeadlineExceeded) {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return &agentError{status.New(s.Code(), printable.Words(s.Message(), maxSaid))}
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	if why := l.reason(err); why != nil { // the connection is gone with the guest
		return why
	}
	return err
}

// maxSaid bounds what is kept of an error of the agent's, in bytes: it goes into logs, into Kubernetes' events and to
// the terminals of operators. An answer has up to 4 MiB.
const maxSaid = 4 << 10

// agentError is what the agent said, in one line and without ttrpc's words around it. status.FromError finds its code.
type agentError struct{ s *status.Status }

func (e *agentError) Error() string              { return e.s.Message() }
func (e *agentError) GRPCStatus() *status.Status { return e.s }
