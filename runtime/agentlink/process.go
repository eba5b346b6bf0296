package agentlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/mdlayher/vsock"
)

// Streams are which standard streams of a process lead to the host. The others lead nowhere.
type Streams struct {
	Stdin, Stdout, Stderr bool
}

// Process is a process in the guest: a container's first, or one that was added.
type Process struct {
	// Stdin, Stdout and Stderr are nil unless asked for. Closing Stdin is the end of file in the guest. Stderr is nil
	// with a terminal.
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser

	link            *Link
	container, exec string
}

// Ports name the streams of a process for the agent: standard input, output and error. 0 is none.
type Ports [3]uint32

// Process connects the streams of a process that is about to be made, and returns the ports that name them. exec is the
// container's id for its first process.
func (l *Link) Process(ctx context.Context, container, exec string, s Streams, terminal bool) (*Process, Ports,
	error) {
	proc := &Process{link: l, container: container, exec: exec}
	var ports Ports
	if terminal {
		s.Stderr = false
	}
	if !l.Can.Streams {
		if s.Stdin {
			proc.Stdin = &calledStdin{proc}
		}
		if s.Stdout {
			proc.Stdout = newCalledOutput(proc, l.ReadStdout)
		}
		if s.Stderr {
			proc.Stderr = newCalledOutput(proc, l.ReadStderr)
		}
		return proc, ports, nil
	}
	ctx, cancel := l.pulse.context(ctx)
	defer cancel()
	for i, want := range []bool{s.Stdin, s.Stdout, s.Stderr} {
		if !want {
			continue
		}
		conn, err := l.dial(ctx, agentapi.StreamsPort)
		if err != nil {
			if why := l.reason(err); why != nil {
				err = why
			} else if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, ports, errors.Join(fmt.Errorf("connect a stream to the agent: %w", err), proc.Close())
		}
		ports[i] = conn.LocalAddr().(*vsock.Addr).Port
		switch i {
		case 0:
			proc.Stdin = conn
		case 1:
			proc.Stdout = conn
		case 2:
			proc.Stderr = conn
		}
	}
	return proc, ports, nil
}

// Begin starts what reads by calls, once the process exists.
func (q *Process) Begin() {
	for _, o := range []io.ReadCloser{q.Stdout, q.Stderr} {
		if c, ok := o.(*calledOutput); ok {
			close(c.exists)
		}
	}
}

// maxCode is the greatest exit code that there is: wait(2) has eight bits of it, and signals are told as 128 and more.
const maxCode = 255

// errCode says that a guest tells an exit code that no process has.
var errCode = errors.New("no process ends with such an exit code")

// Wait returns the exit code of the process, 128 and more for a signal. It forgets the process in the guest.
func (q *Process) Wait(ctx context.Context) (int, error) {
	r, err := q.link.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: q.container, ExecId: q.exec})
	if err != nil {
		return 0, fmt.Errorf("wait for the process: %w", err)
	}
	code := r.GetStatus()
	if code < 0 || code > maxCode {
		return 0, fmt.Errorf("wait for the process: the guest says %d: %w", code, errCode)
	}
	return int(code), nil
}

// Signal sends a signal to the process; all is to every process of the container.
func (q *Process) Signal(ctx context.Context, signal uint32, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTime)
	defer cancel()
	exec := q.exec
	if all {
		exec = "" // the first process alone, for Kata's agent, unless the signal is SIGKILL
		if q.link.Can.SignalAll {
			exec = agentapi.AllProcesses
		}
	}
	_, err := q.link.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: q.container, ExecId: exec,
		Signal: signal})
	if err != nil {
		return fmt.Errorf("signal %d: %w", signal, err)
	}
	return nil
}

// Resize sets the size of the process's terminal.
func (q *Process) Resize(ctx context.Context, rows, columns uint32) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTime)
	defer cancel()
	_, err := q.link.TtyWinResize(ctx, &katapb.TtyWinResizeRequest{ContainerId: q.container, ExecId: q.exec,
		Row: rows, Column: columns})
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", err)
	}
	return nil
}

// CloseStdin is the end of file for the process.
func (q *Process) CloseStdin() error {
	switch c := q.Stdin.(type) {
	case nil:
		return nil
	case interface{ CloseWrite() error }: // the agent may still say that the process reads no more
		return c.CloseWrite()
	default:
		return c.Close()
	}
}

// Close hangs up on the process's streams.
func (q *Process) Close() error {
	var errs []error
	for _, c := range []io.Closer{q.Stdin, q.Stdout, q.Stderr} {
		if c != nil {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// maxChunk is what one call reads or writes, in bytes: well below ttrpc's 4 MiB, and as Kata's hosts do.
const maxChunk = 32 << 10

// calledStdin writes by calls, for agents without streams.
type calledStdin struct{ q *Process }

func (s *calledStdin) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		part := b[:min(len(b), maxChunk)]
		r, err := s.q.link.WriteStdin(context.Background(),
			&katapb.WriteStreamRequest{ContainerId: s.q.container, ExecId: s.q.exec, Data: part})
		if err != nil {
			return n, fmt.Errorf("write to the process: %w", err)
		}
		took := r.GetLen()
		if took == 0 || uint64(took) > uint64(len(part)) {
			return n, fmt.Errorf("write to the process: the guest says that it took %d of %d bytes", took, len(part))
		}
		n += int(took)
		b = b[took:]
	}
	return n, nil
}

func (s *calledStdin) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), RequestTime)
	defer cancel()
	_, err := s.q.link.CloseStdin(ctx, &katapb.CloseStdinRequest{ContainerId: s.q.container, ExecId: s.q.exec})
	if err != nil && !IsNotFound(err) {
		return fmt.Errorf("close the standard input of the process: %w", err)
	}
	return nil
}

// calledOutput reads by calls.
type calledOutput struct {
	q      *Process
	call   func(context.Context, *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error)
	exists chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	rest   []byte
}

func newCalledOutput(q *Process, call func(context.Context, *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse,
	error)) *calledOutput {
	o := &calledOutput{q: q, call: call, exists: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

func (o *calledOutput) Read(b []byte) (int, error) {
	select {
	case <-o.exists:
	case <-o.ctx.Done():
		return 0, net.ErrClosed
	}
	if len(o.rest) == 0 {
		r, err := o.call(o.ctx, &katapb.ReadStreamRequest{ContainerId: o.q.container, ExecId: o.q.exec, Len: maxChunk})
		if err != nil {
			return 0, fmt.Errorf("read from the process: %w", err)
		}
		if len(r.GetData()) == 0 {
			return 0, io.EOF
		}
		o.rest = r.GetData()
	}
	n := copy(b, o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

func (o *calledOutput) Close() error {
	o.once.Do(o.cancel)
	return nil
}
