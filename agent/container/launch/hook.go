package launch

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/katabuild/katabuild/agent/container/stage"
	"golang.org/x/sys/unix"
)

// Hook runs a hook in the caller's namespaces, and waits for it.
func (l *Launcher) Hook(ctx context.Context, h stage.Hook, s stage.State) error {
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
		defer cancel()
	}
	cmd, in, err := h.Command(context.Background(), s)
	if err != nil {
		return err
	}
	cmd.Cancel = nil
	input, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return h.Failure(err, nil)
	}
	f := os.NewFile(uintptr(input), "state")
	defer f.Close()
	if _, err := f.Write(in); err != nil {
		return h.Failure(err, nil)
	}
	f.Seek(0, 0)
	output, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return h.Failure(err, nil)
	}
	out := os.NewFile(uintptr(output), "output")
	defer out.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, out, out
	child, err := l.Reaper.Start(cmd)
	if err != nil {
		return h.Failure(err, nil)
	}
	e, err := child.Wait(ctx)
	if err != nil {
		child.Signal(unix.SIGKILL)
		if h.Timeout > 0 && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("not done after %v", h.Timeout)
		}
		return h.Failure(err, nil)
	}
	if e.Code != 0 {
		said := make([]byte, 1<<10)
		n, _ := out.ReadAt(said, 0)
		return h.Failure(fmt.Errorf("ended with %d", e.Code), said[:n])
	}
	return nil
}
