package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/remote"
)

// buffer is what a stream writes and a test reads at the same time.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func checkStreams(t *testing.T, p *pod) {
	t.Run("exec carries input, output, errors and the code", func(t *testing.T) { streamExec(t, p) })
	t.Run("exec carries megabytes", func(t *testing.T) { streamBig(t, p) })
	t.Run("exec on a terminal knows its size", func(t *testing.T) { streamTerminal(t, p) })
	t.Run("attach joins a running container", func(t *testing.T) { streamAttach(t, p) })
	t.Run("port-forward reaches a port of the pod", func(t *testing.T) { streamForward(t, p) })
}

// execURL asks for the address of an exec.
func (c *container) execURL(t *testing.T, r *cri.ExecRequest) string {
	t.Helper()
	r.ContainerId = c.id
	a, err := c.Exec(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a.Url
}

func streamExec(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	var out, errs buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	u := c.execURL(t, &cri.ExecRequest{Cmd: []string{"sh", "-c", "read a; echo got $a; echo err >&2; exit 9"},
		Stdin: true, Stdout: true, Stderr: true})
	s, err := remote.Run(ctx, u, remote.Streams{In: strings.NewReader("words\n"), Out: &out, Err: &errs})
	if err != nil {
		t.Fatal(err)
	}
	code, err := s.Code()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "code, output and errors", fmt.Sprint(code, out.String(), errs.String()), "9got words\nerr\n")
}

func streamBig(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	data := bytes.Repeat([]byte("0123456789abcdef"), 4<<16) // 4 MiB
	var out buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// The end of input cannot be said in this protocol, so the command counts. TestTasks says it.
	u := c.execURL(t, &cri.ExecRequest{Cmd: []string{"toolbox", "sum", fmt.Sprint(len(data))}, Stdin: true,
		Stdout: true, Stderr: true})
	if _, err := remote.Run(ctx, u, remote.Streams{In: bytes.NewReader(data), Out: &out, Err: io.Discard}); err != nil {
		t.Fatal(err)
	}
	equal(t, "what the command read", out.String(), fmt.Sprintf("%x %d\n", sha256.Sum256(data), len(data)))
	h := sha256.New()
	u = c.execURL(t, &cri.ExecRequest{Cmd: []string{"sh", "-c", "toolbox spew 8; toolbox spew 8 | toolbox sum >&2"},
		Stdout: true, Stderr: true})
	var errs buffer
	if _, err := remote.Run(ctx, u, remote.Streams{Out: h, Err: &errs}); err != nil {
		t.Fatal(err)
	}
	equal(t, "what was read of the command", fmt.Sprintf("%x %d\n", h.Sum(nil), 8<<20), errs.String())
}

func streamTerminal(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "pause")
	var out buffer
	sizes := make(chan remote.Size)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	in, feed := io.Pipe()
	defer feed.Close()
	u := c.execURL(t, &cri.ExecRequest{Cmd: []string{"sh", "-c", "stty -g >/dev/null; trap '' INT; toolbox winsize"},
		Tty: true, Stdin: true, Stdout: true})
	done := make(chan error, 1)
	go func() {
		_, err := remote.Run(ctx, u, remote.Streams{In: in, Out: &out, Resize: sizes})
		done <- err
	}()
	until(t, patience, "a size", func() bool { return strings.Contains(out.String(), "size ") })
	sizes <- remote.Size{Width: 123, Height: 45}
	until(t, patience, "the new size", func() bool { return strings.Contains(out.String(), "size 45 123\r\n") })
	if _, err := io.WriteString(feed, "typed"); err != nil {
		t.Fatal(err)
	}
	until(t, patience, "the echo of what is typed", func() bool { return strings.HasSuffix(out.String(), "typed") })
	if _, err := io.WriteString(feed, "\x1c"); err != nil { // control-backslash: SIGQUIT by the terminal
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func streamAttach(t *testing.T, p *pod) {
	c := p.start(t, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "sh", "-c",
		"while read a; do echo got $a; test $a = last && exit 4; done")
	a, err := p.Attach(t.Context(), &cri.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	in, feed := io.Pipe()
	defer feed.Close()
	var out buffer
	done := make(chan error, 1)
	go func() {
		_, err := remote.Run(ctx, a.Url, remote.Streams{In: in, Out: &out, Err: io.Discard})
		done <- err
	}()
	for _, w := range []string{"first", "last"} {
		if _, err := io.WriteString(feed, w+"\n"); err != nil {
			t.Fatal(err)
		}
		until(t, patience, "an answer to "+w, func() bool { return strings.HasSuffix(out.String(), "got "+w+"\n") })
	}
	equal(t, "exit code", c.wait(t).ExitCode, 4)
	if err := <-done; err != nil {
		t.Error(err)
	}
	log, _ := c.logs(t)
	equal(t, "the log", log, "got first\ngot last\n")
}

// streamForward needs a server on the pod's 127.0.0.1 as seen in its network namespace on the host, where containerd
// dials.
func streamForward(t *testing.T, p *pod) {
	c := p.start(t, nil, "toolbox", "serve", ":8200", "forwarded")
	until(t, patience, "the server", func() bool {
		return c.exec(t, "toolbox", "get",
			"http://127.0.0.1:8200/").out == "forwarded"
	})
	r, err := p.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{8200}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := remote.Forward(ctx, r.Url, 8200, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n",
		func(s string) bool { return strings.Contains(s, "\r\n\r\nforwarded") })
	if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("%q, %v", answer, err)
	}
}
