// Package rest asks hypervisors that are reached by HTTP over a UNIX socket.
//
// In come a socket and requests with bodies in JSON; out come the answers' bodies, or an error with what the hypervisor
// said. It does not know what is asked. A hypervisor that its guest has taken over may answer anything: answers are
// bounded, and what is shown of them is cleaned.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/printable"
)

// Bounds of answers.
const (
	maxBody  = 1 << 20 // bytes; the longest that is asked for describes a whole machine
	maxFault = 1 << 10 // bytes of it that an error shows
)

// answerTime bounds one request. Hypervisors map and open files meanwhile, and answer then.
const answerTime = 30 * time.Second

// Client asks one hypervisor. Its methods may be called from several goroutines; each request is a connection of its
// own.
type Client struct {
	Name   string // of the hypervisor, for people
	Socket string
	Prefix string // of all paths
	// Fault reads why the hypervisor refused from the body of an answer. Empty: the body does not say.
	Fault func(body []byte) string
}

// Error is a refusal of the hypervisor's.
type Error struct {
	Name         string // of the hypervisor
	Method, Path string
	Status       int    // of HTTP
	Fault        string // what it says, cleaned; may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s refuses %s %s: %d %s", e.Name, e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Fault != "" {
		s += ": " + e.Fault
	}
	return s
}

// Request is one request.
type Request struct {
	Method, Path string
	Body         json.RawMessage // nil is none
	Files        []*os.File      // that go along; they stay the caller's
}

// Do asks, and returns the body of an answer that is no refusal, which is empty where there is nothing to say.
func (c *Client) Do(ctx context.Context, r Request) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %v", answerTime))
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			u, err := d.DialContext(ctx, "unix", c.Socket)
			if err != nil {
				return nil, err
			}
			return &carrier{UnixConn: u.(*net.UnixConn), files: r.Files}, nil
		},
	}
	defer transport.CloseIdleConnections()
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	failed := func(err error) ([]byte, error) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("ask %s: %s %s: %w", c.Name, r.Method, r.Path, err)
	}
	q, err := http.NewRequestWithContext(ctx, r.Method, "http://localhost"+c.Prefix+r.Path, body)
	if err != nil {
		return failed(err)
	}
	if r.Body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	q.Header.Set("Accept", "application/json")
	a, err := transport.RoundTrip(q)
	if err != nil {
		return failed(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxBody+1))
	switch {
	case err != nil:
		return failed(err)
	case len(b) > maxBody:
		return failed(fmt.Errorf("the answer has more than %d bytes", maxBody))
	case a.StatusCode/100 != 2:
		return nil, &Error{Name: c.Name, Method: r.Method, Path: c.Prefix + r.Path, Status: a.StatusCode,
			Fault: Clean(c.Fault(b))}
	}
	return b, nil
}

// Clean is what is shown of what a hypervisor says: one line, without control characters, and not too long.
func Clean(s string) string { return printable.Words(s, maxFault) }

// carrier is a connection whose first bytes have files with them.
type carrier struct {
	*net.UnixConn
	files []*os.File
}

// Write sends the files along with the first byte. unix(7), SCM_RIGHTS.
func (c *carrier) Write(b []byte) (int, error) {
	if len(c.files) == 0 || len(b) == 0 {
		return c.UnixConn.Write(b)
	}
	fds := make([]int, len(c.files))
	for i, f := range c.files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	c.files = nil
	if err == nil && n < len(b) {
		var more int
		more, err = c.UnixConn.Write(b[n:])
		n += more
	}
	return n, err
}

// Encode is a body. What cannot be one is a mistake of ours.
func Encode[T any](v T) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("rest: a body that is no JSON: %v", err))
	}
	return b
}

// Decode reads an answer's body, in which there may be more than what is asked about.
func Decode[T any](name string, b []byte) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("%s's answer: %w", name, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, fmt.Errorf("%s's answer has more behind its end", name)
	}
	return v, nil
}
