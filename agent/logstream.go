package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/options"
)

// Bounds of what is kept of the log until somebody takes it; then the oldest goes.
const (
	maxLogLines = 512
	maxLogLine  = 16 << 10 // bytes
	maxLogBytes = 256 << 10
)

// logWriteTime is how long whoever takes the log may not read before it is given up.
const logWriteTime = 10 * time.Second

// logStream hands the log to whoever connects, a JSON object a line. One reader has it at a time, and the newest wins.
// Nobody who logs waits for a reader: lines wait, and when there are too many the oldest are lost and counted.
type logStream struct {
	base slog.Handler // writes JSON into the stream

	mu    sync.Mutex
	lines [][]byte // guarded by mu, as all that follows
	bytes int
	lost  int
	wake  chan struct{} // has an element when there may be lines
}

// newLogStream makes the stream of an agent's version. Records below level are left out.
func newLogStream(version string, level slog.Leveler) *logStream {
	s := &logStream{wake: make(chan struct{}, 1)}
	// The names are those of Kata Containers' agent, so that its log parser can read it.
	s.base = slog.NewJSONHandler(logLines{s}, &slog.HandlerOptions{Level: level,
		ReplaceAttr: replaceLogAttr}).WithAttrs([]slog.Attr{
		slog.String("name", "kata-agent"), slog.String("source", "agent"), slog.String("version", version),
		slog.String("pid", strconv.Itoa(os.Getpid())),
	})
	return s
}

func replaceLogAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		if t, ok := a.Value.Any().(time.Time); ok {
			return slog.String("ts", t.UTC().Format("2006-01-02T15:04:05.000000000Z"))
		}
	case slog.LevelKey:
		if l, ok := a.Value.Any().(slog.Level); ok {
			return slog.String("level", levelName(l))
		}
	}
	return a
}

// levelName is the level as Kata Containers' agent writes it.
func levelName(l slog.Level) string {
	switch {
	case l >= options.LevelCritical:
		return "CRIT"
	case l >= slog.LevelError:
		return "ERRO"
	case l >= slog.LevelWarn:
		return "WARN"
	case l >= slog.LevelInfo:
		return "INFO"
	case l >= slog.LevelDebug:
		return "DEBG"
	}
	return "TRCE"
}

// tee is a logger for all that goes to log and to the stream.
func (s *logStream) tee(log *slog.Logger) *slog.Logger {
	return slog.New(slog.NewMultiHandler(log.Handler(), s.base))
}

// logLines is the writer below the JSON: each call is one line.
type logLines struct{ s *logStream }

func (w logLines) Write(b []byte) (int, error) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) > maxLogLine {
		s.lost++ // half a line would be no JSON
		return len(b), nil
	}
	s.lines = append(s.lines, append([]byte(nil), b...))
	s.bytes += len(b)
	for len(s.lines) > maxLogLines || s.bytes > maxLogBytes {
		s.bytes -= len(s.lines[0])
		s.lines[0] = nil
		s.lines = s.lines[1:]
		s.lost++
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

// take removes everything that waits.
func (s *logStream) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	if s.lost > 0 {
		lines = append([][]byte{fmt.Appendf(
			nil, `{"msg":"%d lines of the log were lost","level":"WARN","name":"kata-agent","source":"agent"}`+"\n",
			s.lost)}, lines...)
	}
	s.lines, s.bytes, s.lost = nil, 0, 0
	return lines
}

// serve hands the log to the newest connection of l, until ctx ends. It closes l.
func (s *logStream) serve(ctx context.Context, l net.Listener) error {
	last := func() {}
	defer func() { last() }()
	return accept(ctx, l, func(c net.Conn) {
		last()
		mine, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.send(mine, c)
		}()
		last = func() {
			cancel()
			_ = c.Close() // a newer one has taken over, or the agent ends
			<-done
		}
	})
}

// send writes the log to c until ctx or c ends. It closes c.
func (s *logStream) send(ctx context.Context, c net.Conn) {
	defer c.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, c) // nothing is expected; it tells when the reader has gone
	}()
	for {
		lines := s.take()
		for i, line := range lines {
			err := c.SetWriteDeadline(time.Now().Add(logWriteTime))
			if err == nil {
				_, err = c.Write(line)
			}
			if err != nil {
				s.giveBack(lines[i:])
				return
			}
		}
		select {
		case <-s.wake:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// giveBack puts lines that were not taken before those that came meanwhile, as far as there is room.
func (s *logStream) giveBack(lines [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(lines) - 1; i >= 0; i-- {
		if len(s.lines) == maxLogLines || s.bytes+len(lines[i]) > maxLogBytes {
			s.lost += i + 1
			break
		}
		s.lines = append([][]byte{lines[i]}, s.lines...)
		s.bytes += len(lines[i])
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
