// Package shim is what containerd sees of a pod: the task service, version 2 and 3, the events, and the program that
// containerd starts and asks to clean up.
//
// In come containerd's calls, out go those of package pod. It knows containerd's rules, that is which call may come in
// which state, and does not know how a virtual machine works. One process serves one pod with all its containers;
// docs/shim.md has the protocol as seen from here.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/events"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/stdio"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Options are how to serve.
type Options struct {
	Namespace   string // containerd's
	Dirs        record.Dirs
	Hypervisor  machine.Hypervisor // nil is the configuration's
	Publish     events.Target
	Environment string // the value of KATA_CONF_FILE
	Config      string // path of a sandbox's configuration; other pods' are in their calls. May be empty.
	Suffix      string // of the installation; empty for one alone
	Log         *slog.Logger
	Version     string // of this program, for Connect
	// Maker is the command line of a program that makes templates; see pod.Options.
	Maker []string
}

// Service serves one pod. Get one from New.
type Service struct {
	o      Options
	log    *slog.Logger
	events *events.Publisher
	end    func() // ends the process that serves
	start  func(context.Context, pod.Options) (guest, error)

	create sync.Mutex // held while a pod is made: the calls for its containers wait for it

	calls, agent metrics.Durations // of containerd, and of the agent
	trace        *trace.Recorder
	root         rootSpan
	managing     sync.WaitGroup // the management socket's end

	patience time.Duration // how long a container may outlive SIGKILL: killTime
	linger   time.Duration // between the answer to ShutdownSandbox and the end: lingerTime; 0 in tests

	ending context.Context // of what is being made: it ends with the process
	giveUp func()          // ends it

	mu    sync.Mutex // guards what follows
	pod   guest      // nil without one
	tasks map[string]*task

	sandbox *sandbox // nil for a pod with a first container
}

// New makes a service. end is called when containerd asks for the end of it and nothing is left to serve.
func New(o Options, end func()) *Service {
	ending, giveUp := context.WithCancel(context.Background())
	return &Service{
		o: o, log: o.Log, events: events.New(o.Namespace, o.Publish, o.Log), end: end, tasks: map[string]*task{},
		ending: ending, giveUp: giveUp, start: startPod, patience: killTime, linger: lingerTime,
		trace: trace.New(traceService, trace.Options{Log: o.Log}),
	}
}

// task is a container as containerd knows it.
type task struct {
	id      string
	bundle  string
	sandbox bool // the pod lives and dies with it
	shares  bool // its processes are the pod's
	init    *execution
	stand   *thread.StandIn // for its processes on the host; nil for a sandbox, which QEMU is

	mu     sync.Mutex // guards what follows
	paused bool
	execs  map[string]*execution
}

// notFound, and so on, are errors as containerd tells them apart: by code.
func notFound(format string, a ...any) error {
	return status.Errorf(codes.NotFound, format, a...)
}

func precondition(format string, a ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, a...)
}

// asStatus keeps the code of an error that has one, and makes one of Unknown of the others: containerd shows the text.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok { // looks through what wraps it
		return status.Error(s.Code(), err.Error())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func (s *Service) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil {
		return t, nil
	}
	return nil, notFound("no container %s", id)
}

func (s *Service) process(id, exec string) (*task, *execution, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, nil, err
	}
	if exec == "" {
		return t, t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[exec]; p != nil {
		return t, p, nil
	}
	return nil, nil, notFound("no process %s in container %s", exec, id)
}

// pidOf is what containerd shows as the process of a task: a guest's processes have no number on the host.
func (s *Service) pidOf(t *task) uint32 {
	if t.stand != nil {
		return uint32(t.stand.TID)
	}
	return s.pid()
}

// pid is the process on the host that is the pod.
func (s *Service) pid() uint32 {
	g := s.guest()
	if g == nil {
		return 0
	}
	return uint32(g.PID())
}

// maxSpec bounds config.json, in bytes.
const maxSpec = 8 << 20

func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSpec {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, st.Size(), maxSpec)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &spec, nil
}

