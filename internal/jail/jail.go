// Package jail runs one foreign program where it sees neither the network, nor the machine's paths, nor other
// processes.
//
// The program gets user, mount, pid, ipc, uts and network namespaces of its own, a root folder with the machine's /usr,
// /bin, /sbin, /lib* read-only (or those of a folder that the Command names), of /etc only what the dynamic linker and
// compilers read, a small /dev, a fresh /proc and /tmp, and the folders its Command binds. It works for a plain user
// and needs no privilege; for root it is no weaker, since inside all capabilities are gone. It does not know what it
// runs.
//
// The jail is this same executable run again: every main, and every TestMain of a package that runs jails, calls Main
// first.
package jail

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Path is where programs are looked for inside the jail, first match first. It is the jail's $PATH.
const Path = "/usr/sbin:/usr/bin:/sbin:/bin"

// Home is the folder the jail calls home, and the usual place to bind the work folder.
const Home = "/build"

// hostName is what the jail's uname -n says.
const hostName = "katabuild"

// baseEnv is the whole environment of the program, before the Command's own.
func baseEnv() []string {
	return []string{"PATH=" + Path, "HOME=" + Home, "LC_ALL=C", "TZ=UTC", "TERM=dumb", "USER=katabuild",
		"LOGNAME=katabuild", "SHELL=/bin/sh"}
}

// Bind makes a folder or file of the machine visible in the jail.
type Bind struct {
	Host     string // path on the machine
	Jail     string // absolute path inside; made when missing
	Writable bool
}

// Command is one program to run. The zero value of everything but Args is usable.
type Command struct {
	Args  []string // program (looked up in Path unless it has a slash) and arguments
	Dir   string   // working folder inside; "/" when empty
	Env   []string // NAME=value, added to the fixed environment and winning over it
	Binds []Bind   // in order; a later one may lie inside an earlier one
	// Root is a folder that has a /usr of its own, which is shown instead of the machine's: nothing that is installed
	// on the machine can be seen then. Empty shows the machine's.
	Root   string
	Stdout io.Writer // nil drops it
	Stderr io.Writer // nil drops it; may be the same writer as Stdout
	// Terminal, when set, is the program's controlling terminal and all its standard streams; Stdout and Stderr must be
	// nil then. Give it one that nobody else uses (package pty): whoever has a terminal can type into it.
	Terminal *os.File
	Limits   Limits
}

// Limits bound what a program can take of the machine. A zero field stands for a bound that is generous for a kernel's
// build.
type Limits struct {
	Processes int // at once, threads too; 0 stands for 16,384
	// bytes of memory of all processes together, and of address space of each, of which the jail itself needs at least
	// 2 GiB; 0 stands for 32 GiB
	Memory    int64
	File      int64         // bytes of each file; 0 stands for 16 GiB
	Disk      int64         // bytes by which all writable binds together may grow; 0 stands for 64 GiB
	Temporary int64         // bytes in /tmp, which is memory; 0 stands for 4 GiB
	Time      time.Duration // 0 stands for six hours
}

// filled is l with its defaults.
func (l Limits) filled() Limits {
	return Limits{
		Processes: cmp.Or(l.Processes, 16_384), Memory: cmp.Or(l.Memory, 32<<30),
		File: cmp.Or(l.File, 16<<30), Disk: cmp.Or(l.Disk, 64<<30),
		Temporary: cmp.Or(l.Temporary, 4<<30), Time: cmp.Or(l.Time, 6*time.Hour),
	}
}

// limitError says that a program was ended because it took more than its Limits allow.
type limitError struct {
	Args []string
	What string
}

func (e *limitError) Error() string {
	return fmt.Sprintf("%s: ended, because it %s", strings.Join(e.Args, " "), e.What)
}

// Usage is what the program and all its children used.
type Usage struct {
	CPU  time.Duration // user and system time
	Wall time.Duration
}

// ExitError says that the program ran and did not exit with 0.
type ExitError struct {
	Args   []string
	Code   int            // exit code; -1 when a signal ended it
	Signal syscall.Signal // the signal that ended it, or 0
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s: killed by signal %d (%v)", strings.Join(e.Args, " "), int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%s: exit code %d", strings.Join(e.Args, " "), e.Code)
}

