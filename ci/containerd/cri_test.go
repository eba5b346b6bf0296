package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/ci/containerd/image"
)

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// checks are the subtests that share one pod.
var checks = []struct {
	name string
	run  func(t *testing.T, p *pod)
}{
	{"a container's end is reported with its code, times and reason", checkEnd},
	{"the log has a time, stream and tag for each line", checkLog},
	{"containers are listed by id, pod, state and label", checkList},
	{"stopping and removing twice is no error", checkIdempotent},
	{"a program that does not exist is an error that names it", checkNoProgram},
	{"exec has output, errors, code and a time-out", checkExecSync},
	{"exec, attach and port-forward stream", checkStreams},
	{"environment, command, arguments and working folder arrive", checkProcess},
	{"folders and files of the host are mounted as asked", checkMounts},
	{"user, group and supplemental groups are as asked", checkUser},
	{"the image's user, environment, folder and volume are used", checkImage},
	{"capabilities are added and dropped", checkCapabilities},
	{"no_new_privs is as asked", checkNoNewPrivs},
	{"seccomp profiles filter", checkSeccomp},
	{"masked and read-only paths are so", checkPaths},
	{"a read-only root refuses writes", checkReadOnly},
	{"limits of memory, CPU and processes hold and can be changed", checkLimits},
	{"memory beyond the limit ends as OOMKilled", checkOOM},
	{"the hostname, names servers and sysctls are the pod's", checkPodSettings},
	{"containers of a pod share network and IPC and no processes", checkSharing},
	{"a container is started again as a new attempt", checkRestart},
	{"statistics are of this container", checkStats},
	{"a container is stopped by its signal, or by force after the grace period", checkStop},
	{"one that does not handle its signal ends by itself within the grace period", checkDeaf},
	{"a container shares the processes of its target", checkTarget},
	{"read-only is about the mount, or about what is below it too", checkBelow},
	{"the host reaches the pod, and the pod the host", checkNetwork},
	{"a terminal is a terminal", checkTerminal},
}

func TestPods(t *testing.T) {
	onEach(t, checkPods)
}

// checkPods are the checks of CRI with one containerd.
func checkPods(t *testing.T, s *setting) {
	n := newNode(t, s)
	cfg := n.podConfig("shared")
	cfg.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"pods.test"},
		Options: []string{"ndots:3"}}
	cfg.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8000, HostPort: 18000}}
	cfg.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1234", "kernel.msgmax": "16384"}
	p := n.run(t, cfg)
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(t, p) })
	}
	t.Run("a pod's processes are shared where it asks", func(t *testing.T) { checkSharedPIDs(t, n) })
	t.Run("a privileged container has every capability", func(t *testing.T) { checkPrivileged(t, n) })
	t.Run("a pod has users of its own where it asks", func(t *testing.T) { checkUsers(t, n) })
	t.Run("containers that are killed while they read leave the kernel well",
		func(t *testing.T) { checkKilled(t, n) })
	t.Run("the host's network is refused and not touched", func(t *testing.T) { checkHostNetwork(t, n) })
	t.Run("a pod lives from run to remove", func(t *testing.T) { checkPod(t, n) })
}

func checkEnd(t *testing.T, p *pod) {
	for code, reason := range map[int32]string{0: "Completed", 7: "Error"} {
		s := p.start(t, nil, "sh", "-c", fmt.Sprint("exit ", code)).wait(t)
		equal(t, "exit code", s.ExitCode, code)
		equal(t, "reason", s.Reason, reason)
		// containerd 2 takes the time of start after a short container has ended.
		if s.CreatedAt <= 0 || s.StartedAt < s.CreatedAt || s.FinishedAt < s.CreatedAt {
			t.Errorf("created %d, started %d, finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
		}
	}
}

func checkLog(t *testing.T, p *pod) {
	c := p.start(t, nil, "sh", "-c", "echo one; echo two >&2; printf three")
	c.wait(t)
	var out, errs string
	until(t, patience, "the log", func() bool { out, errs = c.logs(t); return strings.Contains(out, "three") })
	equal(t, "stdout", strings.TrimSuffix(out, "\n"), "one\nthree")
	equal(t, "stderr", errs, "two\n")
	// A megabyte arrives whole, and before the end is reported.
	c = p.start(t, nil, "sh", "-c", "toolbox spew 1 | base64 -w 0 | wc -c; toolbox spew 1 | base64")
	c.wait(t)
	until(t, patience, "the whole log", func() bool { out, _ = c.logs(t); return len(out) > 1<<20*4/3 })
}

func checkList(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	name := c.status(t).Metadata.Name
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	exited := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}
	for what, f := range map[string]struct {
		filter *cri.ContainerFilter
		want   bool
	}{
		"id":            {&cri.ContainerFilter{Id: c.id}, true},
		"pod":           {&cri.ContainerFilter{PodSandboxId: p.id}, true},
		"state":         {&cri.ContainerFilter{State: running}, true},
		"label":         {&cri.ContainerFilter{LabelSelector: map[string]string{"container": name}}, true},
		"another state": {&cri.ContainerFilter{Id: c.id, State: exited}, false},
		"another label": {&cri.ContainerFilter{LabelSelector: map[string]string{"container": "other"}}, false},
	} {
		r, err := p.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: f.filter})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "listed by "+what, slices.ContainsFunc(r.Containers,
			func(x *cri.Container) bool { return x.Id == c.id }), f.want)
	}
}

