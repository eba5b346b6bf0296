package serve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/katabuild/katabuild/agent/trace"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// CreateContainer mounts what the container needs and makes its first process, which waits for StartContainer.
func (f *full) CreateContainer(ctx context.Context, r *katapb.CreateContainerRequest) (_ *emptypb.Empty, err error) {
	if _, err := f.s.Containers.Container(r.ContainerId); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "container %s exists already", r.ContainerId)
	}
	spec, err := oci.FromWire(r.OCI)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "container %s: %v", r.ContainerId, err)
	}
	if spec == nil || spec.Process == nil || spec.Root == nil {
		return nil, status.Errorf(codes.InvalidArgument, "container %s: the specification lacks process or root",
			r.ContainerId)
	}
	if len(r.SharedMounts) > 0 {
		return nil, status.Error(codes.Unimplemented, "shared_mounts is not implemented by this agent")
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if err := f.s.Storage.Devices(ctx, r.Devices, spec); err != nil {
		return nil, coded(err)
	}
	end := trace.Step(ctx, "mount storages")
	err = f.s.Storage.Add(ctx, r.ContainerId, r.Storages)
	end(err)
	if err != nil {
		return nil, coded(err)
	}
	defer func() {
		if err != nil {
			if e := f.s.Storage.Release(r.ContainerId); e != nil {
				f.s.Log.Error("release storages", "container", r.ContainerId, "err", e)
			}
		}
	}()
	stdio, err := f.s.Streams.take(ctx, r.StdinPort, r.StdoutPort, r.StderrPort)
	if err != nil {
		return nil, coded(err)
	}
	first, err := f.namespaces(spec, r)
	if err != nil {
		stdio.hangUp()
		return nil, coded(err)
	}
	if err := f.guestDevices(r.ContainerId, spec); err != nil {
		stdio.hangUp()
		return nil, coded(err)
	}
	if spec.Hooks, err = f.hooks(); err != nil {
		stdio.hangUp()
		return nil, coded(err)
	}
	end = trace.Step(ctx, "make the container")
	_, err = f.s.Containers.Create(ctx, r.ContainerId, spec, stdio.Stdio)
	end(err)
	if err != nil {
		stdio.hangUp()
		return nil, coded(err)
	}
	if first {
		f.mu.Lock()
		f.first = r.ContainerId
		f.mu.Unlock()
	}
	return &emptypb.Empty{}, nil
}

// namespaces gives the container those it shares with the pod, and says whether it is the pod's first.
func (f *full) namespaces(spec *specs.Spec, r *katapb.CreateContainerRequest) (first bool, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set := func(t specs.LinuxNamespaceType, path string) {
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool { return n.Type == t })
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	for t, key := range map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"} {
		if path := f.sharedNS[key]; path != "" {
			set(t, path)
		}
	}
	// Containers share the guest's network: theirs is the pod's.
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if !slices.ContainsFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		set(specs.MountNamespace, "")
	}
	pid := ""
	if r.SandboxPidns && f.first != "" {
		if p, err := f.processesOf(f.first); err == nil {
			pid = p
		}
	}
	id := spec.Annotations[agentapi.PIDOf]
	delete(spec.Annotations, agentapi.PIDOf) // between the host and this agent
	if id != "" {
		var err error
		if pid, err = f.processesOf(id); err != nil {
			return false, fmt.Errorf("share the processes of another container: %w", err)
		}
	}
	set(specs.PIDNamespace, pid)
	spec.Hostname = "" // the pod's, which the shared namespace has
	if f.sharedNS["uts"] == "" && r.OCI != nil {
		spec.Hostname = r.OCI.Hostname
	}
	return f.first == "", nil
}

// processesOf is the namespace that has the processes of a container.
func (f *full) processesOf(id string) (string, error) {
	c, err := f.s.Containers.Container(id)
	if err != nil {
		return "", err
	}
	p, err := c.Process("")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/pid", p.PID()), nil
}

// StartContainer lets the first process run.
func (f *full) StartContainer(ctx context.Context, r *katapb.StartContainerRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	end := trace.Step(ctx, "exec of the program") // it has replaced the container's stage when Start returns
	err = c.Start(ctx)
	end(err)
	return answer(err)
}

// RemoveContainer takes a container away with everything it has.
func (f *full) RemoveContainer(ctx context.Context, r *katapb.RemoveContainerRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.Timeout)*time.Second)
		defer cancel()
	}
	if err := c.Remove(ctx); err != nil {
		return nil, coded(err)
	}
	f.mu.Lock()
	if f.first == r.ContainerId {
		f.first = ""
	}
	f.mu.Unlock()
	return answer(f.s.Storage.Release(r.ContainerId))
}

// UpdateContainer changes what a container may use.
func (f *full) UpdateContainer(_ context.Context, r *katapb.UpdateContainerRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	if r.Resources == nil {
		return nil, status.Error(codes.InvalidArgument, "update without resources")
	}
	return answer(c.Update(oci.ResourcesFromWire(r.Resources)))
}

// PauseContainer freezes a container.
func (f *full) PauseContainer(ctx context.Context, r *katapb.PauseContainerRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	return answer(c.Pause(ctx))
}

