package vsock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/vsock/vhostuser"
)

// The device's virtqueues. VIRTIO 1.2, 5.10.2. The event queue only ever says that the guest was moved to another host.
const (
	rxQueue    = 0 // to the guest
	txQueue    = 1 // from the guest
	eventQueue = 2
	queues     = 3
)

// batch is how many packets are moved before others get the device's lock.
const batch = 64

// guestCID is the CID of every guest behind a Device: each has the host for itself, so one number is enough.
const guestCID = 3

// Device is our own vsock device: a vhost-user back end with the host's ends of the connections. Its Serve speaks with
// QEMU.
type Device struct {
	mux *mux
	srv *vhostuser.Server
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	running bool
	up      chan struct{} // closed when running first became true
	hybrid  []*hybrid
}

var _ Transport = (*Device)(nil)

// NewDevice makes a device without a guest. A nil log is silent.
func NewDevice(log *slog.Logger) *Device {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Device{mux: newMux(agentapi.HostCID, guestCID), log: log, up: make(chan struct{})}
	d.srv = vhostuser.New((*virtio)(d), vhostuser.Options{
		Queues: queues, DataQueues: 2, Config: le.AppendUint64(nil, guestCID), Log: log,
	})
	d.mux.wakeSend = func() { d.srv.Wake(rxQueue) }
	d.mux.wakeReceive = func() { d.srv.Wake(txQueue) }
	d.mux.onRequest = d.hybridServer
	return d
}

// CID is the guest's.
func (d *Device) CID() uint32 { return guestCID }

// Serve lets QEMU use the device through conn until it hangs up. It closes conn.
func (d *Device) Serve(conn *net.UnixConn) error { return d.srv.Serve(conn) }

// Up is closed once the guest's driver runs the device.
func (d *Device) Up() <-chan struct{} { return d.up }

// Broken is why the device no longer serves its guest, or nil.
func (d *Device) Broken() error { return d.srv.Broken() }

// Dial connects to a port of the guest. Before the guest's driver runs, it waits for that.
// A refused connection is a *net.OpError with ECONNREFUSED.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.mux.dial(port)
	if err == nil {
		if err = c.wait(ctx); err == nil {
			return c, nil
		}
	}
	return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: &addr{ContextID: guestCID, Port: port}, Err: err}
}

// Listen accepts connections that the guest makes to a port of the host. It goes before a UNIX socket for the same
// port.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	l, err := d.mux.listen(port)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "vsock", Addr: &addr{ContextID: agentapi.HostCID, Port: port},
			Err: err}
	}
	return l, nil
}

// Close resets all connections, ends Serve and removes the UNIX sockets. Calling it again is a no-op.
func (d *Device) Close() error {
	d.mu.Lock()
	hs := d.hybrid
	d.hybrid = nil
	d.mu.Unlock()
	var errs []error
	for _, h := range hs {
		errs = append(errs, h.close())
	}
	d.mux.close(errDeviceClosed)
	errs = append(errs, d.srv.Close())
	return errors.Join(errs...)
}

// virtio is the Device as the virtqueues see it.
type virtio Device

// Process moves packets. It is called with the server's lock held; the mux has its own.
func (v *virtio) Process(index int, q *vhostuser.Queue) error {
	switch index {
	case rxQueue:
		return v.send(q)
	case txQueue:
		return v.receive(q)
	}
	return nil // we have no event to report
}

func (v *virtio) receive(q *vhostuser.Queue) error {
	defer q.Flush()
	for range batch {
		if !v.mux.canReceive() {
			return nil
		}
		c, ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		v.mux.receive(payload(c.Out))
		q.Push(c.Head, 0)
	}
	v.srv.Wake(txQueue)
	return nil
}

func (v *virtio) send(q *vhostuser.Queue) error {
	defer q.Flush()
	for range batch {
		if !v.mux.hasNext() {
			return nil
		}
		c, ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		n, err := v.sendOne(payload(c.In))
		if err != nil {
			return err
		}
		q.Push(c.Head, n)
	}
	v.srv.Wake(rxQueue)
	return nil
}

func (v *virtio) sendOne(buf payload) (uint32, error) {
	size := buf.size()
	if size < headerSize {
		return 0, fmt.Errorf("receive buffer of %d bytes has no room for a header", size)
	}
	h, p, q, done, ok := v.mux.next(int(min(size-headerSize, maxPacket)))
	if !ok {
		return 0, nil // it was withdrawn meanwhile; an empty buffer is lost on the guest, and harmless
	}
	defer done() // also when the guest's memory faults: the mux is locked
	var raw [headerSize]byte
	h.encode(&raw)
	_, buf = buf.write(raw[:])
	_, buf = buf.write(p)
	buf.write(q)
	return headerSize + h.length, nil
}

func (v *virtio) Running(now bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.running = now
	if now {
		select {
		case <-v.up:
		default:
			close(v.up)
		}
	}
}

func (v *virtio) Reset(cause error) {
	v.log.Debug("vsock connections reset", "cause", cause)
	v.mux.reset(syscall.ECONNRESET)
}
