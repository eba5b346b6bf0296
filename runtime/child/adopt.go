package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Ended is what the keeper of a program tells whoever has adopted it when the program has ended: how, or nothing for
// success.
type Ended struct {
	Why string `json:"why"`
}

// Times of a program that another process started.
const (
	keeperTime = 2 * time.Second // for the keeper's last word, after the program ended
)

// maxEnded bounds the keeper's last word, in bytes.
const maxEnded = stderrSize + 1024

// Adopted is a program that another process started, its keeper, and whose end is this one's to wish and to see.
type Adopted struct {
	name    string
	pid     int
	process *os.File // pidfd_open(2)
	keeper  *net.UnixConn
	done    chan struct{}

	mu  sync.Mutex // guards what follows
	err error
}

// Adopt takes a program over, called name in errors. The files stay the caller's: a descriptor of the process, and a
// connection to its keeper, on which that writes an Ended, and which it ends the program with.
func Adopt(name string, pid int, process, keeper *os.File) (_ *Adopted, err error) {
	a := &Adopted{name: name, pid: pid, done: make(chan struct{})}
	conn, err := net.FileConn(keeper)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", name, err)
	}
	var ok bool
	if a.keeper, ok = conn.(*net.UnixConn); !ok {
		return nil, errors.Join(fmt.Errorf("adopt %s: its keeper is no UNIX socket", name), conn.Close())
	}
	fd, err := unix.FcntlInt(process.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adopt %s: %w", name, err), a.keeper.Close())
	}
	a.process = os.NewFile(uintptr(fd), "process")
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt %s: %w", name, err), a.keeper.Close(), a.process.Close())
	}
	go a.watch()
	return a, nil
}

// watch waits for the end.
func (a *Adopted) watch() {
	fds := []unix.PollFd{{Fd: int32(a.process.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		if err == nil && n == 1 {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			break // of no use any more
		}
	}
	err := a.lastWord()
	a.mu.Lock()
	a.err = err
	a.mu.Unlock()
	_ = errors.Join(a.keeper.Close(), a.process.Close()) // only read from
	close(a.done)
}

// lastWord is what the keeper says of the end.
func (a *Adopted) lastWord() error {
	b := make([]byte, maxEnded)
	err := a.keeper.SetReadDeadline(time.Now().Add(keeperTime))
	n := 0
	if err == nil {
		n, err = a.keeper.Read(b)
	}
	var e Ended
	if err == nil {
		err = json.Unmarshal(b[:n], &e)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: its keeper did not say how it ended: %w", a.name, err)
	case e.Why != "":
		return errors.New(e.Why)
	}
	return nil
}

// PID is the process's id.
func (a *Adopted) PID() int { return a.pid }

// Done is closed when the process has ended.
func (a *Adopted) Done() <-chan struct{} { return a.done }

// ExitError says how an ended process ended: nil for success.
func (a *Adopted) ExitError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Stop is as a Process's.
func (a *Adopted) Stop(ctx context.Context, quit func(context.Context) error) error {
	running := func() bool {
		select {
		case <-a.done:
			return false
		default:
			return true
		}
	}
	if quit != nil && running() && quit(ctx) == nil {
		select {
		case <-a.done:
			return nil
		case <-ctx.Done():
		}
	}
	if !running() {
		return nil
	}
	if c, err := a.process.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }) // it has ended else
	}
	select {
	case <-a.done:
		return nil
	case <-time.After(killTime):
		return fmt.Errorf("%s, process %d, is still there %v after SIGKILL", a.name, a.pid, killTime)
	}
}
