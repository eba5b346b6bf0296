package stage

import (
	"errors"
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
		c.data[i] = unix.CapUserData{Effective: uint32(effective >> shift), Permitted: uint32(permitted >> shift),
			Inheritable: uint32(inheritable >> shift)}
	}
	return c
}

// set needs nothing of the Go runtime.
func (c *capset) set() unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)),
		uintptr(unsafe.Pointer(&c.data[0])), 0)
	return errno
}

// sysAdmin is what seccomp(2) asks for without no_new_privs.
const sysAdmin = 1 << unix.CAP_SYS_ADMIN

// borrow gives this thread the user's rights to files, until back is called: the user's numbers for file systems, and
// the effective capabilities. credentials(7), capabilities(7): a change of the file system's user takes capabilities
// from the effective set alone, so there is a way back.
func (p *Process) borrow() (back func() error, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var now [2]unix.CapUserData
	if err := unix.Capget(&header, &now[0]); err != nil {
		return nil, fmt.Errorf("own capabilities: %w", err)
	}
	both := func(of func(unix.CapUserData) uint32) uint64 { return uint64(of(now[1]))<<32 | uint64(of(now[0])) }
	permitted := both(func(d unix.CapUserData) uint32 { return d.Permitted })
	inheritable := both(func(d unix.CapUserData) uint32 { return d.Inheritable })
	effective := both(func(d unix.CapUserData) uint32 { return d.Effective })
	groups, err := unix.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("own groups: %w", err)
	}
	back = func() error {
		// The capabilities first, which the others ask for.
		if errno := newCapset(effective, permitted, inheritable).set(); errno != 0 {
			return fmt.Errorf("take the capabilities back: %w", errno)
		}
		setfs(unix.SYS_SETFSUID, 0)
		setfs(unix.SYS_SETFSGID, 0)
		if errno := newCapset(effective, permitted, inheritable).set(); errno != 0 {
			return fmt.Errorf("take the capabilities back: %w", errno)
		}
		if p.SetGroups {
			own := make([]uint32, len(groups))
			for i, g := range groups {
				own[i] = uint32(g)
			}
			return setGroups(own)
		}
		return nil
	}
	if p.SetGroups {
		if err := setGroups(p.Groups); err != nil {
			return nil, err
		}
	}
	setfs(unix.SYS_SETFSGID, p.GID)
	setfs(unix.SYS_SETFSUID, p.UID)
	wanted := uint64(0)
	if p.Caps != nil {
		wanted = p.Caps.Effective & permitted
	}
	if errno := newCapset(wanted, permitted, inheritable).set(); errno != 0 {
		return nil, errors.Join(fmt.Errorf("capabilities %#x: %w", wanted, errno), back())
	}
	return back, nil
}

// setfs sets a number of this thread for file systems. setfsuid(2) has no errors: with a number that is none in this
// namespace the old one stays, and credentials says what is wrong with it.
func setfs(call uintptr, id uint32) { unix.RawSyscall(call, uintptr(id), 0, 0) }

func setGroups(groups []uint32) error {
	var first *uint32
	if len(groups) > 0 {
		first = &groups[0]
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)),
		0); errno != 0 {
		return fmt.Errorf("groups %v: %w", groups, errno)
	}
	return nil
}

// credentials gives up all that the process shall not have, and becomes its user. What is returned has to be set after
// the filter.
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
		if err := setGroups(p.Groups); err != nil {
			return nil, err
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
	if len(p.Filter)+len(p.Locks) > 0 && !p.NoNew {
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
