package shim

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/trace"
)

// traceService is the service.name of this process's spans.
const traceService = "containerd-shim-kata-v2"

// tracedCalls are the calls of the task service and the sandbox service that do something. The others look, or wait.
var tracedCalls = []string{"Create", "Start", "Exec", "Kill", "Delete", "Pause", "Resume", "Update", "Shutdown",
	startSandbox, "StopSandbox", "ShutdownSandbox"}

// startSandbox is the call that starts a pod without a first container.
const startSandbox = "StartSandbox"

// rootSpan is the span of the pod's start.
type rootSpan struct {
	mu   sync.Mutex  // guards what follows
	span *trace.Span // nil before the first call
	id   string      // of the pod's first container
	over bool        // the start is over, and the span ends with the call that ends it
	why  error       // it failed
}

// traced begins the span of a call, and returns what ends it. A call belongs to the trace that containerd names; where
// it names none, to the pod's start while that is under way, and otherwise to one of its own.
func (s *Service) traced(ctx context.Context, method string) (_ context.Context, end func(error)) {
	name := method[strings.LastIndexByte(method, '/')+1:]
	if !slices.Contains(tracedCalls, name) {
		return ctx, func(error) {}
	}
	parent := parentOf(ctx)
	s.root.mu.Lock()
	if (name == "Create" || name == startSandbox) && s.root.span == nil {
		s.root.span = s.trace.Begin(parent, spans.Internal, trace.Name)
		parent = s.root.span.Context()
	}
	if parent == (spans.Context{}) && !s.root.over {
		parent = s.root.span.Context()
	}
	s.root.mu.Unlock()
	span := s.trace.Begin(parent, spans.Server, "shim/"+name)
	return trace.In(ctx, span), func(err error) {
		span.End(err)
		s.root.settle()
	}
}

// parentOf is the span that the caller names.
func parentOf(ctx context.Context) spans.Context {
	text, _ := ttrpc.GetMetadataValue(ctx, spans.Parent)
	c, _ := spans.ParseTraceparent(text)
	return c
}

// decideTrace says what becomes of the pod's spans, as soon as its configuration is known.
func (s *Service) decideTrace(ctx context.Context, cfg *config.Config, id string) {
	s.trace.Decide(trace.Settings{Off: !cfg.Runtime.EnableTracing, Endpoint: cfg.Runtime.OTLPEndpoint,
		Attributes: []spans.Attribute{{Key: trace.PodKey, Value: id}, {Key: "service.version", Value: s.o.Version}}})
	s.root.mu.Lock()
	s.root.id = id
	s.root.mu.Unlock()
	trace.Of(ctx).Set("guest", cfg.VM.Guest)
}

// settle ends the span when the start is over.
func (r *rootSpan) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		r.span.End(r.why)
	}
}

// finish says that the start is over.
func (r *rootSpan) finish(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.over, r.why = true, why
	}
}

// ran says that a container's first program runs, or failed to: the pod's start is that of its first container.
func (r *rootSpan) ran(id string, err error) {
	r.mu.Lock()
	first := r.id == id
	r.mu.Unlock()
	if first {
		r.finish(err)
	}
}
