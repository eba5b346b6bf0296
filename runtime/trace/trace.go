// Package trace notes where the time of a pod goes: spans of what the host does, which lead to those of the guest.
//
// In come the beginnings and ends of deeds, by the context that they run in; out come OpenTelemetry's spans, kept for
// whoever asks and sent to a collector where one is named. Where nobody wants them, a context has no span in it, and
// every function here does nothing. The package does not know what a pod is made of.
package trace

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/spans"
)

// Name is the span of a pod's whole start, from the first call for it until its first program runs.
const Name = "start of the pod"

// Attributes that tools look for.
const (
	PodKey   = "katabuild.pod"   // of the service: the pod
	GuestKey = "katabuild.guest" // of a span that the host made of what the guest said: what of it
)

// Bounds of what is kept, in spans.
const (
	keepFirst  = 1024 // the first ones: the pod's start
	keepRecent = 1024 // the last ones
)

// Options are what a Recorder works with. The zero value is of use.
type Options struct {
	Now    func() time.Time // nil is time.Now
	Random io.Reader        // for ids; nil is the kernel's
	Log    *slog.Logger     // nil is none
}

// Recorder keeps the spans of one pod. Get one from New. Its methods may be called from several goroutines.
type Recorder struct {
	o Options

	mu     sync.Mutex // guards what follows
	sure   bool       // it was decided
	off    bool       // spans are not wanted
	batch  spans.Batch
	first  []spans.Span
	recent []spans.Span
	// guest is what the guest's agent has sent, as it was.
	guest      []byte
	guestSpans int
	out        *exporter // nil where nobody is sent anything
}

// New makes a recorder of a service that does not know yet whether spans are wanted: it takes them until Decide says.
func New(service string, o Options) *Recorder {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Recorder{o: o, batch: spans.Batch{Service: service}}
}

// Settings are what Decide is told.
type Settings struct {
	Off      bool   // spans are not wanted: nothing is kept, and no more are made
	Endpoint string // of a collector, as CheckEndpoint wants it; empty is none
	// Attributes are the service's.
	Attributes []spans.Attribute
}

// Decide says what becomes of spans, those that there are already too. It counts once.
func (r *Recorder) Decide(s Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sure {
		return
	}
	r.sure = true
	if s.Off {
		r.off, r.first, r.recent = true, nil, nil
		return
	}
	r.batch.Attributes = cleanAll(s.Attributes)
	if s.Endpoint != "" {
		r.out = newExporter(s.Endpoint, r.batch, r.o.Log)
		r.out.add(r.first...)
	}
}

// Close sends what waits to be sent, for a short time. Calling it again is a no-op.
func (r *Recorder) Close() {
	r.mu.Lock()
	out := r.out
	r.mu.Unlock()
	if out != nil {
		out.close()
	}
}

// Kept are the spans that have ended, as OTLP; ok is false where none are wanted.
func (r *Recorder) Kept() (data []byte, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return nil, false
	}
	b := r.batch
	b.Spans = slices.Concat(r.first, r.recent)
	data, err := spans.Encode(b)
	if err != nil {
		r.o.Log.Warn("spans", "err", err) // a bug of this package: nothing else makes them
	}
	return append(data, r.guest...), err == nil
}

func (r *Recorder) add(s spans.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.off:
		return
	case len(r.first) < keepFirst:
		r.first = append(r.first, s)
	default:
		if len(r.recent) == keepRecent {
			r.recent = r.recent[1:]
		}
		r.recent = append(r.recent, s)
	}
	if r.out != nil {
		r.out.add(s)
	}
}

// Span is a deed under way. A nil one is as good, and nothing comes of it.
type Span struct {
	r     *Recorder
	began time.Time

	mu   sync.Mutex // guards what follows
	span spans.Span
	over bool
}

type contextKey struct{}

// Of is the span that ctx is in; nil where it is in none.
func Of(ctx context.Context) *Span {
	s, _ := ctx.Value(contextKey{}).(*Span)
	return s
}

