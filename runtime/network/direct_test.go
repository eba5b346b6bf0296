package network

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/network/dan"
	"github.com/vishvananda/netlink"
)

// direct is the network of a file with one tap and one socket.
func direct(t *testing.T, netns, tap string) *dan.Network {
	t.Helper()
	n, err := dan.Parse([]byte(fmt.Sprintf(`{"netns": %q, "devices": [
{"name": "eth0", "guest_mac": "02:00:00:00:00:0a", "device": {"type": "host-tap", "tap_name": %q, "queue_size": 512},
 "network_info": {"interface": {"ip_addresses": ["192.0.2.7/24"], "mtu": 1400},
  "routes": [{"gateway": "192.0.2.1"}, {"dest": "198.51.100.0/24", "scope": 253}],
  "neighbors": [{"ip_address": "192.0.2.1", "hardware_addr": "02:00:00:00:00:01", "state": 128}]}},
{"name": "eth1", "device": {"type": "vhost-user", "path": "/run/switch.sock", "queue_num": 4},
 "network_info": {"interface": {"ip_addresses": []}}}]}`, netns, tap)), "pod")
	must(t, err)
	return n
}

func TestAGuestGetsInterfacesThatSomebodyMadeOnTheHost(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	// The taps are in a namespace that is neither this one nor the pod's.
	there := newNamespace(t)
	path := fmt.Sprintf("/proc/self/fd/%d", there.Fd())
	make := func(name string, mode netlink.TuntapMode, flags netlink.TuntapFlag) {
		must(t, inside(path, func() error {
			return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode, Flags: flags})
		}))
	}
	for name, flags := range map[string]netlink.TuntapFlag{"tap7": netlink.TUNTAP_DEFAULTS,
		"tap8": netlink.TUNTAP_MULTI_QUEUE_DEFAULTS} {
		make(name, netlink.TUNTAP_MODE_TAP, flags)
		n, err := Direct(Options{Netns: here(t)}, direct(t, path, name))
		must(t, err)
		e := n.Endpoints()
		if len(e) != 2 || e[0].Tap == nil || e[0].Socket != "" || e[0].QueueSize != 512 || e[0].MTU != 1400 ||
			e[1].Tap != nil || e[1].Socket != "/run/switch.sock" || e[1].Queues != 4 ||
			e[0].MAC != "02:00:00:00:00:0a" {
			t.Fatalf("endpoints %+v, %+v", e[0], e[1])
		}
		if i := n.Interfaces(); i[0].Name != "eth0" || i[0].IPAddresses[0].Address != "192.0.2.7" ||
			i[1].Name != "eth1" {
			t.Errorf("interfaces %v", i)
		}
		if r := n.Routes(); len(r) != 2 || r[0].Gateway != "" || r[1].Gateway != "192.0.2.1" {
			t.Errorf("routes %v", r)
		}
		if x := n.Neighbours(); len(x) != 1 || x[0].Lladdr != "02:00:00:00:00:01" {
			t.Errorf("neighbours %v", x)
		}
		if _, err := e[0].ByName(); err == nil || !strings.Contains(err.Error(), "attached directly") {
			t.Errorf("by name: %v", err)
		}
		up := func() bool {
			var l netlink.Link
			must(t, inside(path, func() (err error) { l, err = netlink.LinkByName(name); return err }))
			return l.Attrs().Flags&1 != 0
		}
		if !up() {
			t.Error("the tap is down")
		}
		if name == "tap7" {
			if _, err := Direct(Options{}, direct(t, path, name)); err == nil ||
				!strings.Contains(err.Error(), "somebody else has it") {
				t.Errorf("a tap that is in use: %v", err)
			}
		}
		must(t, n.Detach())
		must(t, n.Detach())
		up() // it is still there
	}
	make("tun9", netlink.TUNTAP_MODE_TUN, netlink.TUNTAP_DEFAULTS)
	must(t, inside(path, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth1"})
	}))
	for name, says := range map[string]string{"tun9": "is a tun", "tap10": "not found",
		"veth0": "an interface of type veth"} {
		if _, err := Direct(Options{}, direct(t, path, name)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", name, err, says)
		}
	}
	if _, err := Direct(Options{}, direct(t, "/no/such", "tap7")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no namespace: %v", err)
	}
	if _, err := Direct(Options{RxRate: 1}, direct(t, path, "tap7")); err == nil ||
		!strings.Contains(err.Error(), "bound of the rate") {
		t.Errorf("a rate: %v", err)
	}
	must(t, inside(path, func() error {
		_, err := netlink.LinkByName("tap10")
		if err == nil {
			t.Error("a tap was made")
		}
		return nil
	}))
}
