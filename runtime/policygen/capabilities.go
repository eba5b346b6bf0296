package policygen

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/policygen/kube"
)

// usual are the capabilities that containerd gives a container. containerd: pkg/oci/spec.go, defaultUnixCaps.
var usual = []string{"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
	"SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"}

// every capability of Linux. capabilities(7).
var every = []string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE"}

// capabilities are those that a container may have.
func capabilities(c kube.Capabilities, privileged bool) []string {
	bare := func(list []string) (out []string) {
		for _, n := range list {
			out = append(out, strings.TrimPrefix(strings.ToUpper(n), "CAP_"))
		}
		return out
	}
	add, drop := bare(c.Add), bare(c.Drop)
	set := slices.Clone(usual)
	switch {
	case privileged:
		set, add, drop = slices.Clone(every), nil, nil
	case slices.Contains(add, "ALL"):
		set = slices.Clone(every)
	case slices.Contains(drop, "ALL"):
		set = nil
	}
	set = append(set, slices.DeleteFunc(add, func(n string) bool { return n == "ALL" })...)
	set = slices.DeleteFunc(set, func(n string) bool { return slices.Contains(drop, n) && !slices.Contains(add, n) })
	slices.Sort(set)
	var out []string
	for _, n := range slices.Compact(set) {
		out = append(out, "CAP_"+n)
	}
	return out
}
