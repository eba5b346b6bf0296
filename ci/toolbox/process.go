package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ready makes the file of the first argument, if any, and says so.
func ready(args []string) error {
	fmt.Println("ready")
	if len(args) == 0 {
		return nil
	}
	return os.WriteFile(args[0], nil, 0o644)
}

func pause(args []string) error {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGCHLD)
	if err := ready(args); err != nil {
		return err
	}
	for s := range c {
		if s != unix.SIGCHLD {
			return nil
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
	return nil
}

func ahead(args []string) error {
	ms, err := number(args, 1)
	if err != nil {
		return err
	}
	if len(args) == 2 {
		return remember("ahead", args[0], args[1], "remembered")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map %s: %w", args[0], err)
	}
	if err := errors.Join(f.Close(), ready(nil)); err != nil {
		return err
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
	if err := unix.Madvise(b, unix.MADV_WILLNEED); err != nil {
		return fmt.Errorf("read %s ahead: %w", args[0], err)
	}
	time.Sleep(time.Hour)
	return errors.New("an hour went by")
}

// remember executes this program anew from a copy in memory.
func remember(args ...string) error {
	fd, err := unix.MemfdCreate("toolbox", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("memfd: %w", err)
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	copied := os.NewFile(uintptr(fd), "memfd")
	if _, err := copied.Write(b); err != nil {
		return err
	}
	return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{"toolbox"}, args...), os.Environ())
}

func stubborn(args []string) error {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := ready(args); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return errors.New("an hour went by")
}

func signals(args []string) error {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	if err := ready(args); err != nil {
		return err
	}
	for s := range c {
		n := s.(unix.Signal)
		fmt.Println("signal", int(n))
		if n == unix.SIGTERM {
			return nil
		}
	}
	return nil
}

// Self is what self prints.
type Self struct {
	PID, UID, GID int
	Groups        []int
	Cwd, Hostname string
	Args, Env     []string
	Status        map[string]string // /proc/self/status
	Limits        map[string]string // "Max open files": "soft hard unit", of /proc/self/limits
	Mounts        map[string]string // mount point: options and file system, of /proc/self/mountinfo
	Release       string            // the kernel's
}

func self([]string) error {
	s := Self{PID: os.Getpid(), UID: os.Geteuid(), GID: os.Getegid(), Args: os.Args, Env: os.Environ()}
	s.Status, s.Limits, s.Mounts = map[string]string{}, map[string]string{}, map[string]string{}
	var err error
	if s.Groups, err = os.Getgroups(); err != nil {
		return err
	}
	if s.Cwd, err = os.Getwd(); err != nil {
		return err
	}
	if s.Hostname, err = os.Hostname(); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	s.Release = unix.ByteSliceToString(u.Release[:])
	for file, add := range map[string]func(line string){
		"status": func(l string) {
			k, v, _ := strings.Cut(l, ":")
			s.Status[k] = strings.TrimSpace(v)
		},
		"limits": func(l string) {
			// Linux: fs/proc/base.c, proc_pid_limits: the name is padded to 25 columns.
			if len(l) > 26 {
				s.Limits[strings.TrimSpace(l[:26])] = strings.Join(strings.Fields(l[26:]), " ")
			}
		},
		"mountinfo": func(l string) {
			before, after, _ := strings.Cut(l, " - ")
			if f, g := strings.Fields(before), strings.Fields(after); len(f) > 5 && len(g) > 2 {
				s.Mounts[f[4]] = f[5] + " " + g[0]
			}
		},
	} {
		b, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			return err
		}
		for l := range strings.Lines(string(b)) {
			add(strings.TrimRight(l, "\n"))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

func call(args []string) error {
	if len(args) == 0 {
		return errors.New("call wants a name")
	}
	path := "/tmp/called"
	if len(args) > 1 {
		path = args[1]
	}
	do := map[string]func() error{
		"mkdir":       func() error { return unix.Mkdirat(unix.AT_FDCWD, path, 0o700) },
		"chmod":       func() error { return unix.Fchmodat(unix.AT_FDCWD, path, 0o700, 0) },
		"write":       func() error { return os.WriteFile(path, []byte("called"), 0o600) },
		"sethostname": func() error { return unix.Sethostname([]byte("called")) },
		"unshare":     func() error { return unix.Unshare(unix.CLONE_NEWUTS) },
		"mknod":       func() error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		"keyctl":      func() error { _, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, -3, 0, 0, 0); return err },
		"bind":        func() error { return listen(80) },
		"mount":       func() error { return unix.Mount("none", path, "tmpfs", 0, "") },
	}[args[0]]
	if do == nil {
		return fmt.Errorf("no call %q", args[0])
	}
	var errno unix.Errno
	switch err := do(); {
	case err == nil:
		fmt.Println("ok")
	case errors.As(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		return err
	}
	return nil
}

func listen(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port})
}

func fork(args []string) error {
	n, err := number(args, 0)
	if err != nil {
		return err
	}
	started := 0
	for range n {
		if err := exec.Command("/bin/sleep", "30").Start(); err != nil {
			fmt.Println("stopped by:", err)
			break
		}
		started++
	}
	fmt.Println("started", started)
	return nil
}

func shm(args []string) error {
	if len(args) < 2 || args[0] == "put" && len(args) < 3 {
		return errors.New("shm wants put, a key and a text, or get and a key")
	}
	key, err := number(args, 1)
	if err != nil {
		return err
	}
	flags := 0
	if args[0] == "put" {
		flags = unix.IPC_CREAT | 0o600
	}
	id, err := unix.SysvShmGet(key, 4096, flags)
	if err != nil {
		fmt.Println(unix.ErrnoName(err.(unix.Errno)))
		return nil
	}
	data, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	if args[0] == "put" {
		copy(data, args[2])
		return nil
	}
	text, _, _ := bytes.Cut(data, []byte{0})
	fmt.Printf("%s\n", text)
	return nil
}

func winsize([]string) error {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGWINCH)
	for {
		var w unix.Winsize
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCGWINSZ, uintptr(unsafe.Pointer(&w))); e != 0 {
			return e
		}
		fmt.Printf("size %d %d\n", w.Row, w.Col)
		<-c
	}
}