// Create makes a container, and before the first of a pod its virtual machine.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, status.Error(codes.Unimplemented, "a checkpoint cannot be restored into a virtual machine")
	}
	t, err := s.createTask(ctx, r)
	if err != nil {
		s.log.Error("create", "container", r.ID, "err", err)
		if s.guest() == nil {
			s.root.finish(err)
		}
		return nil, asStatus(err)
	}
	s.events.Send(events.Create, &eventtypes.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: s.pidOf(t),
		IO: &eventtypes.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	go s.await(t, t.init)
	return &taskapi.CreateTaskResponse{Pid: s.pidOf(t)}, nil
}

// errEnding is what a container cannot be made for once the shim has been told to end.
var errEnding = status.Error(codes.Unavailable, "the shim is being ended")

func (s *Service) createTask(ctx context.Context, r *taskapi.CreateTaskRequest) (*task, error) {
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	kind, _, err := kindOf(spec.Annotations)
	if err != nil {
		return nil, err
	}
	s.create.Lock()
	defer s.create.Unlock()
	if s.ending.Err() != nil {
		return nil, errEnding
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ending, func() { cancel(errEnding) })()
	s.mu.Lock()
	p, b := s.pod, s.sandbox
	_, exists := s.tasks[r.ID]
	s.mu.Unlock()
	if exists {
		return nil, status.Errorf(codes.AlreadyExists, "container %s exists already", r.ID)
	}
	first := p == nil
	if b != nil {
		if !b.ready() {
			return nil, precondition("the sandbox %s does not run", b.id)
		}
		kind = b.join(spec, kind)
	}
	switch {
	case first && kind == kindContainer:
		return nil, precondition("container %s belongs to a pod that does not run here", r.ID)
	case !first && kind != kindContainer:
		return nil, precondition("this shim serves another pod already")
	}
	if first {
		path, err := configPath(r.Options)
		if err != nil {
			return nil, err
		}
		if p, err = s.startFor(ctx, firstOf{id: r.ID, bundle: r.Bundle, config: path}, spec, kind); err != nil {
			return nil, err
		}
	}
	t, err := s.createIn(ctx, p, r, spec, kind)
	if err != nil && first {
		s.setPod(nil)
		if p, err = s.again(ctx, p, r, spec, err); err != nil {
			return nil, err
		}
		if t, err = s.createIn(ctx, p, r, spec, kind); err != nil {
			s.setPod(nil)
			return nil, errors.Join(err, p.Stop())
		}
	}
	if err != nil {
		return nil, err
	}
	if b != nil {
		b.has()
	}
	s.mu.Lock()
	s.tasks[r.ID] = t
	s.mu.Unlock()
	if first {
		go s.watchOOM(p)
		go s.watchHealth(p)
	}
	return t, nil
}

// firstOf is what begins a pod, besides its specification.
type firstOf struct {
	id, bundle string
	config     string // path of the configuration; may be empty
}

// startFor boots the virtual machine for the pod that spec describes.
func (s *Service) startFor(ctx context.Context, f firstOf, spec *specs.Spec, kind Kind) (guest, error) {
	cfg, err := s.loadConfig(f.config, spec.Annotations)
	if err != nil {
		return nil, err
	}
	s.decideTrace(ctx, cfg, f.id)
	if cfg.Runtime.EnableDebug {
		s.log.Debug("configuration", "guest", cfg.VM.Guest)
	}
	o := pod.Options{
		ID: f.id, Config: cfg, Hypervisor: s.o.Hypervisor, Dirs: s.o.Dirs, Hostname: spec.Hostname, Log: s.log,
		Size: podSize(spec, kind), Annotations: spec.Annotations, Shm: shmSize(spec), DNS: dnsOf(spec),
		Version: s.o.Version, Maker: s.o.Maker, Spec: spec,
	}
	if spec.Linux != nil {
		if spec.Linux.CgroupsPath != "" {
			o.Cgroup = cgroup.Parent(spec.Linux.CgroupsPath)
		}
	}
	o.Netns, o.HostNetwork = netnsOf(spec)
	o.Observe = s.agent.Observe
	if cfg.Runtime.EnableTracing {
		o.Spans = s.trace.Serve
	}
	o.Hooks = func(ctx context.Context, pid int) error { return runHooks(ctx, spec, f.id, f.bundle, pid) }
	p, err := s.start(ctx, o)
	if err != nil {
		return nil, err
	}
	s.setPod(p)
	s.manage(p, f.id, cfg)
	return p, nil
}

