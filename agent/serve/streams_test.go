package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/vsock"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// arrivals is a listener whose connections come from ports of the host, as vsock's do.
type arrivals struct {
	conns chan net.Conn
	ended chan struct{}
}

func (a *arrivals) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.ended:
		return nil, net.ErrClosed
	}
}

func (a *arrivals) Close() error   { close(a.ended); return nil }
func (a *arrivals) Addr() net.Addr { return &vsock.Addr{ContextID: 3} }

// from is a connection from an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// hosts is a host that connects streams.
type host struct {
	*Streams
	listener *arrivals
	served   chan error
}

func newHost() *host {
	h := &host{Streams: NewStreams(slog.New(slog.DiscardHandler)), served: make(chan error, 1),
		listener: &arrivals{make(chan net.Conn), make(chan struct{})}}
	go func() { h.served <- h.Serve(h.listener) }()
	return h
}

// connect connects from a port, and returns the host's end.
func (h *host) connect(port uint32) net.Conn {
	ours, theirs := net.Pipe()
	h.listener.conns <- from{theirs, &vsock.Addr{ContextID: vsock.Host, Port: port}}
	return ours
}

// hungUp says whether the agent has closed a connection.
func hungUp(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func TestAProcessGetsTheStreamsThatItsRequestNames(t *testing.T) {
	s, h := newSandbox(t), newHost()
	s.s.Streams = h.Streams
	stdin, stdout := h.connect(10), h.connect(11)
	r := request(t, "c", nil)
	r.StdinPort, r.StdoutPort = 10, 11
	if _, err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := s.containers.list[0].stdio
	if got.Stderr != nil {
		t.Error("a stream that nobody asked for")
	}
	go io.WriteString(stdin, "in")
	b := make([]byte, 2)
	if _, err := io.ReadFull(got.Stdin, b); err != nil || string(b) != "in" {
		t.Errorf("standard input: %q, %v", b, err)
	}
	go io.WriteString(got.Stdout, "out")
	b = make([]byte, 3)
	if _, err := io.ReadFull(stdout, b); err != nil || string(b) != "out" {
		t.Errorf("standard output: %q, %v", b, err)
	}
	// A container that cannot be made gives up those that were for it.
	s.fail("create d", container.ErrState)
	stderr := h.connect(12)
	r = request(t, "d", nil)
	r.StderrPort = 12
	if _, err := s.CreateContainer(t.Context(), r); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if !hungUp(stderr) {
		t.Error("a stream that no process got is still open")
	}
	d, err := s.GetGuestDetails(t.Context(), &katapb.GuestDetailsRequest{})
	if err != nil || !strings.Contains(strings.Join(d.AgentDetails.ExtraFeatures, " "), agentapi.StreamsFeature) {
		t.Errorf("%v, %v", d, err)
	}
	if err := h.listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-h.served; err != nil {
		t.Error(err)
	}
}

func TestStreamsAreWaitedForAndGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		claimed := make(chan error, 1)
		go func() {
			c, err := h.one(t.Context(), 5)
			if err == nil {
				err = c.Close()
			}
			claimed <- err
		}()
		time.Sleep(arriveTime / 2)
		if c := h.connect(5); !hungUp(c) {
			t.Error("the one that came late was not taken")
		}
		if err := <-claimed; err != nil {
			t.Errorf("one that came late: %v", err)
		}
		before := time.Now()
		other := h.connect(7)
		if _, err := h.take(t.Context(), 7, 6, 0); err == nil || !strings.Contains(err.Error(), "port 6") ||
			time.Since(before) != arriveTime {
			t.Errorf("one that never came: %v after %s", err, time.Since(before))
		}
		if !hungUp(other) {
			t.Error("the stream beside the one that never came is still open")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.one(ctx, 6); !errors.Is(err, context.Canceled) {
			t.Errorf("a request that was given up: %v", err)
		}
		// Nobody names it.
		unclaimed := h.connect(8)
		synctest.Wait()
		time.Sleep(claimTime)
		synctest.Wait()
		if !hungUp(unclaimed) || len(h.waiting) != 0 {
			t.Errorf("%d wait for ever", len(h.waiting))
		}
		if c, err := h.one(t.Context(), 0); c != nil || err != nil {
			t.Errorf("no port is no stream: %v, %v", c, err)
		}
		if _, err := (*Streams)(nil).one(t.Context(), 1); err == nil {
			t.Error("an agent that listens for no streams has one")
		}
		_ = h.listener.Close()
		<-h.served
	})
}

func TestStreamsThatNobodyCanNameAreRefused(t *testing.T) {
	h := newHost()
	ours, theirs := net.Pipe()
	h.listener.conns <- from{theirs, &net.UnixAddr{Name: "x"}}
	if !hungUp(ours) {
		t.Error("one that does not come from a port of the host is kept")
	}
	first := h.connect(1)
	if second := h.connect(1); !hungUp(second) {
		t.Error("two from one port are kept")
	}
	for port := range uint32(maxWaiting - 1) {
		h.connect(port + 2)
	}
	if c := h.connect(maxWaiting + 1); !hungUp(c) {
		t.Errorf("more than %d wait", maxWaiting)
	}
	c, err := h.one(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if !hungUp(first) {
		t.Error("the first one was not kept")
	}
	_ = h.listener.Close()
	if err := <-h.served; err != nil {
		t.Error(err)
	}
}

func TestTheEndOfOutputIsAnEmptyAnswer(t *testing.T) {
	s := newSandbox(t)
	s.create(t, "c")
	r, err := s.ReadStderr(t.Context(), &katapb.ReadStreamRequest{ContainerId: "c", Len: 10})
	if err != nil || len(r.Data) != 0 {
		t.Errorf("%v, %v", r, err)
	}
	s.calls = nil
	if _, err := s.CloseStdin(t.Context(), &katapb.CloseStdinRequest{ContainerId: "c"}); err != nil ||
		len(s.calls) != 1 || s.calls[0] != "close c" {
		t.Errorf("%v, %v", s.calls, err)
	}
	for name, call := range map[string]func() error{
		"read": func() error {
			_, err := s.ReadStderr(t.Context(), &katapb.ReadStreamRequest{ContainerId: "x"})
			return err
		},
		"close": func() error {
			_, err := s.CloseStdin(t.Context(), &katapb.CloseStdinRequest{ContainerId: "x"})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.NotFound {
			t.Errorf("%s of nobody: %v", name, err)
		}
	}
}
