// Package agenttest is an agent without a guest: it keeps containers and processes in memory, answers as the guest API
// says, and fails where a test wants it to. Whoever tests a host talks to it over any connection.
//
// It fails loudly: a call that it does not know is refused by its name.
package agenttest

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/report"
)

// Agent is one agent. The zero value has no extra features, and reports that it is the guest of documenttest's
// manifest.
type Agent struct {
	Features []string             // the extra features that it says it has
	Report   func(*report.Report) // changes the report, before it is bound to its nonce

	mu        sync.Mutex // guards what follows
	failing   map[string]error
	calls     []string
	told      map[string]map[string]string // metadata, by call and key
	processes map[key]*process
	copied    map[string]string
	requests  map[string]*katapb.CreateContainerRequest
	sandbox   *katapb.CreateSandboxRequest
	gone      chan struct{} // closed by Serve when it ends
	starved   chan string   // containers that met their memory limit
}

// Copied are the files and links that were copied into the guest, by path.
func (a *Agent) Copied() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.copied)
}

// Starve has a container meet its memory limit.
func (a *Agent) Starve(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.starved <- id
}

// Request is what was asked for when a container was made; nil for one that never was.
func (a *Agent) Request(id string) *katapb.CreateContainerRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[id]
}

// Sandbox is what was asked for when the sandbox was made; nil where it never was.
func (a *Agent) Sandbox() *katapb.CreateSandboxRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sandbox
}

// key names a process: a container's first has the container's id for exec.
type key struct{ container, exec string }

// process is one in memory.
type process struct {
	started bool
	code    int
	ended   chan struct{}
}

// Fail has a call fail from here on, or work again with a nil err.
func (a *Agent) Fail(call string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failing == nil {
		a.failing = map[string]error{}
	}
	a.failing[call] = err
}

// Calls are the calls that came, in order, by name.
func (a *Agent) Calls() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// Containers are those that there are, sorted.
func (a *Agent) Containers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for k := range a.processes {
		if k.container == k.exec {
			ids = append(ids, k.container)
		}
	}
	slices.Sort(ids)
	return ids
}

// Exit ends a process with a code; exec is empty for a container's first.
func (a *Agent) Exit(container, exec string, code int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.find(container, exec)
	if p == nil {
		return missing(container, exec)
	}
	p.end(code)
	return nil
}

func (p *process) end(code int) {
	select {
	case <-p.ended:
	default:
		p.code = code
		close(p.ended)
	}
}

// find is a process; a.mu is held.
func (a *Agent) find(container, exec string) *process {
	if exec == "" {
		exec = container
	}
	return a.processes[key{container, exec}]
}

func missing(container, exec string) error {
	return status.Errorf(codes.NotFound, "no process %q in container %q", exec, container)
}

// Serve answers on l until over is closed. commandLine is what the report says of the kernel's.
func (a *Agent) Serve(l net.Listener, commandLine string, over <-chan struct{}) error {
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.processes, a.copied, a.gone = map[key]*process{}, map[string]string{}, make(chan struct{})
	a.requests, a.starved = map[string]*katapb.CreateContainerRequest{}, make(chan string, 16)
	a.mu.Unlock()
	reportpb.RegisterReportService(s, reports{a, commandLine})
	s.RegisterService("grpc.Health", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Check": on(a, "Check", func(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
			return &katapb.HealthCheckResponse{Status: katapb.HealthCheckResponse_SERVING}, nil
		}),
	}})
	s.RegisterService("grpc.AgentService", &ttrpc.ServiceDesc{Methods: a.methods()})
	served := make(chan struct{})
	accepted := &acceptor{Listener: l}
	go func() {
		defer close(served)
		_ = s.Serve(context.Background(), accepted) // until it is closed
	}()
	<-over
	close(a.gone)
	err = s.Close()
	<-served
	for _, c := range accepted.conns {
		c.Close() // the server does so only after it has returned, and might answer one more call
	}
	return err
}

// acceptor keeps the connections that a server has accepted.
type acceptor struct {
	net.Listener
	conns []net.Conn // of the goroutine that serves, until it ends
}

func (a *acceptor) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err == nil {
		a.conns = append(a.conns, c)
	}
	return c, err
}

// reports answers for the report.
type reports struct {
	a    *Agent
	line string
}

