package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// missing collects calls that the kernel does not have.
type missing []string

// call notes a call where the kernel answered that it has none; any other answer is one of a kernel that has it.
func (m *missing) call(name string, err error) {
	if errors.Is(err, unix.ENOSYS) {
		*m = append(*m, "there is no "+name)
	}
}

// made is call for one that made a descriptor.
func (m *missing) made(name string, fd int, err error) {
	if err == nil {
		unix.Close(fd)
	}
	m.call(name, err)
}

// works notes whatever is wrong.
func (m *missing) works(name string, err error) {
	if err != nil {
		*m = append(*m, fmt.Sprintf("%s: %v", name, err))
	}
}

func (m missing) err() error { return told(m) }

// none is no path in any guest: a program whose start fails only once everything before it worked.
const none = "/.katabuild-probe-none"

func basicCalls() error {
	var m missing
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	m.made("epoll", fd, err)
	fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	m.made("eventfd", fd, err)
	fd, err = unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC)
	m.made("signalfd", fd, err)
	fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	m.made("timerfd", fd, err)
	m.call("timers", posixTimer())
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, 0, 0, 0) // MEMBARRIER_CMD_QUERY
	m.call("membarrier", errno)
	_, _, errno = unix.Syscall6(unix.SYS_RSEQ, 0, 0, 0, 0, 0, 0) // an area of no length is none: EINVAL
	m.call("rseq", errno)
	var word uint32
	_, _, errno = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 1, 1, 0, 0, 0) // FUTEX_WAKE
	m.call("futex", errno)
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		m.call("madvise", unix.Madvise(page, unix.MADV_NORMAL))
		err = unix.Munmap(page)
	}
	m.works("mmap", err)
	f, err := os.Open("/proc/self/exe")
	if err == nil {
		m.call("flock", unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB))
		err = f.Close()
	}
	m.works("flock", err)
	return m.err()
}

// posixTimer makes a timer that is never started.
func posixTimer() error {
	// struct sigevent of <asm-generic/siginfo.h>: 64 bytes; 1 is SIGEV_NONE.
	event := struct {
		value          uint64
		signal, notify int32
		_              [48]byte
	}{notify: 1}
	var id int32
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)),
		uintptr(unsafe.Pointer(&id))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(id), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func fineClock() error {
	var t unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC, &t); err != nil {
		return err
	}
	if t.Nano() != 1 {
		return fmt.Errorf("the clock has steps of %d ns", t.Nano())
	}
	return nil
}

// otherUser gives the thread groups of its own. A kernel without users has no such call; a change of the user itself
// would make the whole process undumpable.
func otherUser() error {
	groups := []uint32{1}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
		return fmt.Errorf("setgroups: %w", errno)
	}
	return nil
}

func basicSockets() error {
	var m missing
	for name, family := range map[string]int{"a UNIX socket": unix.AF_UNIX, "an IP socket": unix.AF_INET} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		m.works(name, err)
		m.made(name, fd, err)
	}
	return m.err()
}

// scripts starts one whose interpreter is not there: a kernel that runs scripts says so, another one that the format is
// none.
func scripts(dir string) error {
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!"+none+"\n"), 0o700); err != nil {
		return err
	}
	return starts(script, 0)
}

// starts wants the start of a program to fail because a file is not there, in new namespaces. No child is left: the one
// that could not start is awaited by the call.
func starts(program string, flags uintptr) error {
	p, err := os.StartProcess(program, []string{program}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flags}})
	if err == nil {
		return errors.Join(errors.New("what is not there was started"), p.Kill(), p.Release())
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err
}

func namespaces() error {
	var m missing
	for _, n := range []struct {
		name string
		flag uintptr
	}{{"ipc", unix.CLONE_NEWIPC}, {"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"user", unix.CLONE_NEWUSER},
		{"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}, {"cgroup", unix.CLONE_NEWCGROUP}} {
		m.works("a namespace of the kind "+n.name, starts(none, n.flag))
	}
	m.works("a namespace of the kind time", unix.Unshare(unix.CLONE_NEWTIME))
	return m.err()
}

func messages() error {
	var m missing
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o600)
	m.works("shared memory", err)
	if err == nil {
		_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		m.works("shared memory", err)
	}
	name, err := unix.BytePtrFromString("katabuild-probe")
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)),
		unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600, 0, 0, 0)
	if errno != 0 {
		m.works("a queue of messages", errno)
		return m.err()
	}
	unix.Close(int(fd))
	if _, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		m.works("a queue of messages", errno)
	}
	return m.err()
}

