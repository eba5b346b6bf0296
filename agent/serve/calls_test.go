package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/storage"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
)

// sandbox is the whole API on fakes.
type sandbox struct {
	*full
	*told
	containers *fakeContainers
	storage    *fakeStorage
	ends       int
}

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	s := &sandbox{told: &told{}}
	s.containers = &fakeContainers{told: s.told, oom: make(chan string, 1)}
	s.storage = &fakeStorage{told: s.told}
	s.full = &full{api: &api{}, ended: make(chan struct{}), s: Sandbox{Containers: s.containers, Storage: s.storage,
		Network: &fakeNetwork{told: s.told}, Machine: &fakeMachine{s.told}, Metrics: fakeMetrics{},
		Log: slog.New(slog.DiscardHandler), End: func() { s.ends++ }}}
	return s
}

// request asks for a container.
func request(t *testing.T, id string, change func(*specs.Spec)) *katapb.CreateContainerRequest {
	t.Helper()
	spec := &specs.Spec{Version: "1.2.0", Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Root: &specs.Root{Path: "/root"}, Hostname: "host", Linux: &specs.Linux{}}
	if change != nil {
		change(spec)
	}
	wire, err := oci.ToWire(spec)
	if err != nil {
		t.Fatal(err)
	}
	return &katapb.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: wire}
}

func (s *sandbox) create(t *testing.T, id string) *fakeContainer {
	t.Helper()
	if _, err := s.CreateContainer(t.Context(), request(t, id, nil)); err != nil {
		t.Fatal(err)
	}
	c, err := s.containers.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*fakeContainer)
}

func TestAContainerThatCannotBeMadeIsRolledBack(t *testing.T) {
	no := errors.New("no")
	for name, tc := range map[string]struct {
		call    string // that fails
		err     error
		request func(*katapb.CreateContainerRequest)
		spec    func(*specs.Spec)
		want    codes.Code
	}{
		"it exists already": {request: func(r *katapb.CreateContainerRequest) { r.ContainerId = "there" },
			want: codes.AlreadyExists},
		"no specification": {request: func(r *katapb.CreateContainerRequest) { r.OCI = nil },
			want: codes.InvalidArgument},
		"no process": {spec: func(s *specs.Spec) { s.Process = nil }, want: codes.InvalidArgument},
		"no root":    {spec: func(s *specs.Spec) { s.Root = nil }, want: codes.InvalidArgument},
		"shared mounts": {request: func(r *katapb.CreateContainerRequest) {
			r.SharedMounts = []*katapb.SharedMount{{}}
		}, want: codes.Unimplemented},
		"a device that does not come": {call: "devices", err: storage.ErrTimeout, want: codes.DeadlineExceeded},
		"a storage outside":           {call: "add c", err: storage.ErrOutside, want: codes.InvalidArgument},
		"processes of nobody": {spec: func(s *specs.Spec) {
			s.Annotations = map[string]string{agentapi.PIDOf: "none"}
		}, want: codes.NotFound},
		"the runner refuses its state": {call: "create c", err: container.ErrState, want: codes.FailedPrecondition},
		"the runner fails":             {call: "create c", err: no, want: codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.create(t, "there")
			s.fail(tc.call, tc.err)
			r := request(t, "c", tc.spec)
			if tc.request != nil {
				tc.request(r)
			}
			if _, err := s.CreateContainer(t.Context(), r); status.Code(err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if len(s.containers.list) != 1 || !slices.Equal(s.storage.owners, []string{"there"}) {
				t.Errorf("left: %d containers, mounts of %v", len(s.containers.list), s.storage.owners)
			}
			if s.first != "there" {
				t.Errorf("the pod's first container is %q", s.first)
			}
			if strings.Contains(tc.call, "c") && tc.call != "" { // what failed once may succeed
				s.fail(tc.call, nil)
				s.create(t, "c")
			}
		})
	}
}