// again is the pod with another guest, after its first container failed for why.
func (s *Service) again(ctx context.Context, p guest, r *taskapi.CreateTaskRequest, spec *specs.Spec, why error) (guest,
	error) {
	path, err := configPath(r.Options)
	if err != nil {
		return nil, errors.Join(why, err, p.Stop())
	}
	cfg, err := s.loadConfig(path, spec.Annotations)
	if err != nil {
		return nil, errors.Join(why, err, p.Stop())
	}
	cold, err := p.Cold(ctx, why)
	if err != nil {
		return nil, err
	}
	s.managing.Wait() // the same socket is made again
	s.setPod(cold)
	s.manage(cold, r.ID, cfg)
	return cold, nil
}

// manage serves the pod's management socket until the pod ends. A pod without one is as good.
func (s *Service) manage(p guest, id string, cfg *config.Config) {
	m, err := management.Serve(management.Options{Dirs: s.o.Dirs, ID: id, Pod: p, Calls: &s.calls, Agent: &s.agent,
		Profiles: cfg.Runtime.EnablePprof, Trace: s.trace.Kept, Log: s.log})
	if err != nil {
		s.log.Warn("the pod cannot be watched", "err", err)
		return
	}
	s.managing.Go(func() {
		<-p.Stopping()
		if err := m.Close(); err != nil {
			s.log.Warn("management socket", "err", err)
		}
	})
}

// guest is the pod; nil without one.
func (s *Service) guest() guest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pod
}

func (s *Service) setPod(p guest) {
	s.mu.Lock()
	s.pod = p
	s.mu.Unlock()
}

func (s *Service) createIn(ctx context.Context, p guest, r *taskapi.CreateTaskRequest, spec *specs.Spec,
	kind Kind) (_ *task, err error) {
	of := s.pidOwner(spec)
	shares := of == "" && sharesPID(spec)
	if shares && s.ofSandbox() != nil {
		of = s.sharer()
	}
	c := pod.Container{
		ID: r.ID, Spec: spec, Bundle: r.Bundle, SharedPID: shares, PIDOf: of, Pause: kind == kindSandbox,
		Streams: agentlink.Streams{Stdin: r.Stdin != "", Stdout: r.Stdout != "", Stderr: r.Stderr != ""},
	}
	for _, w := range ofHost(spec) {
		s.log.Warn(w, "container", r.ID)
	}
	if spec.Process != nil {
		spec.Process.Terminal = r.Terminal
	}
	for _, m := range r.Rootfs {
		c.Rootfs = append(c.Rootfs, share.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	stand, err := p.StandIn()
	if err != nil {
		return nil, fmt.Errorf("a thread for the container: %w", err)
	}
	defer func() {
		if err != nil || kind != kindContainer {
			stand.End()
		}
	}()
	init := newExecution(r.ID, "",
		stdio.Paths{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal})
	if err := init.open(s.o.Namespace, r.ID); err != nil {
		return nil, err
	}
	q, ends, err := p.Create(ctx, c)
	if err != nil {
		init.close()
		return nil, err
	}
	init.run(q, ends, s.log)
	t := &task{id: r.ID, bundle: r.Bundle, init: init, execs: map[string]*execution{}, sandbox: kind != kindContainer,
		shares: shares}
	if kind == kindContainer {
		t.stand = stand
	}
	return t, nil
}

// pidOwner is the container whose processes spec names by the number that we gave it; empty for none.
func (s *Service) pidOwner(spec *specs.Spec) string {
	path, _ := namespaceOf(spec, specs.PIDNamespace)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if t.stand != nil && path == fmt.Sprintf("/proc/%d/ns/pid", t.stand.TID) {
			return t.id
		}
	}
	return ""
}

// await waits for the end of a process and tells containerd of it.
func (s *Service) await(t *task, p *execution) {
	code, err := p.running().Wait(context.Background())
	if err != nil {
		s.log.Error("the process is lost with its guest", "container", t.id, "process", p.exec, "err", err)
		code = lostCode
	}
	// containerd looks for output when it hears of the end: what came before it should be there.
	p.outputDone(stdio.OutputTime)
	p.exit(code)
	id := p.exec
	if id == "" {
		id = t.id
	}
	_, _, exited := p.state()
	s.events.Send(events.Exit, &eventtypes.TaskExit{
		ContainerID: t.id, ID: id, Pid: s.pidOf(t), ExitStatus: uint32(code), ExitedAt: timestamppb.New(exited),
	})
}

// lostCode is the exit code of a process whose guest ended under it, as Kata's.
const lostCode = 255

// lostTime bounds waiting for the end of a process whose guest has ended.
const lostTime = 5 * time.Second

// Start lets a container's first process run, or adds a process.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	g := s.guest()
	if !p.claim() {
		return nil, precondition("process %q of container %s was started already", r.ExecID, r.ID)
	}
	if r.ExecID == "" {
		err := g.Start(ctx, t.id)
		s.root.ran(t.id, err)
		if err != nil {
			p.unclaim()
			s.log.Error("start", "container", t.id, "err", err)
			if t.sandbox {
				s.endAfter(t, g)
			}
			return nil, asStatus(err)
		}
		s.events.Send(events.Start, &eventtypes.TaskStart{ContainerID: t.id, Pid: s.pidOf(t)})
		return &taskapi.StartResponse{Pid: s.pidOf(t)}, nil
	}
	if err := p.open(s.o.Namespace, t.id); err != nil {
		p.unclaim()
		return nil, asStatus(err)
	}
	q, ends, err := g.Exec(ctx, t.id, r.ExecID, p.spec, p.wanted())
	if err != nil {
		files := p.host()
		files.Close()
		p.unclaim()
		return nil, asStatus(err)
	}
	p.run(q, ends, s.log)
	s.events.Send(events.ExecStarted, &eventtypes.TaskExecStarted{ContainerID: t.id, ExecID: r.ExecID, Pid: s.pidOf(t)})
	go s.await(t, p)
	return &taskapi.StartResponse{Pid: s.pidOf(t)}, nil
}

