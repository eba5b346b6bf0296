// Package program runs a program of the guest to its end, as a child of the agent's reaper, and returns what it
// printed.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/reap"
)

// defaultPath is where programs are looked for, first match first.
const defaultPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// maxOutput bounds what is kept of each stream; more is an error for standard output, and cut for standard error.
const (
	maxOutput   = 16 << 20
	maxComplain = 4 << 10
)

// errMissing says that the guest has no such program.
var errMissing = errors.New("this guest has no such program")

// Runner runs programs.
type Runner struct {
	Reaper *reap.Reaper
	Path   string // as $PATH; empty is defaultPath
}

// find is where a program is. errMissing names where it was looked for.
func (r Runner) find(name string) (string, error) {
	path := r.Path
	if path == "" {
		path = defaultPath
	}
	for dir := range strings.SplitSeq(path, ":") {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); dir != "" && err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return "", err
		}
	}
	return "", fmt.Errorf("%s: %w in %s", name, errMissing, path)
}

// Run runs the program with stdin as its standard input, and returns its standard output. A program that fails is an
// error with its complaint; one that is still running when ctx ends is killed.
func (r Runner) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	path, err := r.find(name)
	if err != nil {
		return nil, err
	}
	var pipes [3][2]*os.File // of standard input, output and error: the end to read from, and the one to write to
	defer func() {
		for _, p := range pipes {
			for _, f := range p {
				if f != nil {
					f.Close() // again is harmless
				}
			}
		}
	}()
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("run %s: %w", name, err)
		}
	}
	search := r.Path
	if search == "" {
		search = defaultPath
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + search, "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes[0][0], pipes[1][1], pipes[2][1]
	child, err := r.Reaper.Start(cmd)
	if err != nil {
		return nil, err
	}
	for _, f := range []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]} {
		f.Close()
	}
	go func() {
		_, _ = pipes[0][1].Write(stdin) // a program that does not read it all says so by its end
		pipes[0][1].Close()
	}()
	complaint := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(pipes[2][0], maxComplain))
		_, _ = io.Copy(io.Discard, pipes[2][0])
		complaint <- b
	}()
	output := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(pipes[1][0], maxOutput+1))
		_, _ = io.Copy(io.Discard, pipes[1][0])
		output <- b
	}()
	exit, err := child.Wait(ctx)
	if err != nil {
		if err := child.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return nil, err
		}
		return nil, fmt.Errorf("run %s: killed: %w", name, err)
	}
	// A grandchild that keeps the pipes open is not waited for longer than the caller waits.
	var out, complained []byte
	for range 2 {
		select {
		case out = <-output:
		case complained = <-complaint:
		case <-ctx.Done():
			return nil, fmt.Errorf("output of %s: %w", name, ctx.Err())
		}
	}
	switch {
	case exit.Code != 0:
		return nil, fmt.Errorf("%s ended with %d: %s", name, exit.Code, bytes.TrimSpace(complained))
	case len(out) > maxOutput:
		return nil, fmt.Errorf("%s printed more than %d bytes", name, maxOutput)
	}
	return out, nil
}
