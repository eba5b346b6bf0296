package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// answers says what a server at one address in one namespace gets from a client in another, and the other way round.
func answers(t *testing.T, server, address, client string) string {
	t.Helper()
	var l net.Listener
	must(t, inside(server, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	}))
	defer l.Close()
	from := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			from <- err.Error()
			return
		}
		defer c.Close()
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if _, e := io.Copy(c, c); errors.Join(err, e) != nil {
			host = errors.Join(err, e).Error()
		}
		from <- host
	}()
	var said []byte
	must(t, inside(client, func() error {
		c, err := net.DialTimeout("tcp4", l.Addr().String(), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		said, err = io.ReadAll(c)
		return err
	}))
	return string(said) + " from " + <-from
}

func TestPacketsAreForwardedToTheGuest(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	ns := here(t)
	pod, peer := veth(t, "eth0", "10.88.0.5/16")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: pod.Attrs().Index, Dst: all, Gw: net.ParseIP("10.88.0.1")}))
	host, guest := newNamespace(t), newNamespace(t)
	must(t, netlink.LinkSetNsFd(peer, int(host.Fd())))
	hostPath, guestPath := fmt.Sprintf("/proc/self/fd/%d", host.Fd()), fmt.Sprintf("/proc/self/fd/%d", guest.Fd())
	must(t, inside(hostPath, func() error {
		l, err := netlink.LinkByName(peer.Attrs().Name)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.88.0.1/16")
		if err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.AddrAdd(l, a), netlink.LinkSetUp(l), netlink.LinkSetUp(lo),
			netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1),
				Mask: net.CIDRMask(32, 32)}}))
	}))

	n, err := Attach(t.Context(), Options{Netns: ns, Model: l3Model})
	must(t, err)
	e := n.Endpoints()[0]
	bridged(t, e, guestPath, "10.88.0.5/16")
	must(t, inside(guestPath, func() error { // what the guest is told
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: all, Gw: net.ParseIP("10.88.0.1")})
	}))
	for _, c := range []struct{ server, address, client, want string }{
		{guestPath, "10.88.0.5:0", hostPath, "hello from 10.88.0.1"}, // from the wire
		{hostPath, "10.88.0.1:0", guestPath, "hello from 10.88.0.5"}, // to a neighbour
		{hostPath, "192.0.2.1:0", guestPath, "hello from 10.88.0.5"}, // over the gateway
		{guestPath, "10.88.0.5:0", ns, "hello from 169.254.0.1"},     // from the namespace itself
	} {
		if got := answers(t, c.server, c.address, c.client); got != c.want {
			t.Errorf("%s: %s, want %s", c.address, got, c.want)
		}
	}

	read := func(name string) string {
		b, err := os.ReadFile(sysctl + "/" + name)
		must(t, err)
		return strings.TrimSpace(string(b))
	}
	if read("ip_forward") != "1" || read("conf/eth0/proxy_arp") != "1" {
		t.Error("nothing is forwarded")
	}
	must(t, n.Detach())
	if read("ip_forward") != "0" || read("conf/eth0/proxy_arp") != "0" || read("neigh/eth0/proxy_delay") == "0" {
		t.Error("the namespace forwards still")
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: pod.Attrs().Index,
		Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	must(t, err)
	local := 0
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL && r.Dst.IP.Equal(net.IPv4(10, 88, 0, 5)) {
			local++
		}
	}
	if local != 1 {
		t.Errorf("the interface's address is not the namespace's again: %v", routes)
	}
}

func TestWhatCannotBeForwardedIsRefused(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	o := Options{Netns: here(t), Model: l3Model}
	refused := func(says string) {
		t.Helper()
		if _, err := Attach(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		list, err := netlink.LinkList()
		must(t, err)
		for _, l := range list {
			if strings.HasPrefix(l.Attrs().Name, tapPrefix) {
				t.Errorf("%s is left", l.Attrs().Name)
			}
		}
	}
	pod, _ := veth(t, "eth0")
	refused("it has no address")
	a, err := netlink.ParseAddr("fd00:88::5/64")
	must(t, err)
	a.Flags = unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(pod, a))
	refused("fd00:88::5, and l3forwarding is for IPv4 alone")
	must(t, netlink.AddrDel(pod, a))
	a, err = netlink.ParseAddr("10.88.0.5/16")
	must(t, err)
	must(t, netlink.AddrAdd(pod, a))
	veth(t, "eth1", "10.99.0.5/16")
	refused("l3forwarding is for one interface, and eth0 is there")
}