func TestAContainerSharesWhatItsPodHas(t *testing.T) {
	s := newSandbox(t)
	s.sharedNS = map[string]string{"ipc": "/ns/ipc", "uts": "/ns/uts"}
	path := func(c *fakeContainer, kind specs.LinuxNamespaceType) string {
		i := slices.IndexFunc(c.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		if i < 0 {
			return "none"
		}
		return c.spec.Linux.Namespaces[i].Path
	}
	first := s.create(t, "a")
	r := request(t, "b", func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}}
	})
	r.SandboxPidns = true
	if _, err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r = request(t, "c", func(s *specs.Spec) { s.Annotations = map[string]string{agentapi.PIDOf: "b"} })
	if _, err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	b, c := s.containers.list[1], s.containers.list[2]
	for _, x := range []struct {
		what, got, want string
	}{
		{"the first's processes", path(first, specs.PIDNamespace), ""},
		{"those of a container that shares", path(b, specs.PIDNamespace), "/proc/100/ns/pid"},
		{"those of one that names another", path(c, specs.PIDNamespace), "/proc/101/ns/pid"},
		{"IPC", path(b, specs.IPCNamespace), "/ns/ipc"}, {"UTS", path(b, specs.UTSNamespace), "/ns/uts"},
		{"mounts", path(b, specs.MountNamespace), ""}, {"the network", path(b, specs.NetworkNamespace), "none"},
		{"the host name", b.spec.Hostname, ""}, {"the annotation", c.spec.Annotations[agentapi.PIDOf], ""},
	} {
		if x.got != x.want {
			t.Errorf("%s: %q, want %q", x.what, x.got, x.want)
		}
	}
	if _, err := s.RemoveContainer(t.Context(), &katapb.RemoveContainerRequest{ContainerId: "a"}); err != nil ||
		s.first != "" {
		t.Errorf("%v, first is %q", err, s.first)
	}
}

