package network

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridged has a tap in the namespace "guest" that is the guest's interface: what the machine would do with frames, two
// goroutines do, until the taps are closed.
func bridged(t *testing.T, e *Endpoint, guest string, address string) {
	t.Helper()
	var f *os.File
	must(t, inside(guest, func() error {
		var err error
		if f, err = openTap("eth0"); err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac, err := net.ParseMAC(e.MAC)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		for _, err := range []error{netlink.LinkSetHardwareAddr(l, mac), netlink.LinkSetMTU(l, e.MTU),
			netlink.AddrAdd(l, a), netlink.LinkSetUp(l)} {
			if err != nil {
				return err
			}
		}
		return nil
	}))
	for _, way := range [][2]*os.File{{e.Tap, f}, {f, e.Tap}} {
		go func() {
			frame := make([]byte, 1<<17) // with the header of virtio in front
			for {
				n, err := unix.Read(int(way[0].Fd()), frame)
				if err != nil {
					return
				}
				_, _ = unix.Write(int(way[1].Fd()), frame[:n]) // a queue that is full drops, as a wire does
			}
		}()
	}
}

// stream sends bytes by TCP from a namespace to an address in another, and returns how long it took until the other end
// had them all.
func stream(t *testing.T, from, to, address string, size int) time.Duration {
	t.Helper()
	var l net.Listener
	must(t, inside(to, func() error {
		var err error
		l, err = net.Listen("tcp", address+":0")
		return err
	}))
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			var n int64
			if n, err = io.Copy(io.Discard, c); err == nil && n != int64(size) {
				err = fmt.Errorf("%d bytes arrive", n)
			}
			c.Close()
		}
		got <- err
	}()
	var c net.Conn
	must(t, inside(from, func() error {
		var err error
		c, err = net.DialTimeout("tcp", l.Addr().String(), time.Minute)
		return err
	}))
	begun := time.Now()
	_, err := c.Write(make([]byte, size))
	must(t, err)
	must(t, c.Close())
	must(t, <-got)
	return time.Since(begun)
}

func TestTheRateOfAnInterfaceIsBounded(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	// Bits a second, and how many bytes pass with each of them.
	const rx, tx, size = 80_000_000, 40_000_000, 10 << 20
	ns := here(t)
	_, peer := veth(t, "eth0")
	host, guest := newNamespace(t), newNamespace(t)
	must(t, netlink.LinkSetNsFd(peer, int(host.Fd())))
	hostPath, guestPath := fmt.Sprintf("/proc/self/fd/%d", host.Fd()), fmt.Sprintf("/proc/self/fd/%d", guest.Fd())
	must(t, inside(hostPath, func() error {
		l, err := netlink.LinkByName(peer.Attrs().Name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.9.0.1/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	n, err := Attach(t.Context(), Options{Netns: ns, Model: tcModel, RxRate: rx, TxRate: tx})
	must(t, err)
	bridged(t, n.Endpoints()[0], guestPath, "10.9.0.2/24")

	for _, way := range []struct {
		what, from, to, address string
		rate                    float64
	}{{"to the guest", hostPath, guestPath, "10.9.0.2", rx}, {"from the guest", guestPath, hostPath, "10.9.0.1", tx}} {
		took := stream(t, way.from, way.to, way.address, size)
		t.Logf("%s: %.1f Mbit/s of %.0f", way.what, size*8/took.Seconds()/1e6, way.rate/1e6)
		// The first burst passes at once. Nothing says how slow a machine may be.
		if least := (size - leastBurst - way.rate/8*burstTime.Seconds()) * 8 / way.rate; took.Seconds() < least {
			t.Errorf("%s: %d bytes take %v, which is less than %.2f s", way.what, size, took, least)
		}
	}

	must(t, n.Detach())
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	list, err := netlink.QdiscList(l)
	must(t, err)
	for _, q := range list {
		if q.Type() == "tbf" || q.Type() == "ingress" {
			t.Errorf("%v is left", q)
		}
	}
	if _, err := Attach(t.Context(), Options{Netns: ns, Model: macvtapModel, RxRate: 1}); err == nil {
		t.Error("a macvtap has a bound")
	}
}

func TestAQueueThatBoundsARateHasRoomForItsBurst(t *testing.T) {
	l := &netlink.Dummy{}
	for _, bits := range []int64{1, 8, 1_000, 1_000_000, 1_000_000_000, 400_000_000_000} {
		q := bounded(l, bits)
		if q.Rate != uint64(max(bits/8, 1)) || q.Buffer == 0 || q.Limit < leastBurst {
			t.Errorf("%d bit/s: %+v", bits, q)
		}
	}
}
