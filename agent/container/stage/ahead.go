package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNotFirst: namespaces are asked for by the number of the process, which is that of its first thread.
var errNotFirst = errors.New("not on the first thread")

// wait is the life of a stage that was started ahead, until its plan comes.
func wait() (*Plan, *files, error) {
	unix.CloseOnExec(controlFD)
	if unix.Gettid() != unix.Getpid() {
		return nil, nil, errNotFirst
	}
	if os.Args[1] == WordAhead {
		rehearse()
	}
	rights, err := receive()
	if err != nil {
		return nil, nil, err
	}
	for i, fd := range rights[1:4] {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return nil, nil, fmt.Errorf("standard stream %d: %w", i, err)
		}
		unix.Close(fd)
	}
	p, err := read(rights[0])
	if err != nil {
		return nil, nil, err
	}
	rest := rights[4:]
	want := len(p.Join) + p.Trees + p.Keep
	if p.Listen {
		want++
	}
	if len(rest) != want {
		return nil, nil, fmt.Errorf("%d files came with the plan, not %d", len(rest), want)
	}
	f := &files{pid: -1, join: rest[:len(p.Join)]}
	f.order(p, 0)
	for i, n := range f.trees {
		f.trees[i] = rest[len(p.Join)+n]
	}
	for i, n := range f.keep {
		f.keep[i] = rest[len(p.Join)+n]
	}
	if p.Listen {
		f.listener = rest[len(p.Join)+f.listener]
	}
	return p, f, nil
}

// rehearse does once what will be done with the plan, so that its code and memory are there: what Go does at the first
// use of a type, and the pages of this program.
func rehearse() {
	mask := uint32(0)
	p := Plan{
		Root: &Root{Path: "/"}, Mounts: []Mount{{Name: "x", Propagation: []uint64{1}}},
		Devices: []Device{{Path: "x"}}, Masked: []string{"x"},
		Sysctls: []Sysctl{{Name: "x"}}, Join: []Join{{Path: "x"}}, CreateHooks: []Hook{{Args: []string{"x"}}},
		State: State{Annotations: map[string]string{"x": "y"}},
		Process: Process{Args: []string{"x"}, Groups: []uint32{1}, Umask: &mask, Rlimits: []Rlimit{{}}, Caps: &Caps{},
			Filter: make(Filter, 64)},
	}
	if b, err := json.Marshal(p); err == nil {
		json.Unmarshal(b, &p)
	}
	json.Marshal(Message{Kind: Created})
	runtime.GC() // what was allocated is allocated again, which is cheaper than other pages
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, r := range constant(string(maps)) {
		// Before Linux 5.14 there is no such advice, and the pages come when they are needed.
		unix.Syscall(unix.SYS_MADVISE, uintptr(r.from), uintptr(r.to-r.from), unix.MADV_POPULATE_READ)
	}
}

// span is a part of the address space.
type span struct{ from, to uint64 }

// constant are the parts that hold a file which cannot be written to: this program's code. proc_pid_maps(5): range,
// permissions, offset, device, inode, path.
func constant(maps string) []span {
	var out []span
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") || !strings.HasPrefix(f[1], "r-") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && a < b {
			out = append(out, span{a, b})
		}
	}
	return out
}

// receive waits for the files. Without the agent there is nothing to wait for: the process ends.
func receive() ([]int, error) {
	var b [16]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(controlFD, b[:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, fmt.Errorf("wait for the plan: %w", err)
		case n == 0:
			unix.Exit(0)
		case flags&unix.MSG_CTRUNC != 0:
			return nil, errors.New("wait for the plan: files are missing")
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return nil, fmt.Errorf("wait for the plan: %d messages of files: %w", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) < 4 {
			return nil, fmt.Errorf("wait for the plan: %d files: %w", len(fds), err)
		}
		return fds, nil
	}
}
