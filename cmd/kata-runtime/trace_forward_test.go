package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/spans"
)

// heard is what a program says; several may read it.
type heard struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(b)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}

// server is a program that runs until it is ended.
type server struct {
	cmd      *exec.Cmd
	out, err heard
	ended    chan error
}

// serve starts kata-runtime, and waits until it says a text or ends.
func serve(program, says string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	return s, s.hears(&s.err, says)
}

// hears waits until a text is there, or the program has ended.
func (s *server) hears(in *heard, text string) error {
	for end := time.Now().Add(startTime); !strings.Contains(in.String(), text); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("it has ended: %w: %s", err, s.err.String())
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("it does not say %q: %s", text, in.String())
		}
	}
	return nil
}

// stop ends it.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return <-s.ended
}

// forwards runs a trace-forward of the documentation until it listens, or says why it cannot on this host.
func forwards(ts *testscript.TestScript, own []string) {
	program := filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "kata-runtime")
	s, err := serve(program, "spans are awaited", own...)
	if err != nil && (s == nil || !strings.Contains(err.Error(), "listen for the spans of guests")) {
		ts.Fatalf("%q: %v", own, err)
	}
	if e := s.stop(); err == nil {
		ts.Check(e)
	}
}

func TestForwardedSpansAreSeenAndRootIsGivenUp(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test's own program is kata-runtime by this name: see TestMain.
	program := filepath.Join(t.TempDir(), "kata-runtime")
	if err := os.Symlink(exe, program); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "vsock")
	s, err := serve(program, "spans are awaited", "trace-forward", "--dump-only", "--socket-path", socket)
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 && (!strings.Contains(string(status), "Uid:\t65534\t65534\t65534\t65534\n") ||
		!strings.Contains(string(status), "Gid:\t65534\t65534\t65534\t65534\n") ||
		!strings.Contains(string(status), "CapEff:\t0000000000000000\n")) {
		t.Errorf("root is not given up:\n%s", status)
	}
	c, err := net.Dial("unix", socket+"_10240")
	if err != nil {
		t.Fatal(err)
	}
	span := spans.Span{Context: spans.Context{Trace: spans.TraceID{1}, Span: spans.SpanID{2}}, Name: "StartContainer",
		Kind: spans.Server, Start: 1, End: 2}
	data, err := spans.Encode(spans.Batch{Service: spans.AgentService, Spans: []spans.Span{span}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(spans.AppendFrame(spans.AppendFrame(nil, data), []byte("noise"))); err != nil {
		t.Fatal(err)
	}
	if err := s.hears(&s.out, `"name": "StartContainer"`); err != nil {
		t.Error(err)
	}
	if err := s.hears(&s.err, "spans of a guest are refused"); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