// ResumeContainer lets a frozen container go on.
func (f *full) ResumeContainer(ctx context.Context, r *katapb.ResumeContainerRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	return answer(c.Resume(ctx))
}

// ExecProcess runs another process in a container.
func (f *full) ExecProcess(ctx context.Context, r *katapb.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	p := oci.ProcessFromWire(r.Process)
	if p == nil || len(p.Args) == 0 || r.ExecId == "" {
		return nil, status.Error(codes.InvalidArgument, "a process needs exec_id, process and arguments")
	}
	p.Env = f.s.Storage.GuestAddresses(p.Env)
	stdio, err := f.s.Streams.take(ctx, r.StdinPort, r.StdoutPort, r.StderrPort)
	if err != nil {
		return nil, coded(err)
	}
	if _, err := c.Exec(ctx, r.ExecId, p, stdio.Stdio); err != nil {
		stdio.hangUp()
		return nil, coded(err)
	}
	return &emptypb.Empty{}, nil
}

func (f *full) process(id, exec string) (Container, Process, error) {
	c, err := f.s.Containers.Container(id)
	if err != nil {
		return nil, nil, coded(err)
	}
	p, err := c.Process(exec)
	if err != nil {
		return nil, nil, coded(err)
	}
	return c, p, nil
}

// SignalProcess sends a signal to a process, or to all of a container. A process that has ended is no error.
//
// Hosts of Kata Containers name no process when they mean the first one, to which its rules apply: SIGKILL is for all,
// and SIGTERM becomes SIGKILL where the process does not handle it. A host that names the first process by the
// container's id means just that, as runc would have it, and agentapi.AllProcesses are all.
func (f *full) SignalProcess(ctx context.Context, r *katapb.SignalProcessRequest) (*emptypb.Empty, error) {
	all := r.ExecId == agentapi.AllProcesses
	exec := r.ExecId
	if all {
		exec = ""
	}
	c, p, err := f.process(r.ContainerId, exec)
	if err != nil {
		return nil, err
	}
	if r.Signal > 64 { // _NSIG of Linux
		return nil, status.Errorf(codes.InvalidArgument, "signal %d: there are 64", r.Signal)
	}
	signal := unix.Signal(r.Signal)
	switch rule(r.ExecId, signal) {
	case toAll:
		err = c.SignalAll(ctx, signal)
	case toFirst:
		err = p.SignalOrKill(signal)
	default:
		err = p.Signal(signal)
	}
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	return answer(err)
}

// signalRule is which processes get a signal, and as what.
type signalRule int

const (
	toAll   signalRule = iota // of the container
	toFirst                   // by Kata's rule
	toOne                     // the one that is named, as it is
)

// rule is docs/formats/agent-api.md, "Signals".
func rule(exec string, signal unix.Signal) signalRule {
	switch {
	case exec == agentapi.AllProcesses, exec == "" && signal == unix.SIGKILL:
		return toAll
	case exec == "":
		return toFirst
	}
	return toOne
}

// drainTime bounds waiting for a process's output to be taken by the host.
const drainTime = 2 * time.Second

// WaitProcess waits for the end of a process. Any number may wait; an added process is forgotten when its answer goes
// out.
func (f *full) WaitProcess(ctx context.Context, r *katapb.WaitProcessRequest) (*katapb.WaitProcessResponse, error) {
	_, p, err := f.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		return nil, coded(err)
	}
	// What it wrote is on its way to the host before its end is, unless nobody on the host reads it.
	drained := true
	select {
	case <-p.Drained():
	case <-time.After(drainTime):
		drained = false
	case <-ctx.Done():
		return nil, coded(ctx.Err())
	}
	if r.ExecId != "" && r.ExecId != r.ContainerId {
		if drained {
			p.Forget()
		} else {
			go func() { <-p.Drained(); p.Forget() }()
		}
	}
	return &katapb.WaitProcessResponse{Status: int32(code)}, nil
}

// TtyWinResize sets the size of a terminal.
func (f *full) TtyWinResize(_ context.Context, r *katapb.TtyWinResizeRequest) (*emptypb.Empty, error) {
	_, p, err := f.process(r.ContainerId, r.ExecId)
	if err != nil {
		return nil, err
	}
	if r.Row > math.MaxUint16 || r.Column > math.MaxUint16 {
		return nil, status.Errorf(codes.InvalidArgument,
			"a terminal of %d rows and %d columns: at most %d are possible", r.Row, r.Column, math.MaxUint16)
	}
	return answer(p.Resize(uint16(r.Row), uint16(r.Column)))
}

// StatsContainer says what a container uses.
func (f *full) StatsContainer(_ context.Context, r *katapb.StatsContainerRequest) (*katapb.StatsContainerResponse,
	error) {
	c, err := f.s.Containers.Container(r.ContainerId)
	if err != nil {
		return nil, coded(err)
	}
	st, err := c.Stats()
	if err != nil {
		return nil, coded(err)
	}
	resp := &katapb.StatsContainerResponse{CgroupStats: statsToWire(st)}
	if resp.NetworkStats, err = networkStats(); err != nil {
		return nil, coded(err)
	}
	return resp, nil
}