func checkIdempotent(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	for range 2 {
		c.stop(t, 10)
	}
	equal(t, "state", c.status(t).State, cri.ContainerState_CONTAINER_EXITED)
	for range 2 {
		if _, err := p.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: c.id})
	equal(t, "code of a removed container's status", status.Code(err), codes.NotFound)
}

func checkNoProgram(t *testing.T, p *pod) {
	if _, err := p.try(t, nil, "/no/such/program"); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error is %v", err)
	}
}

func checkExecSync(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	r := c.exec(t, "sh", "-c", "echo out; echo err >&2; exit 42")
	equal(t, "result", r, result{"out\n", "err\n", 42})
	r = c.exec(t, "toolbox", "spew", "3") // gRPC refuses messages of more than 4 MiB
	equal(t, "bytes of output", len(r.out), 3<<20)
	start := time.Now()
	_, err := p.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "600"},
		Timeout: 2})
	if status.Code(err) != codes.DeadlineExceeded && (err == nil || !strings.Contains(err.Error(), "timeout")) {
		t.Errorf("a time-out's error is %v", err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("the time-out of 2 s took %v", d)
	}
	until(t, patience, "the end of what was timed out", func() bool {
		return !strings.Contains(c.said(t, "ps"),
			"sleep 600")
	})
}

func checkProcess(t *testing.T, p *pod) {
	s := parse(t, p.output(t, func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "PLAIN", Value: []byte("value")}, {Key: "ODD", Value: []byte("a=b \"c\"\n$d")}}
		c.WorkingDir = "/data/made/for/me"
		c.Args = []string{"self", "an argument", ""}
	}, "/bin/toolbox"))
	for _, e := range []string{"PLAIN=value", "ODD=a=b \"c\"\n$d", "PATH=/bin"} {
		if !slices.Contains(s.Env, e) {
			t.Errorf("environment %q lacks %q", s.Env, e)
		}
	}
	equal(t, "working folder", s.Cwd, "/data/made/for/me")
	equal(t, "arguments", strings.Join(s.Args, "|"), "/bin/toolbox|self|an argument|")
	equal(t, "pid", s.PID, 1)
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "whether the kernel is another than the host's", s.Release != strings.TrimSpace(string(host)), p.guest())
}

func checkMounts(t *testing.T, p *pod) {
	dir := t.TempDir()
	for name, text := range map[string]string{"rw/a": "from the host", "ro/b": "read me", "file": "one file"} {
		f := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := p.start(t, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{HostPath: dir + "/rw", ContainerPath: "/mnt/rw"},
			{HostPath: dir + "/ro", ContainerPath: "/mnt/ro", Readonly: true},
			{HostPath: dir + "/file", ContainerPath: "/etc/one-file"},
		}
	}, "toolbox", "pause")
	equal(t, "files", c.said(t, "cat /mnt/rw/a /mnt/ro/b /etc/one-file"), "from the hostread meone file")
	c.said(t, "echo from the container >/mnt/rw/c; mkdir /mnt/rw/d; chown 1234:77 /mnt/rw/d; echo more >>/etc/one-file")
	if r := c.exec(t, "sh", "-c", "echo no >/mnt/ro/x"); r.code == 0 || !strings.Contains(r.err, "Read-only") {
		t.Errorf("a write to a read-only mount: %+v", r)
	}
	b, err := os.ReadFile(dir + "/rw/c")
	if err != nil || string(b) != "from the container\n" {
		t.Errorf("the host reads %q, %v", b, err)
	}
	if b, _ := os.ReadFile(dir + "/file"); string(b) != "one filemore\n" {
		t.Errorf("the host reads %q of the file", b)
	}
	if err := os.WriteFile(dir+"/ro/later", []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "a file that the host made later",
		func() bool { return c.exec(t, "cat", "/mnt/ro/later").out == "later" })
}