// endAfter ends the pod whose first container could not be started: whoever asked for it may never ask for anything
// else, and a machine would be left. Containerd's task stays, as one that has ended, until it is deleted.
func (s *Service) endAfter(t *task, g guest) {
	select {
	case <-t.init.ended: // with its own code
	case <-g.Sick():
	case <-time.After(lostTime):
	}
	if err := g.Stop(); err != nil {
		s.log.Error("stop the pod", "err", err)
	}
}

// Exec prepares a process; Start adds it.
func (s *Service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	var spec specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &spec); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "specification of the process: %v", err)
	}
	spec.Terminal = r.Terminal
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.execs[r.ExecID] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "process %s exists already in container %s", r.ExecID, r.ID)
	}
	p := newExecution(t.id, r.ExecID,
		stdio.Paths{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal})
	p.spec = &spec
	t.execs[r.ExecID] = p
	s.events.Send(events.ExecAdded, &eventtypes.TaskExecAdded{ContainerID: t.id, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

// Delete forgets a process that has ended; with a pod's first container the pod goes.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	phase, code, exited := p.state()
	if phase == started {
		return nil, precondition("process %q of container %s still runs", r.ExecID, r.ID)
	}
	resp := &taskapi.DeleteResponse{Pid: s.pidOf(t), ExitStatus: uint32(code), ExitedAt: timestamppb.New(exited)}
	p.close()
	if r.ExecID != "" {
		t.mu.Lock()
		delete(t.execs, r.ExecID)
		t.mu.Unlock()
		return resp, nil
	}
	g := s.guest()
	if t.sandbox {
		err = g.Stop()
	} else {
		err = g.Remove(ctx, t.id)
	}
	if err != nil {
		// Nobody asks again: what is left is left to the end of this process, or to the cleaning up after it.
		s.log.Error("delete", "container", t.id, "err", err)
	}
	if spec, err := readSpec(t.bundle); err == nil {
		runPoststop(ctx, spec, t.id, t.bundle, s.log)
	}
	s.mu.Lock()
	delete(s.tasks, t.id)
	s.mu.Unlock()
	if t.stand != nil {
		t.stand.End()
	}
	s.events.Send(events.Delete, &eventtypes.TaskDelete{
		ContainerID: t.id, ID: t.id, Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt,
	})
	return resp, nil
}

// State says how a process is.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	phase, code, exited := p.state()
	resp := &taskapi.StateResponse{
		ID: t.id, Bundle: t.bundle, Pid: s.pidOf(t), ExecID: r.ExecID, Stdin: p.stdio.Stdin, Stdout: p.stdio.Stdout,
		Stderr: p.stdio.Stderr, Terminal: p.stdio.Terminal, Status: tasktypes.Status_CREATED,
	}
	switch phase {
	case started:
		resp.Status = tasktypes.Status_RUNNING
		t.mu.Lock()
		if t.paused {
			resp.Status = tasktypes.Status_PAUSED
		}
		t.mu.Unlock()
	case ended:
		resp.Status, resp.ExitStatus, resp.ExitedAt = tasktypes.Status_STOPPED, uint32(code), timestamppb.New(exited)
	}
	return resp, nil
}