// In is ctx within a span.
func In(ctx context.Context, s *Span) context.Context {
	if s == nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, s)
}

// Begin begins a span that no other one of this recorder contains. parent may be one of another process; without one it
// begins a trace. It is nil where none are wanted.
func (r *Recorder) Begin(parent spans.Context, kind spans.Kind, name string, attributes ...spans.Attribute) *Span {
	if !r.wanted() {
		return nil
	}
	return r.begin(parent, kind, name, attributes)
}

func (r *Recorder) wanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.off
}

func (r *Recorder) begin(parent spans.Context, kind spans.Kind, name string, attributes []spans.Attribute) *Span {
	s := &Span{r: r, began: r.o.Now()}
	s.span = spans.Span{Context: spans.Context{Trace: parent.Trace}, Parent: parent.Span, Name: spans.Clean(name),
		Kind: kind, Start: s.began.UnixNano(), Attributes: cleanAll(attributes)}
	if parent == (spans.Context{}) {
		r.random(s.span.Trace[:])
	}
	r.random(s.span.Span[:])
	return s
}

// random makes an id. One of nothing but zeros is none.
func (r *Recorder) random(id []byte) {
	if _, err := io.ReadFull(r.o.Random, id); err != nil {
		r.o.Log.Warn("an id of a span", "err", err)
	}
	id[0] |= 1
}

// Start begins a span within the one of ctx, and returns a context within the new one. Without one in ctx it does
// nothing.
func Start(ctx context.Context, name string, attributes ...spans.Attribute) (context.Context, *Span) {
	return start(ctx, spans.Internal, name, attributes)
}

// StartCall is Start for a call that another process answers.
func StartCall(ctx context.Context, name string, attributes ...spans.Attribute) (context.Context, *Span) {
	return start(ctx, spans.Client, name, attributes)
}

func start(ctx context.Context, kind spans.Kind, name string, attributes []spans.Attribute) (context.Context, *Span) {
	of := Of(ctx)
	if of == nil || !of.r.wanted() {
		return ctx, nil
	}
	s := of.r.begin(of.Context(), kind, name, attributes)
	return In(ctx, s), s
}

// Context is what others name the span by.
func (s *Span) Context() spans.Context {
	if s == nil {
		return spans.Context{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.span.Context
}

// End ends the span, with why the deed failed. Calling it again is a no-op.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	s.span.End = s.span.Start + int64(max(s.r.o.Now().Sub(s.began), 0)) // by the clock that never jumps
	if err != nil {
		s.span.Error = spans.Clean(err.Error())
	}
	s.r.add(s.span)
}

// Set gives the span another attribute.
func (s *Span) Set(key, value string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.span.Attributes = append(s.span.Attributes, spans.Attribute{Key: spans.Clean(key), Value: spans.Clean(value)})
}

// Past adds a span within s that has been: from and to are times as of time.Now, and its attributes say whose clock
// they come from. A time outside of s is moved to its edge, so that the words of a guest cannot be about another time;
// what ends before it begins has no length.
func (s *Span) Past(name string, from, to time.Time, attributes ...spans.Attribute) {
	if s == nil {
		return
	}
	now := s.r.o.Now()
	at := func(t time.Time) int64 {
		return int64(min(max(t.Sub(s.began), 0), now.Sub(s.began)))
	}
	child := s.r.begin(s.Context(), spans.Internal, name, attributes)
	child.span.Start = s.start() + at(from)
	child.span.End = max(s.start()+at(to), child.span.Start)
	s.r.add(child.span)
}

func (s *Span) start() int64 { return s.began.UnixNano() }

func cleanAll(list []spans.Attribute) []spans.Attribute {
	var out []spans.Attribute
	for _, a := range list {
		out = append(out, spans.Attribute{Key: spans.Clean(a.Key), Value: spans.Clean(a.Value)})
	}
	return out
}
