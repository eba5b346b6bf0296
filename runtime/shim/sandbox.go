package shim

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/sandboxapi"
	"github.com/katabuild/katabuild/internal/sandboxapi/sandboxpb"
	"github.com/katabuild/katabuild/runtime/podconfig"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// sandbox is a pod that containerd asked for by its sandbox service: it has no first container, and lives until
// containerd stops it.
type sandbox struct {
	id, bundle string
	pod        *podconfig.Pod

	end sync.Once     // of over
	off chan struct{} // closed when the guest has ended, or will never be started

	mu      sync.Mutex // guards what follows
	started time.Time  // zero before
	ended   time.Time  // zero before
	code    uint32     // it ended with
	joined  bool       // it has had a container
}

// over notes the end of it.
func (b *sandbox) over(code uint32) {
	b.end.Do(func() {
		b.mu.Lock()
		b.ended, b.code = time.Now(), code
		b.mu.Unlock()
		close(b.off)
	})
}

// ready says whether its guest runs, as far as this process knows.
func (b *sandbox) ready() bool {
	select {
	case <-b.off:
		return false
	default:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.started.IsZero()
}

// sandboxOf is the sandbox that a call is about.
func (s *Service) sandboxOf(id string) (*sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil || s.sandbox.id != id {
		return nil, notFound("no sandbox %s", id)
	}
	return s.sandbox, nil
}

// ofSandbox is the sandbox whose pod this process serves; nil where the pod has a first container.
func (s *Service) ofSandbox() *sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sandbox
}

// hostEtc is where the host's own hosts and resolv.conf are.
const hostEtc = "/etc"

// createSandbox takes note of a pod that has no first container.
func (s *Service) createSandbox(_ context.Context, r *sandboxpb.CreateSandboxRequest) (*sandboxpb.CreateSandboxResponse,
	error) {
	s.create.Lock()
	defer s.create.Unlock()
	if s.ending.Err() != nil {
		return nil, errEnding
	}
	s.mu.Lock()
	there, served := s.sandbox, s.pod != nil || len(s.tasks) > 0
	s.mu.Unlock()
	switch {
	case there != nil && there.id == r.SandboxId:
		return nil, status.Errorf(codes.AlreadyExists, "the sandbox %s exists already", r.SandboxId)
	case there != nil || served:
		return nil, precondition("this shim serves another pod already")
	}
	p, err := podconfig.Read(podconfig.Request{ID: r.SandboxId, Bundle: r.BundlePath, Netns: r.NetnsPath,
		Annotations: r.Annotations, Options: r.Options}, hostEtc)
	if err != nil {
		s.log.Error("create the sandbox", "err", err)
		return nil, asStatus(err)
	}
	b := &sandbox{id: r.SandboxId, bundle: r.BundlePath, pod: p, off: make(chan struct{})}
	s.mu.Lock()
	s.sandbox = b
	s.mu.Unlock()
	return &sandboxpb.CreateSandboxResponse{}, nil
}

// startSandbox boots the pod's guest.
func (s *Service) startSandbox(ctx context.Context, r *sandboxpb.StartSandboxRequest) (*sandboxpb.StartSandboxResponse,
	error) {
	b, err := s.sandboxOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	s.create.Lock()
	defer s.create.Unlock()
	if err := s.startable(b); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ending, func() { cancel(errEnding) })()
	p, err := s.startFor(ctx, firstOf{id: b.id, bundle: b.bundle, config: s.o.Config},
		b.pod.Spec, kindSandbox)
	s.root.finish(err)
	if err != nil {
		s.log.Error("start the sandbox", "err", err)
		b.over(lostCode)
		return nil, asStatus(err)
	}
	now := time.Now()
	b.mu.Lock()
	b.started = now
	b.mu.Unlock()
	go s.watchOOM(p)
	go s.watchHealth(p)
	go b.await(p)
	spec, err := json.Marshal(b.pod.Spec)
	if err != nil {
		s.log.Warn("the specification of the sandbox is not told", "err", err)
	}
	return &sandboxpb.StartSandboxResponse{Pid: s.pid(), CreatedAt: timestamppb.New(now),
		Spec: &anypb.Any{TypeUrl: specType, Value: spec}}, nil
}

