package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/image"
)

// checkDeaf stops a container whose first process does not handle SIGTERM, and so does not hear it: it ends by itself
// within the grace period.
func checkDeaf(t *testing.T, p *pod) {
	c := p.start(t, nil, "sh", "-c", "sleep 4; exit 5")
	c.stop(t, 90)
	equal(t, "exit code of one that ends by itself", c.wait(t).ExitCode, 5)
}

func checkTarget(t *testing.T, p *pod) {
	target := p.start(t, nil, "toolbox", "serve", ":8001", "target")
	p.start(t, nil, "toolbox", "serve", ":8002", "other")
	ps := p.output(t, security(func(c *cri.LinuxContainerSecurityContext) {
		c.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: target.id}
	}), "ps")
	if !strings.Contains(ps, "serve :8001") || strings.Contains(ps, "serve :8002") {
		t.Errorf("a container that shares its target's processes sees %s", ps)
	}
}

func checkBelow(t *testing.T, p *pod) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/below", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir+"/below", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	recursive := p.Release.Two()
	if recursive {
		s, err := p.RuntimeServiceClient.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		recursive = slices.ContainsFunc(s.RuntimeHandlers, func(h *cri.RuntimeHandler) bool {
			return h.Name == p.handler && h.Features.GetRecursiveReadOnlyMounts()
		})
		equal(t, "recursive read-only mounts are told", recursive, true)
	}
	c := p.start(t, func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/ro", Readonly: true},
			{HostPath: "/dev/null", ContainerPath: "/etc/nothing"}}
		if recursive {
			c.Mounts = append(c.Mounts, &cri.Mount{HostPath: dir, ContainerPath: "/rro", Readonly: true,
				RecursiveReadOnly: true})
		}
	}, "toolbox", "pause")
	refused := func(file string) bool {
		r := c.exec(t, "sh", "-c", "echo x >"+file)
		return r.code != 0 && strings.Contains(r.err, "Read-only")
	}
	equal(t, "a write to a read-only mount is refused", refused("/ro/x"), true)
	equal(t, "a write to what is mounted below it is refused", refused("/ro/below/x"), false)
	if recursive {
		equal(t, "a write to a read-only mount is refused", refused("/rro/x"), true)
		equal(t, "a write to what is mounted below it is refused", refused("/rro/below/y"), true)
	}
	if _, err := os.Stat(dir + "/below/x"); err != nil {
		t.Error(err)
	}
	equal(t, "a device of the host's is the guest's", c.said(t, "test -c /etc/nothing && cat /etc/nothing | wc -c"),
		"0")
}

// checkHostNetwork asks for the network of the nest, which is the host of its containerd.
func checkHostNetwork(t *testing.T, n *node) {
	if !n.guest() {
		return
	}
	cfg := n.podConfig("host")
	cfg.Hostname = ""
	cfg.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := n.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: cfg, RuntimeHandler: n.handler})
	if err == nil {
		t.Error("a pod has the host's network")
		(&pod{node: n, id: r.PodSandboxId, config: cfg}).remove(t)
	} else if !strings.Contains(err.Error(), "the host's network is asked for") {
		t.Error(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		queues, err := netlink.QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(l.Attrs().Name, "kbtap") || slices.ContainsFunc(queues,
			func(q netlink.Qdisc) bool { return q.Type() == "ingress" }) {
			t.Errorf("the host's interface %s was changed", l.Attrs().Name)
		}
	}
}

// taskCannot has containers that fail at each stage of their making. None may leave a machine.
func taskCannot(t *testing.T, c *client) {
	file := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(file, []byte("\x00\x01garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	for what, k := range map[string]struct {
		change func(*specs.Spec)
		want   string
	}{
		"a program that is not there": {func(s *specs.Spec) { s.Process.Args = []string{"nosuch"} }, "nosuch"},
		"a mount that is not there": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/folder",
				Options: []string{"rbind"}})
		}, "/no/such/folder"},
		"a hook that fails": {func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		}, "hook"},
		"a file that is no program": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/garbage", Type: "bind", Source: file,
				Options: []string{"rbind", "ro"}})
			s.Process.Args = []string{"/garbage"}
		}, "exec format error"},
	} {
		id := c.id()
		r := c.ctr(t, nil, c.changed(t, id, k.change)...)
		if r.code == 0 || !strings.Contains(r.err, k.want) {
			t.Errorf("%s: ended with %d: %s", what, r.code, r.err)
		}
		if c.guest() {
			if list := processes("qemu-system-x86_64", id); len(list) > 0 {
				t.Errorf("%s: the machine is left: %v", what, list)
			}
		}
		// runc too leaves a task that was made and could not be started, as one that has ended.
		_ = c.ctr(t, nil, "task", "delete", id)
		_ = c.ctr(t, nil, "container", "delete", id)
		if slices.Contains(strings.Fields(c.ctr(t, nil, "task", "list", "-q").out), id) {
			t.Errorf("%s: the task cannot be deleted", what)
		}
	}
}

// taskHook has a hook that makes a container's network, as those of engines do: in the namespace of the process whose
// number it gets.
func taskHook(t *testing.T, c *client) {
	const script = `pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/')
ip link add kbhook type veth peer name eth0 netns $pid
nsenter --net=/proc/$pid/ns/net ip addr add 10.88.99.2/24 dev eth0
nsenter --net=/proc/$pid/ns/net ip link set eth0 up`
	before, err := exec.Command("ip", "-o", "addr").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := c.ctr(t, nil, c.changed(t, c.id(), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script},
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}}}
		s.Process.Args = []string{"/bin/busybox", "ip", "-o", "-4", "addr", "show", "dev", "eth0"}
	})...)
	if r.code != 0 || !strings.Contains(r.out, "10.88.99.2/24") {
		t.Errorf("what the hook made is not in the container: %+v", r)
	}
	until(t, patience, "the end of the namespace",
		func() bool { _, err := netlink.LinkByName("kbhook"); return err != nil })
	after, err := exec.Command("ip", "-o", "addr").Output()
	if err != nil || string(after) != string(before) {
		t.Errorf("the host had\n%s\nand has\n%s%v", before, after, err)
	}
}

// changed is the arguments of ctr run for a container whose specification is changed.
func (c *client) changed(t *testing.T, id string, change func(*specs.Spec)) []string {
	t.Helper()
	like := id + "-like"
	if r := c.ctr(t, nil, "container", "create", image.Tools, like, "true"); r.code != 0 {
		t.Fatal(r.err)
	}
	r := c.ctr(t, nil, "container", "info", "--spec", like)
	if d := c.ctr(t, nil, "container", "delete", like); r.code != 0 || d.code != 0 {
		t.Fatal(r.err, d.err)
	}
	var s specs.Spec
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(c.dir, "plain-root")
	if _, err := os.Stat(root); err != nil {
		box, err := os.ReadFile("/bin/busybox")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{"bin", "dev", "proc", "sys", "run", "tmp"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.WriteFile(root+"/bin/busybox", box, 0o755), os.Symlink("busybox", root+"/bin/sh"),
			os.Symlink("busybox", root+"/bin/true")); err != nil {
			t.Fatal(err)
		}
	}
	s.Root = &specs.Root{Path: root}
	s.Linux.CgroupsPath = "/" + c.namespace + "/" + id
	change(&s)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), id+".json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	all := []string{"run", "--rm", "--runtime", c.kind}
	if c.config != "" {
		all = append(all, "--runtime-config-path", c.config)
	}
	return append(all, "--config", file, id)
}
