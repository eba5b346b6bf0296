package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/mdlayher/vsock"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// streamsWord has the agent listen for streams; agents of Kata Containers understand it too.
var streamsWord = fmt.Sprintf("agent.passfd_listener_port=%d", agentapi.StreamsPort)

// Container is a container to make.
type Container struct {
	ID     string
	Spec   *specs.Spec // as on the host; it is not changed
	Rootfs []share.Mount
	Bundle string // holds Spec.Root.Path where that is relative
	// SharedPID: the container joins the pod's PID namespace.
	SharedPID bool
	// PIDOf is the container of the pod whose PID namespace this one joins; empty for none.
	PIDOf   string
	Streams Streams
}

// Streams are which standard streams of a process lead to the host. The others lead nowhere.
type Streams struct {
	Stdin, Stdout, Stderr bool
}

// container is what the pod knows of one.
type container struct {
	id    string
	disks []*pluggedDisk
	binds []*boundVolume
}

// Process is a process in the guest: a container's first, or one that was added.
type Process struct {
	// Stdin, Stdout and Stderr are nil unless asked for. Closing Stdin is the end of file in the guest. Stderr is nil
	// with a terminal.
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	Stderr io.ReadCloser

	pod             *Pod
	container, exec string
}

// Create makes a container. Its first process waits to be started. When it fails nothing of the container is left.
func (p *Pod) Create(ctx context.Context, c Container) (_ *Process, err error) {
	if err := record.CheckID(c.ID); err != nil {
		return nil, err
	}
	have := &container{id: c.ID}
	p.mu.Lock()
	if p.containers[c.ID] != nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("a container called %s exists already", c.ID)
	}
	p.containers[c.ID] = have
	p.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.forget(context.WithoutCancel(ctx), have))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Runtime.CreateContainerTimeout)
	defer cancel()
	plan, err := p.translate(c)
	if err != nil {
		return nil, err
	}
	if err := p.prepare(ctx, have, plan); err != nil {
		return nil, err
	}
	if err := p.resize(ctx, c.ID, SizeOf(c.Spec.Linux.Resources)); err != nil {
		p.log.Warn("the machine is not as large as its containers want it", "container", c.ID, "err", err)
	}
	wire, err := oci.ToWire(plan.Spec)
	if err != nil {
		return nil, err
	}
	proc, ports, err := p.newProcess(ctx, c.ID, c.ID, c.Streams, c.Spec.Process.Terminal)
	if err != nil {
		return nil, err
	}
	req := &katapb.CreateContainerRequest{
		ContainerId: c.ID, ExecId: c.ID, OCI: wire, Storages: plan.Storages, Devices: plan.Devices,
		SandboxPidns: c.SharedPID,
		StdinPort:    ports[0], StdoutPort: ports[1], StderrPort: ports[2],
	}
	if _, err := p.service.CreateContainer(ctx, req); err != nil {
		return nil, errors.Join(fmt.Errorf("create the container in the guest: %w", err), proc.Close())
	}
	proc.begin()
	return proc, p.record.Note(func(r *record.Record) { r.Containers = append(r.Containers, c.ID) })
}

// translate makes the plan of a container. The pod's containers have the users of the first one that has any.
func (p *Pod) translate(c Container) (*translate.Plan, error) {
	p.mu.Lock()
	users := p.users
	p.mu.Unlock()
	of := translate.Pod{Shared: p.share != nil, NoSeccomp: p.cfg.Runtime.DisableGuestSeccomp, Seccomp: p.seccomp,
		GuestDevices: p.can.guestDevices, PIDOf: p.can.pidOf, Users: users}
	plan, err := translate.Translate(of, translate.ThisHost{}, translate.Container{ID: c.ID, Spec: c.Spec,
		Rootfs: c.Rootfs, Bundle: c.Bundle, PIDOf: c.PIDOf})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.users.UIDs) == 0 {
		p.users = plan.Users
	}
	return plan, nil
}

// Start lets the first process of a container run.
func (p *Pod) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if _, err := p.service.StartContainer(ctx, &katapb.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return nil
}

// Exec runs another process in a container.
func (p *Pod) Exec(ctx context.Context, id, exec string, spec *specs.Process, s Streams) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	proc, ports, err := p.newProcess(ctx, id, exec, s, spec.Terminal)
	if err != nil {
		return nil, err
	}
	w := oci.ProcessToWire(spec)
	w.SelinuxLabel, w.ApparmorProfile = "", "" // the guest has neither
	req := &katapb.ExecProcessRequest{
		ContainerId: id, ExecId: exec, Process: w, StdinPort: ports[0], StdoutPort: ports[1], StderrPort: ports[2],
	}
	if _, err := p.service.ExecProcess(ctx, req); err != nil {
		return nil, errors.Join(fmt.Errorf("run a process in the container: %w", err), proc.Close())
	}
	proc.begin()
	return proc, nil
}

