package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// here is the path of the namespace that the test runs in. It is that of a file, because /proc/self is the first
// thread, which may be elsewhere.
func here(t *testing.T) string {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// veth makes a pair as a CNI plug-in does: name is the pod's end, its peer the host's.
func veth(t *testing.T, name string, addresses ...string) (pod, peer netlink.Link) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400},
		PeerName: name + "peer"}))
	pod, err := netlink.LinkByName(name)
	must(t, err)
	peer, err = netlink.LinkByName(name + "peer")
	must(t, err)
	for _, a := range addresses {
		x, err := netlink.ParseAddr(a)
		must(t, err)
		x.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(pod, x))
	}
	must(t, netlink.LinkSetUp(pod))
	return pod, peer
}

func TestAGuestGetsThePodsNetwork(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	ns := here(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	pod, peer := veth(t, "eth0", "10.88.0.5/16", "fd00:88::5/64")
	_, gateway, _ := net.ParseCIDR("0.0.0.0/0")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: pod.Attrs().Index, Dst: gateway, Gw: net.ParseIP("10.88.0.1"),
		Src: net.ParseIP("10.88.0.5"), MTU: 1300}))
	_, via, _ := net.ParseCIDR("10.99.0.0/16")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: pod.Attrs().Index, Dst: via, Scope: netlink.SCOPE_LINK}))
	mac, _ := net.ParseMAC("0a:58:0a:58:00:01")
	must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: pod.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP("10.88.0.1"), HardwareAddr: mac}))

	var links []string
	n, err := Attach(t.Context(), Options{Netns: ns, Model: tcModel, Note: func(l string) error {
		links = append(links,
			l)
		return nil
	}})
	must(t, err)
	e := n.Endpoints()
	if len(e) != 1 || e[0].Name != "eth0" || e[0].MTU != 1400 || e[0].MAC != pod.Attrs().HardwareAddr.String() {
		t.Fatalf("endpoints %+v", e)
	}
	if len(links) != 1 || links[0] != "eth0 kbtap0" {
		t.Errorf("links %q", links)
	}
	i := n.Interfaces()[0]
	if i.HwAddr != e[0].MAC || i.Mtu != 1400 || i.Type != "veth" || len(i.IPAddresses) != 2 ||
		i.IPAddresses[0].Address != "10.88.0.5" || i.IPAddresses[0].Mask != "16" ||
		i.IPAddresses[1].Address != "fd00:88::5" || i.IPAddresses[1].Family != katapb.IPFamily_v6 {
		t.Errorf("interface %v", i)
	}
	routes := n.Routes()
	if len(routes) != 2 || routes[0].Dest != "10.99.0.0/16" || routes[0].Gateway != "" ||
		routes[0].Scope != uint32(netlink.SCOPE_LINK) ||
		routes[1].Dest != "" || routes[1].Gateway != "10.88.0.1" || routes[1].Source != "10.88.0.5" ||
		routes[1].Mtu != 1300 {
		t.Errorf("routes %v", routes)
	}
	if x := n.Neighbours(); len(x) != 1 || x[0].Lladdr != "0a:58:0a:58:00:01" ||
		x[0].ToIPAddress.Address != "10.88.0.1" {
		t.Errorf("neighbours %v", x)
	}

	// The peer is on the host, which is another namespace.
	host := newNamespace(t)
	must(t, netlink.LinkSetNsFd(peer, int(host.Fd())))
	hostPath := fmt.Sprintf("/proc/self/fd/%d", host.Fd())

	// What arrives at the pod's interface leaves by the tap, and the other way round. The peer is a wire's other end.
	var wire int
	must(t, inside(hostPath, func() error {
		var err error
		if peer, err = netlink.LinkByName(peer.Attrs().Name); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(peer); err != nil {
			return err
		}
		wire = packetSocket(t, peer.Attrs().Index)
		return nil
	}))
	// IEEE 802: local experiments
	frame := append(append(append([]byte{}, pod.Attrs().HardwareAddr...), peer.Attrs().HardwareAddr...), 0x88, 0xb5)
	hello := append(append([]byte{}, frame...), "hello guest, hello guest, hello guest, hello guest"...)
	send := func() error {
		return unix.Sendto(wire, hello, 0, &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index, Halen: 6})
	}
	const vnetHeader = 10 // struct virtio_net_hdr of <linux/virtio_net.h>
	arrives(t, "at the tap", "hello guest", send, reader(e[0].Tap))
	back := append(make([]byte, vnetHeader), peer.Attrs().HardwareAddr...)
	back = append(append(append(back, pod.Attrs().HardwareAddr...), 0x88, 0xb5),
		"hello host, hello host, hello host, hello host, hello"...)
	arrives(t, "at the wire", "hello host", writer(e[0].Tap, back),
		func(b []byte) (int, error) { return unix.Read(wire, b) })

	must(t, n.Detach())
	must(t, n.Detach())
	left, err := netlink.LinkList()
	must(t, err)
	for _, l := range left {
		if strings.HasPrefix(l.Attrs().Name, tapPrefix) {
			t.Errorf("%s is left", l.Attrs().Name)
		}
		q, err := netlink.QdiscList(l)
		must(t, err)
		for _, x := range q {
			if x.Type() == "ingress" {
				t.Errorf("a queue is left at %s", l.Attrs().Name)
			}
		}
	}
}

