package stage

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capset is a prepared capset(2).
type capset struct {
	header unix.CapUserHeader
	data   [2]unix.CapUserData
}

func newCapset(effective, permitted, inheritable uint64) *capset {
	c := &capset{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	for i := range c.data {
		shift := 32 * i
		c.data[i] = unix.CapUserData{Effective: uint32(effective >> shift), Permitted: uint32(permitted >> shift), Inheritable: uint32(inheritable >> shift)}
	}
	return c
}

// set needs nothing of the Go runtime.
func (c *capset) set() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.data[0])), 0)
	return errno
}

// sysAdmin is what seccomp(2) asks for without no_new_privs.
const sysAdmin = 1 << unix.CAP_SYS_ADMIN

// credentials gives up all that the process shall not have, and becomes its user. What is returned has to be set after the filter.
func (p *Process) credentials() (*capset, error) {
	caps := Caps{}
	if p.Caps != nil {
		caps = *p.Caps
	}
	for c := range 64 {
		if caps.Bounding>>c&1 == 1 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL {
			break // the kernel knows no more
		} else if err != nil {
			return nil, fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if p.SetGroups {
		groups := append([]uint32{}, p.Groups...)
		var first *uint32
		if len(groups) > 0 {
			first = &groups[0]
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); errno != 0 {
			return nil, fmt.Errorf("groups %v: %w", p.Groups, errno)
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID)); errno != 0 {
		return nil, fmt.Errorf("group %d: %w", p.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID)); errno != 0 {
		return nil, fmt.Errorf("user %d: %w", p.UID, errno)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("keep capabilities: %w", err)
	}
	final := newCapset(caps.Effective, caps.Permitted, caps.Inheritable)
	now := final
	if len(p.Filter) > 0 && !p.NoNew {
		now = newCapset(caps.Effective|sysAdmin, caps.Permitted|sysAdmin, caps.Inheritable)
	}
	if errno := now.set(); errno != 0 {
		return nil, fmt.Errorf("capabilities %#x: %w", caps.Permitted, errno)
	}
	for c := range 64 {
		if caps.Ambient>>c&1 == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return nil, fmt.Errorf("ambient capability %d: %w", c, err)
		}
	}
	if now == final {
		return nil, nil
	}
	return final, nil
}
