package blueprint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities in the order of their numbers. <linux/capability.h>.
var capabilities = strings.Fields(`
	CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
	NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
	MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// caps turns names into sets. Names that this kernel does not know are left out and returned, sorted: a newer host may
// know more, and what no kernel here can refuse needs no right. config.md, "Linux Process": a runtime should warn of
// those.
func caps(c *specs.LinuxCapabilities) (*stage.Caps, []string, error) {
	if c == nil {
		return nil, nil, nil
	}
	var out stage.Caps
	var unknown []string
	for _, s := range []struct {
		names []string
		to    *uint64
	}{{c.Bounding, &out.Bounding}, {c.Effective, &out.Effective}, {c.Permitted, &out.Permitted},
		{c.Inheritable, &out.Inheritable}, {c.Ambient, &out.Ambient}} {
		for _, n := range s.names {
			i := slices.Index(capabilities, strings.TrimPrefix(strings.ToUpper(n), "CAP_"))
			if i < 0 {
				unknown = append(unknown, n)
				continue
			}
			*s.to |= 1 << i
		}
	}
	// The kernel's own rules, capabilities(7), said before it says EPERM.
	if bad := out.Effective &^ out.Permitted; bad != 0 {
		return nil, nil, fmt.Errorf("capability %s is effective, but not permitted",
			strings.Join(CapabilityNames(bad), ", "))
	}
	// A runtime tells callers that ask for ambient capabilities that cannot be by leaving them out: containerd does not
	// keep the sets in step.
	out.Ambient &= out.Permitted & out.Inheritable
	slices.Sort(unknown)
	return &out, slices.Compact(unknown), nil
}

// CapabilityNames are the names of a set's capabilities, in the order of their numbers, of which each is a bit.
func CapabilityNames(set uint64) []string {
	var out []string
	for i, n := range capabilities {
		if set>>i&1 == 1 {
			out = append(out, "CAP_"+n)
		}
	}
	return out
}
