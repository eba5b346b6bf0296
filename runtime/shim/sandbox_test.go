package shim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	containerd "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/internal/sandboxapi"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/pod"
)

// wholeHost is a service that serves a sandbox to containerd's own client. Its pod is a fakeGuest.
type wholeHost struct {
	*host
	containerd.TTRPCSandboxService
	guest *fakeGuest
	with  pod.Options // that the pod was started with
}

func newWhole(t *testing.T) *wholeHost {
	t.Helper()
	h, g, _ := empty(t)
	w := &wholeHost{host: h, guest: g}
	h.start = func(_ context.Context, o pod.Options) (guest, error) {
		w.with = o
		return w.guest, w.guest.called("Boot", "")
	}
	h.linger = 0
	h.o.Config = h.dir + "/configuration.toml"
	dir, err := os.MkdirTemp("", "shim") // a path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() {
		stop()
		if err := errors.Join(client.Close(), <-served, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	w.TTRPCSandboxService = containerd.NewTTRPCSandboxClient(client)
	return w
}

// asks is the call that makes the sandbox "s".
func (w *wholeHost) asks(t *testing.T, c *cri.PodSandboxConfig) *containerd.CreateSandboxRequest {
	t.Helper()
	b, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(w.dir, "sandbox")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	return &containerd.CreateSandboxRequest{SandboxID: "s", BundlePath: bundle, NetnsPath: "/run/netns/x",
		Options: &anypb.Any{TypeUrl: sandboxapi.PodSandboxConfig, Value: b}}
}

// begun is a sandbox that runs.
func begun(t *testing.T, c *cri.PodSandboxConfig) *wholeHost {
	t.Helper()
	w := newWhole(t)
	if _, err := w.CreateSandbox(t.Context(), w.asks(t, c)); err != nil {
		t.Fatal(err)
	}
	r, err := w.StartSandbox(t.Context(), &containerd.StartSandboxRequest{SandboxID: "s"})
	if err != nil || r.Pid == 0 || r.Spec.TypeUrl != specType || !json.Valid(r.Spec.Value) ||
		time.Since(r.CreatedAt.AsTime()) > time.Minute {
		t.Fatalf("%v, %v", r, err)
	}
	return w
}

func TestASandboxLivesFromCreateToShutdown(t *testing.T) {
	w := newWhole(t)
	code := func(what string, err error, want codes.Code) {
		t.Helper()
		if status.Code(err) != want {
			t.Errorf("%s: %v, want code %v", what, err, want)
		}
	}
	state := func(want string) {
		t.Helper()
		r, err := w.SandboxStatus(t.Context(), &containerd.SandboxStatusRequest{SandboxID: "s", Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.State != want || (r.Pid != 0) != (want == sandboxapi.Ready) || !json.Valid([]byte(r.Info["info"])) {
			t.Errorf("status %v, want %s", r, want)
		}
	}
	start := func() error {
		_, err := w.StartSandbox(t.Context(), &containerd.StartSandboxRequest{SandboxID: "s"})
		return err
	}
	code("start before create", start(), codes.NotFound)
	_, err := w.SandboxStatus(t.Context(), &containerd.SandboxStatusRequest{SandboxID: "s"})
	code("status before create", err, codes.NotFound)

	r := w.asks(t, &cri.PodSandboxConfig{Hostname: "h", Annotations: map[string]string{
		"io.kubernetes.cri.container-type": "container", "mine": "a"}, Linux: &cri.LinuxPodSandboxConfig{
		CgroupParent: "/kubepods/pod1", Sysctls: map[string]string{"net.core.somaxconn": "7"},
		Resources: &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 200000,
			MemoryLimitInBytes: 64 << 20},
		SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{}}}})
	_, err = w.CreateSandbox(t.Context(), r)
	code("create", err, codes.OK)
	_, err = w.CreateSandbox(t.Context(), r)
	code("create again", err, codes.AlreadyExists)
	r.SandboxID = "other"
	_, err = w.CreateSandbox(t.Context(), r)
	code("create another", err, codes.FailedPrecondition)
	state(sandboxapi.NotReady)
	_, err = w.PingSandbox(t.Context(), &containerd.PingRequest{SandboxID: "s"})
	code("ping before start", err, codes.FailedPrecondition)
	_, err = w.Create(t.Context(), w.request(t, "early", "container"))
	code("a container before start", err, codes.FailedPrecondition)

	code("start", start(), codes.OK)
	code("start again", start(), codes.AlreadyExists)
	state(sandboxapi.Ready)
	o := w.with
	if o.ID != "s" || o.Hostname != "h" || o.Netns != "/run/netns/x" || o.HostNetwork || o.Cgroup != "/kubepods/pod1" ||
		o.Size.MilliCPUs != 2000 || o.Size.MemoryMiB != 64 || o.Annotations["mine"] != "a" ||
		o.Annotations["io.kubernetes.cri.container-type"] != "sandbox" {
		t.Errorf("the pod is started with %+v", o)
	}
	_, err = w.PingSandbox(t.Context(), &containerd.PingRequest{SandboxID: "s"})
	code("ping", err, codes.OK)
	p, err := w.Platform(t.Context(), &containerd.PlatformRequest{SandboxID: "s"})
	if err != nil || p.Platform.OS != "linux" || p.Platform.Architecture != runtime.GOARCH {
		t.Errorf("%v, %v", p, err)
	}

	// Containers come and go, and the sandbox stays.
	w.made(t, "c", "container")
	w.made(t, "d", "") // of somebody who has no annotations
	for _, id := range []string{"c", "d"} {
		w.guest.containers[id].end(0)
		w.wait(t, id, "")
		if _, err := w.Service.Delete(t.Context(), &taskapi.DeleteRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: id, Now: true}); err != nil || w.ended {
			t.Fatalf("%v; ended: %v", err, w.ended)
		}
	}
	state(sandboxapi.Ready)

	waited := make(chan *containerd.WaitSandboxResponse, 1)
	go func() {
		r, _ := w.WaitSandbox(context.Background(), &containerd.WaitSandboxRequest{SandboxID: "s"})
		waited <- r
	}()
	for range 2 {
		_, err = w.StopSandbox(t.Context(), &containerd.StopSandboxRequest{SandboxID: "s"})
		code("stop", err, codes.OK)
	}
	if r := <-waited; r.GetExitStatus() != 0 || time.Since(r.GetExitedAt().AsTime()) > time.Minute {
		t.Errorf("waited for %v", r)
	}
	state(sandboxapi.NotReady)
	code("start after stop", start(), codes.FailedPrecondition)
	_, err = w.SandboxMetrics(t.Context(), &containerd.SandboxMetricsRequest{SandboxID: "s"})
	code("metrics after stop", err, codes.FailedPrecondition)
	_, err = w.ShutdownSandbox(t.Context(), &containerd.ShutdownSandboxRequest{SandboxID: "other"})
	code("shut another down", err, codes.NotFound)
	_, err = w.ShutdownSandbox(t.Context(), &containerd.ShutdownSandboxRequest{SandboxID: "s"})
	code("shut down", err, codes.OK)
	if !w.ended {
		t.Error("the process goes on")
	}
	_, err = w.UpdateSandbox(t.Context(), &containerd.UpdateSandboxRequest{SandboxID: "s"})
	code("update", err, codes.Unimplemented)
}

