package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/early"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/pty"
	"golang.org/x/sys/unix"
)

// shells are tried in this order: the first that exists is the debug console. The first of all is in Kata Containers'
// extension for developers.
var shells = []string{"/run/kata-extensions/devkit/bin/devkit-sh", "/bin/bash", "/bin/sh", "/bin/gosh"}

// shellPause is the least time between two shells, so that one that fails at once does not take the whole processor.
const shellPause = time.Second

// debugConsole runs a shell on the console, and another one when it ends.
func debugConsole(ctx context.Context, r *reap.Reaper, log *slog.Logger) {
	for ctx.Err() == nil {
		if err := shell(ctx, r); err != nil {
			log.Error("debug console: " + err.Error())
			return
		}
		select {
		case <-time.After(shellPause):
		case <-ctx.Done():
		}
	}
}

var errNoShell = errors.New("the guest has no shell")

func shell(ctx context.Context, r *reap.Reaper) error {
	path, err := firstExecutable(shells)
	if err != nil {
		return err
	}
	tty, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	child, err := startShell(r, path, tty)
	if err != nil {
		return err
	}
	_, err = child.Wait(ctx)
	return err
}

// startShell runs path on a terminal, which it takes over as the leader of a new session; the agent keeps the console
// as its own.
func startShell(r *reap.Reaper, path string, tty *os.File) (*reap.Child, error) {
	cmd := exec.Command(path)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", tty, tty, tty
	// Not the agent's own environment: the kernel gives PID 1 every word of its command line.
	cmd.Env = []string{"PATH=" + early.Path, "HOME=/", "TERM=xterm"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	return r.Start(cmd)
}

func firstExecutable(paths []string) (string, error) {
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errNoShell
}

// Bounds of shells on connections.
const (
	maxShells  = 16                     // at once
	shellTail  = 200 * time.Millisecond // for the last output of a shell that has ended
	shellGrace = 2 * time.Second        // for a shell to end when its connection has
)

// serveShells runs a shell for each connection that l accepts, until ctx ends, and then ends them. It closes l.
func serveShells(ctx context.Context, l net.Listener, r *reap.Reaper, log *slog.Logger) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, maxShells)
	return accept(ctx, l, func(c net.Conn) {
		select {
		case room <- struct{}{}:
		default:
			// Whoever it is for may be gone.
			_, _ = fmt.Fprintf(c, "%sthere are %d shells already\r\n", agentapi.LinePrefix, maxShells)
			_ = c.Close()
			return
		}
		wg.Go(func() {
			defer func() { <-room }()
			if err := serveShell(ctx, c, r); err != nil {
				log.Error("debug console: " + err.Error())
			}
		})
	})
}

// serveShell runs one shell, which ends with the connection. It closes c.
func serveShell(ctx context.Context, c net.Conn, r *reap.Reaper) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	path, err := firstExecutable(shells)
	if err != nil {
		_, _ = fmt.Fprintf(c, "%s%v\r\n", agentapi.LinePrefix, err) // the reader may be gone
		return err
	}
	master, tty, err := pty.Open(pty.VT100())
	if err != nil {
		return err
	}
	defer master.Close()
	child, err := startShell(r, path, tty)
	if err := errors.Join(err, tty.Close()); err != nil {
		return err
	}
	ended := make(chan struct{}) // the shell has
	go func() {
		_, _ = child.Wait(context.Background()) // fails only when its context ends
		close(ended)
	}()
	output := make(chan struct{}) // all of it is out, or there is nobody for it
	go func() {
		defer close(output)
		_, _ = io.Copy(c, master) // a terminal that nobody holds any more is EIO
	}()
	input := make(chan struct{}) // there is no more
	go func() {
		defer close(input)
		_, _ = io.Copy(master, c)
	}()
	select {
	case <-ended:
		// What it has left behind may hold the terminal open.
		select {
		case <-output:
		case <-time.After(shellTail):
		}
		return nil
	case <-output:
	case <-input:
		// The peer may only have ended its own direction: what it has asked for so far gets a while.
		select {
		case <-output:
		case <-ended:
		case <-time.After(shellGrace):
		}
	}
	// Without its master the terminal hangs up: everything in the foreground, and the shell, get SIGHUP.
	_ = c.Close()
	_ = master.Close()
	select {
	case <-ended:
	case <-time.After(shellGrace):
		if err := child.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-ended
	}
	return nil
}
