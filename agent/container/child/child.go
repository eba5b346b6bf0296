// Package child starts programs in user and time namespaces that are there already.
//
// setns(2) lets only a process with a single thread into those, and a Go program has more than one from its first line
// on. So the process is a plain fork, which has one thread and a copy of all memory, and makes system calls and nothing
// else until it is the program. In comes a Command; out goes the number of a process, which the caller must wait for.
// What is joined is the caller's decision.
package child

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Command is how to start a program.
type Command struct {
	Program string // opened before anything is joined
	Args    []string
	Env     []string
	Files   []*os.File // file i of the child; at most maxFiles
	// pidfd of the process whose namespaces are joined, or a namespace's file where Flags is only one
	Process int
	Flags   int // which, as CLONE_NEW flags; in a user namespace the child is root
	New     int // CLONE_NEW flags of namespaces that are made after that, and so belong to the user namespace
	Group   int // the folder of its control group, open; negative leaves it in the caller's
}

// maxFiles is how many files a child can be given.
const maxFiles = 64

// step is what the child was about to do.
type step uint32

const (
	stepFiles step = iota
	stepFolder
	stepNamespaces
	stepUser
	stepRoot
	stepNew
	stepExec
)

// stepSecond is no step: it says the number of the process that the child has made to go on in its place.
const stepSecond step = 1 << 16

var steps = [...]string{
	"arrange its files", "change to /", "join namespaces", "join the user namespace",
	"become root in the user namespace", "make namespaces",
	"execute the program",
}

// cloneArgs is struct clone_args of <linux/sched.h>, in its third version. clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// cloneArgsSize is CLONE_ARGS_SIZE_VER2 of <linux/sched.h>.
const cloneArgsSize = 88

// signalSetSize is the size of the kernel's signal set: 64 signals.
const signalSetSize = 8

// plan is all that the child needs, made before the fork.
type plan struct {
	clone      cloneArgs
	second     cloneArgs // for a process namespace, which only a new process is in
	files      [maxFiles]uintptr
	n          uintptr
	program    uintptr
	process    uintptr
	others     uintptr // namespaces beside the user's
	user       bool
	fresh      uintptr // namespaces to make
	report     uintptr // the pipe's end for what goes wrong
	argv, envv **byte
	empty      *byte
	root       *byte
	all, none  uint64 // signal sets
	failure    [2]uint32
}

// Start starts the program. It returns once the program has taken the child's place, or else an error, and then no
// child is left. A thread that has joined a process namespace gives it to the child. Whoever collects any child (wait4
// of -1) must not do so meanwhile.
func (c *Command) Start() (pid int, err error) {
	if len(c.Files) > maxFiles || len(c.Args) == 0 {
		return 0, fmt.Errorf("start %s: %w", c.Program, syscall.EINVAL)
	}
	var opened []int
	defer func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}()
	// high makes a copy above all the numbers that the child's files will have.
	high := func(fd int) (uintptr, error) {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, maxFiles)
		if err == nil {
			opened = append(opened, n)
		}
		return uintptr(n), err
	}
	p := &plan{all: ^uint64(0), user: c.Flags&unix.CLONE_NEWUSER != 0, others: uintptr(c.Flags &^ unix.CLONE_NEWUSER),
		n: uintptr(len(c.Files))}
	for i, f := range c.Files {
		if p.files[i], err = high(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("start %s: file %d: %w", c.Program, i, err)
		}
	}
	program, err := unix.Open(c.Program, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", c.Program, err)
	}
	opened = append(opened, program)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.Program, err)
	}
	opened = append(opened, pipe[0])
	report, e1 := high(pipe[1])
	unix.Close(pipe[1])
	p.report = report
	var e2, e3 error
	p.program, e2 = high(program)
	p.process, e3 = high(c.Process)
	argv, e4 := syscall.SlicePtrFromStrings(c.Args)
	envv, e5 := syscall.SlicePtrFromStrings(c.Env)
	if err := errors.Join(e1, e2, e3, e4, e5); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.Program, err)
	}
	p.argv, p.envv = &argv[0], &envv[0]
	p.empty, _ = syscall.BytePtrFromString("")
	p.root, _ = syscall.BytePtrFromString("/")
	p.clone = cloneArgs{flags: unix.CLONE_CLEAR_SIGHAND, exitSignal: uint64(unix.SIGCHLD)}
	if c.Group >= 0 {
		p.clone.flags |= unix.CLONE_INTO_CGROUP
		p.clone.cgroup = uint64(c.Group)
	}
	p.fresh = uintptr(c.New)
	// The second process is a child of this one, too, and its end is told in the way of the first. clone(2).
	p.second = cloneArgs{flags: uint64(c.New) | unix.CLONE_PARENT | unix.CLONE_CLEAR_SIGHAND}
	runtime.LockOSThread()
	syscall.ForkLock.Lock()
	n, errno := fork(p)
	syscall.ForkLock.Unlock()
	runtime.UnlockOSThread()
	runtime.KeepAlive(c.Files)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, fmt.Errorf("fork for %s: %w", c.Program, errno)
	}
	unix.Close(int(report)) // so that the pipe ends with the child's
	opened = slices.DeleteFunc(opened, func(fd int) bool { return fd == int(report) })
	return await(n, pipe[0], c.Program)
}

