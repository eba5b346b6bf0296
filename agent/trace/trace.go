//go:build !notrace

package trace

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/spans"
)

// Built says whether the agent can trace.
const Built = true

// Bounds of what waits to be sent.
const (
	maxWaits = 256                    // spans; more are lost
	pause    = 50 * time.Millisecond  // so that the spans of a call go together
	dialTime = 2 * time.Second        // for a host that listens
	sendTime = 5 * time.Second        // for one that takes nothing
	tryAgain = 500 * time.Millisecond // after the host refused
)

// quiet are calls that look or wait. They are traced only where the host names a span.
var quiet = []string{"Check", "Version", "Get", "GetGuestDetails", "GetMetrics", "GetOOMEvent", "GetIPTables",
	"GetVolumeStats", "GetDiagnosticData", "ListInterfaces", "ListRoutes", "StatsContainer", "WaitProcess",
	"ReadStdout", "ReadStderr", "WriteStdin"}

// Tracer makes spans of calls. Get one from New; Run sends them.
type Tracer struct {
	o    Options
	wake chan struct{} // has an element when there may be something

	mu    sync.Mutex // guards what follows
	waits []spans.Span
	lost  int
}

// New makes a Tracer.
func New(o Options) *Tracer { return &Tracer{o: o, wake: make(chan struct{}, 1)} }

// call is one under way.
type call struct {
	t     *Tracer
	of    spans.Context
	host  int64     // the host's time when the call began, nanoseconds since 1970
	began time.Time // the same moment here
}

// at is a moment in the host's time.
func (c *call) at(t time.Time) int64 { return c.host + int64(max(t.Sub(c.began), 0)) }

type contextKey struct{}

// Call begins the span of a call by its name, and returns what ends it.
func (t *Tracer) Call(ctx context.Context, method string) (context.Context, func(error)) {
	c := &call{t: t, began: time.Now()}
	c.host = c.began.UnixNano()
	parent, _ := ttrpc.GetMetadataValue(ctx, spans.Parent)
	of, named := spans.ParseTraceparent(parent)
	name := method[strings.LastIndexByte(method, '/')+1:]
	if !named && slices.Contains(quiet, name) {
		return ctx, nothing
	}
	if text, ok := ttrpc.GetMetadataValue(ctx, spans.HostTime); ok {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
			c.host = n
		}
	}
	c.of = spans.Context{Trace: of.Trace, Span: newID()}
	if !named {
		_, _ = rand.Read(c.of.Trace[:]) // never fails
	}
	return context.WithValue(ctx, contextKey{}, c), func(err error) {
		c.add(c.of.Span, of.Span, name, spans.Server, c.began, err)
	}
}

// Step begins a span of a part of the call that ctx is in, and returns what ends it.
func Step(ctx context.Context, name string) func(error) {
	c, ok := ctx.Value(contextKey{}).(*call)
	if !ok {
		return nothing
	}
	began := time.Now()
	return func(err error) { c.add(newID(), c.of.Span, name, spans.Internal, began, err) }
}

func nothing(error) {}

func newID() (id spans.SpanID) {
	_, _ = rand.Read(id[:]) // never fails
	id[0] |= 1              // not nothing but zeros
	return id
}

func (c *call) add(id, parent spans.SpanID, name string, kind spans.Kind, began time.Time, err error) {
	s := spans.Span{Context: spans.Context{Trace: c.of.Trace, Span: id}, Parent: parent, Name: spans.Clean(name),
		Kind: kind, Start: c.at(began), End: c.at(time.Now())}
	if err != nil {
		s.Error = spans.Clean(err.Error())
	}
	t := c.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waits) == maxWaits {
		t.lost++
		return
	}
	t.waits = append(t.waits, s)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run sends spans until ctx ends.
func (t *Tracer) Run(ctx context.Context) {
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	wait := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		if !wait(pause) {
			return
		}
		if conn == nil {
			dial, cancel := context.WithTimeout(ctx, dialTime)
			c, err := t.o.Dial(dial)
			cancel()
			if err != nil {
				t.o.Log.Debug("spans", "err", err)
				if !wait(tryAgain) {
					return
				}
				t.again()
				continue
			}
			conn = c
		}
		if err := t.send(conn); err != nil {
			t.o.Log.Info("spans are lost", "err", err)
			_ = conn.Close()
			conn = nil
		}
	}
}

// again has Run look once more where something waits.
func (t *Tracer) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waits) > 0 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *Tracer) send(conn net.Conn) error {
	t.mu.Lock()
	list, lost := t.waits, t.lost
	t.waits, t.lost = nil, 0
	t.mu.Unlock()
	if lost > 0 {
		t.o.Log.Info("spans are lost, as the host does not take them", "spans", lost)
	}
	if len(list) == 0 {
		return nil
	}
	data, err := spans.Encode(spans.Batch{Service: spans.AgentService, Spans: list})
	if err != nil {
		return err
	}
	if len(data) > spans.MaxFrame { // names and errors of a kilobyte each
		return errors.New("too many bytes at once")
	}
	if err := conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, err = conn.Write(spans.AppendFrame(nil, data))
	return err
}
