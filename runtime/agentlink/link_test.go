package agentlink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/mdlayher/vsock"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// connected is a link to an agent that keeps containers in memory, and the end of the agent. gone is what a call fails
// with once the connection is gone.
func connected(t *testing.T, a *agenttest.Agent, gone error) (*Link, func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "link") // a path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	over, served := make(chan struct{}), make(chan error, 1)
	go func() { served <- a.Serve(listener, "", over) }()
	end := func() {
		select {
		case <-over:
		default:
			close(over)
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	l := New(func(_ context.Context, port uint32) (net.Conn, error) {
		if port != agentapi.Port {
			return nil, errors.New("nobody listens")
		}
		return net.Dial("unix", filepath.Join(dir, "s"))
	}, func(error) error { return gone })
	if err := l.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, end
}

// with makes a container in an agent.
func with(t *testing.T, l *Link, id string) {
	t.Helper()
	q := &katapb.CreateContainerRequest{ContainerId: id, ExecId: id}
	if _, err := l.CreateContainer(t.Context(), q); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAnAgentSaysIsToldInItsWords(t *testing.T) {
	a := &agenttest.Agent{Features: []string{agentapi.SignalAllFeature, "another"}}
	l, end := connected(t, a, errors.New("the guest has ended"))
	if d, err := l.Introduce(t.Context()); err != nil || d.GetVersion() != "agenttest" || l.Can !=
		(Features{SignalAll: true}) {
		t.Errorf("%v, %v, %+v", d, err, l.Can)
	}
	_, err := l.StartContainer(t.Context(), &katapb.StartContainerRequest{ContainerId: "c"})
	if err == nil || err.Error() != `no process "" in container "c"` || status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	if !IsNotFound(err) || IsNotFound(nil) || IsNotFound(errors.New("no such process")) ||
		!IsNotFound(status.Error(codes.Internal, "ESRCH: No such process")) {
		t.Errorf("%v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.GetOOMEvent(short, &katapb.GetOOMEventRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	end()
	if _, err := l.Introduce(t.Context()); err == nil || err.Error() !=
		"details of the guest: the guest has ended" {
		t.Errorf("%v", err)
	}
	if _, _, err := l.Process(t.Context(), "c", "c", Streams{Stdout: true}, false); err != nil {
		t.Errorf("by calls, which are not made yet: %v", err)
	}
}

func TestCallsEndWhenTheAgentIsSilent(t *testing.T) {
	a := &agenttest.Agent{}
	l, _ := connected(t, a, nil)
	log := slog.New(slog.DiscardHandler)
	l.every = time.Millisecond
	l.pulse.set(false)
	if _, err := l.Introduce(t.Context()); !errors.Is(err, ErrSilent) {
		t.Errorf("%v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- l.Watch(ctx, log) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := l.Introduce(t.Context()); err == nil {
			break // it answers, which the watch has seen
		}
		if time.Now().After(end) {
			t.Fatal("the agent answers, and its silence goes on")
		}
	}
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	a.Fail("Check", errors.New("no"))
	if err := l.Watch(t.Context(), log); !errors.Is(err, ErrSilent) {
		t.Errorf("%v", err)
	}
	why := errors.New("its files are gone")
	l.Lose(why)
	l.Lose(why)
	if err := l.Watch(t.Context(), log); err != nil {
		t.Errorf("a lost one is watched: %v", err)
	}
	for range 200 { // an answer must not come before the end, either
		if _, err := l.Introduce(t.Context()); !errors.Is(err, why) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := New(func(context.Context, uint32) (net.Conn, error) { return nil, why }, nil).dial(t.Context(),
		1); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestAProcessIsReachedByCallsWhereTheAgentTakesNoStreams(t *testing.T) {
	a := &agenttest.Agent{}
	l, _ := connected(t, a, nil)
	with(t, l, "c")
	q, ports, err := l.Process(t.Context(), "c", "c", Streams{Stdin: true, Stdout: true, Stderr: true}, false)
	if err != nil || ports != (Ports{}) {
		t.Fatal(ports, err)
	}
	early := make(chan error, 1)
	go func() {
		_, err := q.Stderr.Read(make([]byte, 1))
		early <- err
	}()
	if err := q.Stderr.Close(); err != nil {
		t.Error(err)
	}
	if err := <-early; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a stream of a process that never was: %v", err)
	}
	q.Begin()
	if n, err := q.Stdin.Write(make([]byte, 2*maxChunk+1)); n != 2*maxChunk+1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	writes := 0
	for _, c := range a.Calls() {
		if c == "WriteStdin" {
			writes++
		}
	}
	if writes != 3 {
		t.Errorf("%d calls", writes)
	}
	if err := errors.Join(q.CloseStdin(), q.Resize(t.Context(), 1, 2), q.Signal(t.Context(), 9, true)); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(q.Stdout); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if code, err := q.Wait(t.Context()); code != 137 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	for _, call := range []string{"WriteStdin", "CloseStdin", "TtyWinResize", "SignalProcess", "WaitProcess"} {
		a.Fail(call, errors.New("no"))
	}
	_, werr := q.Stdin.Write([]byte("x"))
	_, wait := q.Wait(t.Context())
	for what, err := range map[string]error{"write": werr, "close": q.Stdin.Close(), "wait": wait,
		"resize": q.Resize(t.Context(), 1, 2), "signal": q.Signal(t.Context(), 9, false)} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if err := q.Close(); err == nil {
		t.Error("its input is closed")
	}
}

// liar is an agent whose answers cannot be.
type liar struct {
	katapb.AgentServiceService
	code int32
	took uint32
}

func (l *liar) WaitProcess(context.Context, *katapb.WaitProcessRequest) (*katapb.WaitProcessResponse, error) {
	return &katapb.WaitProcessResponse{Status: l.code}, nil
}

func (l *liar) WriteStdin(context.Context, *katapb.WriteStreamRequest) (*katapb.WriteStreamResponse, error) {
	return &katapb.WriteStreamResponse{Len: l.took}, nil
}

func (l *liar) TtyWinResize(context.Context, *katapb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.NotFound, "\x1b[2J\x1b]0;x\x07no\nlevel=info msg=well"+strings.Repeat(" x", 1<<20))
}

func TestWhatCannotBeIsNotBelieved(t *testing.T) {
	a := &liar{}
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	katapb.RegisterAgentServiceService(s, a)
	dir, err := os.MkdirTemp("", "link")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(context.Background(), listener) // until it is closed
	}()
	l := New(func(context.Context, uint32) (net.Conn, error) { return net.Dial("unix", filepath.Join(dir, "s")) },
		func(error) error { return nil })
	if err := l.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		<-served
	})
	q, _, err := l.Process(t.Context(), "c", "c", Streams{Stdin: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	q.Begin()
	for _, a.code = range []int32{-1, 256, 1 << 30, -1 << 31} {
		if code, err := q.Wait(t.Context()); !errors.Is(err, errCode) {
			t.Errorf("%d, %v", code, err)
		}
	}
	a.code = 255
	if code, err := q.Wait(t.Context()); code != 255 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
	for _, a.took = range []uint32{0, 6, 1 << 31, 1<<32 - 1} {
		if n, err := q.Stdin.Write([]byte("hello")); err == nil || n != 0 {
			t.Errorf("it took %d of 5: %d, %v", a.took, n, err)
		}
	}
	a.took = 1
	if n, err := q.Stdin.Write([]byte("hello")); err != nil || n != 5 {
		t.Errorf("%d, %v", n, err)
	}
	err = q.Resize(t.Context(), 1, 2)
	if !IsNotFound(err) || len(err.Error()) > 2*maxSaid || strings.ContainsAny(err.Error(), "\x1b\x07\n") ||
		!strings.Contains(err.Error(), "no level=info") {
		t.Errorf("%.200q", err)
	}
}

// wire is a connection to a guest's port, by the address that vsock gives it.
type wire struct {
	*net.UnixConn
	port uint32
}

func (w wire) LocalAddr() net.Addr { return &vsock.Addr{ContextID: vsock.Host, Port: w.port} }

func TestAProcessHasConnectionsOfItsOwnWhereTheAgentTakesThem(t *testing.T) {
	listener, err := net.Listen("unix", "")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port, fail := uint32(100), false
	gone := errors.New("the guest has ended")
	l := New(func(_ context.Context, p uint32) (net.Conn, error) {
		if p != agentapi.StreamsPort || fail {
			return nil, errors.New("refused")
		}
		c, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			return nil, err
		}
		port++
		return wire{c.(*net.UnixConn), port}, nil
	}, func(error) error { return gone })
	l.Can.Streams = true
	q, ports, err := l.Process(t.Context(), "c", "e", Streams{Stdin: true, Stdout: true, Stderr: true}, true)
	if err != nil || ports != (Ports{101, 102, 0}) || q.Stderr != nil {
		t.Fatal(ports, err) // a terminal has one output
	}
	input, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	if _, err := q.Stdin.Write([]byte("words")); err != nil {
		t.Error(err)
	}
	if err := q.CloseStdin(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(input); string(b) != "words" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := errors.Join(q.Close(), q.Close()); err != nil {
		t.Error(err)
	}
	fail = true
	if _, _, err := l.Process(t.Context(), "c", "e", Streams{Stdout: true}, false); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	gone = nil
	why := errors.New("given up")
	l.Lose(why)
	if _, _, err := l.Process(t.Context(), "c", "e", Streams{Stdout: true}, false); err == nil {
		t.Error("a stream of a lost guest")
	}
	if none, _, err := l.Process(t.Context(), "c", "e", Streams{}, false); err != nil || none.CloseStdin() != nil {
		t.Errorf("without streams: %v", err)
	}
	if !slices.Contains(waits, "/WaitProcess") || StreamsWord() != "agent.passfd_listener_port=1027" {
		t.Error(StreamsWord())
	}
}

// health is an agent's health service.
type health struct {
	katapb.HealthService
	status katapb.HealthCheckResponse_ServingStatus
}

func (h health) Check(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
	return &katapb.HealthCheckResponse{Status: h.status}, nil
}

func TestAnAgentServesWhenItsHealthSaysSo(t *testing.T) {
	for status, want := range map[katapb.HealthCheckResponse_ServingStatus]bool{
		katapb.HealthCheckResponse_SERVING: true, katapb.HealthCheckResponse_NOT_SERVING: false} {
		s, err := ttrpc.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		katapb.RegisterHealthService(s, health{status: status})
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(t.Context(), l) // it ends by Close
		t.Cleanup(func() { s.Close() })
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := Serves(t.Context(), c); (err == nil) != want {
			t.Errorf("%s: %v", status, err)
		}
	}
	// Whoever closes the connection does not serve.
	a, b := net.Pipe()
	b.Close()
	if Serves(t.Context(), a) == nil {
		t.Error("a closed connection serves")
	}
}