func TestCallsReachTheirContainer(t *testing.T) {
	s := newSandbox(t)
	s.create(t, "c")
	if _, err := s.ExecProcess(t.Context(), &katapb.ExecProcessRequest{ContainerId: "c", ExecId: "e",
		Process: &katapb.Process{Args: []string{"sh"}}}); err != nil {
		t.Fatal(err)
	}
	shares := &katapb.LinuxResources{CPU: &katapb.LinuxCPU{Shares: 7}}
	for want, call := range map[string]func(ctx context.Context, id string) error{
		"start c": func(ctx context.Context, id string) error {
			_, err := s.StartContainer(ctx, &katapb.StartContainerRequest{ContainerId: id})
			return err
		},
		"pause c": func(ctx context.Context, id string) error {
			_, err := s.PauseContainer(ctx, &katapb.PauseContainerRequest{ContainerId: id})
			return err
		},
		"resume c": func(ctx context.Context, id string) error {
			_, err := s.ResumeContainer(ctx, &katapb.ResumeContainerRequest{ContainerId: id})
			return err
		},
		"update c 7": func(ctx context.Context, id string) error {
			_, err := s.UpdateContainer(ctx, &katapb.UpdateContainerRequest{ContainerId: id, Resources: shares})
			return err
		},
		"stats c": func(ctx context.Context, id string) error {
			_, err := s.StatsContainer(ctx, &katapb.StatsContainerRequest{ContainerId: id})
			return err
		},
		"resize c 24x80": func(ctx context.Context, id string) error {
			_, err := s.TtyWinResize(ctx, &katapb.TtyWinResizeRequest{ContainerId: id, Row: 24, Column: 80})
			return err
		},
		"write c hi": func(ctx context.Context, id string) error {
			_, err := s.WriteStdin(ctx, &katapb.WriteStreamRequest{ContainerId: id, Data: []byte("hi")})
			return err
		},
		"close c": func(ctx context.Context, id string) error {
			_, err := s.WriteStdin(ctx, &katapb.WriteStreamRequest{ContainerId: id})
			return err
		},
		"read c 1048576": func(ctx context.Context, id string) error { // bounded, whatever is asked for
			_, err := s.ReadStdout(ctx, &katapb.ReadStreamRequest{ContainerId: id, Len: 1 << 31})
			return err
		},
		"signal all of c 9": func(ctx context.Context, id string) error {
			_, err := s.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: id, Signal: 9})
			return err
		},
		"signal or kill c 15": func(ctx context.Context, id string) error {
			_, err := s.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: id, Signal: 15})
			return err
		},
		"signal c 15": func(ctx context.Context, id string) error {
			_, err := s.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: id, ExecId: id, Signal: 15})
			return err
		},
	} {
		s.calls = nil
		if err := call(t.Context(), "c"); err != nil || !slices.Contains(s.calls, want) {
			t.Errorf("%s: %v, %v", want, s.calls, err)
		}
		if err := call(t.Context(), "other"); status.Code(err) != codes.NotFound {
			t.Errorf("%s of nobody: %v", want, err)
		}
		s.fail(want, fmt.Errorf("so: %w", container.ErrState))
		if err := call(t.Context(), "c"); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s in a wrong state: %v", want, err)
		}
		s.fail(want, nil)
	}
	s.fail("signal e 15", unix.ESRCH)
	if _, err := s.SignalProcess(t.Context(), &katapb.SignalProcessRequest{ContainerId: "c", ExecId: "e",
		Signal: 15}); err != nil {
		t.Errorf("a process that has ended: %v", err)
	}
	for name, err := range map[string]error{
		"signal 65": func() error {
			_, err := s.SignalProcess(t.Context(), &katapb.SignalProcessRequest{ContainerId: "c", Signal: 65})
			return err
		}(),
		"a terminal of a mile": func() error {
			_, err := s.TtyWinResize(t.Context(), &katapb.TtyWinResizeRequest{ContainerId: "c", Row: 1 << 16})
			return err
		}(),
		"a process without arguments": func() error {
			_, err := s.ExecProcess(t.Context(), &katapb.ExecProcessRequest{ContainerId: "c", ExecId: "x"})
			return err
		}(),
		"an update of nothing": func() error {
			_, err := s.UpdateContainer(t.Context(), &katapb.UpdateContainerRequest{ContainerId: "c"})
			return err
		}(),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWaitForgetsAnAddedProcess(t *testing.T) {
	s := newSandbox(t)
	c := s.create(t, "c")
	for _, exec := range []string{"e", "slow"} {
		if _, err := s.ExecProcess(t.Context(), &katapb.ExecProcessRequest{ContainerId: "c", ExecId: exec,
			Process: &katapb.Process{Args: []string{"sh"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, exec := range []string{"", "c", "e"} {
		r, err := s.WaitProcess(t.Context(), &katapb.WaitProcessRequest{ContainerId: "c", ExecId: exec})
		if err != nil || r.Status != 5 {
			t.Errorf("%q: %v, %v", exec, r, err)
		}
	}
	if !slices.Contains(s.calls, "forget e") || slices.Contains(s.calls, "forget c") {
		t.Errorf("calls %v", s.calls)
	}
	c.processes["slow"].drained = make(chan struct{}) // nobody takes its output
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: "c", ExecId: "slow"}); status.Code(err) !=
		codes.DeadlineExceeded {
		t.Error(err)
	}
}

func TestTheEndOfASandboxTakesEverythingWithIt(t *testing.T) {
	s := newSandbox(t)
	s.create(t, "a")
	s.create(t, "b")
	s.containers.oom <- "a"
	if e, err := s.GetOOMEvent(t.Context(), nil); err != nil || e.ContainerId != "a" {
		t.Error(e, err)
	}
	s.fail("remove a", errors.New("it stays"))
	if _, err := s.DestroySandbox(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "it stays") {
		t.Errorf("an error on the way: %v", err)
	}
	if len(s.storage.owners) > 0 || s.ends != 1 || !slices.Contains(s.calls, "remove b") ||
		!slices.Contains(s.calls, "close storage") {
		t.Errorf("mounts of %v, %d ends, %v", s.storage.owners, s.ends, s.calls)
	}
	s.fail("remove a", nil)
	if _, err := s.DestroySandbox(t.Context(), nil); err != nil || s.ends != 1 {
		t.Errorf("once more: %v, %d ends", err, s.ends)
	}
	if _, err := s.GetOOMEvent(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

func TestCallsReachTheGuest(t *testing.T) {
	s := newSandbox(t)
	for want, call := range map[string]func(context.Context) error{
		"interface eth0": func(ctx context.Context) error {
			_, err := s.UpdateInterface(ctx, &katapb.UpdateInterfaceRequest{Interface: &katapb.Interface{Name: "eth0"}})
			return err
		},
		"routes 1": func(ctx context.Context) error {
			_, err := s.UpdateRoutes(ctx, &katapb.UpdateRoutesRequest{Routes: &katapb.Routes{
				Routes: []*katapb.Route{{}}}})
			return err
		},
		"interfaces":  func(ctx context.Context) error { _, err := s.ListInterfaces(ctx, nil); return err },
		"list routes": func(ctx context.Context) error { _, err := s.ListRoutes(ctx, nil); return err },
		"neighbours": func(ctx context.Context) error {
			_, err := s.AddARPNeighbors(ctx, &katapb.AddARPNeighborsRequest{})
			return err
		},
		"iptables true": func(ctx context.Context) error {
			_, err := s.GetIPTables(ctx, &katapb.GetIPTablesRequest{IsIpv6: true})
			return err
		},
		"set iptables false": func(ctx context.Context) error {
			_, err := s.SetIPTables(ctx, &katapb.SetIPTablesRequest{Data: []byte("x")})
			return err
		},
		"online 2": func(ctx context.Context) error {
			_, err := s.OnlineCPUMem(ctx, &katapb.OnlineCPUMemRequest{NbCpus: 2})
			return err
		},
		"probe": func(ctx context.Context) error {
			_, err := s.MemHotplugByProbe(ctx, &katapb.MemHotplugByProbeRequest{})
			return err
		},
		"reseed": func(ctx context.Context) error {
			_, err := s.ReseedRandomDev(ctx, &katapb.ReseedRandomDevRequest{Data: []byte("x")})
			return err
		},
		"time": func(ctx context.Context) error {
			_, err := s.SetGuestDateTime(ctx, &katapb.SetGuestDateTimeRequest{Sec: 1})
			return err
		},
		"copy": func(ctx context.Context) error { _, err := s.CopyFile(ctx, nil); return err },
		"volume": func(ctx context.Context) error {
			_, err := s.GetVolumeStats(ctx, &katapb.VolumeStatsRequest{})
			return err
		},
		"resize volume": func(ctx context.Context) error {
			_, err := s.ResizeVolume(ctx, &katapb.ResizeVolumeRequest{})
			return err
		},
		"ephemeral": func(ctx context.Context) error {
			_, err := s.UpdateEphemeralMounts(ctx, &katapb.UpdateEphemeralMountsRequest{})
			return err
		},
		"stale": func(ctx context.Context) error { _, err := s.RemoveStaleVirtiofsShareMounts(ctx, nil); return err },
		"swap":  func(ctx context.Context) error { _, err := s.AddSwap(ctx, &katapb.AddSwapRequest{}); return err },
		"swap path": func(ctx context.Context) error {
			_, err := s.AddSwapPath(ctx, &katapb.AddSwapPathRequest{})
			return err
		},
	} {
		s.calls = nil
		if err := call(t.Context()); err != nil || !slices.Contains(s.calls, want) {
			t.Errorf("%s: %v, %v", want, s.calls, err)
		}
		s.fail(want, context.Canceled)
		if err := call(t.Context()); status.Code(err) != codes.Canceled {
			t.Errorf("%s that is given up: %v", want, err)
		}
	}
	d, err := s.GetGuestDetails(t.Context(), &katapb.GuestDetailsRequest{})
	if err != nil || !slices.Equal(d.AgentDetails.StorageHandlers, []string{"blk"}) ||
		!slices.Contains(d.AgentDetails.ExtraFeatures, agentapi.PIDOfFeature) ||
		slices.Contains(d.AgentDetails.ExtraFeatures, agentapi.StreamsFeature) {
		t.Errorf("%v, %v", d, err)
	}
	if m, err := s.GetMetrics(t.Context(), nil); err != nil || m.Metrics != "text" {
		t.Error("numbers that are missing hide the others:", m, err)
	}
	for name, err := range map[string]error{
		"no interface": func() error {
			_, err := s.UpdateInterface(t.Context(), &katapb.UpdateInterfaceRequest{})
			return err
		}(),
		"no random data": func() error {
			_, err := s.ReseedRandomDev(t.Context(), &katapb.ReseedRandomDevRequest{})
			return err
		}(),
		"an unknown log": func() error {
			_, err := s.GetDiagnosticData(t.Context(), &katapb.GetDiagnosticDataRequest{LogType: "x"})
			return err
		}(),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAgentWithoutContainersRefusesEachCallByItsName(t *testing.T) {
	calls := reflect.ValueOf(unimplemented{})
	for i := range calls.NumMethod() {
		name := calls.Type().Method(i).Name
		method := calls.Method(i)
		out := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), reflect.Zero(method.Type().In(1))})
		err, _ := out[1].Interface().(error)
		if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(status.Convert(err).Message(), name+" ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheHooksOfAGuestAreItsContainers(t *testing.T) {
	s := newSandbox(t)
	s.hookDir = t.TempDir()
	if err := os.MkdirAll(s.hookDir+"/prestart", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"run": 0o755, "read": 0o644} {
		if err := os.WriteFile(filepath.Join(s.hookDir, "prestart", name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	c := s.create(t, "c")
	//lint:ignore SA1019 prestart hooks are deprecated, and in use
	if h := c.spec.Hooks; h == nil || len(h.Prestart) != 1 || h.Prestart[0].Path != s.hookDir+"/prestart/run" {
		t.Errorf("hooks %+v", c.spec.Hooks)
	}
}

func TestLastWordsAreThoseOfTheContainersFile(t *testing.T) {
	s := newSandbox(t)
	root := t.TempDir()
	if err := os.WriteFile(root+"/log", []byte("bye"), 0o644); err != nil {
		t.Fatal(err)
	}
	for id, path := range map[string]string{"says": "/log", "lost": "/none", "mute": ""} {
		r := request(t, id, func(s *specs.Spec) {
			s.Root.Path = root
			if path != "" {
				s.Annotations = map[string]string{terminationAnnotation: path}
			}
		})
		if _, err := s.CreateContainer(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]codes.Code{"says": codes.OK, "lost": codes.Internal,
		"mute": codes.FailedPrecondition, "other": codes.NotFound} {
		r, err := s.GetDiagnosticData(t.Context(), &katapb.GetDiagnosticDataRequest{LogType: "termination_log",
			ContainerId: id})
		if status.Code(err) != want || (r.GetData() == "bye") != (want == codes.OK) {
			t.Errorf("%s: %v, %v", id, r, err)
		}
	}
}

func TestErrorsHaveTheCodesThatHostsKnow(t *testing.T) {
	for err, want := range map[error]codes.Code{
		container.ErrNotFound: codes.NotFound, storage.ErrNotFound: codes.NotFound,
		container.ErrExists: codes.AlreadyExists, container.ErrState: codes.FailedPrecondition,
		container.ErrNoTerminal: codes.Unavailable, storage.ErrOutside: codes.InvalidArgument,
		storage.ErrTimeout: codes.DeadlineExceeded, context.DeadlineExceeded: codes.DeadlineExceeded,
		context.Canceled: codes.Canceled, errors.New("else"): codes.Internal,
		status.Error(codes.DataLoss, "its own"): codes.DataLoss,
	} {
		if got := status.Code(coded(fmt.Errorf("deed: %w", err))); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	if coded(nil) != nil {
		t.Error("no error has a code")
	}
}
