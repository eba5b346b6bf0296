// Package stdio is where a process's standard streams lead on the host: FIFOs, files, and programs that take output.
//
// In come the addresses that containerd gives; out come files to read from and to write to, which keep what is written
// until somebody reads it, and end when containerd says so. It does not know what process they are of.
package stdio

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/flow"
	"golang.org/x/sys/unix"
)

// Paths is where containerd wants a process's streams: paths of FIFOs or files, or addresses file:///PATH,
// binary:///PROGRAM?args, fifo:///PATH.
type Paths struct {
	Stdin, Stdout, Stderr string // empty leads nowhere
	Terminal              bool   // one stream for all output
}

// Files are the host's ends of a process's streams. Nil ones lead nowhere.
type Files struct {
	Stdin          *Input
	Stdout, Stderr io.WriteCloser
	logger         *logger
}

// Close closes all of them.
func (f *Files) Close() {
	if f.Stdin != nil {
		_ = f.Stdin.Close() // only read from
	}
	for _, c := range []io.Closer{f.Stdout, f.Stderr} {
		if c != nil {
			_ = c.Close() // closed already, or of no use any more
		}
		if o, ok := c.(*output); ok {
			o.forget()
		}
	}
	if f.logger != nil {
		f.logger.wait()
	}
}

// Open opens all of them. A program that takes output is told the container's id and its namespace of containerd's.
func (s Paths) Open(namespace, id string) (_ Files, err error) {
	var f Files
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if s.Terminal {
		s.Stderr = "" // a terminal has one stream
	}
	if s.Stdin != "" {
		in, err := openInput(s.Stdin)
		if err != nil {
			return f, fmt.Errorf("standard input: %w", err)
		}
		f.Stdin = in
	}
	u, err := url.Parse(s.Stdout)
	if err != nil {
		return f, fmt.Errorf("standard output %q: %w", s.Stdout, err)
	}
	if u.Scheme == "binary" {
		f.Stdout, f.Stderr, f.logger, err = startLogger(u, namespace, id)
		if s.Stderr == "" && f.Stderr != nil {
			_ = f.Stderr.Close() // nothing will be written
			f.Stderr = nil
		}
		return f, err
	}
	if s.Stdout != "" {
		if f.Stdout, err = openOutput(s.Stdout); err != nil {
			return f, fmt.Errorf("standard output: %w", err)
		}
	}
	switch {
	case s.Stderr == "":
	case s.Stderr == s.Stdout && u.Scheme == "file":
		f.Stderr = &shared{f.Stdout} // one file, whose lines do not overwrite each other
	default:
		if f.Stderr, err = openOutput(s.Stderr); err != nil {
			return f, fmt.Errorf("standard error: %w", err)
		}
	}
	return f, nil
}

// shared writes to a file that another closes.
type shared struct{ io.Writer }

func (*shared) Close() error { return nil }

// openOutput opens where output goes.
func openOutput(target string) (io.WriteCloser, error) {
	if p, ok := strings.CutPrefix(target, "file://"); ok {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return nil, err
		}
		return os.OpenFile(p, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	}
	p := strings.TrimPrefix(target, "fifo://")
	st, err := os.Stat(p)
	if err != nil {
		return nil, err
	}
	if st.Mode()&os.ModeNamedPipe == 0 {
		return os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	}
	return newOutput(p)
}

// output is a FIFO that is written. Its own end for reading lets it be opened and written while nobody reads: clients
// come late, and a containerd that starts anew finds what was written in between. It ends for good once a reader was
// there after the last byte was written: a FIFO that nobody has open forgets what is in it, and whoever opens it then
// waits for a writer for ever.
type output struct {
	*os.File
	keep      *os.File
	end       sync.Once
	forgotten chan struct{} // closed by forget
	drop      sync.Once
	slow      time.Duration // for a reader to read to the end
	patience  time.Duration // for a reader to come, after forget
	done      chan struct{} // closed when nothing is open any more
}

// OutputTime bounds waiting for output to be read before its end. A reader that does not read must not keep that.
const OutputTime = 2 * time.Second

// readerTime is how long a reader may come for the output of a process that containerd has deleted: its clients open
// FIFOs beside their requests.
const readerTime = 10 * time.Second

func newOutput(p string) (*output, error) {
	r, w, err := openFIFO(p)
	if err != nil {
		return nil, err
	}
	return &output{File: w, keep: r, forgotten: make(chan struct{}), slow: OutputTime, patience: readerTime,
		done: make(chan struct{})}, nil
}

// openFIFO opens both ends, which waits for nobody.
func openFIFO(p string) (r, w *os.File, err error) {
	if r, err = os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, err
	}
	if w, err = os.OpenFile(p, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	flow.Widen(w, flow.PipeSize)
	return r, w, nil
}