func ring() error {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	return unix.Close(int(fd))
}

func otherCalls() error {
	var m missing
	var context uintptr
	_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)), 0)
	m.call("asynchronous input and output", errno)
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_IO_DESTROY, context, 0, 0)
		m.call("asynchronous input and output", errno)
	}
	_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	m.call("name_to_handle_at", err)
	pid := uintptr(os.Getpid())
	_, _, errno = unix.Syscall6(unix.SYS_KCMP, pid, pid, 0, 0, 0, 0) // KCMP_FILE of descriptor 0 with itself
	m.call("kcmp", errno)
	from, to := []byte{1}, []byte{0}
	local := []unix.Iovec{{Base: &to[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&from[0])), Len: 1}}
	_, err = unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	m.call("process_vm_readv", err)
	return m.err()
}

func watches(dir string) error {
	var m missing
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	m.works("inotify", err)
	m.made("inotify", fd, err)
	fd, err = unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	m.works("fanotify", err)
	if err != nil {
		return m.err()
	}
	defer unix.Close(fd) // which lets go whoever waits
	file := filepath.Join(dir, "watched")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	m.works("permission to open", unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file))
	return m.err()
}

func faults() error {
	const userModeOnly = 1 // UFFD_USER_MODE_ONLY
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	return unix.Close(int(fd))
}

// removesModules asks for a module to be removed that is not there.
func removesModules() error {
	if err := unix.DeleteModule("katabuild_probe_none", unix.O_NONBLOCK); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removal of modules: %w", err)
	}
	return nil
}

// keyring makes that of the thread, which goes with it.
func keyring() error {
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_THREAD_KEYRING, true); err != nil {
		return fmt.Errorf("keyctl: %w", err)
	}
	return nil
}

// noCryptoSockets wants neither hashes nor ciphers through sockets.
func noCryptoSockets() error {
	var m missing
	for kind, name := range map[string]string{"hash": "sha256", "skcipher": "ecb(aes)"} {
		fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			continue // there are no such sockets at all
		}
		if err := unix.Bind(fd, &unix.SockaddrALG{Type: kind, Name: name}); err == nil {
			m = append(m, "a socket computes "+name)
		}
		unix.Close(fd)
	}
	return m.err()
}

// filter has the thread refuse itself a call.
func filter() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// struct seccomp_data begins with the number of the call, 32 bits in the machine's order.
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_GETPPID, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EDOM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0,
		0); err != nil {
		return fmt.Errorf("a filter: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != unix.EDOM {
		return errors.New("a call that the filter refuses was made")
	}
	return nil
}

func moreSockets() error {
	var m missing
	for _, s := range []struct {
		name         string
		family, kind int
	}{{"IPv6", unix.AF_INET6, unix.SOCK_DGRAM}, {"packets", unix.AF_PACKET, unix.SOCK_RAW}} {
		fd, err := unix.Socket(s.family, s.kind|unix.SOCK_CLOEXEC, 0)
		m.works("a socket for "+s.name, err)
		m.made(s.name, fd, err)
	}
	return m.err()
}

func vsocket() error {
	var m missing
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	m.works("a socket", err)
	m.made("a socket", fd, err)
	m.works("a list of sockets", diag(unix.AF_VSOCK, make([]byte, 20))) // struct vsock_diag_req
	return m.err()
}

func audits() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return fmt.Errorf("an audit socket: %w", err)
	}
	unix.Close(fd)
	line, err := os.ReadFile("/proc/cmdline")
	if err == nil && wordOf(string(line), "selinux") == "1" {
		err = fileSystems("selinuxfs")()
	}
	return err
}

// wordOf is the value of a word of a kernel command line, the last where there are several; "" without one.
func wordOf(line, name string) string {
	value := ""
	for w := range strings.FieldsSeq(line) {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			value = v
		}
	}
	return value
}
