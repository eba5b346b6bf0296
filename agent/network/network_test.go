package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
)

// cable makes two links that end in each other, with hardware addresses 02::1 and 02::2.
func cable(t *testing.T, a, b string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = a, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	testenv.Require(t, testenv.Func(testenv.Veth, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b, PeerHardwareAddr: net.HardwareAddr{2, 0,
			0, 0, 0, 2}})
	}))
}

func addresses(pairs ...string) []*katapb.IPAddress {
	var out []*katapb.IPAddress
	for _, p := range pairs {
		a, mask, _ := strings.Cut(p, "/")
		out = append(out, &katapb.IPAddress{Address: a, Mask: mask})
	}
	return out
}

// state prints a link as ListInterfaces has it, without link-local addresses.
func state(t *testing.T, n *Network, name string) string {
	t.Helper()
	all, err := n.ListInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Name != name {
			continue
		}
		words := []string{i.HwAddr, fmt.Sprint(i.Mtu)}
		if i.RawFlags&unix.IFF_UP != 0 {
			words = append(words, "up")
		}
		if i.RawFlags&unix.IFF_NOARP != 0 {
			words = append(words, "noarp")
		}
		var ips []string
		for _, a := range i.IPAddresses {
			if !strings.HasPrefix(a.Address, "fe80:") {
				ips = append(ips, a.Address+"/"+a.Mask)
			}
		}
		slices.Sort(ips)
		return strings.Join(append(words, ips...), " ")
	}
	return "none"
}

