package containerd

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/internal/testenv"
)

// onSandboxes runs test with a containerd 2 that leaves pods to the shim's sandbox service. Those of runc, which has a
// first container in any case, are no matter.
func onSandboxes(t *testing.T, test func(t *testing.T, s *setting)) {
	testenv.Require(t, testenv.Asked(asked, "test-containerd"), root, testenv.Tool("runc"), testenv.Tool("go"),
		testenv.Tool("ip"), testenv.Tool("iptables"))
	if !inGuests(os.Getenv(runtimeVariable)) {
		t.Log("nothing to test: containers run on the host")
		return
	}
	onChanged(t, "2", func(c *daemon.Config) { c.Runtime.Sandboxer = "shim" }, test)
}

// TestPodsOfTheSandboxService is TestPods without first containers.
func TestPodsOfTheSandboxService(t *testing.T) { onSandboxes(t, checkPods) }

// TestTheSandboxService looks at what only pods without a first container have.
func TestTheSandboxService(t *testing.T) {
	onSandboxes(t, func(t *testing.T, s *setting) {
		n := newNode(t, s)
		for _, c := range []struct {
			name string
			run  func(t *testing.T, n *node)
		}{
			{"there is no first container", checkNoPause},
			{"a pod's numbers are those of its processes on the host", checkPodStats},
			{"processes are shared by those that run", checkSharedAfterFirst},
			{"a pod is made once", checkSandboxTwice},
			{"containerd is killed while a pod runs", checkSandboxRestart},
			{"a guest that ends is told", checkSandboxEnd},
			{"a shim that dies is told, and leaves nothing", checkSandboxShim},
		} {
			t.Run(c.name, func(t *testing.T) { c.run(t, n) })
		}
	})
}

// ready says whether CRI thinks that the pod runs.
func (p *pod) ready(t *testing.T) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := p.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.State == cri.PodSandboxState_SANDBOX_READY
}

func checkNoPause(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("whole"))
	out, err := n.Ctr("k8s.io", "tasks", "ls", "-q").CombinedOutput()
	if err != nil || strings.Contains(string(out), p.id) {
		t.Errorf("tasks: %v: %s", err, out)
	}
	r, err := p.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if info := r.Info["info"]; !strings.Contains(info, `"pid":`) {
		t.Errorf("info %q", info)
	}
	c := p.start(t, nil, "toolbox", "pause")
	equal(t, "default sysctls", c.said(t, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0")
	c.stop(t, 0)
	equal(t, "ready without a container that runs", p.ready(t), true)
}

func checkPodStats(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("counted"))
	p.start(t, nil, "toolbox", "spin", "1")
	var last *cri.PodSandboxStats
	until(t, patience, "processor time and memory of the pod", func() bool {
		r, err := p.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		last = r.Stats
		return last.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue() > uint64(time.Second) &&
			last.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() > 32<<20
	})
	equal(t, "containers counted", len(last.Linux.Containers), 1)
	l, err := p.ListPodSandboxStats(t.Context(), &cri.ListPodSandboxStatsRequest{})
	if err != nil || len(l.Stats) != 1 {
		t.Errorf("%v, %v", l, err)
	}
}

// checkSharedAfterFirst is a pod with shareProcessNamespace and an init container.
func checkSharedAfterFirst(t *testing.T, n *node) {
	cfg := n.podConfig("pids-after")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	p := n.run(t, cfg)
	share := security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	equal(t, "exit code of the first", p.start(t, share, "true").wait(t).ExitCode, 0)
	p.start(t, share, "toolbox", "serve", ":8000", "x")
	b := p.start(t, share, "toolbox", "pause")
	if ps := b.said(t, "ps"); !strings.Contains(ps, "serve") {
		t.Errorf("a neighbour's process is not seen: %s", ps)
	}
}

func checkSandboxTwice(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("once"))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", "k8s.io")
	c := sandboxapi.NewControllerClient(n.Conn)
	_, err := c.Create(ctx, &sandboxapi.ControllerCreateRequest{SandboxID: p.id, Sandboxer: "shim"})
	equal(t, "code of a second Create", status.Code(err), codes.AlreadyExists)
	_, err = c.Start(ctx, &sandboxapi.ControllerStartRequest{SandboxID: "none", Sandboxer: "shim"})
	if err == nil {
		t.Error("a pod that was not made is started")
	}
	equal(t, "ready", p.ready(t), true)
}

func checkSandboxRestart(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("restart"))
	c := p.start(t, nil, "sh", "-c", "echo here >/data/here; toolbox pause")
	until(t, patience, "its file", func() bool { return c.exec(t, "cat", "/data/here").out == "here\n" })
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.Again(ctx); err != nil {
		t.Fatal(err)
	}
	again := &node{n.setting, cri.NewRuntimeServiceClient(n.Conn), cri.NewImageServiceClient(n.Conn)}
	*n = *again
	until(t, patience, "containerd's answers", func() bool {
		_, err := n.Version(t.Context(), &cri.VersionRequest{})
		return err == nil
	})
	equal(t, "ready", p.ready(t), true)
	equal(t, "the container's file", c.said(t, "cat /data/here"), "here")
	equal(t, "another container's exit code", p.start(t, nil, "true").wait(t).ExitCode, 0)
}

func checkSandboxEnd(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("ends"))
	c := p.start(t, nil, "toolbox", "pause")
	for _, pid := range processes("qemu-system-", "-"+p.id+"\x00") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	until(t, patience, "the end of the pod", func() bool { return !p.ready(t) })
	equal(t, "exit code of its container", c.wait(t).ExitCode, 255)
	_, err := p.try(t, nil, "true")
	if err == nil {
		t.Error("a container is made in a pod that has ended")
	}
}

func checkSandboxShim(t *testing.T, n *node) {
	p := n.run(t, n.podConfig("shim"))
	c := p.start(t, nil, "toolbox", "pause")
	shims := processes("containerd-shim-", "\x00-id\x00"+p.id+"\x00", "\x00serve\x00")
	equal(t, "shims of the pod", len(shims), 1)
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// Until containerd has cleaned up after it, it has no answer.
	until(t, patience, "the end of the pod", func() bool {
		r, err := p.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		return err == nil && r.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	c.wait(t)
	until(t, patience, "the end of QEMU", func() bool { return len(processes("qemu-system-", "-"+p.id+"\x00")) == 0 })
}