// Kill sends a signal.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	q := p.running()
	if phase, _, _ := p.state(); phase == ended || q == nil {
		return nil, notFound("process %q of container %s does not run", r.ExecID, r.ID)
	}
	if err := q.Signal(ctx, r.Signal, r.All); err != nil {
		g := s.guest()
		if g.Why() != nil && !errors.Is(err, agentlink.ErrSilent) {
			// The guest has ended, or is about to be: the process is gone, which is about to be told.
			select {
			case <-p.ended:
			case <-time.After(lostTime):
			}
			return nil, notFound("process %q of container %s is lost with its guest: %v", r.ExecID, r.ID, err)
		}
		if errors.Is(err, agentlink.ErrSilent) && t.sandbox && r.ExecID == "" && r.Signal == uint32(unix.SIGKILL) {
			// Whoever kills the pod need not wait longer for an agent that hangs.
			s.log.Warn("the pod is killed although its agent does not answer", "container", t.id)
			g.GiveUp(agentlink.ErrSilent)
			return &emptypb.Empty{}, nil
		}
		return nil, asStatus(err)
	}
	if r.ExecID == "" && r.Signal == uint32(unix.SIGKILL) {
		s.insist(t)
	}
	return &emptypb.Empty{}, nil
}

// killTime is how long a container may outlive SIGKILL. A process that waits in the guest's kernel for good is ended by
// nothing but the guest's end. It is less than the 2 minutes that containerd's CRI waits for the end of a container it
// has killed, and more than a slow host needs.
const killTime = 30 * time.Second

// insist sees to it that SIGKILL, which t was just sent, has its effect. The first container of a pod gets killTime:
// whoever kills it wants the pod's end. For another one, the others of its pod are not ended until it is killed once
// more after that time, as it is when the pod is stopped.
func (s *Service) insist(t *task) {
	g := s.guest()
	since, again := t.init.killed(time.Now())
	giveUp := func() {
		s.log.Error("the guest is ended, which a killed container outlives", "container", t.id)
		g.GiveUp(pod.ErrStuck)
	}
	switch {
	case t.sandbox && !again:
		go func() {
			select {
			case <-t.init.ended:
			case <-time.After(s.patience):
				giveUp()
			}
		}()
	case !t.sandbox && time.Since(since) >= s.patience:
		giveUp()
	}
}

// Wait returns when a process has ended. It holds nothing that others need.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return nil, asStatus(ctx.Err())
	}
	_, code, exited := p.state()
	return &taskapi.WaitResponse{ExitStatus: uint32(code), ExitedAt: timestamppb.New(exited)}, nil
}

// Pids lists the processes of a container on the host: there is one.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: s.pidOf(t)}}}, nil
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	q := p.running()
	if q == nil {
		return nil, precondition("process %q of container %s does not run yet", r.ExecID, r.ID)
	}
	if err := q.Resize(ctx, r.Height, r.Width); err != nil {
		return nil, asStatus(err)
	}
	return &emptypb.Empty{}, nil
}

// CloseIO closes the standard input of a process.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		p.closeStdin()
	}
	return &emptypb.Empty{}, nil
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	if err := s.guest().Pause(ctx, t.id); err != nil {
		return nil, asStatus(err)
	}
	t.mu.Lock()
	t.paused = true
	t.mu.Unlock()
	s.events.Send(events.Paused, &eventtypes.TaskPaused{ContainerID: t.id})
	return &emptypb.Empty{}, nil
}

