// Package locks refuses locks on files that other guests have, too.
//
// A guest keeps the locks of its programs to itself. On what another guest has too they exclude nobody, and so are
// refused: every call that takes a lock comes to the agent first, which looks where the file is. Linux:
// Documentation/userspace-api/seccomp_filter.rst, "Userspace Notification". In come the mounts of a specification and
// the listener of a container's filter; which calls ask is package seccomp's business.
package locks

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/mountinfo"
)

// foreign is a part of a file system that is mounted in a container, on which locks are refused.
type foreign struct {
	device string // as in mountinfo
	root   string
}

// Foreign are the places of a container on which locks are refused.
type Foreign []foreign

// Find finds them among the mounts of a specification: those with agentapi.ForeignLocks.
func Find(mounts []specs.Mount) (Foreign, error) {
	var sources []string
	for _, m := range mounts {
		if slices.Contains(m.Options, agentapi.ForeignLocks) {
			sources = append(sources, m.Source)
		}
	}
	list, err := foreignOf(sources)
	if err != nil {
		return nil, fmt.Errorf("locks of another pod: %w", err)
	}
	return list, nil
}

// foreignOf finds in which file systems the folders and files are.
func foreignOf(sources []string) (Foreign, error) {
	var out Foreign
	for _, source := range sources {
		f, err := os.Open(source) // what the host has mounted there is mounted here with the first look into it
		if err != nil {
			return nil, err
		}
		id, err := mountOf(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
		if err == nil {
			var real string
			real, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			source = real
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		all, err := mountinfo.Self()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(m mountinfo.Mount) bool { return m.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%s: its mount is not to be seen", source)
		}
		out = append(out, foreign{all[i].Device, path.Join(all[i].Root, strings.TrimPrefix(source, all[i].Point))})
	}
	return out, nil
}

// mountOf reads the number of the mount that an open file is on. proc_pid_fdinfo(5).
func mountOf(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no mnt_id", file)
}

// Sizes of struct seccomp_notif and seccomp_notif_resp of <linux/seccomp.h>: id (8 bytes), pid (4), flags (4), struct
// seccomp_data (64); and id (8), val (8), error (4), flags (4).
const (
	noticeSize = 80
	answerSize = 24
)

type notice struct {
	id    uint64
	pid   uint32
	flags uint32
	call  struct {
		number int32
		arch   uint32
		at     uint64
		args   [6]uint64
	}
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

var (
	_ [noticeSize]byte = [unsafe.Sizeof(notice{})]byte{}
	_ [answerSize]byte = [unsafe.Sizeof(answer{})]byte{}
)

// Answer answers the processes that have a listener's filter, until the last one has ended, and closes the listener.
// first is the container's first process.
func (f Foreign) Answer(listener *os.File, first int) error {
	defer listener.Close()
	fd := listener.Fd()
	for {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(polled, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locks on files of another pod are not answered any more: %w", err)
		}
		if polled[0].Revents&unix.POLLIN == 0 {
			if polled[0].Revents != 0 {
				return nil // nobody has the filter any more
			}
			continue
		}
		var n notice
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV,
			uintptr(unsafe.Pointer(&n))); e != 0 {
			continue // it was killed meanwhile
		}
		a := answer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if f.has(int(n.pid), uint32(n.call.args[0]), first) {
			a = answer{id: n.id, errno: -int32(unix.ENOLCK)}
		}
		unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))) // likewise
	}
}

// has says whether an open file of a process is on one of the mounts on which locks are refused, or on what is mounted
// below. first is as for Answer.
func (f Foreign) has(pid int, fd uint32, first int) bool {
	id, err := mountOf(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false // it has no such file, as the call will say
	}
	for _, of := range []int{pid, first} { // whoever has changed its root sees no mounts outside of it
		all, err := mountinfo.File(fmt.Sprintf("/proc/%d/mountinfo", of))
		if err != nil {
			continue
		}
		if i := slices.IndexFunc(all, func(m mountinfo.Mount) bool { return m.ID == id }); i >= 0 {
			return foreignPoint(all, all[i].Point, f)
		}
	}
	return false
}

// foreignPoint says whether a mount's point is that of a foreign one or below.
func foreignPoint(all []mountinfo.Mount, point string, list Foreign) bool {
	below := func(p, dir string) bool { return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") }
	return slices.ContainsFunc(all, func(m mountinfo.Mount) bool {
		return below(point, m.Point) && slices.ContainsFunc(list,
			func(f foreign) bool { return m.Device == f.device && below(m.Root, f.root) })
	})
}