func TestALinkBecomesWhatTheHostSays(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET) {
		return
	}
	cable(t, "eth5", "eth0")
	n := New(Config{})
	i := &katapb.Interface{Device: "eth0", Name: "eth0", HwAddr: "02:00:00:00:00:01", Mtu: 1400,
		IPAddresses: addresses("10.0.0.2/24", "10.0.0.3/24", "fd00::2/64"), RawFlags: unix.IFF_NOARP}
	for range 2 { // again changes nothing
		got, err := n.UpdateInterface(t.Context(), i)
		if err != nil || got != i {
			t.Fatalf("%v, %v", got, err)
		}
		// The one that was called eth0 got the name of ours.
		if got := state(t, n, "eth0") + "; " + state(t, n,
			"eth5"); got != "02:00:00:00:00:01 1400 up noarp 10.0.0.2/24 10.0.0.3/24 fd00::2/64; "+
			"02:00:00:00:00:02 1500" {
			t.Errorf("got %s", got)
		}
	}
	linkLocal := func() bool {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		all, err := listAddresses(link)
		return err == nil && slices.ContainsFunc(all, func(a netlink.Addr) bool {
			return a.IP.To4() == nil &&
				a.IP.IsLinkLocalUnicast()
		})
	}
	peer, err := netlink.LinkByName("eth5")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
	// With the cable in and ARP on, the kernel makes a link-local address.
	i.RawFlags = 0
	for try := 0; !linkLocal(); try++ {
		if _, err := n.UpdateInterface(t.Context(), i); err != nil || try > 200 {
			t.Fatalf("no link-local address, %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer func() {
		if !linkLocal() {
			t.Error("the kernel's link-local address was removed")
		}
	}()
	// The first address goes, and must not take the second with it.
	i.IPAddresses, i.RawFlags, i.Mtu = addresses("10.0.0.3/24", "192.168.1.1/32"), 0, 0
	if _, err := n.UpdateInterface(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	if got := state(t, n, "eth0"); got != "02:00:00:00:00:01 1400 up 10.0.0.3/24 192.168.1.1/32" {
		t.Errorf("got %s", got)
	}
	// Another length is another address.
	i.IPAddresses = addresses("10.0.0.3/16")
	if _, err := n.UpdateInterface(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	if got := state(t, n, "eth0"); got != "02:00:00:00:00:01 1400 up 10.0.0.3/16" {
		t.Errorf("got %s", got)
	}
	// A cloned guest: the name is known, the hardware address is new.
	i.HwAddr = "02:00:00:00:00:09"
	if _, err := n.UpdateInterface(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	if got := state(t, n, "eth0"); !strings.HasPrefix(got, "02:00:00:00:00:09") {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsNoInterfaceIsRefused(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET) {
		return
	}
	n := New(Config{Root: t.TempDir(), Devices: &uevent.Listener{Root: t.TempDir(), Timeout: time.Millisecond}})
	good := func() *katapb.Interface { return &katapb.Interface{Name: "eth0", HwAddr: "02:00:00:00:00:01"} }
	for name, change := range map[string]func(*katapb.Interface){
		"a name with a slash":         func(i *katapb.Interface) { i.Name = "../x" },
		"a long name":                 func(i *katapb.Interface) { i.Name = strings.Repeat("a", 16) },
		"dots":                        func(i *katapb.Interface) { i.Name = ".." },
		"no hardware address":         func(i *katapb.Interface) { i.HwAddr = "" },
		"an MTU beyond IP":            func(i *katapb.Interface) { i.Mtu = 1 << 40 },
		"an address that is none":     func(i *katapb.Interface) { i.IPAddresses = addresses("10.0.0/24") },
		"a length beyond the address": func(i *katapb.Interface) { i.IPAddresses = addresses("10.0.0.1/33") },
		"no length":                   func(i *katapb.Interface) { i.IPAddresses = addresses("10.0.0.1") },
		"a path that is none":         func(i *katapb.Interface) { i.DevicePath = "x" },
	} {
		i := good()
		change(i)
		if _, err := n.UpdateInterface(t.Context(), i); err == nil || errors.Is(err, errNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.UpdateInterface(t.Context(), good()); !errors.Is(err, errNotFound) {
		t.Errorf("no such link: %v", err)
	}
	i := good()
	i.DevicePath = "02/01"
	if _, err := n.UpdateInterface(t.Context(), i); !errors.Is(err, uevent.ErrTimeout) ||
		!strings.Contains(err.Error(), "02/01") {
		t.Errorf("a card that does not come: %v", err)
	}
	lo := &katapb.Interface{Name: "lo", HwAddr: "02:00:00:00:00:07"}
	if _, err := n.UpdateInterface(t.Context(), lo); err == nil {
		t.Error("the loopback link got a hardware address")
	}
}

func routes(t *testing.T, all []*katapb.Route) string {
	t.Helper()
	var out []string
	for _, r := range all {
		if strings.HasPrefix(r.Dest, "fe80:") || strings.HasPrefix(r.Dest, "ff00:") {
			continue
		}
		s := r.Dest
		if s == "" {
			s = "default" + r.Family.String()[1:]
		}
		if r.Gateway != "" {
			s += " via " + r.Gateway
		}
		if r.Source != "" {
			s += " from " + r.Source
		}
		if r.Mtu != 0 {
			s += fmt.Sprint(" mtu ", r.Mtu)
		}
		out = append(out, s+" on "+r.Device)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestRoutesAreThoseOfTheLastCall(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET) {
		return
	}
	cable(t, "eth0", "eth1")
	n := New(Config{})
	for name, mac := range map[string]string{"eth0": "02:00:00:00:00:01", "eth1": "02:00:00:00:00:02"} {
		i := &katapb.Interface{Name: name, HwAddr: mac}
		if name == "eth0" {
			i.IPAddresses = addresses("10.0.0.2/24", "fd00::2/64")
		}
		if _, err := n.UpdateInterface(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	const kernel, kernel6 = "10.0.0.0/24 from 10.0.0.2 on eth0", "fd00::/64 on eth0"
	update := func(want string, rs ...*katapb.Route) {
		t.Helper()
		got, err := n.UpdateRoutes(t.Context(), rs)
		if err != nil {
			t.Fatal(err)
		}
		if g := routes(t, got); g != want {
			t.Errorf("got  %s\nwant %s", g, want)
		}
	}
	// The way to the gateway comes after what needs it; a route of somebody else stays.
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	_, other, _ := net.ParseCIDR("203.0.113.0/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: other, Protocol: unix.RTPROT_STATIC,
		Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	const others = "203.0.113.0/24 on eth0"
	first := []*katapb.Route{
		{Gateway: "169.254.1.1", Device: "eth0"}, {Dest: "169.254.1.1/32", Device: "eth0",
			Scope: uint32(netlink.SCOPE_LINK)},
		{Gateway: "fd00::1", Device: "eth0", Family: katapb.IPFamily_v6}, {Dest: "198.51.100.7", Device: "eth0",
			Source: "10.0.0.2", Mtu: 1300, Scope: uint32(netlink.SCOPE_LINK)},
	}
	want := strings.Join([]string{kernel, "169.254.1.1/32 on eth0", "198.51.100.7/32 from 10.0.0.2 mtu 1300 on eth0",
		others, "default4 via 169.254.1.1 on eth0", "default6 via fd00::1 on eth0", kernel6}, "; ")
	update(want, first...)
	update(want, first...)
	// A new gateway replaces the old one, off the link by its flag; what is not asked for any more goes.
	update(strings.Join([]string{kernel, others, "default4 via 192.0.2.1 on eth0", kernel6}, "; "),
		&katapb.Route{Dest: "0.0.0.0/0", Gateway: "192.0.2.1", Device: "eth0", Flags: unix.RTNH_F_ONLINK})
	update(strings.Join([]string{kernel, others, kernel6}, "; "))
	for name, r := range map[string]*katapb.Route{
		"no link": {Dest: "10.1.0.0/16", Device: "eth9"}, "a gateway nobody reaches": {Dest: "10.1.0.0/16",
			Gateway: "192.0.2.9", Device: "eth0"}, "two versions": {Dest: "10.1.0.0/16", Gateway: "fd00::1",
			Device: "eth0"},
		"a destination that is none": {Dest: "x", Device: "eth0"}, "a gateway that is none": {Gateway: "x",
			Device: "eth0"}, "a network as source": {Dest: "10.1.0.0/16", Source: "10.0.0.0/24", Device: "eth0"},
		"a scope beyond a byte": {Dest: "10.1.0.0/16", Scope: 256, Device: "eth0"},
	} {
		if _, err := n.UpdateRoutes(t.Context(), []*katapb.Route{r}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := n.AddARPNeighbors([]*katapb.ARPNeighbor{{ToIPAddress: &katapb.IPAddress{Address: "10.0.0.9"},
		Device: "eth0", Lladdr: "02:00:00:00:00:99"}, {ToIPAddress: &katapb.IPAddress{Address: "fd00::9"},
		Device: "eth0", Lladdr: "02:00:00:00:00:99"}}); err != nil {
		t.Fatal(err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.NeighList(link.Attrs().Index, family)
		if err != nil || !slices.ContainsFunc(all, func(h netlink.Neigh) bool {
			return h.HardwareAddr.String() == "02:00:00:00:00:99" && h.State == unix.NUD_PERMANENT
		}) {
			t.Errorf("family %d: %v, %v", family, all, err)
		}
	}
	if err := n.AddARPNeighbors([]*katapb.ARPNeighbor{{ToIPAddress: &katapb.IPAddress{Address: "10.0.0.9"},
		Device: "eth9", Lladdr: "02:00:00:00:00:99"}}); !errors.Is(err, errNotFound) {
		t.Errorf("neighbour on no link: %v", err)
	}
}

func TestDNSCoversTheFileThatIsThere(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET) {
		return
	}
	dir := t.TempDir()
	resolv := filepath.Join(dir, "resolv.conf")
	n := New(Config{Run: filepath.Join(dir, "run"), Resolv: resolv})
	if err := n.DNS([]string{"nameserver 10.0.0.1"}); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(resolv, []byte("before\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"10.0.0.1", "10.0.0.2"} {
		if err := n.DNS([]string{"search x", "nameserver " + s}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(resolv); err != nil || string(b) != "search x\nnameserver "+s+"\n" {
			t.Errorf("%q, %v", b, err)
		}
	}
	if err := unix.Unmount(resolv, 0); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(resolv); err != nil || string(b) != "before\n" {
		t.Errorf("mounted twice, or written through: %q, %v", b, err)
	}
}

type programs struct{ ran []string }

func (p *programs) Run(_ context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	p.ran = append(p.ran, strings.Join(append([]string{name}, args...), " ")+" < "+string(stdin))
	return []byte("out"), nil
}

func TestEachVersionOfIPHasItsPrograms(t *testing.T) {
	p := &programs{}
	n := New(Config{Programs: p})
	for _, v6 := range []bool{false, true} {
		if _, err := n.IPTables(t.Context(), v6); err != nil {
			t.Fatal(err)
		}
		if out, err := n.SetIPTables(t.Context(), v6, []byte("*filter")); err != nil || string(out) != "out" {
			t.Fatal(err)
		}
	}
	want := "iptables-save < , iptables-restore --wait < *filter, ip6tables-save < , ip6tables-restore --wait < *filter"
	if got := strings.Join(p.ran, ", "); got != want {
		t.Errorf("ran %s", got)
	}
	if _, err := New(Config{}).IPTables(t.Context(), false); err == nil {
		t.Error("rules without programs")
	}
}

func FuzzReadRoute(f *testing.F) {
	f.Add("10.0.0.0/8", "10.0.0.1", "eth0", "10.0.0.2", uint32(0), uint32(1500))
	f.Add("", "fd00::1", "eth0", "::/0", uint32(253), uint32(0))
	f.Fuzz(func(t *testing.T, dest, gateway, device, source string, scope, mtu uint32) {
		w, err := readRoute(&katapb.Route{Dest: dest, Gateway: gateway, Device: device, Source: source, Scope: scope,
			Mtu: mtu})
		if err == nil && (!w.to.IsValid() || w.to != w.to.Masked() || w.mtu > maxMTU || w.gateway.IsValid() &&
			w.gateway.Is4() != w.to.Addr().Is4()) {
			t.Fatalf("%+v", w)
		}
	})
}

func TestTheKernelsOwnDummyGoesAndNoOther(t *testing.T) {
	up, owned := netlink.LinkAttrs{RawFlags: unix.IFF_UP}, netlink.LinkAttrs{MasterIndex: 3}
	for what, c := range map[string]struct {
		link netlink.Link
		want bool
	}{
		"as the kernel made it": {&netlink.Dummy{}, true}, "in use": {&netlink.Dummy{LinkAttrs: up}, false},
		"of a bridge":  {&netlink.Dummy{LinkAttrs: owned}, false},
		"another kind": {&netlink.Veth{}, false},
	} {
		if got := unused(c.link); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	cable(t, "dummy0", "other") // a pod's interface of that name
	if err := RemoveDummy(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("dummy0"); err != nil {
		t.Error("another kind of that name:", err)
	}
}
