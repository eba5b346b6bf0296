package vsock

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/vsock/vhostuser/vhostusertest"
)

// guest is the other side of a Device: a driver with the rings, and behind it a mux as the guest's socket layer.
type guest struct {
	*vhostusertest.Driver
	mux    *mux
	rx, tx *vhostusertest.Ring
	rxBuf  []int
	txBuf  []int
	kick   chan struct{}
	stop   chan struct{}
	wg     sync.WaitGroup
}

const (
	rxBufSize = 4096
	txBufSize = headerSize + maxPacket
	rxRing    = 128
	txRing    = 32
)

// newGuest starts a guest with a working driver on d.
func newGuest(t testing.TB, d *Device, without uint64) *guest {
	t.Helper()
	g := newRawGuest(t, d, without)
	g.mux = newMux(guestCID, agentapi.HostCID)
	g.run()
	return g
}

// newRawGuest is a guest whose rings are the test's.
func newRawGuest(t testing.TB, d *Device, without uint64) *guest {
	t.Helper()
	g := &guest{kick: make(chan struct{}, 1), stop: make(chan struct{})}
	g.Driver = vhostusertest.New(t, 4<<20, d.Serve)
	g.Negotiate(without)
	g.SetMemory(1 << 20)
	g.rx = g.NewRing(rxQueue, rxRing, 0)
	g.tx = g.NewRing(txQueue, txRing, 0)
	for range rxRing {
		g.rxBuf = append(g.rxBuf, g.Alloc(rxBufSize, 1))
	}
	for range txRing {
		g.txBuf = append(g.txBuf, g.Alloc(txBufSize, 1))
	}
	return g
}

func (g *guest) offerRx(i uint32) {
	g.rx.SetDesc(i, vhostusertest.GuestBase+uint64(g.rxBuf[i]), rxBufSize, vhostusertest.Write, 0)
	g.rx.Offer(uint16(i))
}

func (g *guest) run() {
	g.mux.wakeSend = func() {
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
	for i := range uint32(rxRing) {
		g.offerRx(i)
	}
	g.rx.Kick()
	g.T.Cleanup(func() {
		close(g.stop)
		g.rx.CallFile().SetReadDeadline(time.Now())
		g.tx.CallFile().SetReadDeadline(time.Now())
		g.wg.Wait()
		g.mux.close(net.ErrClosed)
	})
	g.wg.Go(g.receiver)
	g.wg.Go(g.sender)
}

// wait waits for an interrupt or the end.
func (g *guest) wait(r *vhostusertest.Ring) bool {
	for {
		select {
		case <-g.stop:
			return false
		default:
		}
		if r.Interrupt(20 * time.Millisecond) {
			return true
		}
	}
}

func (g *guest) receiver() {
	for {
		head, n, ok := g.rx.Take()
		if !ok {
			g.rx.Arm()
			if head, n, ok = g.rx.Take(); !ok {
				if !g.wait(g.rx) {
					return
				}
				continue
			}
		}
		b := g.Mem[g.rxBuf[head]:][:rxBufSize]
		g.mux.receive(payload{b[:n]})
		g.offerRx(head)
		g.rx.Kick()
	}
}

func (g *guest) sender() {
	free := make([]uint32, txRing)
	for i := range free {
		free[i] = uint32(i)
	}
	for {
		for {
			head, _, ok := g.tx.Take()
			if !ok {
				break
			}
			free = append(free, head)
		}
		if len(free) == 0 {
			g.tx.Arm()
			if head, _, ok := g.tx.Take(); ok {
				free = append(free, head)
			} else if !g.wait(g.tx) {
				return
			}
			continue
		}
		h, p, q, done, ok := g.mux.next(maxPacket)
		if !ok {
			select {
			case <-g.kick:
			case <-g.stop:
				return
			}
			continue
		}
		i := free[len(free)-1]
		free = free[:len(free)-1]
		b := g.Mem[g.txBuf[i]:][:txBufSize]
		h.encode((*[headerSize]byte)(b))
		copy(b[headerSize+copy(b[headerSize:], p):], q)
		done()
		g.tx.SetDesc(i, vhostusertest.GuestBase+uint64(g.txBuf[i]), headerSize+h.length, 0, 0)
		g.tx.Offer(uint16(i))
		g.tx.Kick()
	}
}

// dial connects from the guest to a port of the host.
func (g *guest) dial(port uint32) (*muxConn, error) {
	c, err := g.mux.dial(port)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c, c.wait(ctx)
}
