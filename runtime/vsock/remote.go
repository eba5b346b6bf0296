package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// remoteCID is a guest's context identifier where its device is another program's: it is the device's own, so that all
// guests may have the same.
const remoteCID = 3

// Remote is a guest's vsock whose device another program serves, behind UNIX sockets by the convention of ServeHybrid:
// that program listens at a path, and connects to path_PORT for what the guest wants of the host.
type Remote struct {
	path string
	user int // who may connect to listeners; below 0 is this process's user

	mu        sync.Mutex // guards what follows
	listeners map[*remoteListener]bool
	closed    bool
}

var _ Transport = (*Remote)(nil)

// NewRemote is the vsock at a path, where the program need not listen yet. It runs as a user, or as that of this
// process where user is below 0.
func NewRemote(path string, user int) *Remote {
	return &Remote{path: path, user: user, listeners: map[*remoteListener]bool{}}
}

// CID is the guest's.
func (r *Remote) CID() uint32 { return remoteCID }

// Dial connects to a port of the guest. A guest that does not listen there refuses, and so does a program that does not
// listen yet.
func (r *Remote) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: &addr{ContextID: remoteCID, Port: port}, Err: err}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", r.path)
	if err != nil {
		return failed(errors.Join(err, context.Cause(ctx)))
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	var local uint32
	err = c.SetDeadline(time.Now().Add(handshakeTimeout))
	if err == nil {
		local, err = connectTo(c, port)
	}
	if !stop() {
		err = errors.Join(err, context.Cause(ctx))
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return failed(errors.Join(err, c.Close()))
	}
	return &remoteConn{UnixConn: c.(*net.UnixConn), local: addr{ContextID: agentapi.HostCID, Port: local},
		remote: addr{ContextID: remoteCID, Port: port}}, nil
}

// remoteConn is a connection to a port of the guest. The guest knows it by its local port.
type remoteConn struct {
	*net.UnixConn
	local, remote addr
}

// LocalAddr is the host's end, as the guest sees it.
func (c *remoteConn) LocalAddr() net.Addr { return &c.local }

// RemoteAddr is the guest's end.
func (c *remoteConn) RemoteAddr() net.Addr { return &c.remote }

// connectTo says which port is wanted, and reads the answer and not a byte more: what follows is the stream. It returns
// the port that the device has given the host's end.
func connectTo(c io.ReadWriter, port uint32) (uint32, error) {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return 0, err
	}
	return readOK(c)
}

// readOK reads "OK <port>\n". The socket is closed without an answer where the guest refuses.
func readOK(r io.Reader) (uint32, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxHandshake {
		_, err := io.ReadFull(r, b[:])
		if len(line) == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
			return 0, syscall.ECONNREFUSED
		}
		if err != nil {
			return 0, fmt.Errorf("read OK: %w", err)
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		word, arg, _ := strings.Cut(string(line), " ")
		local, err := strconv.ParseUint(arg, 10, 32)
		if err != nil || word != "OK" {
			return 0, fmt.Errorf("%q: want OK and a port", line)
		}
		return uint32(local), nil
	}
	return 0, fmt.Errorf("no line in the first %d bytes", maxHandshake)
}

// Listen accepts the guest's connections to a port of the host.
func (r *Remote) Listen(port uint32) (net.Listener, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, net.ErrClosed
	}
	path := fmt.Sprintf("%s_%d", r.path, port)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err // names the deed and the path
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if r.user >= 0 {
		if err := os.Chown(path, r.user, r.user); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	rl := &remoteListener{UnixListener: l, r: r}
	r.listeners[rl] = true
	return rl, nil
}

// Close closes the listeners. Connections end with the program that serves the device.
func (r *Remote) Close() error {
	r.mu.Lock()
	r.closed = true
	ls := r.listeners
	r.listeners = nil
	r.mu.Unlock()
	var errs []error
	for l := range ls {
		errs = append(errs, l.UnixListener.Close())
	}
	return errors.Join(errs...)
}

type remoteListener struct {
	*net.UnixListener
	r *Remote
}

func (l *remoteListener) Close() error {
	l.r.mu.Lock()
	delete(l.r.listeners, l)
	l.r.mu.Unlock()
	return l.UnixListener.Close()
}
