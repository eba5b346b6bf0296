// Package child runs the programs that a sandbox is made of: QEMU, virtiofsd.
//
// In come a command line and open files; out comes a Process that dies with the process that started it, and whose
// first words on standard error are in its errors. It does not know what the programs are for.
package child

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/runtime/thread"
	"golang.org/x/sys/unix"
)

// stderrSize is how much of standard error is kept, in bytes: the first of it, where the reason is.
const stderrSize = 16 << 10

// killTime is how long a killed process may take to be gone. Only one stuck in the host's kernel takes longer.
const killTime = 5 * time.Second

// Process is a running program. It dies with the process that started it, even when that one is killed.
type Process struct {
	name    string // for people
	cmd     *exec.Cmd
	missing []string
	done    chan struct{} // closed when it has been waited for

	mu     sync.Mutex // guards what follows
	stderr []byte
	err    error // of waiting
}

// Options say where a program runs. The zero value is as this process does.
type Options struct {
	Netns     *os.File   // the network namespace; nil is that of this process. It stays the caller's.
	Streams   *os.File   // the standard input and output; nil is neither. It stays the caller's.
	Isolation *Isolation // nil is none
}

// Start starts argv, called name in errors, which inherits files as descriptors 3 and up; they stay the caller's.
// A program that does not exist is a *MissingError.
func Start(name string, argv []string, files []*os.File) (*Process, error) {
	return StartIn(name, argv, files, Options{})
}

// StartIn is Start with options.
func StartIn(name string, argv []string, files []*os.File, o Options) (*Process, error) {
	p := &Process{name: name, done: make(chan struct{})}
	started := make(chan error)
	// The death signal comes when the thread that forked ends, so this one stays until the program is gone.
	// https://go.dev/issue/27505
	thread.Run(func() {
		err := p.start(argv, files, o)
		started <- err
		if err != nil {
			return
		}
		err = p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	})
	if err := <-started; err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
			return nil, &MissingError{Program: argv[0]}
		}
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// start starts the program from the calling thread, which it takes to where the program is to be.
func (p *Process) start(argv []string, files []*os.File, o Options) error {
	p.cmd = p.command(argv, files, o.Streams)
	if p.cmd.Err != nil {
		return p.cmd.Err
	}
	if o.Netns != nil {
		if err := unix.Setns(int(o.Netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if !o.Isolation.needed() {
		return p.cmd.Start()
	}
	if _, err := os.Stat(p.cmd.Path); err != nil {
		return err
	}
	p.missing = o.Isolation.build(p.cmd)
	err := p.cmd.Start()
	if err == nil || p.cmd.SysProcAttr.Cloneflags == 0 || !refused(err) {
		return err
	}
	again := p.command(argv, files, o.Streams)
	again.Path, again.Dir, again.Err = p.cmd.Path, p.cmd.Dir, nil
	again.SysProcAttr.Credential = p.cmd.SysProcAttr.Credential
	p.cmd = again
	if again.Start() != nil {
		return err
	}
	p.missing = append(p.missing, fmt.Sprintf("a process namespace of its own: %v", err))
	return nil
}

func (p *Process) command(argv []string, files []*os.File, streams *os.File) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	if streams != nil {
		cmd.Stdin, cmd.Stdout = streams, streams
	}
	cmd.ExtraFiles = files
	cmd.Stderr = (*firstBytes)(p)
	// messages in one language, and nothing of ours
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second // a child of its own could keep standard error open
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // an interrupt on the terminal is ours to handle
		Pdeathsig: syscall.SIGKILL,
	}
	return cmd
}

// Missing are the barriers that this host did not let us build, each with the reason, for people.
func (p *Process) Missing() []string { return p.missing }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitError says how an ended process ended: nil for success. It contains the first of its standard error.
func (p *Process) ExitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	if s := strings.TrimSpace(string(p.stderr)); s != "" {
		return fmt.Errorf("%s: %w: %s", p.name, p.err, s)
	}
	return fmt.Errorf("%s: %w", p.name, p.err)
}

// Stderr is the first of what it wrote to its standard error.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.stderr)
}

// Stop has the process end: quit asks it to, and when that fails or ctx ends first, it is killed. A nil quit kills at
// once. Stop returns when it is gone. Calling it again is a no-op.
func (p *Process) Stop(ctx context.Context, quit func(context.Context) error) error {
	if quit != nil && p.running() && quit(ctx) == nil {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
		}
	}
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(killTime):
		return fmt.Errorf("%s, process %d, is still there %v after SIGKILL", p.name, p.PID(), killTime)
	}
}

func (p *Process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// firstBytes keeps the first bytes of standard error.
type firstBytes Process

func (f *firstBytes) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stderr = append(f.stderr, b[:min(len(b), stderrSize-len(f.stderr))]...)
	return len(b), nil
}

// packages names the Debian packages of programs.
var packages = map[string]string{
	"qemu-system-x86_64":  "qemu-system-x86",
	"qemu-system-i386":    "qemu-system-x86",
	"qemu-system-aarch64": "qemu-system-arm",
	"qemu-system-ppc64":   "qemu-system-ppc",
	"qemu-system-riscv64": "qemu-system-misc",
	"qemu-system-s390x":   "qemu-system-misc",
	"virtiofsd":           "virtiofsd, or in Debian 12 qemu-system-common",
}

// MissingError says that a program is not installed.
type MissingError struct{ Program string }

// Package is the Debian package that has the program, or empty.
func (e *MissingError) Package() string {
	return packages[e.Program[strings.LastIndexByte(e.Program, '/')+1:]]
}

// elsewhere are programs that no distribution of Debian has, and where they come from.
var elsewhere = map[string]string{
	"cloud-hypervisor": "github.com/cloud-hypervisor/cloud-hypervisor",
	"firecracker":      "github.com/firecracker-microvm/firecracker",
	"jailer":           "github.com/firecracker-microvm/firecracker",
}

func (e *MissingError) Error() string {
	if from := elsewhere[e.Program[strings.LastIndexByte(e.Program, '/')+1:]]; from != "" {
		return fmt.Sprintf("%s is not installed (no package of Debian's; see the releases of %s)", e.Program, from)
	}
	if p := e.Package(); p != "" {
		return fmt.Sprintf("%s is not installed (Debian package %s)", e.Program, p)
	}
	return fmt.Sprintf("%s is not installed", e.Program)
}

func (e *MissingError) Unwrap() error { return exec.ErrNotFound }