// errForbidden is wrapped by errors that say this machine does not let the caller make a user namespace.
var errForbidden = errors.New("this machine forbids unprivileged user namespaces")

// stageName is argv[0] of the jail stage.
const stageName = "katabuild-jail-stage"

// spec is what the parent tells the stage, as JSON on file descriptor 3.
type spec struct {
	Args   []string
	Dir    string
	Env    []string
	Binds  []Bind
	Root   string
	Limits Limits

	Terminal bool // the standard streams are a terminal for the program alone
}

// outcome is what the stage tells the parent, as JSON on file descriptor 4.
type outcome struct {
	Error     string // the stage could not start the program
	Forbidden bool   // because the kernel refused what user namespaces should allow
	Limit     string // what of its limits the program exceeded, if that ended it
	Code      int
	Signal    int
}

// Run runs the command and waits for it and for everything it started. When ctx ends, all of it is killed.
// An *ExitError says that the program itself was unhappy; any other error, that the jail was.
func (c Command) Run(ctx context.Context) (Usage, error) {
	if len(c.Args) == 0 {
		return Usage{}, errors.New("jail: no program")
	}
	// The kernel sends Pdeathsig when the *thread* that forked ends, so this goroutine keeps its thread until the end.
	// https://go.dev/issue/27505
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if c.Terminal != nil && (c.Stdout != nil || c.Stderr != nil) {
		return Usage{}, errors.New("jail: a terminal and other streams beside it")
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	s := spec{Args: c.Args, Dir: c.Dir, Env: mergeEnv(baseEnv(), c.Env), Limits: c.Limits.filled(),
		Terminal: c.Terminal != nil}
	if s.Dir == "" {
		s.Dir = "/"
	}
	if c.Root != "" {
		var err error
		if s.Root, err = filepath.Abs(c.Root); err != nil {
			return Usage{}, err
		}
	}
	for _, b := range c.Binds {
		host, err := filepath.Abs(b.Host)
		if err != nil {
			return Usage{}, err
		}
		if !filepath.IsAbs(b.Jail) || filepath.Clean(b.Jail) != b.Jail {
			return Usage{}, fmt.Errorf("jail: bind %s at %q: want a clean absolute path", host, b.Jail)
		}
		s.Binds = append(s.Binds, Bind{Host: host, Jail: b.Jail, Writable: b.Writable})
	}
	data, err := json.Marshal(s)
	if err != nil {
		return Usage{}, err
	}

	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return Usage{}, err
	}
	defer specRead.Close()
	defer specWrite.Close()
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return Usage{}, err
	}
	defer outRead.Close()
	defer outWrite.Close()

	outer := ctx
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	deadline := time.AfterFunc(s.Limits.Time, func() {
		end(&limitError{c.Args, fmt.Sprintf("took more than %v", s.Limits.Time)})
	})
	defer deadline.Stop()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{stageName}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	if c.Terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Terminal, c.Terminal, c.Terminal
	}
	cmd.ExtraFiles = []*os.File{specRead, outWrite}
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return Usage{}, ctx.Err()
		}
		return Usage{}, explain(fmt.Errorf("start the jail: %w", err), forbids(err), readSysctl)
	}
	specRead.Close()
	outWrite.Close()
	go func() {
		specWrite.Write(data) // when it fails the stage has died, which the outcome shows
		specWrite.Close()
	}()
	go s.watchDisk(ctx, func() {
		end(&limitError{c.Args, fmt.Sprintf("wrote more than %d bytes to disk", s.Limits.Disk)})
	})
	report, readErr := io.ReadAll(io.LimitReader(outRead, 1<<20))
	waitErr := cmd.Wait()
	usage := Usage{Wall: time.Since(start)}
	if st := cmd.ProcessState; st != nil {
		usage.CPU = st.UserTime() + st.SystemTime()
	}
	if outer.Err() != nil {
		return usage, outer.Err()
	}
	if ctx.Err() != nil {
		return usage, context.Cause(ctx)
	}
	var out outcome
	var status syscall.WaitStatus
	if st := cmd.ProcessState; st != nil {
		status, _ = st.Sys().(syscall.WaitStatus)
	}
	switch err := json.Unmarshal(report, &out); {
	case readErr != nil:
		return usage, fmt.Errorf("jail: %w", readErr)
	case err != nil && status.Signaled():
		return usage, fmt.Errorf(
			"jail: %s: its process 1 was ended by signal %d (%v), which none of its programs can send",
			strings.Join(c.Args, " "), int(status.Signal()), status.Signal())
	case err != nil && waitErr != nil:
		return usage, fmt.Errorf("jail: the stage died: %w (does main call jail.Main first?)", waitErr)
	case err != nil:
		return usage, fmt.Errorf("jail: the stage ended without a word (does main call jail.Main first?)")
	case out.Error != "":
		return usage, explain(fmt.Errorf("jail: %s", out.Error), out.Forbidden, readSysctl)
	case out.Limit != "":
		return usage, &limitError{c.Args, out.Limit}
	case out.Signal != 0:
		return usage, &ExitError{Args: c.Args, Code: -1, Signal: syscall.Signal(out.Signal)}
	case out.Code != 0:
		return usage, &ExitError{Args: c.Args, Code: out.Code}
	}
	return usage, nil
}

