// Package vsock is the channel between the host and a guest: stream connections from and to numbered ports, without a
// network.
//
// In comes a guest's virtio socket device, either the host kernel's vhost-vsock or the Device of this package, a
// vhost-user back end that needs nothing of the kernel; out go net.Conn and net.Listener, and on request UNIX sockets
// for other processes ("hybrid vsock"). It does not know what is said over the connections. What the guest sends is
// hostile: it can break its own device and nothing else, and what it can make the host spend is bounded. Specification:
// VIRTIO 1.2, section 5.10.
package vsock

import (
	"context"
	"net"

	mdvsock "github.com/mdlayher/vsock"
)

// addr is a vsock address: a context identifier and a port.
type addr = mdvsock.Addr

// Transport is the vsock of one guest, seen from the host. Its methods may be called from several goroutines.
type Transport interface {
	// CID is the guest's context identifier.
	CID() uint32
	// Dial connects to a port of the guest.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen accepts the guest's connections to a port of the host, until it is closed.
	Listen(port uint32) (net.Listener, error)
	// Close ends all connections and listeners. Calling it again is a no-op.
	Close() error
}
