package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Kind is what a container is for.
type Kind int

// The kinds.
const (
	kindSingle    Kind = iota // alone in its virtual machine
	kindSandbox               // the first of a pod
	kindContainer             // another one
)

// annotations are where those who ask for pods say what a container is: the key of the kind, the key of the pod's id,
// and the words. containerd's CRI plug-in, CRI-O and dockershim. Kata Containers looks for the same, in this order.
var annotations = []struct{ kind, sandboxID string }{
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"},
	{"io.kubernetes.docker.type", "io.kubernetes.sandbox.id"},
}

// kindOf reads a container's annotations. The second result is the id of the pod that a kindContainer belongs to.
func kindOf(a map[string]string) (Kind, string, error) {
	for _, k := range annotations {
		switch v, ok := a[k.kind]; {
		case !ok:
		case v == "sandbox", v == "podsandbox":
			return kindSandbox, "", nil
		case v == "container":
			id := a[k.sandboxID]
			if id == "" {
				return 0, "", fmt.Errorf("annotation %s says container, and %s does not say of which pod", k.kind,
					k.sandboxID)
			}
			return kindContainer, id, nil
		default:
			return 0, "", fmt.Errorf("annotation %s: want sandbox or container, got %q", k.kind, v)
		}
	}
	return kindSingle, "", nil
}

// What containerd's CRI plug-in and CRI-O say of all containers of a pod together.
const (
	annotationQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	annotationMemory = "io.kubernetes.cri.sandbox-memory"
)

// podSize is what the pod's containers may use together, as far as it is known before they are made.
func podSize(spec *specs.Spec, kind Kind) pod.Size {
	if kind == kindSingle {
		if spec.Linux == nil {
			return pod.Size{}
		}
		return pod.SizeOf(spec.Linux.Resources)
	}
	number := func(key string) *int64 {
		n, err := strconv.ParseInt(spec.Annotations[key], 10, 64)
		if err != nil {
			return nil
		}
		return &n
	}
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(annotationQuota)},
		Memory: &specs.LinuxMemory{Limit: number(annotationMemory)}}
	if n := number(annotationPeriod); n != nil && *n > 0 {
		period := uint64(*n)
		r.CPU.Period = &period
	}
	return pod.SizeOf(r)
}

// namespaceOf finds a namespace of a specification.
func namespaceOf(spec *specs.Spec, kind specs.LinuxNamespaceType) (path string, there bool) {
	if spec.Linux == nil {
		return "", false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == kind {
			return n.Path, true
		}
	}
	return "", false
}

// netnsOf is the network namespace that a specification names. Empty is one of the container's own, with nothing in it;
// without any entry the container is in the namespace of whoever runs it: the host's. config-linux.md of the OCI
// runtime specification, "Namespaces".
func netnsOf(spec *specs.Spec) (path string, host bool) {
	path, there := namespaceOf(spec, specs.NetworkNamespace)
	return path, !there
}

// ofHost tells which namespaces of the host's a container asks for, besides the network: it gets the guest's.
func ofHost(spec *specs.Spec) []string {
	var out []string
	for _, k := range []struct {
		kind       specs.LinuxNamespaceType
		file, what string
	}{{specs.PIDNamespace, "pid", "processes"}, {specs.IPCNamespace, "ipc", "System V IPC and message queues"},
		{specs.UTSNamespace, "uts", "name"}} {
		path, there := namespaceOf(spec, k.kind)
		if !there || path != "" && (sameFile(path, "/proc/1/ns/"+k.file) || sameFile(path, "/proc/self/ns/"+k.file)) {
			out = append(out, "the host's "+k.what+
				" are asked for, and a guest does not have them: the container has its own, or its pod's")
		}
	}
	return out
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// sharesPID says whether a container joins the PID namespace of another: its specification names one by path.
func sharesPID(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return false
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			return n.Path != ""
		}
	}
	return false
}

// shmSize is the size of the tmpfs that a container wants at /dev/shm, in bytes; 0 where it does not say.
func shmSize(spec *specs.Spec) int64 {
	for _, m := range spec.Mounts {
		if m.Destination != "/dev/shm" {
			continue
		}
		for _, o := range m.Options {
			if v, ok := strings.CutPrefix(o, "size="); ok {
				return bytesOf(v)
			}
		}
	}
	return 0
}

// bytesOf reads a size as tmpfs does: a number with k, m or g behind it; 0 for others. Linux:
// Documentation/filesystems/tmpfs.rst.
func bytesOf(s string) int64 {
	shift := 0
	if s != "" {
		switch s[len(s)-1] | 0x20 {
		case 'k':
			shift = 10
		case 'm':
			shift = 20
		case 'g':
			shift = 30
		}
	}
	if shift > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<(62-shift) {
		return 0
	}
	return n << shift
}

// maxResolv bounds resolv.conf, in bytes.
const maxResolv = 16 << 10

// dnsOf is the resolv.conf that the pod's first container gets, line by line, for the guest itself.
func dnsOf(spec *specs.Spec) []string {
	for _, m := range spec.Mounts {
		if m.Destination != "/etc/resolv.conf" {
			continue
		}
		b, err := os.ReadFile(m.Source)
		if err != nil || len(b) > maxResolv {
			return nil // the guest can do without
		}
		var lines []string
		for l := range strings.Lines(string(b)) {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
				lines = append(lines, l)
			}
		}
		return lines
	}
	return nil
}

// optionsSuffix ends the name of the message in which containerd hands over the path of the configuration: it stood in
// another package before 2.0.
const optionsSuffix = "runtimeoptions.v1.Options"

// runcOptions ends the name of the message for runc. containerd 2 hands it to any runtime, for the owner of a
// container's pipes where a user namespace has numbers of its own: the pipes are there before a shim opens them.
const runcOptions = "containerd.runc.v1.Options"

// configPath is the path of the configuration in a call's options, or empty.
func configPath(options *anypb.Any) (string, error) {
	if options == nil || len(options.Value) == 0 {
		return "", nil
	}
	if strings.HasSuffix(options.TypeUrl, runcOptions) {
		var o runc.Options
		if err := proto.Unmarshal(options.Value, &o); err == nil {
			o.IoUid, o.IoGid = 0, 0
			if proto.Equal(&o, &runc.Options{}) {
				return "", nil
			}
		}
	}
	if !strings.HasSuffix(options.TypeUrl, optionsSuffix) {
		return "", fmt.Errorf("options of type %s: this runtime takes %s, with config_path", options.TypeUrl,
			optionsSuffix)
	}
	var o runtimeoptions.Options
	if err := proto.Unmarshal(options.Value, &o); err != nil {
		return "", fmt.Errorf("options of the call: %w", err)
	}
	return o.ConfigPath, nil
}

// loadConfig reads the configuration that path, the pod's annotations and the host say. An empty path is none.
func (s *Service) loadConfig(path string, annotations map[string]string) (*config.Config, error) {
	l, err := config.Load(config.Options{Path: path, Environment: s.o.Environment, Annotations: annotations,
		Suffix: s.o.Suffix, Lenient: true})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for _, w := range l.Warnings {
		s.log.Warn("configuration", "warning", w.String())
	}
	return &l.Config, nil
}
