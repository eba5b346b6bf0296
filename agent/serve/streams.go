package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/mdlayher/vsock"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxWaiting bounds the connections that wait to be named in a request. claimTime is how long one waits; arriveTime is
// how long a request waits for a connection that it names.
const (
	maxWaiting = 256
	claimTime  = 30 * time.Second
	arriveTime = 2 * time.Second
)

// Streams are connections of the host for standard streams of processes that are to be: a request names them by the
// ports of the host's ends. The convention is Kata's passfd.
type Streams struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	waiting map[uint32]net.Conn
	arrived chan struct{} // closed and made anew whenever a connection arrives
}

// NewStreams makes Streams without connections.
func NewStreams(log *slog.Logger) *Streams {
	return &Streams{log: log, waiting: map[uint32]net.Conn{}, arrived: make(chan struct{})}
}

// Serve takes connections until l is closed.
func (s *Streams) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a stream: %w", err)
		}
		a, ok := c.RemoteAddr().(*vsock.Addr)
		if !ok || !s.add(a.Port, c) {
			_ = c.Close() // nobody has been told of it
		}
	}
}

func (s *Streams) add(port uint32, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxWaiting || s.waiting[port] != nil {
		s.log.Warn("a stream is refused", "port", port, "waiting", len(s.waiting))
		return false
	}
	s.waiting[port] = c
	close(s.arrived)
	s.arrived = make(chan struct{})
	time.AfterFunc(claimTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting[port] == c {
			delete(s.waiting, port)
			_ = c.Close() // nobody wants it
		}
	})
	return true
}

// one takes the connection from port; 0 is none.
func (s *Streams) one(ctx context.Context, port uint32) (net.Conn, error) {
	if port == 0 {
		return nil, nil
	}
	if s == nil {
		return nil, errors.New("streams are named by port, and this agent listens for none")
	}
	timeout := time.After(arriveTime)
	for {
		s.mu.Lock()
		c, arrived := s.waiting[port], s.arrived
		delete(s.waiting, port)
		s.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-arrived:
		case <-timeout:
			return nil, fmt.Errorf("no stream has come from port %d of the host", port)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// taken are the streams of one process.
type taken struct {
	container.Stdio
	conns []net.Conn
}

// take takes the connections from three ports.
func (s *Streams) take(ctx context.Context, stdin, stdout, stderr uint32) (taken, error) {
	var t taken
	for i, port := range []uint32{stdin, stdout, stderr} {
		c, err := s.one(ctx, port)
		if err != nil {
			t.hangUp()
			return taken{}, err
		}
		if c == nil {
			continue
		}
		t.conns = append(t.conns, c)
		switch i {
		case 0:
			t.Stdin = c
		case 1:
			t.Stdout = c
		case 2:
			t.Stderr = c
		}
	}
	return t, nil
}

// hangUp is for streams that no process got.
func (t taken) hangUp() {
	for _, c := range t.conns {
		_ = c.Close() // nothing was written to it
	}
}

// maxRead bounds what one call reads, in bytes: an answer has to fit into a message of 4 MiB.
const maxRead = 1 << 20

// WriteStdin writes to a process; no data is the end of file.
func (f *full) WriteStdin(ctx context.Context, r *katapb.WriteStreamRequest) (*katapb.WriteStreamResponse, error) {
	_, p, err := f.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if len(r.Data) == 0 {
		if err := p.CloseStdin(); err != nil {
			return nil, coded(err)
		}
		return &katapb.WriteStreamResponse{}, nil
	}
	n, err := p.WriteStdin(ctx, r.Data)
	if err != nil {
		return nil, coded(err)
	}
	return &katapb.WriteStreamResponse{Len: uint32(n)}, nil
}

// ReadStdout waits for output; no data is the end.
func (f *full) ReadStdout(ctx context.Context, r *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	return f.read(ctx, r, Process.ReadStdout)
}

// ReadStderr waits for output; no data is the end.
func (f *full) ReadStderr(ctx context.Context, r *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	return f.read(ctx, r, Process.ReadStderr)
}

func (f *full) read(ctx context.Context, r *katapb.ReadStreamRequest, read func(Process, context.Context,
	int) ([]byte, error)) (*katapb.ReadStreamResponse, error) {
	_, p, err := f.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	b, err := read(p, ctx, int(min(max(r.Len, 1), maxRead)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, coded(err)
	}
	return &katapb.ReadStreamResponse{Data: b}, nil
}

// CloseStdin is the end of file for a process.
func (f *full) CloseStdin(_ context.Context, r *katapb.CloseStdinRequest) (*emptypb.Empty, error) {
	_, p, err := f.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	return answer(p.CloseStdin())
}
