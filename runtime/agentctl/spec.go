package agentctl

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sharedFolder is what an agent lets a host copy into.
const sharedFolder = "/run/kata-containers/shared/containers"

// rootOf is where the root of a container is that was copied.
func rootOf(container string) string { return filepath.Join(sharedFolder, container, "rootfs") }

// capabilities are what containers have that nobody says more of: the list that container engines share.
var capabilities = []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	"CAP_SYS_CHROOT"}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultSpec is that of a container that nobody has given one.
func defaultSpec(container string, args []string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version, Process: defaultProcess(args), Hostname: defaultHostname,
		Root: &specs.Root{Path: rootOf(container)},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/agentctl/" + container, Resources: &specs.LinuxResources{},
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// defaultProcess is one of the user root, without a terminal.
func defaultProcess(args []string) *specs.Process {
	if len(args) == 0 {
		args = []string{"sh"}
	}
	return &specs.Process{Args: args, Env: []string{searchPath}, Cwd: "/",
		Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities,
			Permitted: capabilities}}
}

// readSpec reads a config.json.
func readSpec(path string) (*specs.Spec, error) {
	b, err := readPath(path)
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("specification %s: %w", path, err)
	}
	return &s, nil
}