// await reads what the child says until its end of the pipe is closed, and returns the number of the process that goes
// on. If something went wrong, none is left.
func await(pid, pipe int, program string) (int, error) {
	var failed error
	first := 0 // the process that made another in its place, if it did
	for {
		var said [2]uint32
		b := unsafe.Slice((*byte)(unsafe.Pointer(&said)), unsafe.Sizeof(said))
		n, err := unix.Read(pipe, b)
		if err == unix.EINTR {
			continue
		}
		if n == 0 && err == nil {
			break // the program has the child, or a signal ended it, which is the caller's to see
		}
		switch {
		case n != len(b) || int(said[0]) >= len(steps) && step(said[0]) != stepSecond:
			failed = errors.Join(fmt.Errorf("start %s: what the child says is cut short", program), err)
		case step(said[0]) == stepSecond:
			first, pid = pid, int(said[1])
		default:
			failed = fmt.Errorf("start %s: %s: %w", program, steps[said[0]], syscall.Errno(said[1]))
		}
		if err != nil {
			break
		}
	}
	if first != 0 {
		collect(first) // it ends of its own accord
	}
	if failed != nil {
		unix.Kill(pid, unix.SIGKILL)
		collect(pid)
		return 0, failed
	}
	return pid, nil
}

func collect(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != unix.EINTR {
			return
		}
	}
}

// fork returns in the parent only. The child must not run any part of the Go runtime: its locks may be held by threads
// that it has not. So nothing from here on may grow the stack, allocate, or be preempted, and signals, whose handlers
// are the runtime's, stay away.
//
//go:norace
//go:nosplit
func fork(p *plan) (int, syscall.Errno) {
	var old uint64
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&p.all)),
		uintptr(unsafe.Pointer(&old)), signalSetSize, 0, 0)
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&p.clone)), cloneArgsSize, 0)
	if errno == 0 && pid == 0 {
		life(p)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, signalSetSize, 0,
		0)
	return int(pid), errno
}

// life is what the child does. It never returns.
//
//go:norace
//go:nosplit
func life(p *plan) {
	// Before it is in there, where somebody could otherwise look into the copy of this program's memory.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	for i := uintptr(0); i < p.n && i < maxFiles; i++ {
		if _, _, errno := syscall.RawSyscall(unix.SYS_DUP3, p.files[i], i, 0); errno != 0 {
			fail(p, stepFiles, errno)
		}
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(p.root)), 0, 0); errno != 0 {
		fail(p, stepFolder, errno)
	}
	if p.others != 0 { // with the rights that are lost in the user namespace: they may be namespaces of others
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETNS, p.process, p.others, 0); errno != 0 {
			fail(p, stepNamespaces, errno)
		}
	}
	if p.user {
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETNS, p.process, unix.CLONE_NEWUSER, 0); errno != 0 {
			fail(p, stepUser, errno)
		}
		// Only root keeps capabilities when it executes a program. user_namespaces(7).
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno != 0 {
			fail(p, stepRoot, errno)
		}
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
			fail(p, stepRoot, errno)
		}
	}
	if p.fresh&unix.CLONE_NEWPID != 0 {
		pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&p.second)), cloneArgsSize, 0)
		if errno != 0 {
			fail(p, stepNew, errno)
		}
		if pid != 0 {
			fail(p, stepSecond, syscall.Errno(pid))
		}
	} else if p.fresh != 0 {
		if _, _, errno := syscall.RawSyscall(unix.SYS_UNSHARE, p.fresh, 0, 0); errno != 0 {
			fail(p, stepNew, errno)
		}
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.none)), 0, signalSetSize,
		0, 0)
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, p.program, uintptr(unsafe.Pointer(p.empty)),
		uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envv)), unix.AT_EMPTY_PATH, 0)
	fail(p, stepExec, errno)
}

// fail tells and ends.
//
//go:norace
//go:nosplit
func fail(p *plan, s step, errno syscall.Errno) {
	p.failure[0], p.failure[1] = uint32(s), uint32(errno)
	syscall.RawSyscall(unix.SYS_WRITE, p.report, uintptr(unsafe.Pointer(&p.failure)), unsafe.Sizeof(p.failure))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
