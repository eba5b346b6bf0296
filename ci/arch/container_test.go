package arch_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/share"
)

const memoryLimit = 128 << 20

// containerTime is what all of a container may take.
const containerTime = time.Minute

// spec is a container with what differs between architectures: namespaces, a limit, and a seccomp filter.
func spec(args ...string) *specs.Spec {
	limit, errno := int64(memoryLimit), uint(unix.EXDEV)
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/"}, NoNewPrivileges: true, User: specs.User{UID: 1000,
				GID: 1000},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_BIND_SERVICE"}},
		},
		Root: &specs.Root{Path: filepath.Join(share.GuestDir, "box", "rootfs")},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/box",
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}},
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno,
					ErrnoRet: &errno}},
			},
		},
	}
}

// rootfs puts the root file system of a container into the shared folder.
func rootfs(t *testing.T, a arch.Arch, shared string) {
	t.Helper()
	root := filepath.Join(shared, "box", "rootfs")
	for _, d := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	goBuild(t, a, filepath.Join(root, "toolbox"), "../toolbox")
	if err := os.Chmod(filepath.Join(root, "toolbox"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// runContainer runs a container, and another process in it.
func runContainer(t *testing.T, service katapb.AgentServiceService) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), containerTime)
	defer cancel()
	wire, err := oci.ToWire(spec("/toolbox", "pause"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.CreateContainer(ctx, &katapb.CreateContainerRequest{ContainerId: "box", ExecId: "box",
		OCI: wire}); err != nil {
		t.Fatalf("create a container: %v", err)
	}
	if _, err := service.StartContainer(ctx, &katapb.StartContainerRequest{ContainerId: "box"}); err != nil {
		t.Fatalf("start a container: %v", err)
	}
	exec := func(id string, args ...string) string {
		t.Helper()
		if _, err := service.ExecProcess(ctx, &katapb.ExecProcessRequest{ContainerId: "box", ExecId: id,
			Process: oci.ProcessToWire(spec(args...).Process)}); err != nil {
			t.Errorf("%v: %v", args, err)
			return ""
		}
		var out strings.Builder
		for {
			r, err := service.ReadStdout(ctx, &katapb.ReadStreamRequest{ContainerId: "box", ExecId: id, Len: 32 << 10})
			if err != nil || len(r.GetData()) == 0 {
				break
			}
			out.Write(r.GetData())
		}
		if w, err := service.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: "box",
			ExecId: id}); err != nil || w.GetStatus() != 0 {
			t.Errorf("%v ended with %d, %v", args, w.GetStatus(), err)
		}
		return out.String()
	}
	if got := exec("call", "/toolbox", "call", "sethostname"); got != "EXDEV\n" {
		t.Errorf("sethostname, which the seccomp filter answers with EXDEV: %q", got)
	}
	if got := exec("mount", "/toolbox", "call", "mount", "/dev"); got != "EPERM\n" {
		t.Errorf("mount without the capability: %q", got)
	}
	var self struct {
		PID      int               `json:"pid"`
		UID      int               `json:"uid"`
		Hostname string            `json:"hostname"`
		Status   map[string]string `json:"status"`
	}
	out := exec("self", "/toolbox", "self")
	if err := json.Unmarshal([]byte(out), &self); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if self.PID < 2 || self.UID != 1000 || self.Hostname != "box" || self.Status["Seccomp"] != "2" ||
		self.Status["NoNewPrivs"] != "1" || self.Status["CapEff"] != "0000000000000000" {
		t.Errorf("the process in the container is %+v", self)
	}
	stats, err := service.StatsContainer(ctx, &katapb.StatsContainerRequest{ContainerId: "box"})
	if m := stats.GetCgroupStats().GetMemoryStats().GetUsage(); err != nil || m.GetLimit() != memoryLimit ||
		m.GetUsage() == 0 {
		t.Errorf("memory of the container: %v, %v", m, err)
	}
	if _, err := service.SignalProcess(ctx, &katapb.SignalProcessRequest{ContainerId: "box",
		Signal: uint32(unix.SIGTERM)}); err != nil {
		t.Errorf("end the container: %v", err)
	}
	if w, err := service.WaitProcess(ctx, &katapb.WaitProcessRequest{ContainerId: "box",
		ExecId: "box"}); err != nil || w.GetStatus() != 0 {
		t.Errorf("the container ended with %d, %v", w.GetStatus(), err)
	}
	if _, err := service.RemoveContainer(ctx, &katapb.RemoveContainerRequest{ContainerId: "box"}); err != nil {
		t.Errorf("remove the container: %v", err)
	}
}
