package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/slack"
)

// Main carries out the plan that this process was started with. It never returns.
func Main() {
	runtime.LockOSThread()
	slack.Loosen()
	// Before the first namespace is joined: a process in there could otherwise look into this one, and find the agent's
	// program.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	take := start
	if len(os.Args) > 1 && (os.Args[1] == WordAhead || os.Args[1] == WordSoon) {
		take = wait
	}
	err := run(take)
	var errno syscall.Errno
	errors.As(err, &errno)
	tell(Message{Kind: Failed, Text: err.Error(), Errno: int(errno)}, -1)
	unix.Exit(exitFailed)
}

// exitFailed is the exit code of a stage whose program could not be started, as shells have it.
const exitFailed = 127

// files are the open files that come with a plan.
type files struct {
	pid   int   // pidFD, where there is one
	join  []int // for each of the plan's Join
	trees []int // for the mounts that have one

	listener int   // for Listen
	keep     []int // the program's
}

// order says which files the numbers from first on are: those behind the namespaces.
func (f *files) order(p *Plan, first int) {
	next := func() int { first++; return first - 1 }
	for range p.Trees {
		f.trees = append(f.trees, next())
	}
	if p.Listen {
		f.listener = next()
	}
	for range p.Keep {
		f.keep = append(f.keep, next())
	}
}

// start reads the plan that this process was started with.
func start() (*Plan, *files, error) {
	for fd := controlFD; fd <= pidFD; fd++ {
		unix.CloseOnExec(fd)
	}
	p, err := read(planFD)
	if err != nil {
		return nil, nil, err
	}
	f := &files{pid: pidFD}
	first := firstTreeFD
	if p.Exec {
		first = pidFD + 1
	}
	f.order(p, first)
	return p, f, nil
}

// read reads and closes the plan.
func read(fd int) (*Plan, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	data := make([]byte, st.Size)
	if _, err := io.ReadFull(fdReader(fd), data); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	unix.Close(fd)
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	return &p, nil
}

// run returns only when something is wrong.
func run(take func() (*Plan, *files, error)) error {
	p, f, err := take()
	if err != nil {
		return err
	}
	if p.AskGroup {
		if err := ask(Group); err != nil {
			return err
		}
	}
	if err := p.namespaces(f); err != nil {
		return err
	}
	if p.AskHooks {
		if err := ask(Hooks); err != nil {
			return err
		}
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("new session: %w", err)
	}
	if p.Exec {
		if p.Process.Terminal {
			t, err := openTerminal(nil, p.Process)
			if err != nil {
				return err
			}
			if err := t.take(p.Process); err != nil {
				return err
			}
		}
		program, err := p.Process.find()
		if err != nil {
			return err
		}
		return p.Process.exec(program, f.keep)
	}
	if err := p.furnish(f); err != nil {
		return err
	}
	program, err := p.Process.find()
	if err != nil {
		return err
	}
	if p.Listen {
		tell(Message{Kind: Created}, -1)
		if err := accept(f.listener); err != nil {
			return err
		}
	} else if err := ask(Created); err != nil {
		return err
	}
	p.State.Status = "created"
	for _, h := range p.StartHooks {
		if err := h.run(p.State); err != nil {
			return err
		}
	}
	return p.Process.exec(program, f.keep)
}

// accept waits until somebody connects and gives leave, whose socket is the control from then on.
func accept(listener int) error {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the start: %w", err)
		}
		var b [16]byte
		n, err := unix.Read(fd, b[:])
		if n > 0 && err == nil {
			err = unix.Dup3(fd, controlFD, unix.O_CLOEXEC)
			unix.Close(fd)
			unix.Close(listener)
			return err
		}
		unix.Close(fd) // whoever it was ended before it gave leave
	}
}

// namespaces joins and makes what the clone of this process did not.
func (p *Plan) namespaces(f *files) error {
	if p.Exec || p.Unshare != 0 || len(p.Join) > 0 {
		// Only a thread that shares its working folder with no other may join a mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the working folder: %w", err)
		}
	}
	if p.Exec {
		if err := unix.Setns(f.pid, p.Flags); err != nil {
			return fmt.Errorf("join the namespaces of the container: %w", err)
		}
		unix.Close(f.pid)
	}
	for i, j := range p.Join {
		if err := unix.Setns(f.join[i], j.Flag); err != nil {
			return fmt.Errorf("join namespace %s: %w", j.Path, err)
		}
		unix.Close(f.join[i])
	}
	if p.Unshare != 0 {
		if err := unix.Unshare(p.Unshare); err != nil {
			return fmt.Errorf("make namespaces %#x: %w", p.Unshare, err)
		}
	}
	if p.Offsets != "" {
		// Only the folder of a process has this file, but that of a thread can be had by its number too. proc(5).
		self, err := os.Readlink("/proc/thread-self")
		if err == nil {
			err = os.WriteFile("/proc/"+path.Base(self)+"/timens_offsets", []byte(p.Offsets), 0)
		}
		if err != nil {
			return fmt.Errorf("set the clocks of the time namespace: %w", err)
		}
	}
	return nil
}

// furnish makes everything the first process of a container will find.
func (p *Plan) furnish(f *files) error {
	r, err := p.Root.enter()
	if err != nil {
		return err
	}
	for _, m := range p.Mounts {
		if err := r.mount(m, f.trees); err != nil {
			return fmt.Errorf("mount %s: %w", m.Name, err)
		}
	}
	if err := r.devices(p.Devices); err != nil {
		return err
	}
	var t *terminal
	if p.Process.Terminal {
		if t, err = openTerminal(r, p.Process); err != nil {
			return err
		}
		if p.Console {
			if err := r.bindFile(t.peer, "dev/console"); err != nil {
				return fmt.Errorf("mount /dev/console: %w", err)
			}
		}
	}
	if err := r.workingFolder(p.Process.Cwd); err != nil {
		return err
	}
	for _, m := range p.Mounts {
		if m.Late {
			if err := r.late(m.Destination); err != nil {
				return fmt.Errorf("make mount %s read-only: %w", m.Name, err)
			}
		}
	}
	for _, h := range p.CreateHooks {
		if err := h.run(p.State); err != nil {
			return err
		}
	}
	for _, s := range p.Sysctls {
		if err := os.WriteFile(s.Path(), []byte(s.Value), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", s.Name, s.Value, err)
		}
	}
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fmt.Errorf("host name %q: %w", p.Hostname, err)
		}
	}
	if p.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.Domainname)); err != nil {
			return fmt.Errorf("domain name %q: %w", p.Domainname, err)
		}
	}
	for _, path := range p.Masked {
		if err := r.mask(path); err != nil {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	for _, path := range p.Readonly {
		if err := r.readonly(path); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	if err := r.leave(p.Root); err != nil {
		return err
	}
	if t != nil {
		return t.take(p.Process)
	}
	return nil
}

// tell sends a message and, if fd is not negative, a file. There is nobody to tell that it did not arrive.
func tell(m Message, fd int) {
	b, _ := json.Marshal(m)
	if len(b) > MaxMessage {
		m.Text = m.Text[:MaxMessage/8] + "..."
		b, _ = json.Marshal(m)
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	unix.Sendmsg(controlFD, b, rights, nil, unix.MSG_NOSIGNAL)
}

// ask tells and waits for leave to go on.
func ask(k Kind) error {
	tell(Message{Kind: k}, -1)
	var b [16]byte
	for {
		n, err := unix.Read(controlFD, b[:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for the agent: %w", err)
		case n == 0:
			return errors.New("the agent gave this container up")
		default:
			return nil
		}
	}
}