// specType is what containerd calls an OCI specification. Its plug-ins (NRI) are told of the pod by it.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// startable says why a sandbox cannot be started; nil where it can.
func (s *Service) startable(b *sandbox) error {
	if s.ending.Err() != nil {
		return errEnding
	}
	select {
	case <-b.off:
		return precondition("the sandbox %s has ended", b.id)
	default:
	}
	if b.ready() {
		return status.Errorf(codes.AlreadyExists, "the sandbox %s was started already", b.id)
	}
	return nil
}

// await waits for the end of the guest.
func (b *sandbox) await(p guest) {
	<-p.Done()
	select {
	case <-p.Stopping(): // as it was asked to
		b.over(0)
	default:
		b.over(lostCode)
	}
}

// platform is what the containers of the pod run on.
func (s *Service) platform(_ context.Context, r *sandboxpb.PlatformRequest) (*sandboxpb.PlatformResponse, error) {
	if _, err := s.sandboxOf(r.SandboxId); err != nil {
		return nil, err
	}
	// containerd unpacks images for its own architecture, whatever the guest's is.
	return &sandboxpb.PlatformResponse{Platform: &sandboxpb.Platform{Os: "linux",
		Architecture: goruntime.GOARCH}}, nil
}

// stopSandbox ends the guest and all of its containers. Stopping one that has ended is no error.
func (s *Service) stopSandbox(_ context.Context, r *sandboxpb.StopSandboxRequest) (*sandboxpb.StopSandboxResponse,
	error) {
	b, err := s.sandboxOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	return &sandboxpb.StopSandboxResponse{}, asStatus(s.endSandbox(b))
}

func (s *Service) endSandbox(b *sandbox) error {
	s.create.Lock() // one that is being started is stopped once it is
	defer s.create.Unlock()
	g := s.guest()
	if g == nil {
		b.over(0)
		return nil
	}
	err := g.Stop()
	b.over(0)
	return err
}

// waitSandbox returns when the guest has ended.
func (s *Service) waitSandbox(ctx context.Context, r *sandboxpb.WaitSandboxRequest) (*sandboxpb.WaitSandboxResponse,
	error) {
	b, err := s.sandboxOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.off:
	case <-ctx.Done():
		return nil, asStatus(ctx.Err())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &sandboxpb.WaitSandboxResponse{ExitStatus: b.code, ExitedAt: timestamppb.New(b.ended)}, nil
}

// sandboxStatus says how the pod is.
func (s *Service) sandboxStatus(_ context.Context,
	r *sandboxpb.SandboxStatusRequest) (*sandboxpb.SandboxStatusResponse, error) {
	b, err := s.sandboxOf(r.SandboxId)
	if err != nil {
		return nil, err
	}
	out := &sandboxpb.SandboxStatusResponse{SandboxId: b.id, State: sandboxapi.NotReady}
	if b.ready() {
		out.State, out.Pid = sandboxapi.Ready, s.pid()
	}
	b.mu.Lock()
	if !b.started.IsZero() {
		out.CreatedAt = timestamppb.New(b.started)
	}
	if !b.ended.IsZero() {
		out.ExitedAt = timestamppb.New(b.ended)
	}
	b.mu.Unlock()
	if r.Verbose {
		out.Info, err = s.sandboxInfo(b, out)
	}
	return out, asStatus(err)
}

// sandboxInfo is what crictl inspectp shows: the key and the words are those of containerd's own.
func (s *Service) sandboxInfo(b *sandbox, st *sandboxpb.SandboxStatusResponse) (map[string]string, error) {
	info := struct {
		PID    uint32      `json:"pid"`
		Status string      `json:"processStatus"`
		Spec   *specs.Spec `json:"runtimeSpec"`
		Why    string      `json:"why,omitempty"` // the guest ended or is of no use
	}{PID: st.Pid, Status: "running", Spec: b.pod.Spec}
	if st.State != sandboxapi.Ready {
		info.Status = "stopped"
	}
	if g := s.guest(); g != nil {
		if why := g.Why(); why != nil {
			info.Why = why.Error()
		}
	}
	text, err := json.Marshal(info)
	return map[string]string{"info": string(text)}, err
}

