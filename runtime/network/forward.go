package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Dial connects to a TCP port of the guest's own loopback interface.
type Dial func(ctx context.Context, port uint16) (net.Conn, error)

// forwarder carries connections to the namespace's loopback interface into the guest.
type forwarder struct {
	link      int // what catches them
	listeners []net.Listener
	wg        sync.WaitGroup
	cancel    context.CancelFunc
}

// Forward has connections that somebody on the host makes inside the namespace, to localhost, reach the guest: that is
// how containerd forwards ports to a pod, whose processes it expects in the namespace. Nobody else connects there: what
// arrives from outside goes to the guest's interface. It lasts until Detach.
func (n *Network) Forward(dial Dial) error {
	f := &forwarder{link: -1}
	err := inside(n.o.Netns, func() error { return f.listen() })
	if err != nil {
		return errors.Join(fmt.Errorf("forward ports of %s: %w", n.o.Netns, err), f.close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for _, l := range f.listeners {
		f.wg.Go(func() { f.serve(ctx, l, dial) })
	}
	n.mu.Lock()
	n.forwarder = f
	n.mu.Unlock()
	return nil
}

// listen runs inside the namespace.
func (f *forwarder) listen() error {
	fds := [2]int{-1, -1}
	for i, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		var c net.ListenConfig
		c.SetMultipathTCP(false) // such sockets cannot be in the table
		l, err := c.Listen(context.Background(), "tcp", address)
		if err != nil {
			if i == 1 {
				continue // no IPv6 here
			}
			return err
		}
		f.listeners = append(f.listeners, l)
		raw, err := l.(*net.TCPListener).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds[i] = int(fd) }) // stays open as long as l
		}
		if err != nil {
			return err
		}
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	f.link, err = catchAll(int(ns.Fd()), fds[0], fds[1])
	return err
}

func (f *forwarder) serve(ctx context.Context, l net.Listener, dial Dial) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		f.wg.Go(func() {
			defer c.Close()
			// the port that was asked for: the socket was given away, not the connection redirected
			a := c.LocalAddr().(*net.TCPAddr)
			g, err := dial(ctx, uint16(a.Port))
			if err != nil {
				_ = c.(*net.TCPConn).SetLinger(0) // a reset: nobody listens
				return
			}
			defer g.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = g.Close() })
			defer stop()
			pipe(c, g)
		})
	}
}

func (f *forwarder) close() error {
	var errs []error
	if f.link >= 0 {
		errs = append(errs, unix.Close(f.link))
	}
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	if f.cancel != nil {
		f.cancel()
	}
	f.wg.Wait()
	return errors.Join(errs...)
}

// pipe carries bytes between two connections, each direction to its own end.
func pipe(a, b net.Conn) {
	var wg sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the other side sees the end
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		} else {
			_ = to.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
}