func checkUser(t *testing.T, p *pod) {
	s := p.self(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.RunAsUser, c.RunAsGroup = &cri.Int64Value{Value: 2000}, &cri.Int64Value{Value: 3000}
		c.SupplementalGroups = []int64{4000, 4001}
	}))
	equal(t, "user and group", fmt.Sprint(s.UID, s.GID), "2000 3000")
	if !slices.Contains(s.Groups, 4000) || !slices.Contains(s.Groups, 4001) {
		t.Errorf("groups %v lack 4000 or 4001", s.Groups)
	}
	s = p.self(t, security(func(c *cri.LinuxContainerSecurityContext) { c.RunAsUsername = "worker" }))
	equal(t, "user and group by name", fmt.Sprint(s.UID, s.GID), "1234 1234")
	if !slices.Contains(s.Groups, 77) {
		t.Errorf("groups %v lack 77, which the image's /etc/group gives the user", s.Groups)
	}
}

func checkImage(t *testing.T, p *pod) {
	s := parse(t, p.output(t, func(c *cri.ContainerConfig) { c.Image.Image = image.User }))
	equal(t, "user", s.UID, 1234)
	equal(t, "working folder", s.Cwd, "/home/worker")
	equal(t, "arguments", strings.Join(s.Args, " "), "/bin/toolbox self")
	if !slices.Contains(s.Env, "COLOUR=green") {
		t.Errorf("environment %q lacks the image's", s.Env)
	}
	if _, ok := s.Mounts["/data"]; !ok {
		t.Errorf("the image's volume /data is no mount: %v", s.Mounts)
	}
	out := p.output(t, func(c *cri.ContainerConfig) { c.Image.Image = image.User }, "cat", "/data/of-image")
	equal(t, "the volume's first content", out, "of the image\n")
}

// Bits of capabilities. Linux: include/uapi/linux/capability.h.
const (
	capChown    = 1 << 0
	capNetAdmin = 1 << 12
	capSysAdmin = 1 << 21
	capSysTime  = 1 << 25
)

func caps(t *testing.T, s self, set string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s.Status[set], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func checkCapabilities(t *testing.T, p *pod) {
	def := p.self(t, nil)
	equal(t, "default: has CHOWN, not SYS_ADMIN or NET_ADMIN",
		caps(t, def, "CapEff")&(capChown|capSysAdmin|capNetAdmin), capChown)
	some := p.self(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"},
			DropCapabilities: []string{"CHOWN"}}
	}))
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		equal(t, set, caps(t, some, set)&(capChown|capSysAdmin|capNetAdmin|capSysTime), capNetAdmin|capSysTime)
	}
	none := p.self(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}}
	}))
	equal(t, "after dropping ALL", caps(t, none, "CapBnd"), 0)
}

func checkNoNewPrivs(t *testing.T, p *pod) {
	for _, on := range []bool{true, false} {
		s := p.self(t, security(func(c *cri.LinuxContainerSecurityContext) { c.NoNewPrivs = on }))
		equal(t, "NoNewPrivs", s.Status["NoNewPrivs"] == "1", on)
	}
}

