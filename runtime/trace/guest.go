package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/spans"
)

// Bounds of what guests may send.
const (
	guestConns  = 4                     // connections at a time
	frameTime   = 10 * time.Second      // for one frame, once it has begun
	frameEvery  = 20 * time.Millisecond // between two frames of a connection
	keepGuest   = 2048                  // spans of the guest that the shim keeps
	guestBytes  = 1 << 20               // bytes of them
	complaints  = 8                     // about one guest; more of them are not told
	guestFrames = 64                    // frames that wait to be sent
)

// errService says that a guest speaks as another service than its agent.
var errService = errors.New("spans of another service than " + spans.AgentService)

// Frames reads what guests send to l: frames of spans, each as CheckFrame wants it, which go to take as they are. It
// closes l when ctx ends, and returns when all of it is over. What a guest sends otherwise ends its connection, and the
// log says why, a few times; one that sends fast is read slowly.
func Frames(ctx context.Context, l net.Listener, log *slog.Logger, take func(data []byte) error) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, guestConns)
	told := 0
	var mu sync.Mutex // guards told
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		select {
		case room <- struct{}{}:
		default:
			_ = c.Close() // it has enough
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer func() { _ = c.Close() }() // after what the log says of it
			err := frames(ctx, c, take)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && ctx.Err() == nil && told < complaints {
				told++
				log.Warn("spans of a guest are refused", "from", c.RemoteAddr().String(), "err", err)
			}
		})
	}
}

func frames(ctx context.Context, c net.Conn, take func([]byte) error) error {
	for {
		data, err := spans.ReadFrame(&slow{c: c})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_, err = CheckFrame(data)
		}
		if err == nil {
			err = take(data)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(frameEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// slow gives a frame that has begun frameTime.
type slow struct {
	c     net.Conn
	begun bool
}

func (s *slow) Read(b []byte) (int, error) {
	if !s.begun {
		if err := s.c.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		n, err := s.c.Read(b)
		s.begun = true
		if err == nil {
			err = s.c.SetReadDeadline(time.Now().Add(frameTime))
		}
		return n, err
	}
	return s.c.Read(b)
}

// CheckFrame reads the spans of a frame, which must be a guest's agent's.
func CheckFrame(data []byte) ([]spans.Batch, error) {
	batches, err := spans.Decode(data)
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		if b.Service != spans.AgentService {
			return nil, fmt.Errorf("%w: %q", errService, b.Service)
		}
	}
	return batches, nil
}

// Serve takes the spans of the pod's guest: they are kept as the others, and sent as they are.
func (r *Recorder) Serve(ctx context.Context, l net.Listener) error {
	return Frames(ctx, l, r.o.Log, func(data []byte) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.off {
			return nil
		}
		batches, err := CheckFrame(data)
		if err != nil {
			return err
		}
		n := 0
		for _, b := range batches {
			n += len(b.Spans)
		}
		if r.guestSpans+n <= keepGuest && len(r.guest)+len(data) <= guestBytes {
			// Lists of OTLP's services follow each other: protobuf's repeated fields.
			r.guest = append(r.guest, data...)
			r.guestSpans += n
		}
		if r.out != nil {
			r.out.addFrame(data)
		}
		return nil
	})
}
