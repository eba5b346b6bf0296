package oci

import (
	"io/fs"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Example is a specification that can be run once there is a folder rootfs: a shell in namespaces of its own, with a
// terminal, few rights and a root file system that is read-only.
func Example() *specs.Spec {
	rights := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	mode := func(kind, at, from string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: kind, Source: from, Options: options}
	}
	return &specs.Spec{
		Version: exampleVersion,
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: rights, Effective: rights, Permitted: rights,
				Ambient: rights},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Root: &specs.Root{Path: "rootfs", Readonly: true}, Hostname: "runk",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			mode("tmpfs", "/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mode("devpts", "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
				"gid=5"),
			mode("tmpfs", "/dev/shm", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mode("mqueue", "/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mode("sysfs", "/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mode("cgroup", "/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace}},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// ExampleMode is the mode of a file that has a specification.
const ExampleMode fs.FileMode = 0o644

// exampleVersion is one of the specification that all runtimes take.
const exampleVersion = "1.0.2"
