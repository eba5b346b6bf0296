package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/spans"
)

// guestOf makes a pod's socket, which r takes the spans of until the test is over.
func guestOf(t *testing.T, r *Recorder) (dial func() net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func() net.Conn {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

func guestSpan() spans.Span {
	return spans.Span{Context: spans.Context{Trace: spans.TraceID{1}, Span: spans.SpanID{2}}, Name: "of the guest",
		Kind: spans.Server, Start: 1, End: 2}
}

func frame(t *testing.T, service string, list ...spans.Span) []byte {
	t.Helper()
	b, err := spans.Encode(spans.Batch{Service: service, Spans: list})
	if err != nil {
		t.Fatal(err)
	}
	return spans.AppendFrame(nil, b)
}

// hungUp waits until the other end has closed the connection.
func hungUp(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("nobody hangs up: %v", err)
	}
}

func TestAGuestsSpansAreKeptAndSentUnchanged(t *testing.T) {
	bodies := make(chan string, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies <- string(b)
	}))
	defer srv.Close()
	r := New("shim", Options{})
	r.Decide(Settings{Endpoint: srv.URL})
	c := guestOf(t, r)()
	sent := frame(t, spans.AgentService, guestSpan())
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if got := <-bodies; got != string(sent[8:]) {
		t.Errorf("the collector gets %x, the guest sent %x", got, sent[8:])
	}
	r.Close()
	data, ok := r.Kept()
	batches, err := spans.Decode(data)
	if err != nil || !ok || len(batches) != 2 || batches[1].Service != spans.AgentService ||
		batches[1].Spans[0].Name != "of the guest" {
		t.Errorf("%+v, %v", batches, err)
	}
}

func TestWhatAGuestSendsIsBounded(t *testing.T) {
	var log strings.Builder
	for name, c := range map[string]struct {
		bytes []byte
		why   string
	}{
		"a huge frame":          {binary.BigEndian.AppendUint64(nil, 1<<62), "more bytes than"},
		"noise":                 {spans.AppendFrame(nil, []byte(`[{"span_context":{}}]`)), "not the canonical bytes"},
		"another's name":        {frame(t, "containerd-shim-kata-v2", guestSpan()), "another service"},
		"half a frame":          {frame(t, spans.AgentService, guestSpan())[:20], ""},
		"a picture of controls": {spans.AppendFrame(nil, []byte{0x0a, 0x00}), "not the canonical bytes"},
	} {
		log.Reset()
		r := New("shim", Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		r.Decide(Settings{})
		t.Run(name, func(t *testing.T) {
			conn := guestOf(t, r)()
			if _, err := conn.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			hungUp(t, conn)
		})
		data, _ := r.Kept()
		if strings.Contains(string(data), "of the guest") || !strings.Contains(log.String(), c.why) {
			t.Errorf("%s: kept, or not told: %s", name, log.String())
		}
	}
}

func TestAGuestThatFloodsFillsNothing(t *testing.T) {
	r := New("shim", Options{})
	r.Decide(Settings{})
	dial := guestOf(t, r)
	for range guestConns {
		dial()
	}
	extra := dial()
	for range 3 { // its place is given to none of those before it
		_, _ = extra.Write(frame(t, spans.AgentService, guestSpan()))
	}
	hungUp(t, extra)
	big := make([]spans.Span, 1000)
	for i := range big {
		big[i] = guestSpan()
	}
	data, err := spans.Encode(spans.Batch{Service: spans.AgentService, Spans: big})
	if err != nil {
		t.Fatal(err)
	}
	other := New("shim", Options{})
	other.Decide(Settings{})
	c := guestOf(t, other)()
	for range 4 {
		if _, err := c.Write(spans.AppendFrame(nil, data)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, 1<<62)); err != nil {
		t.Fatal(err)
	}
	hungUp(t, c)
	if other.guestSpans != 2000 || len(other.guest) > guestBytes {
		t.Errorf("%d spans of the guest are kept", other.guestSpans)
	}
}