// newNamespace makes a network namespace and opens it.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	must(t, r.err)
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

func packetSocket(t *testing.T, index int) int {
	t.Helper()
	const all = uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8) // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: all}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// arrives sends until something that is read holds text: kernels send packets of their own too, and drop those of
// others for a second after an interface came up. read gives EAGAIN where nothing comes in a second.
func arrives(t *testing.T, where, text string, send func() error, read func([]byte) (int, error)) {
	t.Helper()
	b := make([]byte, 2048)
	for range 10 {
		must(t, send())
		for range 50 {
			n, err := read(b)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			must(t, err)
			if strings.Contains(string(b[:n]), text) {
				return
			}
		}
	}
	t.Errorf("%s: nobody says %q", where, text)
}

// writer sends a frame to a tap.
func writer(tap *os.File, frame []byte) func() error {
	return func() error {
		_, err := tap.Write(frame)
		return err
	}
}

// reader reads a frame from a tap.
func reader(tap *os.File) func([]byte) (int, error) {
	return func(b []byte) (int, error) {
		fd := int(tap.Fd())
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		if err == nil && n == 0 {
			err = unix.EAGAIN
		}
		if err != nil {
			return 0, err
		}
		return unix.Read(fd, b)
	}
}

func TestCleanTakesWhatAKilledOneLeft(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	ns := here(t)
	pod, _ := veth(t, "eth0", "10.88.0.5/16")
	var links []string
	n, err := Attach(t.Context(), Options{Netns: ns, Model: tcModel, Note: func(l string) error {
		if q, err := netlink.QdiscList(pod); err != nil ||
			slices.ContainsFunc(q, func(x netlink.Qdisc) bool { return x.Type() == "ingress" }) {
			t.Errorf("the interface is changed before it is noted: %v, %v", q, err)
		}
		links = append(links, l)
		return nil
	}})
	must(t, err)
	if !slices.Equal(links, []string{"eth0 kbtap0"}) {
		t.Errorf("noted %q", links)
	}
	must(t, n.Endpoints()[0].Tap.Close()) // as the kernel does for a killed process
	must(t, Clean(ns, links))
	must(t, Clean(ns, links))
	q, err := netlink.QdiscList(pod)
	must(t, err)
	for _, x := range q {
		if x.Type() == "ingress" {
			t.Error("the queue is left")
		}
	}
	must(t, Clean("/no/such/namespace", links))
	if err := Clean(ns, []string{"eth0 eth0"}); err == nil {
		t.Error("an interface that is nobody's tap would be removed")
	}
	// And it can be done again.
	n, err = Attach(t.Context(), Options{Netns: ns, Model: tcModel})
	must(t, err)
	must(t, n.Detach())
}

func TestANamespaceThatIsNotThereIsNamed(t *testing.T) {
	_, err := Attach(t.Context(), Options{Netns: "/no/such/namespace", Model: tcModel})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/namespace") {
		t.Error(err)
	}
}

func TestAnInterfaceThatComesLaterIsJoinedOnce(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	n, err := Attach(t.Context(), Options{Netns: here(t), Model: tcModel})
	must(t, err)
	if e := n.Endpoints(); len(e) != 0 {
		t.Fatalf("endpoints %+v", e)
	}
	plugged := make(chan *Endpoint, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- n.Watch(ctx, func(e *Endpoint) error { plugged <- e; return nil })
	}()
	next := func(name string) *Endpoint {
		t.Helper()
		select {
		case e := <-plugged:
			if e.Name != name {
				t.Fatalf("%s came, want %s", e.Name, name)
			}
			return e
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not come", name)
		}
		return nil
	}
	first, _ := veth(t, "eth0", "10.88.0.5/16", "fd00:88::5/64")
	if i := next("eth0").Interface(); i.HwAddr != first.Attrs().HardwareAddr.String() || len(i.IPAddresses) != 2 {
		t.Errorf("interface %v", i)
	}
	link, _ := veth(t, "eth1", "10.89.0.5/16", "fd00:89::5/64")
	if e := next("eth1"); e.tap != "kbtap1" {
		t.Errorf("its tap is %s", e.tap)
	}
	// A change of what is joined is no other interface.
	must(t, netlink.LinkSetMTU(link, 1300))
	select {
	case e := <-plugged:
		t.Errorf("%s came once more", e.Name)
	case <-time.After(3 * quietTime): // in which nothing may happen
	}
	cancel()
	must(t, <-ended)
	must(t, n.Detach())
	for _, tap := range []string{"kbtap0", "kbtap1"} {
		if _, err := netlink.LinkByName(tap); err == nil {
			t.Errorf("%s is still there", tap)
		}
	}
}