// Remove takes a container away: its processes, its files in the guest and on the host.
func (p *Pod) Remove(ctx context.Context, id string) error {
	p.mu.Lock()
	c := p.containers[id]
	p.mu.Unlock()
	if c == nil {
		return nil
	}
	return p.forget(ctx, c)
}

func (p *Pod) forget(ctx context.Context, c *container) error {
	var errs []error
	if p.Why() == nil {
		asked, cancel := context.WithTimeout(ctx, requestTime)
		_, err := p.service.RemoveContainer(asked, &katapb.RemoveContainerRequest{ContainerId: c.id,
			Timeout: uint32(requestTime / time.Second)})
		cancel()
		if err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("remove the container in the guest: %w", err))
		}
		if err := p.unplug(ctx, c, 0); err != nil {
			p.log.Warn("a disk stays plugged in", "container", c.id, "err", err)
		}
	}
	if p.share != nil {
		errs = append(errs, p.unbind(c), p.share.Release(c.id))
	}
	p.mu.Lock()
	delete(p.containers, c.id)
	p.mu.Unlock()
	p.growth.mu.Lock()
	delete(p.growth.sizes, c.id)
	p.growth.mu.Unlock()
	errs = append(errs, p.record.Note(func(r *record.Record) {
		r.Containers = slices.DeleteFunc(r.Containers, func(id string) bool { return id == c.id })
	}))
	return errors.Join(errs...)
}

// newProcess connects the streams of a process that is about to be made, and returns the ports that name them for the
// agent.
func (p *Pod) newProcess(ctx context.Context, id, exec string, s Streams, terminal bool) (*Process, [3]uint32, error) {
	proc := &Process{pod: p, container: id, exec: exec}
	var ports [3]uint32
	if terminal {
		s.Stderr = false
	}
	if !p.streams {
		if s.Stdin {
			proc.Stdin = &calledStdin{proc}
		}
		if s.Stdout {
			proc.Stdout = newCalledOutput(proc, p.service.ReadStdout)
		}
		if s.Stderr {
			proc.Stderr = newCalledOutput(proc, p.service.ReadStderr)
		}
		return proc, ports, nil
	}
	ctx, cancel := p.pulse.context(ctx)
	defer cancel()
	for i, want := range []bool{s.Stdin, s.Stdout, s.Stderr} {
		if !want {
			continue
		}
		conn, err := p.vm.Dial(ctx, agentapi.StreamsPort)
		if err != nil {
			switch {
			case p.vm.Why() != nil:
				err = p.Why()
			case ctx.Err() != nil:
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

// begin starts what reads by calls, once the process exists.
func (q *Process) begin() {
	for _, o := range []io.ReadCloser{q.Stdout, q.Stderr} {
		if c, ok := o.(*calledOutput); ok {
			close(c.exists)
		}
	}
}

// Wait returns the exit code of the process, 128 and more for a signal. It forgets the process in the guest.
func (q *Process) Wait(ctx context.Context) (int, error) {
	r, err := q.pod.service.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: q.container, ExecId: q.exec})
	if err != nil {
		return 0, fmt.Errorf("wait for the process: %w", err)
	}
	return int(r.GetStatus()), nil
}

// Signal sends a signal to the process; all is to every process of the container.
func (q *Process) Signal(ctx context.Context, signal uint32, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	exec := q.exec
	if all {
		exec = "" // the first process alone, for Kata's agent, unless the signal is SIGKILL
		if q.pod.can.signalAll {
			exec = agentapi.AllProcesses
		}
	}
	_, err := q.pod.service.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: q.container, ExecId: exec,
		Signal: signal})
	if err != nil {
		return fmt.Errorf("signal %d: %w", signal, err)
	}
	return nil
}

// Resize sets the size of the process's terminal.
func (q *Process) Resize(ctx context.Context, rows, columns uint32) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	_, err := q.pod.service.TtyWinResize(ctx, &katapb.TtyWinResizeRequest{ContainerId: q.container, ExecId: q.exec,
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
		r, err := s.q.pod.service.WriteStdin(context.Background(),
			&katapb.WriteStreamRequest{ContainerId: s.q.container, ExecId: s.q.exec, Data: part})
		if err != nil {
			return n, fmt.Errorf("write to the process: %w", err)
		}
		n += int(r.GetLen())
		b = b[len(part):]
	}
	return n, nil
}

func (s *calledStdin) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	_, err := s.q.pod.service.CloseStdin(ctx, &katapb.CloseStdinRequest{ContainerId: s.q.container, ExecId: s.q.exec})
	if err != nil && !isNotFound(err) {
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
