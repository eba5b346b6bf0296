package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Kill ends containerd by SIGKILL and waits for it. What it started goes on.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-d.ended
	return nil
}

// Again starts a containerd that has ended once more, over the same folders, and waits until it answers. Conn is a new
// one then.
func (d *Daemon) Again(ctx context.Context) error {
	out, err := os.OpenFile(d.LogFile(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(d.cmd.Path, d.cmd.Args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = d.cmd.Env, out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = d.Conn.Close() // it leads to the one that has ended
	ended := make(chan struct{})
	d.cmd, d.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // how it ended stands in ProcessState
		close(ended)
	}()
	if err := d.connect(ctx); err != nil {
		return fmt.Errorf("start containerd %s again: %w\n%s", d.Release.Name, err, d.Tail(20))
	}
	return nil
}
