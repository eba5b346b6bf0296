package podconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// read is the pod of a configuration as CRI's own package writes it, on a host with hosts and resolv.conf.
func read(t *testing.T, c *cri.PodSandboxConfig) (*Pod, string) {
	t.Helper()
	b, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"hosts": "127.0.0.1 localhost\n", "resolv.conf": "nameserver 9.9.9.9\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Read(Request{ID: "id", Bundle: filepath.Join(dir, "bundle"), Netns: "/run/netns/n", Options: &anypb.Any{
		TypeUrl: "runtime.v1.PodSandboxConfig", Value: b}}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p, filepath.Join(dir, "bundle")
}

func TestAPodsConfigurationBecomesItsSpecification(t *testing.T) {
	p, bundle := read(t, &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "n", Uid: "u", Namespace: "ns"}, Hostname: "host",
		LogDirectory: "/var/log/pods/x", Annotations: map[string]string{"a": "b", idKey: "lies", memoryKey: "9"},
		DnsConfig: &cri.DNSConfig{Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"x", "y"},
			Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/kubepods.slice/kubepods-pod1.slice",
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				Pid: cri.NamespaceMode_CONTAINER}}},
	})
	for key, want := range map[string]string{"a": "b", kindKey: "sandbox", idKey: "id", namespaceKey: "ns", uidKey: "u",
		nameKey: "n", logKey: "/var/log/pods/x", memoryKey: ""} {
		if got := p.Spec.Annotations[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if p.Spec.Hostname != "host" || p.Spec.Linux.CgroupsPath != "kubepods-pod1.slice:cri-containerd:id" ||
		len(p.Spec.Linux.Namespaces) != 1 || p.Spec.Linux.Namespaces[0].Path != "/run/netns/n" {
		t.Errorf("%+v, %+v", p, p.Spec.Linux)
	}
	for name, want := range map[string]string{"hostname": "host\n", "hosts": "127.0.0.1 localhost\n",
		"resolv.conf": "search x y\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n"} {
		if b, err := os.ReadFile(filepath.Join(bundle, "etc", name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestWhatCRILeavesOutIsAsContainerdHasIt(t *testing.T) {
	p, bundle := read(t, &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/kubepods/pod1",
		SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
			Network: cri.NamespaceMode_NODE, UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD}}},
		Resources: &cri.LinuxContainerResources{CpuQuota: 1, MemoryLimitInBytes: 2}}})
	b, err := os.ReadFile(filepath.Join(bundle, "etc/resolv.conf"))
	if err != nil || string(b) != "nameserver 9.9.9.9\n" {
		t.Errorf("resolv.conf: %q, %v", b, err)
	}
	if len(p.Spec.Linux.Namespaces) != 0 || p.Spec.Linux.CgroupsPath != "/kubepods/pod1/id" ||
		p.Spec.Annotations[quotaKey] != "1" || p.Spec.Annotations[memoryKey] != "2" {
		t.Errorf("%+v, %+v", p.Spec, p.Spec.Linux)
	}
	s := &specs.Spec{Root: &specs.Root{Readonly: true}, Linux: &specs.Linux{
		UIDMappings: []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}},
		Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"},
			{Destination: "/etc/hosts/", Type: "bind", Source: "/var/lib/kubelet/etc-hosts"}}}
	p.Complete(s, true)
	if got := s.Linux.Sysctl; len(got) != 1 || got["net.ipv4.ip_unprivileged_port_start"] != "0" {
		t.Errorf("sysctls of a pod with users of its own: %v", got)
	}
	if s.Mounts[0].Type != "bind" || len(s.Mounts) != 3 || s.Mounts[2].Destination != "/etc/resolv.conf" ||
		s.Mounts[2].Options[2] != "ro" || len(s.Mounts[2].UIDMappings) != 1 {
		t.Errorf("%+v", s.Mounts)
	}
}

func TestOtherOptionsAreRefusedByName(t *testing.T) {
	_, err := Read(Request{ID: "id", Bundle: t.TempDir(), Options: &anypb.Any{TypeUrl: "other.Config"}}, "/etc")
	if err == nil || !strings.Contains(err.Error(), "other.Config") {
		t.Error(err)
	}
	_, err = Read(Request{ID: "id", Bundle: t.TempDir(), Options: &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig",
		Value: []byte{1}}}, "/etc")
	if err == nil || !strings.Contains(err.Error(), "configuration of the sandbox") {
		t.Error(err)
	}
	if p, err := Read(Request{ID: "id", Bundle: t.TempDir(), Netns: "/n"}, "/etc"); err != nil || len(p.files) == 0 {
		t.Errorf("%+v, %v", p, err) // whoever is not CRI
	}
}

func TestTheOptionsOfTheRuntimeAreFound(t *testing.T) {
	pack := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	options := &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: pack(&runtimeoptions.Options{ConfigPath: "/c"})}
	all := &bootstrap.BootstrapParams{InstanceID: "id", Namespace: "k8s.io", ContainerdVersion: "2.4.2",
		Extensions: []*bootstrap.Extension{{Value: &anypb.Any{TypeUrl: "other"}}, {Value: options}}}
	for what, input := range map[string][]byte{"2.3": pack(options), "2.4": pack(all)} {
		if got := RuntimeOptions(input, "v1.Options"); !proto.Equal(got, options) {
			t.Errorf("containerd %s: %v", what, got)
		}
	}
	for what, input := range map[string][]byte{"nothing": nil, "no message": {0xff}, "none of it": pack(
		&bootstrap.BootstrapParams{InstanceID: "id"})} {
		if got := RuntimeOptions(input, "v1.Options"); got != nil {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// What containerd writes is trusted; that it is read without a panic is not.
func FuzzRuntimeOptions(f *testing.F) {
	f.Add([]byte("\x0a\x19runtimeoptions.v1.Options\x12\x04\x12\x02/c"))
	f.Add([]byte("\x0a\x02id\x42\x1d\x0a\x1b\x0a\x19runtimeoptions.v1.Options"))
	f.Fuzz(func(t *testing.T, b []byte) { RuntimeOptions(b, "v1.Options") })
}
