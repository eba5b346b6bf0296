// Package policytest has pods with their policies, the requests that an agent gets of them, and changed ones, for tests
// of what reads policies.
//
// The containers' specifications in testdata are those that containerd 2.4.2 wrote for kubelet 1.37.2, for the pods of
// pods.yaml; runtime/translate makes requests of them. What the generator makes of that file lies beside them. This
// package does not know it, so that an agent's tests need nothing of what it needs.
package policytest

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
)

//go:embed testdata
var files embed.FS

// Request is a call of the guest API.
type Request struct {
	Name    string // what it is about
	Call    string
	Message proto.Message
}

// YAML is the text of the pods.
func YAML(t testing.TB) []byte { return read(t, "pods.yaml") }

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := files.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Policy is the policy of a pod, by its name, as the generator writes it: web, plain or host. kind is policy, for the
// agent's own language, or rego.
func Policy(t testing.TB, pod, kind string) string { return string(read(t, pod+"."+kind)) }

// host answers for the node on which the specifications were made.
type host struct{}

// DirectVolume implements translate.Host.
func (host) DirectVolume(string) (*directvolume.Info, error) { return nil, directvolume.ErrNone }

func (host) Stat(path string) (translate.File, error) {
	f := translate.File{Mode: unix.S_IFREG | 0o644, Dev: 1, Node: uint64(len(path))}
	switch {
	case strings.HasPrefix(path, "/dev/"):
		f.Mode = unix.S_IFBLK
	case strings.Contains(path, "/volumes/"), path == "/opt/data":
		f.Mode, f.GID = unix.S_IFDIR|0o2777, 3000
	}
	return f, nil
}

func (host) Tmpfs(path string) (uint64, bool) { return 16 << 20, strings.HasSuffix(path, "/memory") }

func (host) MountsBelow(string) (bool, error) { return false, nil }

func (host) DeviceName(kind string, major, minor int64) (string, error) {
	for name, at := range map[string][2]int64{"null": {1, 3}, "fuse": {10, 229}, "kvm": {10, 232}} {
		if kind == "char" && at == [2]int64{major, minor} {
			return name, nil
		}
	}
	return "", fs.ErrNotExist
}

func (host) Read(string, int64) ([]byte, error) { return nil, fs.ErrNotExist }

// id is a container's, made of its name.
func id(name string) string { return fmt.Sprintf("%064x", name)[:64] }

