package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/ttrpc"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/record"
)

// fakeGuest is a guest as it is seen through a hybrid vsock socket: its agent knows GetMetrics, and its debug console
// is a shell of this machine.
type fakeGuest struct {
	katapb.AgentServiceService // nil: whoever calls more than what follows fails

	console bool
	metrics string
	agent   chan net.Conn // to the ttrpc server
}

func (g *fakeGuest) GetMetrics(context.Context, *katapb.GetMetricsRequest) (*katapb.Metrics, error) {
	return &katapb.Metrics{Metrics: g.metrics}, nil
}

// Accept, Close and Addr make it the listener of its ttrpc server.
func (g *fakeGuest) Accept() (net.Conn, error) {
	c, ok := <-g.agent
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (g *fakeGuest) Close() error { return nil }

func (g *fakeGuest) Addr() net.Addr { return &net.UnixAddr{} }

// serve answers on a socket until stop is called, which waits.
func (g *fakeGuest) serve(path string) (stop func(), err error) {
	s, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	katapb.RegisterAgentServiceService(s, g)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	g.agent = make(chan net.Conn)
	var wg, connections sync.WaitGroup
	wg.Go(func() { _ = s.Serve(context.Background(), g) }) // ends with Close
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { g.connect(c) })
		}
	})
	return func() {
		l.Close()
		s.Close()
		connections.Wait()
		close(g.agent)
		wg.Wait()
	}, nil
}

func (g *fakeGuest) connect(c net.Conn) {
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			c.Close()
			return
		}
		if b[0] == '\n' {
			break
		}
	}
	switch s := string(line); {
	case s == fmt.Sprintf("CONNECT %d", agentapi.Port):
		io.WriteString(c, "OK 5\n")
		g.agent <- c
	case s == fmt.Sprintf("CONNECT %d", agentapi.DebugConsolePort) && g.console:
		io.WriteString(c, "OK 6\n")
		if err := shellOn(c); err != nil {
			fmt.Fprintln(c, err)
		}
		c.Close()
	default:
		c.Close()
	}
}

// openTerminal makes a pseudo-terminal of this machine. pts(4).
func openTerminal() (master, tty *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, tty, err
}

func hasTerminals() error {
	m, tty, err := openTerminal()
	if err != nil {
		return err
	}
	return errors.Join(m.Close(), tty.Close())
}

// shellOn runs a shell on a terminal, as the agent does.
func shellOn(c net.Conn) error {
	master, tty, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd := exec.Command("/bin/sh")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm", "PS1=guest# "}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tty.Close()
		return err
	}
	tty.Close()
	out := make(chan struct{})
	go func() { io.Copy(c, master); close(out) }()
	go func() { io.Copy(master, c); master.Close() }() // hangs up
	err = cmd.Wait()
	<-out
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil // the shell's business
	}
	return err
}

// self describes this process as a record does.
func self() (record.HostProcess, error) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return record.HostProcess{}, err
	}
	f := strings.Fields(string(b[strings.LastIndex(string(b), ") ")+2:]))
	start, err := strconv.ParseUint(f[22-3], 10, 64)
	return record.HostProcess{PID: os.Getpid(), Start: start}, err
}

// newRecord is that of a running pod whose processes are this one.
func newRecord(id string) (*record.Record, error) {
	p, err := self()
	if err != nil {
		return nil, err
	}
	v := &verdict.Verdict{Version: verdict.Version, Guest: "sample", Manifest: digest.Of(nil), Report: digest.Of(nil),
		Claims: []verdict.Claim{{Name: "kernel.release", Want: "6", Got: "6", Met: true}}}
	v.Judge(true)
	return &record.Record{
		Version: record.Version, ID: id, State: record.Running, Created: "2026-01-02T03:04:05Z",
		Guest: "/srv/guests/sample", Shim: p, QEMU: p,
		Command: []string{"qemu"}, Links: []string{}, Cgroup: []string{}, Containers: []string{"one", "two"},
		Verdict: v, Annotations: map[string]string{},
	}, nil
}

func writeRecord(root string, r *record.Record) error {
	b, err := document.Encode(r)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, r.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state.json"), b, 0o600)
}

// startPod ROOT ID [quiet|dead] [METRICS]: a pod with a debug console; quiet has none; dead has left only its record.
func startPod(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 4 {
		ts.Fatalf("usage: pod ROOT ID [quiet|dead|well] [METRICS]")
	}
	root := ts.MkAbs(args[0])
	r, err := newRecord(args[1])
	ts.Check(err)
	kind := "well"
	if len(args) > 2 {
		kind = args[2]
	}
	if kind == "dead" {
		r.Shim.Start++ // another process has the number now
		r.QEMU.Start++
		r.Verdict = nil
	}
	ts.Check(writeRecord(root, r))
	if kind == "dead" {
		return
	}
	g := &fakeGuest{console: kind == "well", metrics: "# HELP kata_guest_load Load.\n# TYPE kata_guest_load " +
		"gauge\nkata_guest_load{item=\"load1\"} 0.5\n"}
	if len(args) > 3 {
		g.metrics = ts.ReadFile(args[3])
	}
	stop, err := g.serve(record.Dirs{State: root}.VsockSocket(args[1]))
	ts.Check(err)
	ts.Defer(stop)
}