func (r reports) Get(_ context.Context, q *reportpb.GetRequest) (*reportpb.GetResponse, error) {
	if err := r.a.called("Report"); err != nil {
		return nil, err
	}
	p := documenttest.Report()
	p.Kernel.CommandLine = r.line
	if r.a.Report != nil {
		r.a.Report(p)
	}
	p.Nonce = hex.EncodeToString(q.Nonce)
	b, err := p.Encode()
	return &reportpb.GetResponse{Report: b}, err
}

// called notes a call, and is its failure where one is wanted.
func (a *Agent) called(call string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	return a.failing[call]
}

func (a *Agent) metadata(call string, md ttrpc.MD) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told == nil {
		a.told = map[string]map[string]string{}
	}
	a.told[call] = map[string]string{}
	for k, v := range md {
		a.told[call][k] = v[0]
	}
}

// Metadata is what was said beside the last call of a name; nil where nothing was.
func (a *Agent) Metadata(call string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told[call]
}

// on makes a method of a function.
func on[Q, A any](a *Agent, call string, f func(context.Context, *Q) (*A, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		q := new(Q)
		if err := unmarshal(q); err != nil {
			return nil, err
		}
		if md, ok := ttrpc.GetMetadata(ctx); ok {
			a.metadata(call, md)
		}
		if err := a.called(call); err != nil {
			return nil, err
		}
		return f(ctx, q)
	}
}

// done makes a method that only succeeds.
func done[Q any](a *Agent, call string) ttrpc.Method {
	return on(a, call, func(context.Context, *Q) (*emptypb.Empty, error) { return &emptypb.Empty{}, nil })
}

func (a *Agent) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"GetGuestDetails": on(a, "GetGuestDetails", a.details),
		"SetPolicy":       done[katapb.SetPolicyRequest](a, "SetPolicy"),
		"CreateSandbox": on(a, "CreateSandbox", func(_ context.Context, r *katapb.CreateSandboxRequest) (
			*emptypb.Empty, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.sandbox = r
			return &emptypb.Empty{}, nil
		}),
		"DestroySandbox":  done[katapb.DestroySandboxRequest](a, "DestroySandbox"),
		"OnlineCPUMem":    done[katapb.OnlineCPUMemRequest](a, "OnlineCPUMem"),
		"CreateContainer": on(a, "CreateContainer", a.create),
		"StartContainer":  on(a, "StartContainer", a.start),
		"RemoveContainer": on(a, "RemoveContainer", a.remove),
		"UpdateContainer": done[katapb.UpdateContainerRequest](a, "UpdateContainer"),
		"PauseContainer":  done[katapb.PauseContainerRequest](a, "PauseContainer"),
		"ResumeContainer": done[katapb.ResumeContainerRequest](a, "ResumeContainer"),
		"StatsContainer": on(a, "StatsContainer", func(context.Context, *katapb.StatsContainerRequest) (
			*katapb.StatsContainerResponse, error) {
			return &katapb.StatsContainerResponse{CgroupStats: &katapb.CgroupStats{
				MemoryStats: &katapb.MemoryStats{Usage: &katapb.MemoryData{Usage: 4096}}}}, nil
		}),
		"ExecProcess":   on(a, "ExecProcess", a.exec),
		"SignalProcess": on(a, "SignalProcess", a.signal),
		"WaitProcess":   on(a, "WaitProcess", a.wait),
		"ReadStdout":    on(a, "ReadStdout", a.read),
		"ReadStderr":    on(a, "ReadStderr", a.read),
		"WriteStdin": on(a, "WriteStdin", func(_ context.Context, q *katapb.WriteStreamRequest) (
			*katapb.WriteStreamResponse, error) {
			return &katapb.WriteStreamResponse{Len: uint32(len(q.Data))}, nil
		}),
		"UpdateInterface": on(a, "UpdateInterface", func(_ context.Context, q *katapb.UpdateInterfaceRequest) (
			*katapb.Interface, error) {
			return q.GetInterface(), nil
		}),
		"UpdateRoutes": on(a, "UpdateRoutes", func(_ context.Context, q *katapb.UpdateRoutesRequest) (*katapb.Routes,
			error) {
			return q.GetRoutes(), nil
		}),
		"AddARPNeighbors": done[katapb.AddARPNeighborsRequest](a, "AddARPNeighbors"),

		"CopyFile":     on(a, "CopyFile", a.copyFile),
		"CloseStdin":   done[katapb.CloseStdinRequest](a, "CloseStdin"),
		"TtyWinResize": done[katapb.TtyWinResizeRequest](a, "TtyWinResize"),
		"GetOOMEvent": on(a, "GetOOMEvent", func(ctx context.Context, _ *katapb.GetOOMEventRequest) (*katapb.OOMEvent,
			error) {
			select {
			case id := <-a.starved:
				return &katapb.OOMEvent{ContainerId: id}, nil
			case <-ctx.Done():
			case <-a.gone:
			}
			return nil, status.Error(codes.Canceled, "there was none")
		}),
	}
}

