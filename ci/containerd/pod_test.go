package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
)

// patience is for what an emulated machine must do first.
const patience = 2 * time.Minute

// node is a kubelet's view of a containerd.
type node struct {
	*setting
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
}

func newNode(t *testing.T, s *setting) *node {
	t.Helper()
	n := &node{s, cri.NewRuntimeServiceClient(s.Conn), cri.NewImageServiceClient(s.Conn)}
	for _, i := range []string{image.Pause, image.Tools, image.User} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := n.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: i}})
		cancel()
		if err != nil {
			t.Fatalf("pull %s: %v", i, err)
		}
	}
	return n
}

// pod is a running sandbox.
type pod struct {
	*node
	id     string
	config *cri.PodSandboxConfig
	serial int
}

// podConfig is a pod of a name, as kubelet asks for one.
func (n *node) podConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname:     name,
		LogDirectory: filepath.Join(n.dir, "logs", name),
		Labels:       map[string]string{"pod": name},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + nest.Name(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
}

// run starts a pod, which ends with the test.
func (n *node) run(t *testing.T, cfg *cri.PodSandboxConfig) *pod {
	t.Helper()
	if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := n.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: cfg, RuntimeHandler: n.handler})
	if err != nil {
		t.Fatalf("run pod %s: %v", cfg.Metadata.Name, err)
	}
	p := &pod{node: n, id: r.PodSandboxId, config: cfg}
	t.Cleanup(func() { p.remove(t) })
	return p
}

// remove stops and removes the pod, as kubelet does: it may be called twice.
func (p *pod) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// containerd 1.6 does not know how to stop what was removed; kubelet takes that for success.
	if _, err := p.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil &&
		status.Code(err) != codes.NotFound {
		t.Errorf("stop pod: %v", err)
	}
	if _, err := p.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Errorf("remove pod: %v", err)
	}
}

// container is a container of a pod.
type container struct {
	*pod
	id  string
	log string // file
}

// try creates a container that runs args in Tools unless change says otherwise.
func (p *pod) try(t *testing.T, change func(*cri.ContainerConfig), args ...string) (*container, error) {
	t.Helper()
	p.serial++
	name := fmt.Sprintf("c%d", p.serial)
	cfg := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: image.Tools},
		Command:  args,
		LogPath:  name + ".log",
		Labels:   map[string]string{"container": name},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				// What kubelet sends for a container that asks for nothing.
				MaskedPaths:   []string{"/proc/kcore", "/proc/timer_list", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	if change != nil {
		change(cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := p.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: cfg,
		SandboxConfig: p.config})
	if err != nil {
		return nil, err
	}
	c := &container{p, r.ContainerId, filepath.Join(p.config.LogDirectory, cfg.LogPath)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := p.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("remove container: %v", err)
		}
	})
	_, err = p.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.id})
	return c, err
}

// start starts a container that must start.
func (p *pod) start(t *testing.T, change func(*cri.ContainerConfig), args ...string) *container {
	t.Helper()
	c, err := p.try(t, change, args...)
	if err != nil {
		t.Fatalf("start %q: %v", args, err)
	}
	return c
}

func (c *container) status(t *testing.T) *cri.ContainerStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		t.Fatalf("status of container: %v", err)
	}
	return r.Status
}

// wait waits until the container has ended.
func (c *container) wait(t *testing.T) *cri.ContainerStatus {
	t.Helper()
	var s *cri.ContainerStatus
	until(t, patience, "the end of container "+c.id, func() bool {
		s = c.status(t)
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

func (c *container) stop(t *testing.T, grace int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: grace}); err != nil {
		t.Fatalf("stop container: %v", err)
	}
}

// logLine is a line of a container's log: time, stream, whether the line is whole, and the text.
// Kubernetes: the CRI logging format of KEP "kubelet CRI logging".
var logLine = regexp.MustCompile(
	`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP]) (.*)$`)

// logs reads what the container wrote to each stream. A line that breaks the format fails the test.
func (c *container) logs(t *testing.T) (stdout, stderr string) {
	t.Helper()
	b, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for l := range strings.Lines(string(b)) {
		m := logLine.FindStringSubmatch(strings.TrimSuffix(l, "\n"))
		if m == nil {
			t.Fatalf("log line %q is not TIME STREAM TAG TEXT", l)
		}
		if _, err := time.Parse(time.RFC3339Nano, m[1]); err != nil {
			t.Error(err)
		}
		text[m[2]] += m[4]
		if m[3] == "F" {
			text[m[2]] += "\n"
		}
	}
	return text["stdout"], text["stderr"]
}

// output runs a command in a container of its own to its end, which must be 0, and returns its standard output.
func (p *pod) output(t *testing.T, change func(*cri.ContainerConfig), args ...string) string {
	t.Helper()
	c := p.start(t, change, args...)
	s := c.wait(t)
	out, errs := c.logs(t)
	if s.ExitCode != 0 {
		t.Fatalf("%q ended with %d (%s): %s%s", args, s.ExitCode, s.Message, out, errs)
	}
	return out
}

// result is what a command in a container said.
type result struct {
	out, err string
	code     int32
}

func (c *container) exec(t *testing.T, args ...string) result {
	t.Helper()
	r, err := c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: args,
		Timeout: int64(patience / time.Second)})
	if err != nil {
		t.Fatalf("exec %q: %v", args, err)
	}
	return result{string(r.Stdout), string(r.Stderr), r.ExitCode}
}

// said is the standard output of a shell line that must end with 0.
func (c *container) said(t *testing.T, line string) string {
	t.Helper()
	r := c.exec(t, "sh", "-c", line)
	if r.code != 0 {
		t.Fatalf("%q ended with %d: %s%s", line, r.code, r.out, r.err)
	}
	return strings.TrimSpace(r.out)
}

// self mirrors what the toolbox prints.
type self struct {
	PID, UID, GID int
	Groups        []int
	Cwd, Hostname string
	Args, Env     []string
	Status        map[string]string
	Limits        map[string]string
	Mounts        map[string]string
	Release       string
}

func parse(t *testing.T, text string) self {
	t.Helper()
	var s self
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return s
}

// self is what a container's process sees of itself.
func (p *pod) self(t *testing.T, change func(*cri.ContainerConfig)) self {
	t.Helper()
	return parse(t, p.output(t, change, "toolbox", "self"))
}

// security changes the security context.
func security(f func(*cri.LinuxContainerSecurityContext)) func(*cri.ContainerConfig) {
	return func(c *cri.ContainerConfig) { f(c.Linux.SecurityContext) }
}

// resources sets limits.
func resources(r *cri.LinuxContainerResources) func(*cri.ContainerConfig) {
	return func(c *cri.ContainerConfig) { c.Linux.Resources = r }
}
