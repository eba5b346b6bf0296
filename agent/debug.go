package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/katabuild/katabuild/agent/reap"
	"golang.org/x/sys/unix"
)

// shells are tried in this order: the first that exists is the debug console.
var shells = []string{"/bin/bash", "/bin/sh", "/bin/gosh"}

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
	// The agent keeps the console as its own terminal; the shell takes it over as the leader of a new session.
	cmd := exec.Command(path)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", tty, tty, tty
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	child, err := r.Start(cmd)
	if err != nil {
		return err
	}
	_, err = child.Wait(ctx)
	return err
}

func firstExecutable(paths []string) (string, error) {
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errNoShell
}
