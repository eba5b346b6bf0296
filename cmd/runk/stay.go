package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/oci"
	"github.com/katabuild/katabuild/internal/pty"
)

// stay waits for a process in the foreground: signals to this program are the process's, and so is the terminal.
func (a *app) stay(ctx context.Context, s *oci.Started) (code int, err error) {
	got := make(chan os.Signal, 64)
	signal.Notify(got)
	defer signal.Stop(got)
	var output sync.WaitGroup
	if s.Master != nil {
		defer s.Master.Close()
		restore, _, err := pty.MakeRaw(a.in)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, restore()) }()
		a.resize(s.Master)
		go io.Copy(s.Master, a.in)                     // ends with this program
		output.Go(func() { io.Copy(a.out, s.Master) }) // EIO once nobody has the other end
	}
	go func() {
		for sig := range got {
			switch n := sig.(unix.Signal); n {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // the Go runtime's, and our own children
			case unix.SIGWINCH:
				if s.Master != nil {
					a.resize(s.Master)
				}
			default:
				s.Signal(n)
			}
		}
	}()
	code, err = s.Wait(ctx)
	output.Wait()
	return code, err
}

// resize gives a terminal the size of the one that this program has.
func (a *app) resize(master *os.File) {
	if size, err := unix.IoctlGetWinsize(int(a.in.Fd()), unix.TIOCGWINSZ); err == nil {
		raw, err := master.SyscallConn()
		if err == nil {
			raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
		}
	}
}