// Close is the end of the output. Where nobody reads yet, it waits for nothing, and the end is kept for a reader. A
// reader gets some time to read to the end: containerd 1.6.20 forgets what it has not read when it hears that the
// process has ended. Calling it again is a no-op.
func (o *output) Close() error {
	o.end.Do(func() {
		_ = o.keep.Close() // nothing was read from it
		if !o.isRead() {
			go o.handOver()
			return
		}
		end := time.Now().Add(o.slow)
		for wait := time.Millisecond; o.isRead() && o.unread() > 0 && time.Now().Before(end); wait = min(2*wait,
			20*time.Millisecond) {
			time.Sleep(wait)
		}
		_ = o.File.Close() // has been written
		close(o.done)
	})
	return nil
}

// forget says that containerd has deleted the process: a reader that does not come soon never will. Calling it again is
// a no-op.
func (o *output) forget() { o.drop.Do(func() { close(o.forgotten) }) }

// handOver waits for a reader.
func (o *output) handOver() {
	defer close(o.done)
	defer o.File.Close()
	forgotten := o.forgotten
	var late <-chan time.Time
	for wait := time.Millisecond; !o.isRead(); wait = min(2*wait, 100*time.Millisecond) {
		select {
		case <-time.After(wait):
		case <-forgotten:
			forgotten, late = nil, time.After(o.patience)
		case <-late:
			return
		}
	}
}

// unread is how many bytes are in the FIFO. pipe(7): FIONREAD, which is TIOCINQ by another name, ioctl_tty(2).
func (o *output) unread() (n int) {
	o.look(func(fd int) {
		if m, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			n = m
		}
	})
	return n
}

// isRead says whether anybody has the FIFO open for reading. Linux: a pipe without readers polls as POLLERR at
// its other end (pipe(7), poll(2)).
func (o *output) isRead() bool {
	read := true
	o.look(func(fd int) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err == nil {
			read = fds[0].Revents&unix.POLLERR == 0
		}
	})
	return read
}

// look calls f with the descriptor, unless it is closed.
func (o *output) look(f func(fd int)) {
	if c, err := o.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { f(int(fd)) }) // fails when it is closed
	}
}

// Input is a FIFO that is read. Its own end for writing keeps it from being at its end while nobody writes: clients
// come and go, and only the end that containerd asks for is one. What was written before that is still read.
type Input struct {
	*os.File
	keep *os.File
	once sync.Once
}

func openInput(target string) (*Input, error) {
	r, w, err := openFIFO(strings.TrimPrefix(target, "fifo://"))
	if err != nil {
		return nil, err
	}
	return &Input{File: r, keep: w}, nil
}

// CloseWrite ends the input once all others who write have closed it. Calling it again is a no-op.
func (i *Input) CloseWrite() { i.once.Do(func() { _ = i.keep.Close() }) } // nothing was written to it

// Close ends it at once.
func (i *Input) Close() error {
	i.CloseWrite()
	return i.File.Close()
}

// logger is a program that takes a container's output. The protocol is that of containerd's logging binaries
// (core/runtime/v2/README.md, Logging): the container's standard output is its descriptor 3, standard error 4, and it
// closes 5 when it is ready.
type logger struct{ cmd *exec.Cmd }

// loggerTime bounds waiting for a logger to be ready, and to end.
const loggerTime = 10 * time.Second

func startLogger(u *url.URL, namespace, id string) (stdout, stderr io.WriteCloser, _ *logger, err error) {
	var args []string
	query := u.Query()
	for _, k := range slices.Sorted(maps.Keys(query)) {
		args = append(args, k)
		if v := query.Get(k); v != "" {
			args = append(args, v)
		}
	}
	var ours, theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close() // the program has them
		}
		if err != nil {
			for _, f := range ours {
				_ = f.Close()
			}
		}
	}()
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, nil, err
		}
		if len(ours) < 2 {
			ours, theirs = append(ours, w), append(theirs, r)
		} else {
			ours, theirs = append(ours, r), append(theirs, w)
		}
	}
	cmd := exec.Command(u.Path, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "CONTAINER_ID=" + id,
		"CONTAINER_NAMESPACE=" + namespace}
	cmd.ExtraFiles = theirs
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, fmt.Errorf("start the logger %s: %w", u.Path, err)
	}
	l := &logger{cmd}
	for _, f := range theirs {
		_ = f.Close()
	}
	theirs = nil
	ready := ours[2]
	defer ready.Close()
	if err := ready.SetReadDeadline(time.Now().Add(loggerTime)); err != nil {
		return nil, nil, nil, errors.Join(err, l.kill())
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, nil, errors.Join(fmt.Errorf("the logger %s is not ready: %w", u.Path, err), l.kill())
	}
	return ours[0], ours[1], l, nil
}

func (l *logger) kill() error {
	err := l.cmd.Process.Kill()
	_ = l.cmd.Wait() // it was killed
	return err
}

// wait waits for a logger whose streams have been closed, and ends it when it does not.
func (l *logger) wait() {
	timer := time.AfterFunc(loggerTime, func() { _ = l.cmd.Process.Kill() })
	_ = l.cmd.Wait() // how it ends is its own business
	timer.Stop()
}