// pingSandbox asks the agent whether it is well.
func (s *Service) pingSandbox(ctx context.Context, r *sandboxpb.PingRequest) (*sandboxpb.PingResponse, error) {
	g, err := s.running(r.SandboxId)
	if err != nil {
		return nil, err
	}
	return &sandboxpb.PingResponse{}, asStatus(g.Ping(ctx))
}

// running is the pod of a sandbox that runs.
func (s *Service) running(id string) (guest, error) {
	b, err := s.sandboxOf(id)
	if err != nil {
		return nil, err
	}
	if !b.ready() {
		return nil, precondition("the sandbox %s does not run", id)
	}
	return s.guest(), nil
}

// sandboxMetrics is what the pod's processes use on the host: the guest with all of its containers, and what serves it.
func (s *Service) sandboxMetrics(_ context.Context,
	r *sandboxpb.SandboxMetricsRequest) (*sandboxpb.SandboxMetricsResponse, error) {
	g, err := s.running(r.SandboxId)
	if err != nil {
		return nil, err
	}
	u, err := g.Usage()
	if err != nil {
		return nil, asStatus(err)
	}
	data, err := u.Metrics()
	if err != nil {
		return nil, asStatus(err)
	}
	return &sandboxpb.SandboxMetricsResponse{Metrics: &sandboxpb.Metric{Id: r.SandboxId, Data: data,
		Timestamp: timestamppb.Now()}}, nil
}

// shutdownSandbox ends the pod and this process.
func (s *Service) shutdownSandbox(_ context.Context,
	r *sandboxpb.ShutdownSandboxRequest) (*sandboxpb.ShutdownSandboxResponse, error) {
	if b := s.ofSandbox(); b != nil {
		if b.id != r.SandboxId {
			return nil, notFound("no sandbox %s", r.SandboxId)
		}
		s.giveUp() // also one that is being started
		if err := s.endSandbox(b); err != nil {
			s.log.Error("stop the pod", "err", err)
		}
	} else if s.guest() != nil {
		return nil, precondition("this shim serves a pod that is no sandbox")
	}
	if s.linger > 0 {
		time.AfterFunc(s.linger, s.end)
	} else {
		s.end()
	}
	return &sandboxpb.ShutdownSandboxResponse{}, nil
}

// lingerTime lets the answer to ShutdownSandbox get out, and containerd hang up, before the process ends: containerd
// takes a connection that was closed for a failure, unlike that of Shutdown.
const lingerTime = 100 * time.Millisecond

// join is what a container's specification and its kind become in a pod without a first container.
func (b *sandbox) join(spec *specs.Spec, kind Kind) Kind {
	b.mu.Lock()
	first := !b.joined
	b.mu.Unlock()
	b.pod.Complete(spec, first)
	if kind == kindSingle { // nobody else's annotations say what it is
		kind = kindContainer
	}
	return kind
}

// has notes that the pod has had a container.
func (b *sandbox) has() {
	b.mu.Lock()
	b.joined = true
	b.mu.Unlock()
}

// sharer is a container that runs and has the pod's processes, which another one is to join; empty for none. No first
// container has them, which the agent would look for.
func (s *Service) sharer() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
		t := s.tasks[id]
		if phase, _, _ := t.init.state(); t.shares && phase != ended {
			return id
		}
	}
	return ""
}

// isSandbox says whether a bundle is that of a pod without a first container: it has no specification.
func isSandbox(err error) bool { return errors.Is(err, os.ErrNotExist) }

// configPathOf is the configuration's path in what containerd writes to a shim that it starts; empty for none.
func configPathOf(input []byte) (string, error) {
	return configPath(podconfig.RuntimeOptions(input, optionsSuffix, runcOptions))
}

// sandboxMethods are the calls of the sandbox service.
func (s *Service) sandboxMethods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"CreateSandbox": method(s.createSandbox), "StartSandbox": method(s.startSandbox),
		"Platform": method(s.platform), "StopSandbox": method(s.stopSandbox), "WaitSandbox": method(s.waitSandbox),
		"SandboxStatus": method(s.sandboxStatus), "PingSandbox": method(s.pingSandbox),
		"ShutdownSandbox": method(s.shutdownSandbox), "SandboxMetrics": method(s.sandboxMetrics),
	}
}
