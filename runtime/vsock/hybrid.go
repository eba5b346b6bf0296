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
)

// handshakeTimeout is how long a client of the UNIX socket may take to say where it wants to go.
const handshakeTimeout = 10 * time.Second

// maxHandshake bounds "CONNECT <port>\n", in bytes.
const maxHandshake = 32

// hybrid joins UNIX sockets to the guest's vsock.
type hybrid struct {
	d      *Device
	path   string
	l      *net.UnixListener
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.UnixConn]bool // closed by close
}

// ServeHybrid makes the guest's ports reachable at the UNIX socket path, and the host's UNIX sockets path_PORT
// reachable for the guest. A client connects, writes "CONNECT <port>\n" and reads "OK <its own port>\n"; from there on
// it is the stream. The socket is closed without an answer when the guest refuses. The other way round, when the guest
// connects to the host's port P, the device connects to path_P; nothing is said there before the stream.
// docs/formats/vsock.md owns the bytes. Close ends it and removes path.
func (d *Device) ServeHybrid(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err // names the deed and the path
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	h := &hybrid{d: d, path: path, l: l, conns: map[*net.UnixConn]bool{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	d.mu.Lock()
	d.hybrid = append(d.hybrid, h)
	d.mu.Unlock()
	h.wg.Go(h.serve)
	return nil
}

func (h *hybrid) serve() {
	for {
		u, err := h.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files: the only cure is that others end
			h.d.log.Warn("vsock: accept", "path", h.path, "err", err)
			select {
			case <-h.ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
				continue
			}
		}
		h.wg.Go(func() {
			if err := h.client(u); err != nil {
				h.d.log.Debug("vsock: client of the UNIX socket", "path", h.path, "err", err)
			}
		})
	}
}

// track has close close u, unless that has happened already.
func (h *hybrid) track(u *net.UnixConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return false
	}
	h.conns[u] = true
	return true
}

func (h *hybrid) untrack(u *net.UnixConn) {
	h.mu.Lock()
	delete(h.conns, u)
	h.mu.Unlock()
}

func (h *hybrid) close() error {
	h.cancel()
	err := h.l.Close() // removes the path
	h.mu.Lock()
	for u := range h.conns {
		_ = u.Close() // a stream cut short on purpose
	}
	h.mu.Unlock()
	h.wg.Wait()
	return err
}

// client serves one client of the UNIX socket.
func (h *hybrid) client(u *net.UnixConn) error {
	defer u.Close()
	if !h.track(u) {
		return nil
	}
	defer h.untrack(u)
	if err := u.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	port, err := readConnect(u)
	if err != nil {
		return err
	}
	c, err := h.d.Dial(h.ctx, port)
	if err != nil {
		return err
	}
	vc := c.(*muxConn)
	if _, err := fmt.Fprintf(u, "OK %d\n", vc.key.local); err != nil {
		vc.Reset()
		return err
	}
	if err := u.SetDeadline(time.Time{}); err != nil {
		vc.Reset()
		return err
	}
	splice(vc, u)
	return nil
}

// readConnect reads "CONNECT <port>\n" and not a byte more: what follows is the stream.
func readConnect(r io.Reader) (uint32, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxHandshake {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, fmt.Errorf("read CONNECT: %w", err)
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		word, arg, _ := strings.Cut(string(line), " ")
		port, err := strconv.ParseUint(arg, 10, 32)
		if err != nil || !strings.EqualFold(word, "connect") {
			return 0, fmt.Errorf("%q: want CONNECT and a port", line)
		}
		return uint32(port), nil
	}
	return 0, fmt.Errorf("no line in the first %d bytes", maxHandshake)
}

// hybridServer returns what serves the guest's request for a port, or nil when there is no UNIX socket. The mux's lock
// is held.
func (d *Device) hybridServer(port uint32) func(*muxConn) bool {
	d.mu.Lock()
	hs := d.hybrid
	d.mu.Unlock()
	for _, h := range hs {
		path := fmt.Sprintf("%s_%d", h.path, port)
		if _, err := os.Lstat(path); err == nil {
			return func(c *muxConn) bool { return h.server(c, path) }
		}
	}
	return nil
}

// server joins the guest's request c to the UNIX socket path. False means that nobody listens there.
func (h *hybrid) server(c *muxConn, path string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(h.ctx, "unix", path)
	if err != nil {
		return false
	}
	u := conn.(*net.UnixConn)
	defer u.Close()
	if !h.track(u) {
		return false
	}
	defer h.untrack(u)
	c.m.mu.Lock()
	if !c.gone {
		c.accept()
	}
	c.m.mu.Unlock()
	splice(c, u)
	return true
}

// splice moves bytes both ways until both directions have ended, each by itself. It closes c.
func splice(c *muxConn, u *net.UnixConn) {
	var wg sync.WaitGroup
	wg.Go(func() { // from the UNIX socket to the guest
		_, err := io.Copy(onlyWriter{c}, u)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			_ = u.CloseRead() // the guest reads no more: what the client still writes fails
		}
		// A client that closed with bytes unread is ECONNRESET, after all that it wrote: the orderly end of this
		// direction.
		_ = c.CloseWrite() // fails only when c is closed, which is this function's last deed
	})
	go func() { // ends with c
		c.waitGone()
		_ = u.CloseRead() // nothing can go to the guest any more: do not wait for the client's next word
	}()
	_, err := io.Copy(onlyWriter{u}, c) // from the guest
	switch {
	case err == nil:
		_ = u.CloseWrite() // fails when the client is gone already
	case c.failure() == nil:
		_ = c.CloseRead() // the client is gone; what it wrote before still goes to the guest
	default:
		_ = u.Close() // a reset. UNIX sockets cannot say it; ending both directions comes closest.
	}
	wg.Wait()
	_ = c.Close()
}

// onlyWriter hides ReadFrom, which would only be in the way.
type onlyWriter struct{ io.Writer }
