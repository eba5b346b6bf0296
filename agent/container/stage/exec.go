package stage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/slack"
)

// find enters the working folder and finds the program, with the rights that it will have. So whoever makes a container
// hears of a mistake then, and not when it is started.
func (p *Process) find() (program string, err error) {
	if len(p.Args) == 0 {
		return "", errors.New("start: no program was named")
	}
	if err := p.enterFolder(); err != nil {
		return "", err
	}
	back, err := p.borrow()
	if err != nil {
		return "", err
	}
	program, err = lookUp(p.Args[0], p.Env)
	if e := back(); e != nil {
		return "", e
	}
	if err != nil {
		return "", fmt.Errorf("start %q: %w", p.Args[0], err)
	}
	return program, nil
}

// exec turns this process into the program that find has found, which gets the files of keep from 3 on. It returns only
// when that is not possible.
func (p *Process) exec(program string, keep []int) error {
	if err := p.surroundings(); err != nil {
		return err
	}
	env := p.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		env = append(env, "HOME="+home("/etc/passwd", p.UID))
	}
	path0, err := syscall.BytePtrFromString(program)
	if err != nil {
		return fmt.Errorf("start %q: %w", p.Args[0], err)
	}
	argv, err := syscall.SlicePtrFromStrings(p.Args)
	if err != nil {
		return fmt.Errorf("arguments of %q: %w", p.Args[0], err)
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return fmt.Errorf("environment of %q: %w", p.Args[0], err)
	}
	// Whatever is open beyond the standard streams ends with this program. The kernel has it since 5.11:
	// close_range(2).
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark files to be closed: %w", err)
	}
	final, err := p.credentials()
	if err != nil {
		return err
	}
	if p.Label != "" {
		if err := os.WriteFile("/proc/thread-self/attr/exec", []byte(p.Label), 0); err != nil {
			return fmt.Errorf("SELinux label %q: %w", p.Label, err)
		}
	}
	if p.Profile != "" {
		// proc_pid_attr(5); the kernel's AppArmor page has the word.
		if err := os.WriteFile("/proc/thread-self/attr/apparmor/exec", []byte("exec "+p.Profile), 0); err != nil {
			return fmt.Errorf("AppArmor profile %q: %w", p.Profile, err)
		}
	}
	if p.NoNew {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	if len(p.Locks) > 0 {
		listener, err := p.Locks.install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
		if err != nil {
			return fmt.Errorf("filter of locks on files: %w", err)
		}
		tell(Message{Kind: Locks}, listener) // it is closed when the program begins
	}
	tell(Message{Kind: Exec}, -1)
	control, err := hand(keep)
	if err != nil {
		return err
	}
	slack.Tighten()
	// From here on the filter may refuse whatever the Go runtime would like to call, so nothing is called but what has
	// to be: capset, execve.
	if len(p.Filter) > 0 {
		if _, err := p.Filter.install(p.FFlags); err != nil {
			return fmt.Errorf("seccomp filter of %d instructions: %w", len(p.Filter), err)
		}
	}
	if len(p.Filter)+len(p.Locks) > 0 && final != nil {
		if errno := final.set(); errno != 0 {
			return fmt.Errorf("capabilities behind the seccomp filter: %w", errno)
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path0)), uintptr(unsafe.Pointer(&argv[0])),
		uintptr(unsafe.Pointer(&envv[0])))
	if control != controlFD {
		unix.RawSyscall(unix.SYS_DUP3, uintptr(control), controlFD, unix.O_CLOEXEC) // to tell what is wrong
	}
	switch errno {
	case unix.ENOENT:
		var st unix.Stat_t
		if unix.Stat(program, &st) == unix.ENOENT {
			return fmt.Errorf("start %q: %s is gone since the container was made: %w", p.Args[0], program, errno)
		}
		return fmt.Errorf("start %q: the interpreter that %s names is not there: %w", p.Args[0], program, errno)
	case unix.ENOEXEC:
		return fmt.Errorf("start %q: %s is no program for this machine: %w", p.Args[0], program, errno)
	}
	return fmt.Errorf("start %q: %w", p.Args[0], errno)
}

// hand puts files at the numbers from 3 on, where the program finds them, and the control above those. The numbers that
// they have are below none of these only by chance, so all move up first.
func hand(keep []int) (control int, err error) {
	if len(keep) == 0 {
		return controlFD, nil
	}
	above := controlFD + len(keep)
	up := func(fd int) int {
		n, e := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above)
		err = errors.Join(err, e)
		return n
	}
	control = up(controlFD)
	high := make([]int, len(keep))
	for i, fd := range keep {
		high[i] = up(fd)
	}
	for i, fd := range high {
		if err != nil {
			break
		}
		err = unix.Dup3(fd, controlFD+i, 0)
	}
	if err != nil {
		return controlFD, fmt.Errorf("files of the program: %w", errors.Join(err, unix.Dup3(control, controlFD,
			unix.O_CLOEXEC)))
	}
	return control, nil
}