// Resume lets a frozen container go on.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	if err := s.guest().Resume(ctx, t.id); err != nil {
		return nil, asStatus(err)
	}
	t.mu.Lock()
	t.paused = false
	t.mu.Unlock()
	s.events.Send(events.Resumed, &eventtypes.TaskResumed{ContainerID: t.id})
	return &emptypb.Empty{}, nil
}

// Update changes what a container may use.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	p := s.guest()
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &resources); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "resources: %v", err)
	}
	if err := p.Update(ctx, t.id, &resources); err != nil {
		return nil, asStatus(err)
	}
	return &emptypb.Empty{}, nil
}

// Stats says what a container uses, in the form of the host's version of cgroups.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	if phase, _, _ := t.init.state(); phase == ended {
		return nil, notFound("container %s has ended, and uses nothing", t.id)
	}
	u, err := s.guest().Stats(ctx, t.id)
	if err != nil {
		return nil, asStatus(err)
	}
	a, err := u.Metrics()
	if err != nil {
		return nil, asStatus(err)
	}
	return &taskapi.StatsResponse{Stats: a}, nil
}

// Checkpoint is refused.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "a container in a virtual machine cannot be checkpointed")
}

// Connect says which process serves, and in which version.
func (s *Service) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: s.pid(), Version: s.o.Version}, nil
}

// Shutdown ends the process once it has no containers any more.
func (s *Service) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	busy := len(s.tasks) > 0
	p, b := s.pod, s.sandbox
	s.mu.Unlock()
	if b != nil || busy && !r.Now { // a sandbox outlives its containers: ShutdownSandbox ends it
		return &emptypb.Empty{}, nil
	}
	s.giveUp()
	if p != nil {
		if err := p.Stop(); err != nil {
			s.log.Error("stop the pod", "err", err)
		}
	}
	s.end()
	return &emptypb.Empty{}, nil
}

// Close ends the pod, also one that is being made, and sends what events wait to be sent.
func (s *Service) Close() error {
	s.giveUp()
	s.create.Lock() // whoever makes a pod takes it down, which this process must not cut short
	defer s.create.Unlock()
	p := s.guest()
	var err error
	if p != nil {
		err = p.Stop()
	}
	s.managing.Wait()
	s.root.finish(errEnding)
	s.root.settle()
	s.trace.Close()
	s.events.Close()
	return err
}

// starvedEvery is the least time between two events of exhausted memory: a guest that tells more is asked later, so
// that its events do not fill the queue in which ends of processes wait.
const starvedEvery = 100 * time.Millisecond

// watchOOM tells containerd of containers that met their memory limits. The guest says which: only those of this pod
// are believed, as containerd would mark another pod's container with such an event.
func (s *Service) watchOOM(p guest) {
	told := false
	for {
		id, err := p.OOM(context.Background())
		if err != nil {
			if p.Why() == nil {
				s.log.Debug("no more events of exhausted memory", "err", err)
			}
			return
		}
		if _, err := s.task(id); err == nil {
			s.events.Send(events.OOM, &eventtypes.TaskOOM{ContainerID: id})
		} else if !told {
			told = true
			s.log.Warn("the guest tells exhausted memory of a container that this pod does not have", "container",
				fmt.Sprintf("%.80q", id))
		}
		select {
		case <-time.After(starvedEvery):
		case <-p.Done():
		}
	}
}

// ids are those of all tasks, in order.
func (s *Service) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.tasks))
}

// watchHealth ends a pod whose agent no longer answers, upon which its processes count as lost.
func (s *Service) watchHealth(p guest) {
	select {
	case <-p.Done():
		select {
		case <-p.Stopping(): // as it was asked to
		default:
			why := p.Why()
			s.log.Error("the guest has ended", "err", why)
			if errors.Is(why, pod.ErrOutOfMemory) { // all of the pod's containers met its limit
				for _, id := range s.ids() {
					s.events.Send(events.OOM, &eventtypes.TaskOOM{ContainerID: id})
				}
			}
		}
	case <-p.Sick():
		s.log.Error("the guest is given up", "err", p.Why())
		if err := p.Stop(); err != nil {
			s.log.Error("stop the pod", "err", err)
		}
	}
}