func TestMacvtapsOfTwoNamespacesAreNotConfused(t *testing.T) {
	testenv.Require(t, testenv.Root)
	first, second := newNamespace(t), newNamespace(t)
	type pod struct {
		path      string
		net       *Network
		eth, peer netlink.Link
		wire      int
	}
	var pods []*pod
	for i, f := range []*os.File{first, second} {
		host := newNamespace(t)
		p := &pod{path: fmt.Sprintf("/proc/self/fd/%d", f.Fd())}
		must(t, inside(p.path, func() error {
			p.eth, p.peer = veth(t, "eth0", fmt.Sprintf("10.88.%d.5/24", i), "fd00:88::5/64")
			return netlink.LinkSetNsFd(p.peer, int(host.Fd()))
		}))
		must(t, inside(fmt.Sprintf("/proc/self/fd/%d", host.Fd()), func() error {
			peer, err := netlink.LinkByName(p.peer.Attrs().Name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(peer); err != nil {
				return err
			}
			p.wire = packetSocket(t, peer.Attrs().Index)
			return nil
		}))
		must(t, inside(p.path, func() error {
			_, gateway, _ := net.ParseCIDR("0.0.0.0/0")
			return netlink.RouteAdd(&netlink.Route{LinkIndex: p.eth.Attrs().Index, Dst: gateway,
				Gw: net.ParseIP(fmt.Sprintf("10.88.%d.1", i))})
		}))
		var err error
		p.net, err = Attach(t.Context(), Options{Netns: p.path, Model: macvtapModel})
		must(t, err)
		if e := p.net.Endpoints(); len(e) != 1 || e[0].MAC != p.eth.Attrs().HardwareAddr.String() {
			t.Fatalf("endpoints %+v", e)
		}
		pods = append(pods, p)
	}
	if a, b := pods[0].eth.Attrs().Index, pods[1].eth.Attrs().Index; a != b {
		t.Fatalf("interfaces %d and %d have different indexes, so this proves nothing", a, b)
	}
	for i, p := range pods {
		e := p.net.Endpoints()[0]
		out := append(make([]byte, 10), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
		out = append(append(append(out, p.eth.Attrs().HardwareAddr...), 0x88, 0xb5),
			fmt.Sprintf("pod %d speaks, pod %d speaks, pod %d speaks, pod %d speaks", i, i, i, i)...)
		arrives(t, "at the wire", fmt.Sprintf("pod %d speaks", i), writer(e.Tap, out),
			func(b []byte) (int, error) { return unix.Read(p.wire, b) })
		in := append(append([]byte{}, p.eth.Attrs().HardwareAddr...), p.peer.Attrs().HardwareAddr...)
		in = append(append(in, 0x88, 0xb5), fmt.Sprintf("hello pod %d, hello pod %d, hello pod %d, hello pod %d", i,
			i, i, i)...)
		send := func() error {
			return unix.Sendto(p.wire, in, 0, &unix.SockaddrLinklayer{Ifindex: p.peer.Attrs().Index, Halen: 6})
		}
		arrives(t, "at the macvtap", fmt.Sprintf("hello pod %d", i), send, reader(e.Tap))
	}
	for i, p := range pods {
		must(t, p.net.Detach())
		must(t, inside(p.path, func() error {
			l, err := netlink.LinkByName("eth0")
			must(t, err)
			if got := l.Attrs().HardwareAddr.String(); got != p.eth.Attrs().HardwareAddr.String() {
				t.Errorf("pod %d: the hardware address is %s, want %s", i, got, p.eth.Attrs().HardwareAddr)
			}
			addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
			must(t, err)
			routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
			must(t, err)
			if len(addresses) != 1 || !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw != nil }) {
				t.Errorf("pod %d: addresses %v, routes %v", i, addresses, routes)
			}
			if _, err := netlink.LinkByName("kbtap0"); err == nil {
				t.Errorf("pod %d: the macvtap is left", i)
			}
			return nil
		}))
	}
}

func TestTheHostsOwnNetworkIsKnownByAnyPath(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) { // which plays the host
		return
	}
	dir := t.TempDir()
	bound, link := dir+"/bound", dir+"/link"
	must(t, os.WriteFile(bound, nil, 0o600))
	must(t, unix.Mount("/proc/self/ns/net", bound, "", unix.MS_BIND, ""))
	must(t, os.Symlink(fmt.Sprintf("/proc/%d/ns/net", os.Getpid()), link))
	for _, p := range []string{"/proc/self/ns/net", "/proc/thread-self/ns/net", fmt.Sprintf("/proc/%d/ns/net",
		os.Getpid()), bound, link, here(t)} {
		if host, err := IsHost(p); !host || err != nil {
			t.Errorf("%s: %v, %v", p, host, err)
		}
	}
	other := newNamespace(t)
	must(t, os.WriteFile(dir+"/other", nil, 0o600))
	must(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", other.Fd()), dir+"/other", "", unix.MS_BIND, ""))
	for _, p := range []string{fmt.Sprintf("/proc/self/fd/%d", other.Fd()), dir + "/other"} {
		if host, err := IsHost(p); host || err != nil {
			t.Errorf("%s: %v, %v", p, host, err)
		}
	}
	if _, err := IsHost(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	must(t, errors.Join(unix.Unmount(bound, 0), unix.Unmount(dir+"/other", 0)))
}