func TestASandboxThatCannotBeStartedIsToldOnce(t *testing.T) {
	w := newWhole(t)
	w.guest.fails["Boot"] = errors.New("no such guest")
	if _, err := w.CreateSandbox(t.Context(), w.asks(t, nil)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no such guest", "has ended"} {
		if _, err := w.StartSandbox(t.Context(), &containerd.StartSandboxRequest{SandboxID: "s"}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	r, err := w.WaitSandbox(t.Context(), &containerd.WaitSandboxRequest{SandboxID: "s"})
	if err != nil || r.ExitStatus != lostCode {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := w.ShutdownSandbox(t.Context(), &containerd.ShutdownSandboxRequest{SandboxID: "s"}); err != nil ||
		!w.ended {
		t.Errorf("%v; ended: %v", err, w.ended)
	}
}

func TestAGuestThatEndsEndsItsSandbox(t *testing.T) {
	w := begun(t, nil)
	w.guest.is(pod.ErrOutOfMemory)
	w.guest.end()
	r, err := w.WaitSandbox(t.Context(), &containerd.WaitSandboxRequest{SandboxID: "s"})
	if err != nil || r.ExitStatus != lostCode {
		t.Errorf("%v, %v", r, err)
	}
	st, err := w.SandboxStatus(t.Context(), &containerd.SandboxStatusRequest{SandboxID: "s", Verbose: true})
	if err != nil || st.State != sandboxapi.NotReady || !strings.Contains(st.Info["info"], "no more memory") {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := w.Create(t.Context(), w.request(t, "c", "container")); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a container in it: %v", err)
	}
}

func TestWhatASandboxUsesIsInTheFormOfTheHost(t *testing.T) {
	w := begun(t, nil)
	r, err := w.SandboxMetrics(t.Context(), &containerd.SandboxMetricsRequest{SandboxID: "s"})
	if err != nil || r.Metrics.ID != "s" || r.Metrics.Timestamp == nil {
		t.Fatalf("%v, %v", r, err)
	}
	var one v1.Metrics
	var two v2.Metrics
	switch r.Metrics.Data.TypeUrl {
	case "io.containerd.cgroups.v1.Metrics":
		err = proto.Unmarshal(r.Metrics.Data.Value, &one)
		two.CPU, two.Memory = &v2.CPUStat{UsageUsec: one.CPU.Usage.Total / 1000},
			&v2.MemoryStat{Usage: one.Memory.Usage.Usage}
	case "io.containerd.cgroups.v2.Metrics":
		err = proto.Unmarshal(r.Metrics.Data.Value, &two)
	default:
		t.Fatal(r.Metrics.Data.TypeUrl)
	}
	if err != nil || two.CPU.UsageUsec != 3_000_000 || two.Memory.Usage != 4096 {
		t.Errorf("%v, %v", &two, err)
	}
	w.guest.fails["Ping"] = agentlink.ErrSilent
	if _, err := w.PingSandbox(t.Context(), &containerd.PingRequest{SandboxID: "s"}); err == nil ||
		!strings.Contains(err.Error(), "does not answer") {
		t.Errorf("ping: %v", err)
	}
}

func TestAShimOfASandboxLearnsItsConfiguration(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/bundle", 0o700); err != nil {
		t.Fatal(err)
	}
	options := func(name string) []byte {
		value, err := proto.Marshal(&anypb.Any{TypeUrl: "/etc/kata.toml"}) // its first field is a text, too
		if err != nil {
			t.Fatal(err)
		}
		// runtimeoptions.v1.Options: 2 is config_path.
		value[0] = 2<<3 | 2
		b, err := proto.Marshal(&anypb.Any{TypeUrl: name, Value: value})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, want := range map[string]string{"runtimeoptions.v1.Options": "-config /etc/kata.toml serve",
		"some.other.Options": "serve"} {
		args, err := sandboxArgs(StartOptions{Args: []string{"serve"}, Input: strings.NewReader(string(options(name)))})
		if err != nil || strings.Join(args, " ") != want {
			t.Errorf("%s: %q, %v; want %q", name, args, err, want)
		}
	}
	if _, err := readSpec(dir + "/bundle"); !isSandbox(err) {
		t.Errorf("a bundle without a specification: %v", err)
	}
}

func TestAContainerOfASandboxHasWhatThePodHas(t *testing.T) {
	w := begun(t, &cri.PodSandboxConfig{Hostname: "h", Linux: &cri.LinuxPodSandboxConfig{Sysctls: map[string]string{
		"net.core.somaxconn": "7"}}})
	var seen []*specs.Spec
	w.guest.made = func(c pod.Container) { seen = append(seen, c.Spec) }
	w.guest.fails["Create"] = errors.New("full")
	if _, err := w.Create(t.Context(), w.request(t, "b", "container")); err == nil {
		t.Error("it is made")
	}
	delete(w.guest.fails, "Create")
	w.made(t, "c", "container")
	w.made(t, "d", "container")
	if len(seen) != 2 || seen[0].Linux.Sysctl["net.core.somaxconn"] != "7" || len(seen[1].Linux.Sysctl) != 0 {
		t.Errorf("sysctls go to others than the first: %+v", seen)
	}
	for _, s := range seen {
		var at []string
		for _, m := range s.Mounts {
			at = append(at, m.Destination)
		}
		if strings.Join(at, " ") != "/etc/hostname /etc/hosts /etc/resolv.conf" {
			t.Errorf("mounts at %q", at)
		}
	}
}

func TestContainersOfASandboxShareTheProcessesOfOneThatRuns(t *testing.T) {
	w := begun(t, nil)
	var of []string
	w.guest.made = func(c pod.Container) { of = append(of, c.PIDOf) }
	shared := func(id string) {
		t.Helper()
		r := w.request(t, id, "container")
		spec, err := readSpec(r.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		spec.Linux.Namespaces = append(spec.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"})
		b, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.Bundle, "config.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	w.host.made(t, "alone", "container")
	shared("init")
	w.guest.containers["init"].end(0)
	w.wait(t, "init", "")
	shared("main")
	shared("side")
	if got := strings.Join(of, ","); got != ",,,main" {
		t.Errorf("joined: %s", got)
	}
}