// install has the kernel filter the calls of this thread. With SECCOMP_FILTER_FLAG_NEW_LISTENER it returns the
// listener. It calls nothing else.
func (f Filter) install(flags uint) (int, error) {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags),
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// surroundings sets what needs privileges and is no credential.
func (p *Process) surroundings() error {
	unix.KeyctlJoinSessionKeyring("") // best effort: a kernel without keys has none to share
	for fd := range 3 {
		var st unix.Stat_t
		// So that a program of another user can open /dev/stdout. In a user namespace the owner may have no name, and
		// cannot be changed.
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO && st.Uid != p.UID {
			unix.Fchown(fd, int(p.UID), -1)
		}
	}
	if p.Personality != nil {
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(*p.Personality), 0, 0); errno != 0 {
			return fmt.Errorf("personality %#x: %w", *p.Personality, errno)
		}
	}
	if p.IOPrio != 0 {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS, <linux/ioprio.h>
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(p.IOPrio)); errno != 0 {
			return fmt.Errorf("I/O priority %#x: %w", p.IOPrio, errno)
		}
	}
	if p.Scheduler != nil {
		if err := unix.SchedSetAttr(0, p.Scheduler, 0); err != nil {
			return fmt.Errorf("scheduler: %w", err)
		}
	}
	for _, l := range p.Rlimits {
		if err := unix.Prlimit(0, l.Resource, &unix.Rlimit{Cur: l.Cur, Max: l.Max}, nil); err != nil {
			return fmt.Errorf("resource limit %s of %d, %d: %w", l.Name, l.Cur, l.Max, err)
		}
	}
	if p.Umask != nil {
		unix.Umask(int(*p.Umask))
	} else {
		unix.Umask(0o022)
	}
	return nil
}

// errOutside: the folder is a file descriptor of the agent, or another way out.
var errOutside = errors.New("it is outside of the container's root")

// enterFolder enters the working folder, which is there: a container's was made with its mounts, and others have to be.
func (p *Process) enterFolder() error {
	dir := p.Cwd
	if dir == "" {
		dir = "/"
	}
	if !path.IsAbs(dir) {
		return fmt.Errorf("working folder %q: not an absolute path", dir)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("working folder %s: %w", dir, err)
	}
	// getcwd(2): a folder that is not below the root begins with "(unreachable)".
	var buf [unix.PathMax]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil {
		return fmt.Errorf("working folder %s: %w", dir, err)
	}
	if n < 1 || buf[0] != '/' {
		return fmt.Errorf("working folder %s: %w", dir, errOutside)
	}
	return nil
}

// maxPasswd bounds what is read of a container's /etc/passwd.
const maxPasswd = 1 << 20

// home is the home folder of a user, or "/". passwd(5): name, password, uid, gid, comment, folder, shell.
func home(file string, uid uint32) string {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/"
	}
	return homeIn(fdReader(fd), uid)
}

func homeIn(r io.Reader, uid uint32) string {
	s := bufio.NewScanner(io.LimitReader(r, maxPasswd))
	for s.Scan() {
		f := strings.Split(s.Text(), ":")
		if len(f) < 6 || f[5] == "" {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(n) == uid {
			return f[5]
		}
	}
	return "/"
}

// fdReader reads an open file without a goroutine's poller.
type fdReader int

func (f fdReader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(f), b)
	if n <= 0 {
		if err == nil {
			err = io.EOF
		}
		return 0, err
	}
	return n, nil
}

// defaultPath is where programs are looked for when the process has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// errNotInPath says it in the words that people and tools of the container world look for.
var errNotInPath = fmt.Errorf("executable file not found in $PATH: %w", syscall.ENOENT)

// lookUp finds a program as execvp(3) does, with the process's own PATH.
func lookUp(name string, env []string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("empty name: %w", syscall.ENOENT)
	}
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	search := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v // the last one counts, as for a shell
		}
	}
	found := error(errNotInPath)
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		p := path.Join(dir, name)
		if !strings.Contains(p, "/") {
			p = "./" + p
		}
		err := executable(p)
		if err == nil {
			return p, nil
		}
		if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EISDIR) {
			found = fmt.Errorf("%s: %w", p, syscall.EACCES)
		}
	}
	return "", found
}

// executable says in advance, and better, what execve(2) would refuse to whoever has the rights of this thread.
func executable(p string) error {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return syscall.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG, st.Mode&0o111 == 0:
		return syscall.EACCES
	}
	return unix.Faccessat2(unix.AT_FDCWD, p, unix.X_OK, unix.AT_EACCESS)
}
