package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/flow"
)

// Stdio are connections to the host for a process's streams, owned by the runner from Create and Exec on, also when
// those fail. The process never gets them themselves: it has pipes or a terminal. A nil one is served by Process's
// WriteStdin, ReadStdout and ReadStderr.
type Stdio struct {
	Stdin          io.ReadCloser
	Stdout, Stderr io.WriteCloser
}

// close closes what there is.
func (s Stdio) close() {
	if s.Stdin != nil {
		s.Stdin.Close()
	}
	if s.Stdout != nil {
		s.Stdout.Close()
	}
	if s.Stderr != nil {
		s.Stderr.Close()
	}
}

// streams are the agent's ends of a process's streams.
type streams struct {
	r   *Runner
	tty bool

	host  Stdio
	pumps sync.WaitGroup // of outputs with a connection
	once  sync.Once      // begin

	ready chan struct{} // closed when in, out and err are there
	in    *os.File      // nil until a terminal came
	out   *outlet
	err   *outlet // nil for a terminal

	inOnce sync.Once // closes in
}

// newStreams makes pipes; for a terminal nothing yet. The second result are the process's ends, to be closed by the
// caller.
func newStreams(r *Runner, host Stdio, tty bool) (*streams, []*os.File, error) {
	s := &streams{r: r, tty: tty, host: host, ready: make(chan struct{})}
	if tty {
		var files []*os.File
		for range 3 {
			f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				s.close()
				return nil, nil, fmt.Errorf("standard streams: %w", err)
			}
			files = append(files, f)
		}
		s.out = newOutlet(nil)
		return s, files, nil
	}
	var mine, files []*os.File
	for i := range 3 {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			for _, f := range append(mine, files...) {
				f.Close()
			}
			return nil, nil, fmt.Errorf("standard streams: %w", err)
		}
		own, other := p[0], p[1]
		if i == 0 {
			own, other = other, own
		}
		unix.SetNonblock(own, true) // so that reads can be given up
		mine = append(mine, os.NewFile(uintptr(own), "pipe"))
		flow.Widen(mine[i], r.cfg.PipeSize)
		files = append(files, os.NewFile(uintptr(other), "pipe"))
	}
	s.in, s.out, s.err = mine[0], newOutlet(mine[1]), newOutlet(mine[2])
	close(s.ready)
	return s, files, nil
}

// terminal gives the master of the process's terminal. Called at most once, before begin.
func (s *streams) terminal(f *os.File) {
	if f == nil || !s.tty || s.in != nil {
		return
	}
	s.in = f
	s.out.f = f
	close(s.ready)
}

func (s *streams) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// begin starts the pumps between process and host.
func (s *streams) begin() {
	s.once.Do(func() {
		if !s.isReady() {
			return
		}
		for _, o := range []struct {
			from *outlet
			to   io.WriteCloser
		}{{s.out, s.host.Stdout}, {s.err, s.host.Stderr}} {
			if o.from == nil || o.to == nil {
				continue
			}
			s.pumps.Add(1)
			s.r.background(func() {
				defer s.pumps.Done()
				pump(o.to, o.from)
			})
		}
		if s.host.Stdin != nil {
			s.r.background(func() {
				flow.Copy(s.in, s.host.Stdin)
				s.closeStdin()
			})
		}
	})
}

// patient is a writer that takes everything, whether it can be written or not.
type patient struct {
	io.Writer
	deaf bool
}

func (p *patient) Write(b []byte) (int, error) {
	if !p.deaf {
		_, err := p.Writer.Write(b)
		p.deaf = err != nil
	}
	return len(b), nil
}

// pump copies until the end. When the host no longer listens, the process's output is thrown away rather than blocking
// it.
func pump(to io.WriteCloser, from *outlet) {
	flow.Copy(&patient{Writer: to}, from)
	if c, ok := to.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	to.Close()
}

// end is called when the process has ended: it waits for its last output.
func (s *streams) end(patience time.Duration) {
	s.begin() // a process that failed early has a last word too
	done := make(chan struct{})
	s.r.background(func() {
		s.pumps.Wait()
		close(done)
	})
	// Those that are read from by calls have the same time as the pumps.
	t := time.AfterFunc(patience, func() {
		s.out.end()
		s.err.end()
	})
	<-done
	if s.host.Stdout != nil && (s.tty || s.host.Stderr != nil) {
		t.Stop() // all was pumped to its end
	}
	if s.host.Stdin != nil {
		s.host.Stdin.Close()
	}
	if !s.tty {
		s.closeStdin()
	}
}

// close gives all up.
func (s *streams) close() {
	if s.in != nil {
		s.inOnce.Do(func() { s.in.Close() })
	}
	for _, o := range []*outlet{s.out, s.err} {
		if o != nil && o.f != nil {
			o.f.Close()
		}
	}
	s.host.close()
}

func (s *streams) closeStdin() error {
	if s.tty || s.in == nil {
		return nil
	}
	s.inOnce.Do(func() { s.in.Close() })
	return nil
}

func (s *streams) resize(rows, cols uint16) error {
	if !s.tty {
		return ErrNoTerminal
	}
	if !s.isReady() {
		return fmt.Errorf("the terminal is not there yet: %w", ErrState)
	}
	c, err := s.in.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	if err := c.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}); err != nil {
		return err
	}
	return ioctl
}

func (s *streams) write(ctx context.Context, b []byte) (int, error) {
	if !s.isReady() {
		return 0, fmt.Errorf("the terminal is not there yet: %w", ErrState)
	}
	s.in.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { s.in.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := s.in.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		err = ctx.Err()
	}
	return n, err
}

// outlet is an output of a process. Reads take turns.
type outlet struct {
	f    *os.File
	sem  chan struct{}
	over atomic.Bool // the process has ended, and what is there now is all
}

func newOutlet(f *os.File) *outlet { return &outlet{f: f, sem: make(chan struct{}, 1)} }

// lastLook is how long a read waits when what is there is all.
const lastLook = 10 * time.Millisecond

// end makes reads end when nothing is left.
func (o *outlet) end() {
	if o == nil || o.f == nil {
		return
	}
	o.over.Store(true)
	o.f.SetReadDeadline(time.Unix(1, 0))
}

// Read is read without an end to its patience.
func (o *outlet) Read(b []byte) (int, error) { return o.read(context.Background(), b) }

// read reads what is there, or waits for it. The end is io.EOF.
func (o *outlet) read(ctx context.Context, b []byte) (int, error) {
	select {
	case o.sem <- struct{}{}:
		defer func() { <-o.sem }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if o.f == nil {
		return 0, io.EOF
	}
	stop := context.AfterFunc(ctx, func() { o.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		o.f.SetReadDeadline(time.Time{})
		// After the deadline is set, so that whoever sets it to the past is either seen here or has the last word.
		last := o.over.Load()
		if last {
			o.f.SetReadDeadline(time.Now().Add(lastLook))
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := o.f.Read(b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		// EIO: nobody has the terminal open
		case errors.Is(err, io.EOF), errors.Is(err, unix.EIO), errors.Is(err, fs.ErrClosed):
			return 0, io.EOF
		case errors.Is(err, os.ErrDeadlineExceeded):
			if last {
				return 0, io.EOF
			}
		default:
			return 0, err
		}
	}
}
