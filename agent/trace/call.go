// Package trace tells the host where the time of its calls goes in the guest: OpenTelemetry's spans, as OTLP, which the
// agent sends to a port of the host.
//
// In come calls and what they are made of; out go frames of package spans. A call that names a span of the host's is
// below that, in the host's time, as the guest's clock may be another. Nobody waits for the host: what it does not take
// is lost. An agent that is built with the tag notrace has none of this.
package trace

import (
	"context"
	"log/slog"
	"net"
)

// Options are what a Tracer works with.
type Options struct {
	// Dial connects to the host.
	Dial func(context.Context) (net.Conn, error)
	Log  *slog.Logger
}
