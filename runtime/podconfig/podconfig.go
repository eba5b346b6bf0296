// Package podconfig makes of CRI's words for a pod what a container's specification would say of it: for a pod without
// a first container, as containerd's sandbox service asks for.
//
// In comes a PodSandboxConfig; out come a specification that describes the pod and no process, the files that every
// container of the pod has in /etc, and what a container's own specification lacks because of that. It starts nothing.
package podconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/sandboxapi"
	"github.com/katabuild/katabuild/internal/sandboxapi/sandboxpb"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Request is who asks for what pod.
type Request struct {
	ID          string
	Bundle      string            // a folder of the pod's own, which whoever asks removes
	Netns       string            // path of the network namespace; empty where CRI asks for the host's
	Annotations map[string]string // beside those of the configuration
	Options     *anypb.Any        // a PodSandboxConfig
}

// Pod is what is to be started.
type Pod struct {
	// Spec says of the pod what config.json says of a pod's first container: hostname, annotations, namespaces,
	// control group and resolv.conf.
	Spec *specs.Spec

	sysctls map[string]string
	users   bool     // it has users of its own
	files   []string // of /etc, which lie below the bundle
	bundle  string
}

// Read reads a request and writes the files of the pod into its bundle. etc is the host's /etc, for what CRI does not
// say.
func Read(r Request, etc string) (*Pod, error) {
	c, err := parse(r.Options)
	if err != nil {
		return nil, err
	}
	p := &Pod{Spec: spec(r, c), bundle: r.Bundle}
	ns := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	p.users = ns.GetUsernsOptions() != nil && ns.UsernsOptions.Mode == sandboxpb.NamespaceMode_POD
	p.sysctls = sysctls(c.GetLinux().GetSysctls(), p.users)
	files, err := etcFiles(c, etc)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(r.Bundle, "etc"), 0o755); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(filepath.Join(r.Bundle, name), files[name], 0o644); err != nil {
			return nil, err
		}
		p.files = append(p.files, name)
	}
	p.Spec.Mounts = []specs.Mount{{Destination: "/etc/resolv.conf", Type: "bind",
		Source: filepath.Join(r.Bundle, "etc/resolv.conf"), Options: []string{"rbind", "ro"}}}
	return p, nil
}

// parse reads the configuration. Nobody's is an empty one.
func parse(options *anypb.Any) (*sandboxpb.PodSandboxConfig, error) {
	var c sandboxpb.PodSandboxConfig
	if options == nil || options.TypeUrl == "" {
		return &c, nil
	}
	if !strings.HasSuffix(options.TypeUrl, sandboxapi.PodSandboxConfig) {
		return nil, fmt.Errorf("a sandbox with options of type %s: this runtime takes %s", options.TypeUrl,
			sandboxapi.PodSandboxConfig)
	}
	if err := proto.Unmarshal(options.Value, &c); err != nil {
		return nil, fmt.Errorf("configuration of the sandbox: %w", err)
	}
	return &c, nil
}

// CRI's annotations on containers, which containerd makes of the configuration for a pod that has a first one.
// containerd: internal/cri/annotations.
const (
	kindKey      = "io.kubernetes.cri.container-type"
	idKey        = "io.kubernetes.cri.sandbox-id"
	namespaceKey = "io.kubernetes.cri.sandbox-namespace"
	uidKey       = "io.kubernetes.cri.sandbox-uid"
	nameKey      = "io.kubernetes.cri.sandbox-name"
	logKey       = "io.kubernetes.cri.sandbox-log-directory"
	periodKey    = "io.kubernetes.cri.sandbox-cpu-period"
	quotaKey     = "io.kubernetes.cri.sandbox-cpu-quota"
	sharesKey    = "io.kubernetes.cri.sandbox-cpu-shares"
	memoryKey    = "io.kubernetes.cri.sandbox-memory"
)