// specification reads one of testdata.
func specification(t testing.TB, name string) *specs.Spec {
	t.Helper()
	var s specs.Spec
	if err := json.Unmarshal(read(t, name+".json"), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// createOf is the request for a container, such as web-server, in a pod that shares a folder with its guest, or not.
func createOf(t testing.TB, name string, shared bool) *katapb.CreateContainerRequest {
	t.Helper()
	spec := specification(t, name)
	c := translate.Container{ID: id(name), Spec: spec, Bundle: "/bundle"}
	if !shared {
		c.Rootfs = []share.Mount{{Type: "ext4", Source: "/dev/mapper/root", Options: []string{"rw"}}}
	}
	plan, err := translate.Translate(translate.Pod{Shared: shared, Seccomp: true, GuestDevices: true}, host{}, c)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, b := range plan.Binds {
		plan.Bound(b, c.ID+"-0a1b2c3d-"+filepath.Base(b.Source), false)
	}
	plan.Rooted(plan.Roots[0], make([]string, len(plan.Roots[0].Disks)))
	wire, err := oci.ToWire(plan.Spec)
	if err != nil {
		t.Fatal(err)
	}
	req := &katapb.CreateContainerRequest{ContainerId: c.ID, ExecId: c.ID, OCI: wire, Storages: plan.Storages,
		Devices: plan.Devices, StdoutPort: 4001, StderrPort: 4002}
	for _, n := range spec.Linux.Namespaces {
		req.SandboxPidns = req.SandboxPidns || n.Type == specs.PIDNamespace && n.Path != ""
	}
	if name == "web-free" {
		req.StdinPort = 4003
	}
	return req
}

// sandboxOf is the request for the sandbox of a pod.
func sandboxOf(t testing.TB, pod string) *katapb.CreateSandboxRequest {
	t.Helper()
	return &katapb.CreateSandboxRequest{SandboxId: id(pod + "-pause"),
		Hostname: specification(t, pod+"-pause").Hostname, Dns: []string{"nameserver 10.99.0.10"},
		Storages: []*katapb.Storage{
			{Driver: "virtio-fs", Source: share.Tag, Fstype: "virtiofs", MountPoint: share.GuestDir + "/",
				Shared: true},
			{Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: translate.Shm, Shared: true,
				Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"}},
		}}
}

// execOf is the request for a command in the container server of the pod web: post-start, probe or pre-stop.
func execOf(t testing.TB, name string) *katapb.ExecProcessRequest {
	t.Helper()
	var p specs.Process
	if err := json.Unmarshal(read(t, "web-server-"+name+".json"), &p); err != nil {
		t.Fatal(err)
	}
	return &katapb.ExecProcessRequest{ContainerId: id("web-server"), ExecId: id(name), Process: oci.ProcessToWire(&p),
		StdoutPort: 4004, StderrPort: 4005}
}

// Allowed are the requests that a pod's policy has to allow, by its name.
func Allowed(t testing.TB) map[string][]Request {
	t.Helper()
	out := map[string][]Request{}
	for pod, containers := range map[string][]string{"web": {"pause", "prepare", "server", "free", "imaged"},
		"plain": {"pause", "one", "two"}, "host": {"pause", "one"}} {
		list := []Request{{"the sandbox", "CreateSandbox", sandboxOf(t, pod)}}
		for _, c := range containers {
			name := pod + "-" + c
			list = append(list, Request{name + ", shared", "CreateContainer", createOf(t, name, true)},
				Request{name + ", on a disk", "CreateContainer", createOf(t, name, false)})
		}
		out[pod] = append(list, life()...)
	}
	for _, name := range []string{"post-start", "probe", "pre-stop"} {
		out["web"] = append(out["web"], Request{name, "ExecProcess", execOf(t, name)})
	}
	report := execOf(t, "probe")
	report.Process.Args = []string{"toolbox", "report"}
	out["web"] = append(out["web"], Request{"a command of the settings", "ExecProcess", report})
	return out
}

// life are requests that every pod's life has.
func life() []Request {
	c := id("web-server")
	return []Request{
		{"start", "StartContainer", &katapb.StartContainerRequest{ContainerId: c}},
		{"a signal", "SignalProcess", &katapb.SignalProcessRequest{ContainerId: c, Signal: 15}},
		{"waiting", "WaitProcess", &katapb.WaitProcessRequest{ContainerId: c}},
		{"output", "ReadStdout", &katapb.ReadStreamRequest{ContainerId: c, Len: 100}},
		{"limits", "UpdateContainer", &katapb.UpdateContainerRequest{ContainerId: c,
			Resources: &katapb.LinuxResources{Memory: &katapb.LinuxMemory{Limit: 1 << 20}}}},
		{"an interface", "UpdateInterface", &katapb.UpdateInterfaceRequest{Interface: &katapb.Interface{Name: "eth0",
			Device: "eth0", HwAddr: "02:00:00:00:00:01"}}},
		{"routes", "UpdateRoutes", &katapb.UpdateRoutesRequest{Routes: &katapb.Routes{Routes: []*katapb.Route{
			{Dest: "0.0.0.0/0", Gateway: "10.88.16.1", Device: "eth0"},
			{Dest: "10.88.16.0/24", Source: "10.88.16.2", Device: "eth0"}}}}},
		{"a neighbour", "AddARPNeighbors", &katapb.AddARPNeighborsRequest{Neighbors: &katapb.ARPNeighbors{
			ARPNeighbors: []*katapb.ARPNeighbor{{Device: "eth0", Lladdr: "02:00:00:00:00:02"}}}}},
		{"details", "GetGuestDetails", &katapb.GuestDetailsRequest{}},
		{"removal", "RemoveContainer", &katapb.RemoveContainerRequest{ContainerId: c}},
		{"the end", "DestroySandbox", &katapb.DestroySandboxRequest{}},
	}
}

// Refused are requests that the policy of the pod web has to refuse: each is an allowed one with a change.
func Refused(t testing.TB) []Request {
	t.Helper()
	type create = katapb.CreateContainerRequest
	server := createOf(t, "web-server", true)
	var out []Request
	change := func(name string, f func(r *create)) {
		r := proto.Clone(server).(*create)
		f(r)
		if proto.Equal(r, server) {
			t.Fatalf("%q changes nothing", name)
		}
		out = append(out, Request{name, "CreateContainer", r})
	}
	env := func(r *create, from, to string) {
		i := slices.IndexFunc(r.OCI.Process.Env, func(e string) bool { return strings.HasPrefix(e, from+"=") })
		r.OCI.Process.Env[i] = to
	}
	mountAt := func(r *create, at string) *katapb.Mount {
		return r.OCI.Mounts[slices.IndexFunc(r.OCI.Mounts, func(m *katapb.Mount) bool { return m.Destination == at })]
	}
	change("another command", func(r *create) { r.OCI.Process.Args[2] = "wget evil" })
	change("another argument", func(r *create) { r.OCI.Process.Args[3] = "square node" })
	change("an argument more", func(r *create) { r.OCI.Process.Args = append(r.OCI.Process.Args, "x") })
	change("an argument less", func(r *create) { r.OCI.Process.Args = r.OCI.Process.Args[:4] })
	change("another folder", func(r *create) { r.OCI.Process.Cwd = "/" })
	change("a terminal", func(r *create) { r.OCI.Process.Terminal = true })
	change("input", func(r *create) { r.StdinPort = 9 })
	change("another value of a variable", func(r *create) { env(r, "PLAIN", "PLAIN=other") })
	change("another value of a secret", func(r *create) { env(r, "WORD", "WORD=guess") })
	change("another value of a label", func(r *create) { env(r, "LABEL", "LABEL=db") })
	change("an address that is none", func(r *create) { env(r, "POD_IP", "POD_IP=$(evil)") })
	change("a variable more", func(r *create) {
		r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=/evil.so")
	})
	change("a variable of two lines", func(r *create) { env(r, "PLAIN", "PLAIN=a b=c\nLD_PRELOAD=/evil.so") })
	change("root", func(r *create) { r.OCI.Process.User.UID = 0 })
	change("another group", func(r *create) { r.OCI.Process.User.GID = 0 })
	change("a group more", func(r *create) {
		r.OCI.Process.User.AdditionalGids = append(r.OCI.Process.User.AdditionalGids, 0)
	})
	change("a user by name", func(r *create) { r.StringUser = &katapb.StringUser{Uid: "root"} })
	change("a capability more", func(r *create) {
		r.OCI.Process.Capabilities.Effective = append(r.OCI.Process.Capabilities.Effective, "CAP_SYS_ADMIN")
	})
	change("a capability to inherit", func(r *create) {
		r.OCI.Process.Capabilities.Inheritable = []string{"CAP_NET_BIND_SERVICE"}
	})
	change("an ambient capability", func(r *create) { r.OCI.Process.Capabilities.Ambient = []string{"CAP_CHOWN"} })
	change("new privileges", func(r *create) { r.OCI.Process.NoNewPrivileges = false })
	change("a limit of the process", func(r *create) {
		r.OCI.Process.Rlimits = []*katapb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1, Soft: 1}}
	})
	change("a label of SELinux", func(r *create) { r.OCI.Process.SelinuxLabel = "spc_t" })
	change("a profile of AppArmor", func(r *create) { r.OCI.Process.ApparmorProfile = "unconfined" })
	change("a root that can be written to", func(r *create) { r.OCI.Root.Readonly = false })
	change("a root elsewhere", func(r *create) { r.OCI.Root.Path = "/" })
	change("a root outside of its folder", func(r *create) {
		r.OCI.Root.Path = share.GuestDir + "/../../../rootfs"
	})
	change("a root of a disk at another place", func(r *create) {
		r.Storages = append(r.Storages, &katapb.Storage{Driver: "blk", Source: "02/00", Fstype: "ext4",
			MountPoint: "/usr", Options: []string{"rw"}})
	})
	change("a mount more", func(r *create) {
		r.OCI.Mounts = append(r.OCI.Mounts, &katapb.Mount{Destination: "/bin", Type: "bind",
			Source: share.GuestDir + "/x-0a1b2c3d-bin", Options: []string{"rbind"}})
	})
	change("another place of a mount", func(r *create) { mountAt(r, "/secret").Destination = "/bin" })
	change("another source of a mount", func(r *create) {
		mountAt(r, "/secret").Source = strings.TrimSuffix(mountAt(r, "/secret").Source, "secret") + "other"
	})
	change("a source of the guest's own", func(r *create) { mountAt(r, "/hostdir").Source = "/etc" })
	change("a source outside of the folder", func(r *create) {
		mountAt(r, "/disk").Source = share.GuestDir + "/x/../../x-0a1b2c3d-disk"
	})
	change("a mount that can be written to", func(r *create) {
		mountAt(r, "/secret").Options = []string{"rbind", "rprivate", "rw"}
	})
	change("an option of a mount", func(r *create) {
		mountAt(r, "/sys/fs/cgroup").Options = append(mountAt(r, "/sys/fs/cgroup").Options, "exec")
	})
	change("another kind of a mount", func(r *create) { mountAt(r, "/proc").Type = "tmpfs" })
	change("another storage", func(r *create) { r.Storages[0].Fstype = "ext4" })
	change("another driver of a storage", func(r *create) { r.Storages[0].Driver = "scsi" })
	change("a mount of another container", func(r *create) {
		r.SharedMounts = []*katapb.SharedMount{{Name: "x", SrcCtr: "a", DstCtr: "b", SrcPath: "/", DstPath: "/"}}
	})
	change("a disk", func(r *create) {
		r.Devices = append(r.Devices, &katapb.Device{Type: "blk", ContainerPath: "/dev/x"})
	})
	change("a device", func(r *create) {
		r.OCI.Linux.Devices = append(r.OCI.Linux.Devices, &katapb.LinuxDevice{Path: "/dev/mem", Type: "c", Major: 1,
			Minor: 1})
	})
	change("the right to devices", func(r *create) {
		r.OCI.Linux.Resources.Devices = []*katapb.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
	})
	change("a namespace of another process", func(r *create) { r.OCI.Linux.Namespaces[0].Path = "/proc/1/ns/ipc" })
	change("a network namespace", func(r *create) {
		r.OCI.Linux.Namespaces = append(r.OCI.Linux.Namespaces, &katapb.LinuxNamespace{Type: "network"})
	})
	change("the processes of the pod", func(r *create) { r.SandboxPidns = true })
	change("a sysctl", func(r *create) { r.OCI.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/evil"} })
	change("no seccomp profile", func(r *create) { r.OCI.Linux.Seccomp = nil })
	change("a seccomp profile that allows", func(r *create) { r.OCI.Linux.Seccomp.DefaultAction = "SCMP_ACT_ALLOW" })
	change("a cgroup", func(r *create) { r.OCI.Linux.CgroupsPath = "/" })
	change("users of a namespace", func(r *create) {
		r.OCI.Linux.UIDMappings = []*katapb.LinuxIDMapping{{Size: 1}}
	})
	change("a hook", func(r *create) {
		r.OCI.Hooks = &katapb.Hooks{CreateContainer: []*katapb.Hook{{Path: "/bin/sh"}}}
	})
	change("another image", func(r *create) {
		r.OCI.Annotations["io.kubernetes.cri.image-name"] = "registry.test/evil:1"
	})
	change("another name", func(r *create) { r.OCI.Annotations["io.kubernetes.cri.container-name"] = "imaged" })
	change("another namespace's pod", func(r *create) {
		r.OCI.Annotations["io.kubernetes.cri.sandbox-namespace"] = "Kube System"
	})
	change("an annotation more", func(r *create) { r.OCI.Annotations["io.katabuild.pid-of"] = "other" })
	change("what the API has no field for", func(r *create) {
		r.OCI.Annotations["io.katabuild.oci-extra"] = `{"umask":0}`
	})
	change("the container as privileged as another", func(r *create) {
		r.OCI.Process.Capabilities = createOf(t, "web-free", true).OCI.Process.Capabilities
	})
	change("a host name", func(r *create) { r.OCI.Hostname = "other" })
	return append(out, refusedCalls(t)...)
}

// refusedCalls are changed requests for other things than containers.
func refusedCalls(t testing.TB) (out []Request) {
	exec := func(name string, f func(r *katapb.ExecProcessRequest)) {
		r := execOf(t, "probe")
		f(r)
		out = append(out, Request{name, "ExecProcess", r})
	}
	exec("another command is run", func(r *katapb.ExecProcessRequest) { r.Process.Args = []string{"sh"} })
	exec("a command with more words", func(r *katapb.ExecProcessRequest) {
		r.Process.Args = append(r.Process.Args, "-o", "-e", "/")
	})
	exec("a command in one word", func(r *katapb.ExecProcessRequest) {
		r.Process.Args = []string{"test -e /disk"}
	})
	exec("a command with a terminal", func(r *katapb.ExecProcessRequest) { r.Process.Terminal = true })
	exec("a command with input", func(r *katapb.ExecProcessRequest) { r.StdinPort = 4 })
	exec("a command as root", func(r *katapb.ExecProcessRequest) { r.Process.User.UID = 0 })
	exec("a command as a user by name", func(r *katapb.ExecProcessRequest) {
		r.StringUser = &katapb.StringUser{Uid: "root"}
	})
	exec("a command with more rights", func(r *katapb.ExecProcessRequest) {
		r.Process.Capabilities.Bounding = append(r.Process.Capabilities.Bounding, "CAP_SYS_PTRACE")
	})
	exec("a command elsewhere", func(r *katapb.ExecProcessRequest) { r.Process.Cwd = "/" })
	exec("a command with a variable", func(r *katapb.ExecProcessRequest) {
		r.Process.Env = append(r.Process.Env, "LD_PRELOAD=/evil.so")
	})
	exec("a command with new privileges", func(r *katapb.ExecProcessRequest) { r.Process.NoNewPrivileges = false })
	sandbox := func(name string, f func(r *katapb.CreateSandboxRequest)) {
		r := sandboxOf(t, "web")
		f(r)
		out = append(out, Request{name, "CreateSandbox", r})
	}
	sandbox("a sandbox of another name", func(r *katapb.CreateSandboxRequest) { r.Hostname = "other" })
	sandbox("a sandbox with one PID namespace", func(r *katapb.CreateSandboxRequest) { r.SandboxPidns = true })
	sandbox("a sandbox with hooks", func(r *katapb.CreateSandboxRequest) { r.GuestHookPath = "/hooks" })
	sandbox("a sandbox with a module", func(r *katapb.CreateSandboxRequest) {
		r.KernelModules = []*katapb.KernelModule{{Name: "dummy"}}
	})
	sandbox("a sandbox with a storage", func(r *katapb.CreateSandboxRequest) {
		r.Storages = append(r.Storages, &katapb.Storage{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs",
			MountPoint: "/etc"})
	})
	pause := createOf(t, "web-pause", true)
	pause.OCI.Process.Args = []string{"/bin/sh"}
	route := func(r *katapb.Route) *katapb.UpdateRoutesRequest {
		return &katapb.UpdateRoutesRequest{Routes: &katapb.Routes{Routes: []*katapb.Route{
			{Dest: "0.0.0.0/0", Gateway: "10.88.16.1", Device: "eth0"}, r}}}
	}
	c := id("web-server")
	return append(out, Request{"another first container", "CreateContainer", pause},
		Request{"the loopback", "UpdateInterface", &katapb.UpdateInterfaceRequest{Interface: &katapb.Interface{
			Name: "lo"}}},
		Request{"a route by the loopback", "UpdateRoutes", route(&katapb.Route{Dest: "10.0.0.1/32", Device: "lo"})},
		Request{"a route from the loopback", "UpdateRoutes", route(&katapb.Route{Device: "eth0",
			Source: "127.0.0.1"})},
		Request{"a route from the loopback of IPv6", "UpdateRoutes", route(&katapb.Route{Device: "eth0",
			Source: "::1"})},
		Request{"a neighbour on the loopback", "AddARPNeighbors", &katapb.AddARPNeighborsRequest{
			Neighbors: &katapb.ARPNeighbors{ARPNeighbors: []*katapb.ARPNeighbor{{Device: "lo"}}}}},
		Request{"another policy", "SetPolicy", &katapb.SetPolicyRequest{Policy: "package agent_policy"}},
		Request{"a clock", "SetGuestDateTime", &katapb.SetGuestDateTimeRequest{Sec: 1}},
		Request{"packet filters", "SetIPTables", &katapb.SetIPTablesRequest{Data: []byte("x")}},
		Request{"devices of limits", "UpdateContainer", &katapb.UpdateContainerRequest{ContainerId: c,
			Resources: &katapb.LinuxResources{Devices: []*katapb.LinuxDeviceCgroup{{Allow: true, Type: "a"}}}}})
}