func checkSeccomp(t *testing.T, p *pod) {
	file := filepath.Join(t.TempDir(), "profile.json")
	profile := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`
	if err := os.WriteFile(file, []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	use := func(s *cri.SecurityProfile) func(*cri.ContainerConfig) {
		return security(func(c *cri.LinuxContainerSecurityContext) { c.Seccomp = s })
	}
	unconfined := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	local := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: file}
	def := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	// Linux: Documentation/filesystems/proc.rst: Seccomp is 0 without a filter, 2 with one.
	equal(t, "Seccomp, unconfined", p.self(t, use(unconfined)).Status["Seccomp"], "0")
	equal(t, "Seccomp, default", p.self(t, use(def)).Status["Seccomp"], "2")
	equal(t, "keyctl by default", p.output(t, use(def), "toolbox", "call", "keyctl"), "EPERM\n")
	equal(t, "mkdir by default", p.output(t, use(def), "toolbox", "call", "mkdir"), "ok\n")
	equal(t, "mkdir with a profile that denies it", p.output(t, use(local), "toolbox", "call", "mkdir"), "ENOSPC\n")
	equal(t, "write with that profile", p.output(t, use(local), "toolbox", "call", "write"), "ok\n")
	// Exec is filtered too.
	c := p.start(t, use(local), "toolbox", "pause")
	equal(t, "mkdir by exec", c.exec(t, "toolbox", "call", "mkdir").out, "ENOSPC\n")
}

func checkPaths(t *testing.T, p *pod) {
	c := p.start(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.MaskedPaths = append(c.MaskedPaths, "/data", "/etc/group")
		c.ReadonlyPaths = append(c.ReadonlyPaths, "/home")
	}), "toolbox", "pause")
	equal(t, "a masked folder", c.said(t, "ls -A /data"), "")
	equal(t, "a masked file", c.said(t, "cat /etc/group"), "")
	equal(t, "a file in a read-only folder", c.exec(t, "toolbox", "call", "write", "/home/x").out, "EROFS\n")
	if r := c.exec(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"); r.code == 0 {
		t.Error("/proc/sys could be written")
	}
}

func checkReadOnly(t *testing.T, p *pod) {
	dir := t.TempDir()
	c := p.start(t, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.ReadonlyRootfs = true
		c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/tmp"}}
	}, "toolbox", "pause")
	equal(t, "a write to the root", c.exec(t, "toolbox", "call", "write", "/data/x").out, "EROFS\n")
	equal(t, "a write to a mount", c.exec(t, "toolbox", "call", "write", "/tmp/x").out, "ok\n")
}

// cgroupFile reads the container's own cgroup, by the file's name in version 1 and 2.
func (c *container) cgroupFile(t *testing.T, v1, v2 string) string {
	t.Helper()
	return c.said(t, fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", v2, v1))
}

func checkLimits(t *testing.T, p *pod) {
	const mib = 1 << 20
	c := p.start(t, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 * mib, CpuPeriod: 100000,
		CpuQuota: 50000, CpuShares: 512}), "toolbox", "pause")
	look := func(memory int, cpu string) {
		t.Helper()
		equal(t, "memory limit", c.cgroupFile(t, "memory/memory.limit_in_bytes", "memory.max"), strconv.Itoa(memory))
		// Version 1 has quota and period in two files.
		got := c.said(t, "cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us "+
			"/sys/fs/cgroup/cpu/cpu.cfs_period_us)")
		equal(t, "CPU quota and period", got, cpu)
	}
	look(64*mib, "50000 100000")
	r := &cri.LinuxContainerResources{MemoryLimitInBytes: 96 * mib, CpuPeriod: 100000, CpuQuota: 80000, CpuShares: 512}
	if _, err := p.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: c.id,
		Linux: r}); err != nil {
		t.Fatalf("update: %v", err)
	}
	look(96*mib, "80000 100000")
	c, err := p.try(t, resources(&cri.LinuxContainerResources{Unified: map[string]string{"pids.max": "20"}}),
		"toolbox", "pause")
	if !p.guest() {
		// CRI can limit processes only through cgroup version 2, which runc refuses on a host of version 1.
		if _, v2 := os.Stat("/sys/fs/cgroup/cgroup.controllers"); v2 != nil {
			equal(t, "whether runc refuses what needs cgroup version 2", err != nil, true)
			return
		}
	}
	if err != nil {
		t.Fatalf("a limit of processes: %v", err)
	}
	if out := c.exec(t, "toolbox", "fork", "40").out; !strings.Contains(out, "temporarily unavailable") {
		t.Errorf("40 processes beyond a limit of 20: %q", out)
	}
}

func checkOOM(t *testing.T, p *pod) {
	s := p.start(t, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}), "toolbox", "eat",
		"200").wait(t)
	equal(t, "exit code", s.ExitCode, 137)
	equal(t, "reason", s.Reason, "OOMKilled")
}

func checkPodSettings(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	equal(t, "hostname", c.said(t, "hostname; cat /etc/hostname"), "shared\nshared")
	resolv := c.said(t, "cat /etc/resolv.conf")
	for _, l := range []string{"nameserver 192.0.2.53", "search pods.test", "options ndots:3"} {
		if !strings.Contains(resolv, l) {
			t.Errorf("resolv.conf %q lacks %q", resolv, l)
		}
	}
	equal(t, "sysctls", c.said(t, "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax"), "1234\n16384")
}

func checkSharing(t *testing.T, p *pod) {
	a := p.start(t, nil, "toolbox", "serve", "127.0.0.1:8123", "from a neighbour")
	b := p.start(t, nil, "toolbox", "pause")
	until(t, patience, "a neighbour's server on 127.0.0.1", func() bool {
		return b.exec(t, "toolbox", "get", "http://127.0.0.1:8123/").out == "from a neighbour"
	})
	equal(t, "what its owner says of shared memory",
		a.said(t, "toolbox shm put 4711 shared-words && echo in-shm >/dev/shm/file"), "")
	equal(t, "a neighbour's shared memory", b.said(t, "toolbox shm get 4711; cat /dev/shm/file"),
		"shared-words\nin-shm")
	if ps := b.said(t, "ps"); strings.Contains(ps, "serve") {
		t.Errorf("a neighbour's process is seen: %s", ps)
	}
	equal(t, "hosts' files", a.said(t, "echo mine >/tmp/mine; cat /tmp/mine")+b.said(t, "ls /tmp"), "mine")
}

func checkRestart(t *testing.T, p *pod) {
	name := func(attempt uint32) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Metadata = &cri.ContainerMetadata{Name: "again", Attempt: attempt}
			c.LogPath = fmt.Sprintf("again-%d.log", attempt)
		}
	}
	equal(t, "exit code of attempt 0", p.start(t, name(0), "sh", "-c", "echo was >/data/here; exit 3").wait(
		t).ExitCode, 3)
	equal(t, "files of attempt 1", p.output(t, name(1), "ls", "/data"), "of-image\n")
}

func checkStats(t *testing.T, p *pod) {
	// On a busy host a container without a share of its own gets little.
	c := p.start(t, nil, "sh", "-c", "dd if=/dev/zero of=/data/big bs=1M count=4; while :; do toolbox spin 1; done")
	var s *cri.ContainerStats
	until(t, patience, "CPU time and memory in use", func() bool {
		r, err := p.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		s = r.Stats
		return s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > uint64(time.Second) &&
			s.GetMemory().GetWorkingSetBytes().GetValue() > 0
	})
	equal(t, "id", s.Attributes.Id, c.id)
	l, err := p.ListContainerStats(
		t.Context(), &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(l.Stats, func(s *cri.ContainerStats) bool { return s.Attributes.Id == c.id }) {
		t.Error("the pod's list of statistics lacks the container")
	}
}

func checkStop(t *testing.T, p *pod) {
	polite := p.start(t, nil, "toolbox", "signals")
	until(t, patience, "its handler", func() bool { out, _ := polite.logs(t); return strings.Contains(out, "ready") })
	polite.stop(t, 60)
	s := polite.wait(t)
	equal(t, "exit code of one that handles SIGTERM", s.ExitCode, 0)
	until(t, patience, "its last words", func() bool {
		out, _ := polite.logs(t)
		return strings.HasSuffix(out,
			"signal 15\n")
	})

	deaf := p.start(t, nil, "toolbox", "stubborn")
	until(t, patience, "its handler", func() bool { out, _ := deaf.logs(t); return strings.Contains(out, "ready") })
	start := time.Now()
	deaf.stop(t, 2)
	if d := time.Since(start); d < 2*time.Second {
		t.Errorf("the grace period of 2 s took %v", d)
	}
	equal(t, "exit code of one that ignores SIGTERM", deaf.wait(t).ExitCode, 137)
}

func checkNetwork(t *testing.T, p *pod) {
	r, err := p.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	ip := r.Status.GetNetwork().GetIp()
	c := p.start(t, nil, "toolbox", "serve", ":8000", "from the pod")
	equal(t, "interface has the pod's address", strings.Contains(c.said(t, "ip addr show dev eth0"),
		"inet "+ip+"/24"), true)
	equal(t, "links", strings.Join(strings.Fields(c.said(t, "ls /sys/class/net")), " "), "eth0 lo")
	equal(t, "default route", strings.Contains(c.said(t, "ip route"), "default via "+p.Bridge), true)
	equal(t, "MTU", c.said(t, "cat /sys/class/net/eth0/mtu"), strconv.Itoa(daemon.MTU))
	client := http.Client{Timeout: 5 * time.Second}
	body := func(addr string) string {
		r, err := client.Get("http://" + addr + "/")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	for what, addr := range map[string]string{"its address": ip + ":8000", "the mapped port": p.Bridge + ":18000"} {
		last := ""
		until(t, patience, "the pod's server at "+what,
			func() bool { last = body(addr); return last == "from the pod" })
	}
	l, err := net.Listen("tcp", p.Bridge+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_,
			_ = io.WriteString(w, "from the host "+r.RemoteAddr)
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	defer server.Close()
	got := c.exec(t, "toolbox", "get", "http://"+l.Addr().String()+"/")
	if !strings.HasPrefix(got.out, "from the host "+ip+":") {
		t.Errorf("the pod at %s reads %+v", ip, got)
	}
	// More than a segment, both ways.
	big := strings.Repeat("0123456789abcdef", 1<<16)
	post, err := client.Post("http://"+ip+":8000/", "text/plain", strings.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	defer post.Body.Close()
	b, err := io.ReadAll(post.Body)
	if err != nil || string(b) != big {
		t.Errorf("a megabyte came back as %d bytes, %v", len(b), err)
	}
}

func checkTerminal(t *testing.T, p *pod) {
	out := p.output(t, func(c *cri.ContainerConfig) { c.Tty = true }, "sh", "-c",
		"tty; test -t 0 && test -t 1 && test -t 2 && echo all")
	equal(t, "a terminal's output", strings.ReplaceAll(out, "\r", ""), "/dev/pts/0\nall\n")
}

func checkSharedPIDs(t *testing.T, n *node) {
	cfg := n.podConfig("pids")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	p := n.run(t, cfg)
	share := security(func(c *cri.LinuxContainerSecurityContext) { c.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	p.start(t, share, "toolbox", "serve", ":8000", "x")
	b := p.start(t, share, "toolbox", "pause")
	if ps := b.said(t, "ps"); !strings.Contains(ps, "serve") {
		t.Errorf("a neighbour's process is not seen: %s", ps)
	}
	equal(t, "a pid other than 1", p.self(t, share).PID != 1, true)
}

func checkPrivileged(t *testing.T, n *node) {
	cfg := n.podConfig("privileged")
	cfg.Linux.SecurityContext.Privileged = true
	p := n.run(t, cfg)
	s := p.self(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.Privileged = true
		c.MaskedPaths, c.ReadonlyPaths = nil, nil
	}))
	want := uint64(capChown | capNetAdmin | capSysTime | capSysAdmin)
	equal(t, "capabilities", caps(t, s, "CapEff")&want, want)
	equal(t, "Seccomp", s.Status["Seccomp"], "0")
}

// checkUsers starts a pod with hostUsers: false. containerd knows of them since version 2.
func checkUsers(t *testing.T, n *node) {
	if !n.Release.Two() {
		return
	}
	if !n.guest() {
		return // Debian's runc maps no owners of mounts, and runk's user reaches no file in containerd's folders
	}
	const first, size = 1 << 16, 1 << 16
	ids := []*cri.IDMapping{{HostId: first, ContainerId: 0, Length: size}}
	users := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	cfg := n.podConfig("users")
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	cfg.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1234", "kernel.msgmax": "16384"}
	configured(t, n)
	plain := *n.setting
	plain.handler += daemon.PlainSuffix
	n = &node{&plain, n.RuntimeServiceClient, n.images}
	p := n.run(t, cfg)
	volume := filepath.Join(n.dir, "users")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	c := p.start(t, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
		c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/v", UidMappings: ids, GidMappings: ids}}
	}, "sh", "-c", `id -u; cat /proc/self/uid_map; echo x >/f && stat -c %u:%g /f /bin /v
chown 7:8 /f && su -s /bin/sh nobody -c true; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; hostname
touch /v/a && chown 1000:1000 /v/a && stat -c %u:%g /v/a /f; mount -t tmpfs x /tmp 2>&1; toolbox pause`)
	want := []string{"0", fmt.Sprintf("0 %d %d", first, size), "0:0", "0:0", "0:0", "1234", "16384", "users",
		"1000:1000", "7:8"}
	var out string
	until(t, patience, "what the container sees", func() bool {
		out, _ = c.logs(t)
		return strings.Contains(out,
			"mount:")
	})
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("%q, want %q", got, want)
	}
	// On the host it is a user that nobody else has, and a volume's owners are what they are in the container.
	st, err := os.Stat(filepath.Join(volume, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if s := st.Sys().(*syscall.Stat_t); s.Uid != 1000 || s.Gid != 1000 {
		t.Errorf("a file made in the volume is of %d:%d", s.Uid, s.Gid)
	}
	r, err := p.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"id", "-u"}, Timeout: 20})
	if err != nil || strings.TrimSpace(string(r.Stdout)) != "0" {
		t.Errorf("exec: %v, %v", r, err)
	}
}

// configured has the runtime's configuration where it is looked for when nothing else says where. Only these tests see
// it there.
func configured(t *testing.T, n *node) {
	dir := filepath.Join(n.dir, "etc")
	mount := func(what, where, kind, data string) {
		t.Helper()
		if err := unix.Mount(what, where, kind, 0, data); err != nil {
			t.Fatalf("mount %s: %v", where, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(where, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount("tmpfs", dir, "tmpfs", "")
	b, err := os.ReadFile(n.config)
	if err = errors.Join(err, os.Mkdir(dir+"/work", 0o755), os.MkdirAll(dir+"/upper/katabuild", 0o755),
		os.WriteFile(dir+"/upper/katabuild/configuration.toml", b, 0o644)); err != nil {
		t.Fatal(err)
	}
	mount("overlay", "/etc", "overlay", "lowerdir=/etc,upperdir="+dir+"/upper,workdir="+dir+"/work")
}

// checkKilled ends processes whose files are still being read when their mounts go, and looks whether the kernel
// complained.
func checkKilled(t *testing.T, n *node) {
	cfg := n.podConfig("killed")
	cfg.Linux.SecurityContext.Privileged = true
	p := n.run(t, cfg)
	c := p.start(t, nil, "toolbox", "ahead", "/bin/busybox", "1000")
	until(t, patience, "a mapped file", func() bool { out, _ := c.logs(t); return out != "" })
	daemons := processes("virtiofsd", "/"+p.id+"/")
	signal := func(s syscall.Signal) {
		for _, pid := range daemons {
			_ = syscall.Kill(pid, s) // it may have ended, if all went wrong
		}
	}
	signal(syscall.SIGSTOP)
	time.Sleep(2 * time.Second) // the file is being read from here on
	time.AfterFunc(time.Second, func() { signal(syscall.SIGCONT) })
	c.stop(t, 0)
	if !n.guest() {
		return // the kernel is the host's, and talks of others
	}
	log := p.output(t, security(func(c *cri.LinuxContainerSecurityContext) { c.Privileged = true }), "sh", "-c",
		"dmesg; cat /proc/sys/kernel/panic_on_oops")
	if !strings.HasSuffix(log, "\n1\n") {
		t.Errorf("the guest's kernel goes on when it goes wrong: %q", log[max(0, len(log)-100):])
	}
	for l := range strings.Lines(log) {
		if strings.Contains(l, "Busy inodes") || strings.Contains(l, "WARNING:") || strings.Contains(l, "BUG:") ||
			strings.Contains(l, "Oops:") {
			t.Errorf("the guest's kernel says %q", l)
		}
	}
}

func checkPod(t *testing.T, n *node) {
	cfg := n.podConfig("life")
	p := n.run(t, cfg)
	state := func() cri.PodSandboxState {
		r, err := p.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.State
	}
	equal(t, "state", state(), cri.PodSandboxState_SANDBOX_READY)
	c := p.start(t, nil, "toolbox", "pause")
	for range 2 {
		if _, err := p.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "state after stop", state(), cri.PodSandboxState_SANDBOX_NOTREADY)
	equal(t, "its container's state", c.status(t).State, cri.ContainerState_CONTAINER_EXITED)
	l, err := p.ListPodSandbox(
		t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{
			"pod": "life"}}})
	if err != nil || len(l.Items) != 1 || l.Items[0].Id != p.id || l.Items[0].RuntimeHandler != n.handler {
		t.Errorf("list: %v, %v", l, err)
	}
	for range 2 {
		p.remove(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = p.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	equal(t, "code of a removed pod's status", status.Code(err), codes.NotFound)
	// The same name may be used again.
	cfg.Metadata.Attempt = 1
	n.run(t, cfg)
}
