package uevent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// defaultTimeout is how long a device may take to appear, as agent.hotplug_timeout of Kata Containers.
const defaultTimeout = 3 * time.Second

// afterRescan is how long a device may take after the PCI bus was asked to look again.
const afterRescan = time.Second

// lookAgain is how often a wait looks at sysfs without being told to: a message may be lost where the socket is full,
// and sysfs is the truth.
const lookAgain = 250 * time.Millisecond

// kernelGroup is the multicast group of the kernel's own messages; group 2 is udev's. socketBuffer is room for a burst
// of them.
const (
	kernelGroup  = 1
	socketBuffer = 1 << 20
)

// ErrTimeout says that a device did not appear in time. It wraps context.DeadlineExceeded.
var ErrTimeout = fmt.Errorf("it did not appear: %w", context.DeadlineExceeded)

// Match says which device a Wait is for.
type Match struct {
	What string // for people: "the disk at PCI path 02/01"
	// Look finds the device in sysfs and returns what Wait shall return; empty where it is not there yet. It may be
	// called often, and never while a lock of this package is held.
	Look func() (string, error)
	// Event picks an event of the device, whose DevPath Wait then returns. Nil is none: events only make Look look
	// again.
	Event func(Event) bool
}

// Listener keeps what the kernel said. Its zero value works without a socket: it hears nothing, and waits look at sysfs
// alone.
type Listener struct {
	Root    string        // where sys is found; "/" in a guest
	Timeout time.Duration // of a Wait; 0 is defaultTimeout
	Log     *slog.Logger  // may be nil

	mu    sync.Mutex
	seen  map[string]Event        // guarded by mu; by DevPath, gone with "remove"
	wakes map[chan Event]struct{} // guarded by mu; each has room for many events, and one that is full misses some
}

// Run hears the kernel until ctx ends. heard, where not nil, is called once the socket is open: later events are not
// missed.
func (l *Listener) Run(ctx context.Context, heard func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("socket for uevents: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevents") // the run time polls it, so that Close wakes a read
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return fmt.Errorf("socket for uevents: %w", err)
	}
	// Best effort: PID 1 may go above the limit, others get what there is.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("socket for uevents: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	if heard != nil {
		heard()
	}
	buffer := make([]byte, maxMessage+1)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buffer, 0)
			return got != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read uevents: %w", err)
		case got == unix.EINTR:
			continue
		case got == unix.ENOBUFS:
			l.complain("uevents were lost: the socket was full")
			continue
		case got != nil:
			return fmt.Errorf("read uevents: %w", got)
		}
		// Any process with the right may send to the group; only port 0 is the kernel.
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		e, err := parse(buffer[:n])
		if err != nil {
			l.complain(err.Error())
			continue
		}
		l.tell(e)
	}
}

// tell takes in an event, as Run does with each of the kernel's.
func (l *Listener) tell(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]Event{}
	}
	switch e.Action {
	case remove:
		delete(l.seen, e.DevPath)
		return // nobody waits for the end of a device
	case move:
		delete(l.seen, "/"+strings.TrimPrefix(e.OldPath, "/"))
	}
	l.seen[e.DevPath] = e
	for w := range l.wakes {
		select {
		case w <- e:
		default: // it looks at sysfs again soon anyway
		}
	}
}

// Wait returns what m is for: at once where it is there, else when it comes, else after one rescan of the PCI bus. The
// error then wraps ErrTimeout, or what ctx ended with.
func (l *Listener) Wait(ctx context.Context, m Match) (string, error) {
	wake := make(chan Event, 64)
	l.register(wake)
	defer l.unregister(wake)
	// Registered first, so that what comes between the look and the wait is not missed.
	if found, err := l.look(m); found != "" || err != nil {
		return found, err
	}
	timeout := l.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	found, err := waitFor(ctx, timeout, wake, m)
	if found != "" || err != nil {
		return found, err
	}
	total := timeout
	// Only now: a rescan while a hotplug is under way races with it.
	switch err := l.rescan(); {
	case err == nil:
		if found, err = waitFor(ctx, afterRescan, wake, m); found != "" || err != nil {
			return found, err
		}
		total += afterRescan
	case !errors.Is(err, fs.ErrNotExist):
		l.complain(err.Error())
	}
	return "", fmt.Errorf("wait for %s: %s: %w", m.What, total, ErrTimeout)
}

// look is for what is there already.
func (l *Listener) look(m Match) (string, error) {
	if m.Look != nil {
		if found, err := m.Look(); found != "" || err != nil {
			return found, err
		}
	}
	if m.Event == nil {
		return "", nil
	}
	l.mu.Lock()
	events := make([]Event, 0, len(l.seen))
	for _, e := range l.seen {
		events = append(events, e)
	}
	l.mu.Unlock()
	for _, e := range events {
		if m.Event(e) {
			return e.DevPath, nil
		}
	}
	return "", nil
}

// waitFor returns an empty string after timeout.
func waitFor(ctx context.Context, timeout time.Duration, wake <-chan Event, m Match) (string, error) {
	end := time.NewTimer(timeout)
	defer end.Stop()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		last := false
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w", m.What, context.Cause(ctx))
		case <-end.C:
			last = true
		case <-tick.C:
		case e := <-wake:
			if m.Event != nil && m.Event(e) {
				return e.DevPath, nil
			}
		}
		if m.Look != nil {
			if found, err := m.Look(); found != "" || err != nil {
				return found, err
			}
		}
		if last {
			return "", nil
		}
	}
}

func (l *Listener) register(wake chan Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wakes == nil {
		l.wakes = map[chan Event]struct{}{}
	}
	l.wakes[wake] = struct{}{}
}

func (l *Listener) unregister(wake chan Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.wakes, wake)
}

// rescan asks every PCI bus to look for devices again. Documentation/ABI/testing/sysfs-bus-pci.
func (l *Listener) rescan() error {
	return os.WriteFile(filepath.Join("/", l.Root, "sys/bus/pci/rescan"), []byte("1"), 0)
}

func (l *Listener) complain(s string) {
	if l.Log != nil {
		l.Log.Error(s)
	}
}
