package jail

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied lists the system calls that no compiler needs and that reach what a namespace does not part: keys, other
// kernels' interfaces, or the jail's own barriers. calls_GOARCH.go adds those that only some architectures have a
// number for.
func denied() []uint32 {
	return append([]uint32{
		// The barriers themselves.
		unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
		unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
		// Keys have no namespace.
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		// Other processes, and files by number.
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
		unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
		// Large interfaces of the kernel.
		unix.SYS_BPF, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_USERFAULTFD, unix.SYS_PERF_EVENT_OPEN,
		unix.SYS_FANOTIFY_INIT,
		// The machine.
		unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_REBOOT,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF,
		unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME,
		unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	}, moreDenied()...)
}

// families lists the kinds of sockets that a program may make. Of the others, some have no network namespace: vsock
// reaches the hypervisor.
func families() []uint32 { return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} }

// newNamespaces are the flags of clone(2) that make a namespace. Linux: include/uapi/linux/sched.h.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET

// Offsets in struct seccomp_data. Linux: include/uapi/linux/seccomp.h.
const (
	dataNumber       = 0
	dataArchitecture = 4
	dataArguments    = 16
)

// x32 is the bit of the numbers of x86_64's second table of calls. Linux: arch/x86/include/uapi/asm/unistd.h.
const x32 = 0x40000000

// filter is the program that the kernel runs at each system call.
func filter() ([]unix.SockFilter, error) {
	machine, ok := map[string]uint32{
		"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "ppc64le": unix.AUDIT_ARCH_PPC64LE,
		"s390x":   unix.AUDIT_ARCH_S390X,
		"riscv64": unix.AUDIT_ARCH_RISCV64,
	}[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("no filter of system calls for %s", runtime.GOARCH)
	}
	refuse := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	low, cloneFlags := uint32(0), uint32(0) // the low half of an argument, and which of clone's are the flags
	if runtime.GOARCH == "s390x" {
		low, cloneFlags = 4, 1
	}
	p := []unix.SockFilter{
		load(dataArchitecture),
		jump(unix.BPF_JEQ, machine, 1, 0),
		refuse(unix.EPERM), // a program of another architecture would have other numbers
		load(dataNumber),
		jump(unix.BPF_JGE, x32, 0, 1),
		refuse(unix.EPERM),
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), // its flags lie in memory; without it, C libraries take clone
		refuse(unix.ENOSYS),
	}
	for _, nr := range denied() {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), refuse(unix.EPERM))
	}
	p = append(p,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4),
		load(dataArguments+8*cloneFlags+low),
		jump(unix.BPF_JSET, newNamespaces, 0, 1),
		refuse(unix.EPERM),
		allow,
		jump(unix.BPF_JEQ, unix.SYS_SOCKET, 1, 0),
		allow,
		load(dataArguments+low),
	)
	for _, family := range families() {
		p = append(p, jump(unix.BPF_JEQ, family, 0, 1), allow)
	}
	return append(p, refuse(unix.EAFNOSUPPORT)), nil
}

// seccomp installs the filter for what this thread executes. It needs no_new_privs.
func seccomp() error {
	p, err := filter()
	if err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0,
		0); err != nil {
		return fmt.Errorf("install the filter of system calls: %w", err)
	}
	return nil
}