// watchDisk calls full once the writable binds have grown by more than they may. The size of a tree is asked for only
// while its file system has less room than at the start by as much, since that is a hundred times quicker to ask.
func (s spec) watchDisk(ctx context.Context, full func()) {
	used := func() (sum int64) {
		for _, b := range s.Binds {
			if b.Writable {
				sum += usedBytes(ctx, b.Host)
			}
		}
		return sum
	}
	free := func() (least int64) {
		for _, b := range s.Binds {
			var st syscall.Statfs_t
			if b.Writable && syscall.Statfs(b.Host, &st) == nil {
				least += int64(st.Bfree) * int64(st.Bsize)
			}
		}
		return least
	}
	before, room := used(), free()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if room-free() >= s.Limits.Disk && used()-before > s.Limits.Disk {
				full()
				return
			}
		}
	}
}

// usedBytes is what a tree takes of its disk; what goes away meanwhile does not count.
func usedBytes(ctx context.Context, dir string) (sum int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		if fi, err := d.Info(); err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512 // stat(2): the unit whatever the file system's block
			}
		}
		return nil
	})
	return sum
}

// Check runs nothing but /bin/true in a jail and returns why that does not work on this machine.
func Check(ctx context.Context) error {
	_, err := Command{Args: []string{"true"}}.Run(ctx)
	return err
}

// mergeEnv lets later assignments of a name win, and keeps the order of first appearance.
func mergeEnv(base, more []string) []string {
	var env []string
	at := map[string]int{}
	for _, kv := range append(append([]string{}, base...), more...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

// forbids says whether err is how a kernel refuses a user namespace.
func forbids(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSPC) ||
		errors.Is(err, syscall.EUSERS) || errors.Is(err, syscall.EINVAL)
}

// The three switches that forbid user namespaces.
const (
	sysctlClone    = "kernel.unprivileged_userns_clone"             // Debian and its kin
	sysctlMax      = "user.max_user_namespaces"                     // every kernel
	sysctlAppArmor = "kernel.apparmor_restrict_unprivileged_userns" // Ubuntu 23.10 and later
)

// readSysctl reads one sysctl; "" where it does not exist.
func readSysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// explain adds why user namespaces are forbidden here and what to do about it.
func explain(err error, forbidden bool, sysctl func(string) string) error {
	if !forbidden {
		return err
	}
	var why string
	switch {
	case sysctl(sysctlClone) == "0":
		why = "sysctl " + sysctlClone + " is 0; an administrator can set it to 1"
	case sysctl(sysctlMax) == "0":
		why = "sysctl " + sysctlMax + " is 0; an administrator can raise it"
	case sysctl(sysctlAppArmor) == "1":
		why = "AppArmor restricts them (sysctl " + sysctlAppArmor +
			" is 1); an administrator can set it to 0, or give this " +
			"executable an AppArmor profile with `userns,`"
	default:
		why = "no sysctl says so, so it is a container's seccomp filter, a chroot or a security module; run outside " +
			"of it, or with " +
			"a seccomp profile that allows unshare, clone with namespaces, mount and pivot_root"
	}
	return fmt.Errorf("%w: %w: %s", err, errForbidden, why)
}
