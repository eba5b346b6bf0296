package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"unsafe"

	mdvsock "github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// KernelDevice is the device file of the kernel's own back end.
const KernelDevice = "/dev/vhost-vsock"

// vhostVsockSetGuestCID is VHOST_VSOCK_SET_GUEST_CID: _IOW(0xAF, 0x60, __u64). Linux: include/uapi/linux/vhost.h.
const vhostVsockSetGuestCID = 1<<30 | 8<<16 | 0xAF<<8 | 0x60

// Guests' CIDs: 0 to 2 are taken, and the last one means any. VIRTIO 1.2, 5.10.4.
const (
	minGuestCID = 3
	maxGuestCID = 1<<32 - 2
)

// Kernel is a guest's vsock by way of the host kernel's vhost-vsock. The host's ports are shared by all guests of the
// machine and all its processes: Listen fails when another one has the port.
type Kernel struct {
	cid uint32
	dev *os.File

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]bool
	closed    bool
}

var _ Transport = (*Kernel)(nil)

// NewKernel reserves a CID that no other guest has. The first is taken from random, so that processes that start at
// once do not compete.
func NewKernel(random io.Reader) (*Kernel, error) {
	f, err := os.OpenFile(KernelDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	var b [4]byte
	for range 64 {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return nil, errors.Join(fmt.Errorf("random CID: %w", err), f.Close())
		}
		cid := uint64(minGuestCID) + uint64(le.Uint32(b[:]))%(maxGuestCID-minGuestCID+1)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), vhostVsockSetGuestCID, uintptr(unsafe.Pointer(&cid)))
		switch errno {
		case 0:
			return &Kernel{cid: uint32(cid), dev: f, listeners: map[net.Listener]bool{}}, nil
		case unix.EADDRINUSE:
			continue
		}
		return nil, errors.Join(fmt.Errorf("%s: reserve CID %d: %w", KernelDevice, cid, errno), f.Close())
	}
	return nil, errors.Join(fmt.Errorf("%s: 64 random CIDs are all taken", KernelDevice), f.Close())
}

// CID is the guest's.
func (k *Kernel) CID() uint32 { return k.cid }

// File is the open device, which QEMU inherits. It stays the Kernel's.
func (k *Kernel) File() *os.File { return k.dev }

// Dial connects to a port of the guest. A guest whose driver does not run refuses.
func (k *Kernel) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	type result struct {
		c   *mdvsock.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := mdvsock.Dial(k.cid, port, nil)
		done <- result{c, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.c, nil
	case <-ctx.Done():
		go func() { // the kernel gives up by itself after 2 s
			if r := <-done; r.err == nil {
				_ = r.c.Close()
			}
		}()
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: &addr{ContextID: k.cid, Port: port},
			Err: context.Cause(ctx)}
	}
}

// Listen accepts this guest's connections; those of other guests are closed at once.
func (k *Kernel) Listen(port uint32) (net.Listener, error) {
	l, err := mdvsock.ListenContextID(agentapi.HostCID, port, nil)
	if err != nil {
		return nil, err
	}
	kl := &kernelListener{Listener: l, k: k}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, errors.Join(net.ErrClosed, l.Close())
	}
	k.listeners[kl] = true
	return kl, nil
}

// Close closes the listeners and gives the CID back. Connections end with the guest.
func (k *Kernel) Close() error {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil
	}
	k.closed = true
	ls := k.listeners
	k.listeners = nil
	k.mu.Unlock()
	var errs []error
	for l := range ls {
		errs = append(errs, l.(*kernelListener).Listener.Close())
	}
	return errors.Join(append(errs, k.dev.Close())...)
}

type kernelListener struct {
	net.Listener
	k *Kernel
}

func (l *kernelListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*addr); ok && a.ContextID == l.k.cid {
			return c, nil
		}
		_ = c.Close() // a stranger
	}
}

func (l *kernelListener) Close() error {
	l.k.mu.Lock()
	delete(l.k.listeners, l)
	l.k.mu.Unlock()
	return l.Listener.Close()
}

// Choice is which back end a guest gets, and why in one line for people.
type Choice struct {
	Kernel bool // vhost-vsock; otherwise a Device
	Reason string
}

// Choose prefers the kernel's back end where the host has it and the host's ports that the guest needs are free there.
func Choose(ports ...uint32) Choice {
	f, err := os.OpenFile(KernelDevice, os.O_RDWR, 0)
	if err != nil {
		return choose(err, nil)
	}
	_ = f.Close()
	for _, p := range ports {
		l, err := mdvsock.ListenContextID(agentapi.HostCID, p, nil)
		if err != nil {
			return choose(nil, fmt.Errorf("port %d of the host: %w", p, err))
		}
		_ = l.Close()
	}
	return choose(nil, nil)
}

// choose is the decision: open is the error of opening the device, ports that of trying the ports.
func choose(open, ports error) Choice {
	switch {
	case errors.Is(open, os.ErrNotExist):
		return Choice{Reason: "vsock: own vhost-user back end, because the host has no " + KernelDevice}
	case open != nil:
		return Choice{Reason: fmt.Sprintf("vsock: own vhost-user back end, because %v", open)}
	case ports != nil:
		return Choice{Reason: fmt.Sprintf("vsock: own vhost-user back end, because the kernel's cannot be used: %v",
			ports)}
	}
	return Choice{Kernel: true, Reason: "vsock: the kernel's " + KernelDevice}
}
