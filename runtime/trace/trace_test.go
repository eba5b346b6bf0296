package trace

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/spans"
)

// clock goes on by a millisecond each time that it is looked at.
func clock() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return time.Unix(1700000000, n.Add(1)*int64(time.Millisecond)) }
}

// ids are bytes that count.
type ids struct{ n atomic.Int64 }

func (i *ids) Read(b []byte) (int, error) {
	b[len(b)-1] = byte(i.n.Add(1))
	return len(b), nil
}

func recorder() *Recorder { return New("shim", Options{Now: clock(), Random: &ids{}}) }

func kept(t *testing.T, r *Recorder) []spans.Span {
	t.Helper()
	data, ok := r.Kept()
	if !ok {
		t.Fatal("nothing is kept")
	}
	b, err := spans.Decode(data)
	if err != nil || len(b) != 1 || b[0].Service != "shim" {
		t.Fatal(b, err)
	}
	return b[0].Spans
}

func TestSpansAreWithinEachOther(t *testing.T) {
	r := recorder()
	remote := spans.Context{Trace: spans.TraceID{1}, Span: spans.SpanID{2}}
	root := r.Begin(remote, spans.Server, "root")
	ctx, child := Start(In(t.Context(), root), "child\n", spans.Attribute{Key: "a", Value: "b"})
	_, call := StartCall(ctx, "call")
	call.End(errors.New("it\tfailed"))
	call.End(nil)
	child.Set("more", "c")
	child.Past("past", time.Unix(1, 0), time.Unix(1<<40, 0))
	child.End(nil)
	root.End(nil)
	r.Decide(Settings{})
	list := kept(t, r)
	byName := map[string]spans.Span{}
	for _, s := range list {
		byName[s.Name] = s
	}
	if len(list) != 4 || len(byName) != 4 {
		t.Fatalf("%+v", list)
	}
	for name, parent := range map[string]spans.SpanID{"root": remote.Span, "child ": byName["root"].Span,
		"call": byName["child "].Span, "past": byName["child "].Span} {
		if s := byName[name]; s.Trace != remote.Trace || s.Parent != parent || s.End <= s.Start {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if c := byName["call"]; c.Error != "it failed" || c.Kind != spans.Client {
		t.Errorf("%+v", c)
	}
	if p, c := byName["past"], byName["child "]; p.Start < c.Start || p.End > c.End || len(c.Attributes) != 2 {
		t.Errorf("%+v outside of %+v", p, c)
	}
}

func TestWithoutSpansNothingIsDone(t *testing.T) {
	ctx, s := Start(t.Context(), "nothing")
	if s != nil || ctx != t.Context() || In(ctx, nil) != ctx || s.Context() != (spans.Context{}) {
		t.Error("a span is there")
	}
	s.Set("a", "b")
	s.Past("x", time.Now(), time.Now())
	s.End(nil)
	if n := testing.AllocsPerRun(100, func() { Start(ctx, "nothing") }); n != 0 {
		t.Errorf("%v allocations for nothing", n)
	}
	r := recorder()
	under := r.Begin(spans.Context{}, spans.Internal, "under way")
	r.Decide(Settings{Off: true})
	under.End(nil)
	r.Decide(Settings{}) // it counts once
	if _, ok := r.Kept(); ok || r.Begin(spans.Context{}, spans.Internal, "x") != nil {
		t.Error("spans are kept that nobody wants")
	}
	r.Close()
}

func TestTheFirstAndTheLastAreKept(t *testing.T) {
	r := recorder()
	const n = keepFirst + keepRecent + 10
	for range n {
		r.Begin(spans.Context{}, spans.Internal, "x").End(nil)
	}
	list := kept(t, r)
	if len(list) != keepFirst+keepRecent || list[keepFirst].Start-list[keepFirst-1].Start < int64(10*time.Millisecond) {
		t.Errorf("%d are kept", len(list))
	}
}

func TestSpansAreSent(t *testing.T) {
	got := make(chan *tracepb.TracesData, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var d tracepb.TracesData
		if err := errors.Join(err, proto.Unmarshal(b, &d)); err != nil || r.URL.Path != tracesPath ||
			r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Error(r.URL, r.Header, err)
		}
		got <- &d
	}))
	defer srv.Close()
	r := recorder()
	r.Begin(spans.Context{}, spans.Internal, "before").End(nil)
	r.Decide(Settings{Endpoint: srv.URL, Attributes: []spans.Attribute{{Key: PodKey, Value: "p"}}})
	r.Begin(spans.Context{}, spans.Internal, "after").End(nil)
	r.Close()
	r.Close()
	var text strings.Builder
	for range len(got) {
		text.WriteString((<-got).String())
	}
	for _, want := range []string{"before", "after", PodKey} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in %s", want, text.String())
		}
	}
}

func TestACollectorThatIsNotThereIsSaid(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	away := srv.URL
	var log strings.Builder
	r := New("shim", Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.Decide(Settings{Endpoint: away})
	for range maxWaits + 5 {
		r.Begin(spans.Context{}, spans.Internal, "x").End(nil)
	}
	r.Close()
	srv.Close()
	if s := log.String(); !strings.Contains(s, "404 Not Found") || !strings.Contains(s, "come faster") {
		t.Error(s)
	}
	sender, err := NewSender(away)
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.Send(context.Background(), nil); err == nil {
		t.Error("nobody is there, and takes it")
	}
}

func TestEndpoints(t *testing.T) {
	for in, want := range map[string]string{"http://localhost:4318": "http://localhost:4318/v1/traces",
		"https://c/": "https://c/v1/traces", "http://c/other": "http://c/other"} {
		if got, err := endpoint(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "localhost:4318", "grpc://c", "http://", "http://a:b@c", "http://c?x",
		"http://c#x", ":"} {
		if CheckEndpoint(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
