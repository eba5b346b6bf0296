package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// part is a running program of the cluster.
type part struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

// begin starts a program that logs to a file in dir.
func begin(dir, program string, args ...string) (*part, error) {
	name := filepath.Base(program)
	p := &part{name: name, log: filepath.Join(dir, name+".log"), cmd: exec.Command(program, args...),
		ended: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended stands in ProcessState
		close(p.ended)
	}()
	return p, nil
}

// await polls what until it is true, the program ends, or ctx does.
func (p *part) await(ctx context.Context, awaited string, what func() bool) error {
	for !what() {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %v\n%s", p.cmd, p.cmd.ProcessState, p.tail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s: await %s: %w\n%s", p.cmd, awaited, ctx.Err(), p.tail(20))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// tail is the last lines of the log.
func (p *part) tail(n int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-n-1):], "")
}

// stop ends the program with SIGTERM, or by force after 20 s, and waits for it.
func (p *part) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within 20 s of SIGTERM", p.name)
	}
}