func (a *Agent) details(context.Context, *katapb.GuestDetailsRequest) (*katapb.GuestDetailsResponse, error) {
	return &katapb.GuestDetailsResponse{AgentDetails: &katapb.AgentDetails{Version: "agenttest", InitDaemon: true,
		SupportsSeccomp: true, ExtraFeatures: a.Features}}, nil
}

func (a *Agent) create(_ context.Context, q *katapb.CreateContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	a.requests[q.ContainerId] = q
	a.mu.Unlock()
	return a.add(q.ContainerId, q.ContainerId, false)
}

func (a *Agent) exec(_ context.Context, q *katapb.ExecProcessRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	there := a.find(q.ContainerId, "") != nil
	a.mu.Unlock()
	if !there {
		return nil, missing(q.ContainerId, "")
	}
	return a.add(q.ContainerId, q.ExecId, true)
}

func (a *Agent) add(container, exec string, started bool) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.find(container, exec) != nil {
		return nil, status.Errorf(codes.AlreadyExists, "process %q is in container %q already", exec, container)
	}
	a.processes[key{container, exec}] = &process{started: started, ended: make(chan struct{})}
	return &emptypb.Empty{}, nil
}

func (a *Agent) start(_ context.Context, q *katapb.StartContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.find(q.ContainerId, "")
	switch {
	case p == nil:
		return nil, missing(q.ContainerId, "")
	case p.started:
		return nil, status.Errorf(codes.FailedPrecondition, "container %q was started already", q.ContainerId)
	}
	p.started = true
	return &emptypb.Empty{}, nil
}

func (a *Agent) remove(_ context.Context, q *katapb.RemoveContainerRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.find(q.ContainerId, "") == nil {
		return nil, missing(q.ContainerId, "")
	}
	for k, p := range a.processes {
		if k.container == q.ContainerId {
			p.end(128 + 9)
			delete(a.processes, k)
		}
	}
	return &emptypb.Empty{}, nil
}

// copyFile takes a piece of a file at its offset, in order.
func (a *Agent) copyFile(_ context.Context, q *katapb.CopyFileRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.copied[q.Path]; int64(len(have)) != q.Offset {
		return nil, status.Errorf(codes.InvalidArgument, "a piece of %s at %d, which has %d bytes", q.Path, q.Offset,
			len(have))
	}
	a.copied[q.Path] += string(q.Data)
	return &emptypb.Empty{}, nil
}

// signal ends what it is sent to, whatever the signal is.
func (a *Agent) signal(_ context.Context, q *katapb.SignalProcessRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.find(q.ContainerId, q.ExecId)
	if p == nil {
		return nil, missing(q.ContainerId, q.ExecId)
	}
	p.end(128 + int(q.Signal))
	return &emptypb.Empty{}, nil
}

func (a *Agent) wait(ctx context.Context, q *katapb.WaitProcessRequest) (*katapb.WaitProcessResponse, error) {
	p, err := a.ended(ctx, q.ContainerId, q.ExecId)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &katapb.WaitProcessResponse{Status: int32(p.code)}, nil
}

// read has no output but the end of it, which comes with the process's.
func (a *Agent) read(ctx context.Context, q *katapb.ReadStreamRequest) (*katapb.ReadStreamResponse, error) {
	if _, err := a.ended(ctx, q.ContainerId, q.ExecId); err != nil {
		return nil, err
	}
	return &katapb.ReadStreamResponse{}, nil
}

// ended waits for the end of a process.
func (a *Agent) ended(ctx context.Context, container, exec string) (*process, error) {
	a.mu.Lock()
	p := a.find(container, exec)
	a.mu.Unlock()
	if p == nil {
		return nil, missing(container, exec)
	}
	select {
	case <-p.ended:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.gone:
		return nil, fmt.Errorf("the agent has ended")
	}
}