func spec(r Request, c *sandboxpb.PodSandboxConfig) *specs.Spec {
	s := &specs.Spec{Version: specs.Version, Hostname: c.Hostname, Annotations: map[string]string{},
		Linux: &specs.Linux{CgroupsPath: cgroupsPath(c.GetLinux().GetCgroupParent(), r.ID)}}
	maps.Copy(s.Annotations, c.Annotations)
	maps.Copy(s.Annotations, r.Annotations)
	// Behind the pod's own, so that nobody's pod says what it is.
	maps.Copy(s.Annotations, map[string]string{kindKey: "sandbox", idKey: r.ID,
		namespaceKey: c.GetMetadata().GetNamespace(), uidKey: c.GetMetadata().GetUid(),
		nameKey: c.GetMetadata().GetName(), logKey: c.LogDirectory})
	for _, k := range []string{periodKey, quotaKey, sharesKey, memoryKey} {
		delete(s.Annotations, k)
	}
	if res := c.GetLinux().GetResources(); res != nil {
		for k, n := range map[string]int64{periodKey: res.CpuPeriod, quotaKey: res.CpuQuota, sharesKey: res.CpuShares,
			memoryKey: res.MemoryLimitInBytes} {
			s.Annotations[k] = strconv.FormatInt(n, 10)
		}
	}
	if c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != sandboxpb.NamespaceMode_NODE {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: r.Netns}}
	}
	return s
}

// cgroupsPath is where a first container would be, in the form of a specification. containerd: docs/cri, cgroup_parent.
func cgroupsPath(parent, id string) string {
	switch base := path.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return base + ":cri-containerd:" + id
	}
	return path.Join(parent, id)
}

// sysctls are the pod's, and the two that containerd 2 has for pods that say nothing of them: ports below 1024 and ping
// for everybody. containerd: docs/cri/config.md, enable_unprivileged_ports and enable_unprivileged_icmp. Numbers of
// groups mean something else where the pod has users of its own.
func sysctls(asked map[string]string, users bool) map[string]string {
	all := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	if !users {
		all["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(all, asked)
	return all
}

// maxFile bounds a file of the host's /etc that is copied, in bytes.
const maxFile = 1 << 20

// etcFiles are the files of a pod, by name below its bundle.
func etcFiles(c *sandboxpb.PodSandboxConfig, etc string) (map[string][]byte, error) {
	host := func(name string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(etc, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err == nil && len(b) > maxFile:
			return nil, fmt.Errorf("%s of the host has %d bytes, at most %d are copied", name, len(b), maxFile)
		}
		return b, err
	}
	hosts, err := host("hosts")
	if err != nil {
		return nil, err
	}
	resolv := resolvConf(c.DnsConfig)
	if c.DnsConfig == nil {
		if resolv, err = host("resolv.conf"); err != nil {
			return nil, err
		}
	}
	out := map[string][]byte{"etc/hosts": hosts, "etc/resolv.conf": resolv}
	if c.Hostname != "" {
		out["etc/hostname"] = []byte(c.Hostname + "\n")
	}
	return out, nil
}

// resolvConf is a resolv.conf. resolv.conf(5).
func resolvConf(d *sandboxpb.DNSConfig) []byte {
	var b strings.Builder
	if len(d.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return []byte(b.String())
}

// Complete gives a container's specification what containerd gives it only in a pod with a first container: the pod's
// files in /etc and its shared memory, where the specification has nothing else there. The first container of a pod
// also gets the pod's sysctls, which are about namespaces that all of them share.
func (p *Pod) Complete(s *specs.Spec, first bool) {
	for _, name := range p.files {
		at := "/" + name
		if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == at }) {
			continue
		}
		m := specs.Mount{Destination: at, Type: "bind", Source: filepath.Join(p.bundle, name),
			Options: []string{"rbind", "rprivate", "rw"}}
		if s.Root != nil && s.Root.Readonly {
			m.Options[2] = "ro"
		}
		if p.users && s.Linux != nil { // as containerd has them: root's of the pod
			m.UIDMappings, m.GIDMappings = s.Linux.UIDMappings, s.Linux.GIDMappings
		}
		s.Mounts = append(s.Mounts, m)
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if path.Clean(m.Destination) == shm && m.Type == "tmpfs" && m.Source == "shm" { // the container's own
			*m = specs.Mount{Destination: shm, Type: "bind", Source: shm, Options: []string{"rbind", "rw"}}
		}
	}
	if first && s.Linux != nil {
		all := maps.Clone(p.sysctls)
		maps.Copy(all, s.Linux.Sysctl)
		s.Linux.Sysctl = all
	}
}

// shm is POSIX shared memory: shm_overview(7).
const shm = "/dev/shm"
