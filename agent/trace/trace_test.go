//go:build !notrace

package trace

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/spans"
)

func TestCallsAndStepsReachTheHost(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/host")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refused := true
	tr := New(Options{Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context) (net.Conn, error) {
		if refused { // the host may not listen yet
			refused = false
			return nil, errors.New("refused")
		}
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.Addr().String())
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		tr.Run(ctx)
		close(ended)
	}()
	parent := spans.Context{Trace: spans.TraceID{1}, Span: spans.SpanID{2}}
	md := ttrpc.MD{}
	md.Set(spans.Parent, parent.Traceparent())
	md.Set(spans.HostTime, "5000000000")
	call, end := tr.Call(ttrpc.WithMetadata(ctx, md), "/grpc.AgentService/StartContainer")
	Step(call, "program")(errors.New("no\nprogram"))
	end(nil)
	_, quiet := tr.Call(ctx, "/grpc.Health/Check")
	quiet(nil)
	Step(ctx, "of nothing")(nil)
	_, own := tr.Call(ctx, "/grpc.AgentService/CreateSandbox")
	own(nil)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var list []spans.Span
	for len(list) < 3 {
		data, err := spans.ReadFrame(c)
		if err != nil {
			t.Fatal(err)
		}
		b, err := spans.Decode(data)
		if err != nil || len(b) != 1 || b[0].Service != spans.AgentService {
			t.Fatal(b, err)
		}
		list = append(list, b[0].Spans...)
	}
	step, start, alone := list[0], list[1], list[2]
	if step.Name != "program" || step.Error != "no program" || step.Parent != start.Span ||
		step.Trace != parent.Trace || step.Start < start.Start || step.End > start.End {
		t.Errorf("%+v\n%+v", step, start)
	}
	if start.Name != "StartContainer" || start.Parent != parent.Span || start.Kind != spans.Server {
		t.Errorf("%+v\n%+v", step, start)
	}
	if start.Start != 5e9 || start.End > 5e9+int64(time.Hour) {
		t.Errorf("not in the host's time: %+v", start)
	}
	if alone.Name != "CreateSandbox" || alone.Parent != (spans.SpanID{}) || alone.Trace == parent.Trace {
		t.Errorf("%+v", alone)
	}
	cancel()
	<-ended
}

func TestAHostThatTakesNothingCostsLittle(t *testing.T) {
	tr := New(Options{Log: slog.New(slog.DiscardHandler)})
	for range maxWaits + 3 {
		_, end := tr.Call(t.Context(), "/grpc.AgentService/CreateSandbox")
		end(nil)
	}
	if len(tr.waits) != maxWaits || tr.lost != 3 {
		t.Errorf("%d wait, %d are lost", len(tr.waits), tr.lost)
	}
}
