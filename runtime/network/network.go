// Package network gives a guest the network of a pod's namespace.
//
// In comes the path of a network namespace in which somebody, usually a CNI plug-in, has made interfaces; out come open
// tap devices for the virtual machine, and what the guest has to be told: addresses, routes, neighbours. Each interface
// is joined to its tap, so that what arrives at the one leaves by the other. It does not know what made the namespace,
// and changes nothing in it but what Detach and Clean take away.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Model is how an interface is joined to its tap.
type Model string

// The models, by Kata's names.
const (
	tcModel      Model = "tcfilter"     // a tap beside the interface, and tc sends each one's packets out of the other
	macvtapModel Model = "macvtap"      // a tap on top of the interface
	l3Model      Model = "l3forwarding" // a tap beside it, between which the namespace forwards packets
)

// Options are what Attach is asked for.
type Options struct {
	Netns string // path, such as /var/run/netns/NAME
	Model Model
	Log   *slog.Logger // nil is silent
	// RxRate and TxRate bound what passes each interface to the guest and from it, in bits a second. 0 is no bound.
	RxRate, TxRate int64
	// Note is told of each interface before it is changed, as Clean wants it: its name and its tap's, separated by a
	// space. It may be nil.
	Note func(link string) error
}

// Endpoint is an interface of the namespace and its tap.
type Endpoint struct {
	Name string   // of the interface, in the namespace and in the guest
	MAC  string   // of the guest's
	MTU  int      // bytes
	Tap  *os.File // for the virtual machine; closed by Detach. Nil where there is a Socket

	PCI       string // address of the host's device that the interface is; there is no Tap then
	Socket    string // of a vhost-user back end that moves the packets; empty is none
	Queues    int    // pairs of queues of the interface; 0 is one
	QueueSize int    // buffers of a queue; 0 is the hypervisor's own

	given      *katapb.Interface // what the guest has to set up, of an interface that is attached directly; or nil
	tap        string            // name of the tap
	moved      bool              // its address and routes are the guest's, because of macvtap
	forwarded  *forwarded        // what l3 changed; nil is nothing
	kept       []netlink.Route
	link       netlink.Link
	addresses  []netlink.Addr
	routes     []*katapb.Route
	neighbours []*katapb.ARPNeighbor
}

// ByName has the tap stay when its file is closed, closes that, and returns the tap's name. Detach takes it away.
func (e *Endpoint) ByName() (string, error) {
	switch {
	case e.given != nil:
		return "", fmt.Errorf("the interface %s is attached directly (dan_conf), and its tap is not in the network "+
			"namespace of the pod", e.Name)
	case e.moved:
		return "", fmt.Errorf("the interface %s is joined by macvtap, which has a file and no name; set "+
			"internetworking_model = %q", e.Name, tcModel)
	case e.Tap == nil:
		return "", fmt.Errorf("the tap %s was given up already", e.tap)
	}
	if err := unix.IoctlSetInt(int(e.Tap.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return "", fmt.Errorf("have the tap %s stay: %w", e.tap, err)
	}
	err := e.Tap.Close()
	e.Tap = nil
	return e.tap, err
}

// String is what Clean knows an endpoint by.
func (e *Endpoint) String() string { return e.Name + " " + e.tap }

// Network is what was attached. Its methods may be called from several goroutines.
type Network struct {
	o      Options
	direct bool // made by Direct

	mu         sync.Mutex // guards what follows
	endpoints  []*Endpoint
	routes     []*katapb.Route
	neighbours []*katapb.ARPNeighbor
	forwarder  *forwarder // nil unless Forward was called
}

// tapPrefix begins the names of taps, by which Clean knows them. The kernel takes names of 15 bytes.
const tapPrefix = "kbtap"

// Attach joins every interface of the namespace that is up, but the loopback, to a tap. When it fails nothing is
// changed.
func Attach(_ context.Context, o Options) (*Network, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Model == macvtapModel && o.RxRate|o.TxRate != 0 {
		return nil, fmt.Errorf("a bound of the rate of interfaces wants internetworking_model = %q", tcModel)
	}
	n := &Network{o: o}
	err := inside(o.Netns, n.scan)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network of %s: %w", o.Netns, err), n.Detach())
	}
	return n, nil
}

// Open opens the network namespace at a path.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	// ioctl_nsfs(2)
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("%s is not a network namespace", path), f.Close())
	}
	return f, nil
}

// New makes a network namespace that has nothing but its loopback interface, which is up. It is there as long as the
// file, or somebody in it.
func New() (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	thread.Run(func() {
		f, err := func() (*os.File, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("make a network namespace: %w", err)
			}
			lo, err := netlink.LinkByName("lo")
			if err == nil {
				err = netlink.LinkSetUp(lo)
			}
			if err != nil {
				return nil, fmt.Errorf("bring up lo: %w", err)
			}
			return os.Open("/proc/thread-self/ns/net")
		}()
		done <- result{f, err}
	})
	r := <-done
	return r.f, r.err
}

// inside runs f on a thread that is in the network namespace at path. The thread is thrown away where it cannot go
// back.
func inside(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer home.Close()
			there, err := os.Open(path)
			if err != nil {
				return err
			}
			defer there.Close()
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				return &os.PathError{Op: "enter the network namespace", Path: path, Err: err}
			}
			err = f()
			if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
				return err // the thread ends with this goroutine, as it stays locked
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

// IsHost says whether the network namespace at path is the host's own: that of process 1, or that of this process. A
// path may lead there in many ways, so namespaces are compared by device and inode of their files: namespaces(7), "The
// /proc/pid/ns directory". What Attach does to the interfaces of a namespace must never be done to those of the host,
// so callers ask first.
func IsHost(path string) (bool, error) {
	var there unix.Stat_t
	if err := unix.Stat(path, &there); err != nil {
		return false, &os.PathError{Op: "look at the network namespace", Path: path, Err: err}
	}
	known := false
	for _, p := range []string{"/proc/1/ns/net", "/proc/thread-self/ns/net"} {
		var host unix.Stat_t
		if unix.Stat(p, &host) != nil {
			continue // process 1 is hidden from some
		}
		known = true
		if host.Dev == there.Dev && host.Ino == there.Ino {
			return true, nil
		}
	}
	if !known {
		return false, errors.New(
			"the host's own network namespace cannot be found in /proc, so that no other can be told from it")
	}
	return false, nil
}

// scan attaches the interfaces that are not attached yet, and gathers their routes and neighbours.
func (n *Network) scan() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range links {
		a := l.Attrs()
		if slices.ContainsFunc(n.endpoints, func(e *Endpoint) bool { return e.link.Attrs().Index == a.Index }) {
			continue
		}
		if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || strings.HasPrefix(a.Name, tapPrefix) ||
			l.Type() == "macvtap" {
			continue
		}
		if !slices.Contains([]string{"veth", "macvlan", "ipvlan", "dummy", "device", "vlan", "bridge"}, l.Type()) {
			n.o.Log.Warn("an interface of this type is not given to the guest", "interface", a.Name, "type", l.Type())
			continue
		}
		if n.o.Model == l3Model && len(n.endpoints) > 0 {
			return fmt.Errorf("interface %s: l3forwarding is for one interface, and %s is there", a.Name,
				n.endpoints[0].Name)
		}
		e, err := n.attach(l, len(n.endpoints))
		if err != nil {
			return fmt.Errorf("interface %s: %w", a.Name, err)
		}
		n.endpoints = append(n.endpoints, e)
		n.routes, n.neighbours = append(n.routes, e.routes...), append(n.neighbours, e.neighbours...)
	}
	sortRoutes(n.routes)
	return nil
}

func (n *Network) attach(l netlink.Link, index int) (_ *Endpoint, err error) {
	a := l.Attrs()
	e := &Endpoint{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, tap: tapPrefix + strconv.Itoa(index),
		link: l}
	if len(a.HardwareAddr) != 6 {
		return nil, fmt.Errorf("hardware address %q: want six bytes", e.MAC)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, x := range addrs {
		if !x.IP.IsLinkLocalUnicast() { // the guest makes its own
			e.addresses = append(e.addresses, x)
		}
	}
	if err := e.read(); err != nil {
		return nil, err
	}
	if n.o.Note != nil {
		if err := n.o.Note(e.String()); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.detach())
		}
	}()
	join := e.tc
	switch n.o.Model {
	case macvtapModel:
		return e, e.macvtap()
	case l3Model:
		join = e.l3
	}
	if err := join(); err != nil {
		return nil, err
	}
	tap, err := netlink.LinkByName(e.tap)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", e.tap, err)
	}
	// What the guest sends leaves by the interface, and nothing else does.
	return e, errors.Join(bound(tap, n.o.RxRate), bound(l, n.o.TxRate))
}

// makeTap makes a tap that is up.
func (e *Endpoint) makeTap() (netlink.Link, error) {
	f, err := openTap(e.tap)
	if err != nil {
		return nil, err
	}
	e.Tap = f
	tap, err := netlink.LinkByName(e.tap)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", e.tap, err)
	}
	if err := netlink.LinkSetMTU(tap, e.MTU); err != nil {
		return nil, fmt.Errorf("MTU of %s to %d: %w", e.tap, e.MTU, err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return nil, fmt.Errorf("bring up %s: %w", e.tap, err)
	}
	return tap, nil
}

// tc makes a tap and has each interface's packets leave by the other.
func (e *Endpoint) tc() error {
	tap, err := e.makeTap()
	if err != nil {
		return err
	}
	if err := redirect(e.link, tap); err != nil {
		return err
	}
	return redirect(tap, e.link)
}

// openTap makes a tap that exists as long as the file is open somewhere.
func openTap(name string) (*os.File, error) {
	return openTun(name, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
}

// openTun opens a tap, which is made where there is none of the name. Linux: Documentation/networking/tuntap.rst.
func openTun(name string, flags uint16) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(flags)
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the tap %s: %w", name, err), f.Close())
	}
	return f, nil
}

// redirect sends what arrives at one interface out of the other, unchanged. tc-mirred(8).
func redirect(from, to netlink.Link) error {
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: from.Attrs().Index,
		Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("queue for what arrives at %s: %w", from.Attrs().Name, err)
	}
	attrs := netlink.FilterAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL,
	}
	action := netlink.NewMirredAction(to.Attrs().Index)
	action.MirredAction = netlink.TCA_EGRESS_REDIR
	action.ActionAttrs.Action = netlink.TC_ACT_STOLEN
	err := netlink.FilterAdd(&netlink.MatchAll{FilterAttrs: attrs, Actions: []netlink.Action{action}})
	if err == nil {
		return nil
	}
	// Kernels without the classifier matchall have u32 nearly always; without a selector it matches all too.
	if err2 := netlink.FilterAdd(&netlink.U32{FilterAttrs: attrs, Actions: []netlink.Action{action}}); err2 != nil {
		return fmt.Errorf("redirect %s to %s: by matchall: %w; by u32: %w", from.Attrs().Name, to.Attrs().Name, err,
			err2)
	}
	return nil
}

// detach takes away what attach made. It runs inside the namespace.
func (e *Endpoint) detach() error {
	var errs []error
	if e.Tap != nil {
		errs = append(errs, e.Tap.Close())
		e.Tap = nil
	}
	if e.given != nil { // the rest is that of whoever made it
		return errors.Join(errs...)
	}
	errs = append(errs, clean(e.Name, e.tap))
	if e.moved {
		errs = append(errs, e.restore())
	}
	if e.forwarded != nil {
		errs = append(errs, e.forwarded.undo())
	}
	return errors.Join(errs...)
}

// clean takes the tap away and whatever joined the interface to it.
func clean(name, tap string) error {
	var errs []error
	if l, err := netlink.LinkByName(tap); err == nil {
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) &&
			!errors.Is(err, unix.ENODEV) {
			// A tap goes by itself when its last file is closed, which QEMU's end may do just now.
			if _, still := netlink.LinkByName(tap); still == nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", tap, err))
			}
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return errors.Join(errs...) // whoever made it has taken it away
	}
	list, err := netlink.QdiscList(l)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list the queues of %s: %w", name, err))...)
	}
	for _, q := range list {
		if q.Type() == "ingress" && q.Attrs().Parent == netlink.HANDLE_INGRESS {
			if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("remove the queue of %s: %w", name, err))
			}
		}
		errs = append(errs, unbound(l, q))
	}
	return errors.Join(errs...)
}

// Detach takes away everything that Attach and Forward made. A namespace that is gone has taken it along. Calling it
// again is a no-op.
func (n *Network) Detach() error {
	n.mu.Lock()
	list, forwarder := n.endpoints, n.forwarder
	n.endpoints, n.forwarder = nil, nil
	n.mu.Unlock()
	if forwarder != nil {
		if err := forwarder.close(); err != nil {
			n.o.Log.Debug("end forwarding ports", "err", err)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if n.direct { // nothing of it is in the namespace
		var errs []error
		for _, e := range list {
			errs = append(errs, e.detach())
		}
		return errors.Join(errs...)
	}
	err := inside(n.o.Netns, func() error {
		var errs []error
		for _, e := range list {
			errs = append(errs, e.detach())
		}
		return errors.Join(errs...)
	})
	for _, e := range list {
		if e.Tap != nil {
			_ = e.Tap.Close() // the namespace could not be entered
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) { // not there, or no longer a namespace's file
		return nil
	}
	return err
}

// Clean takes away what a killed process left in a namespace: links is what Options.Note was told. A namespace that is
// gone is no error.
func Clean(netns string, links []string) error {
	if len(links) == 0 {
		return nil
	}
	err := inside(netns, func() error {
		var errs []error
		for _, l := range links {
			name, tap, _ := strings.Cut(l, " ")
			if !strings.HasPrefix(tap, tapPrefix) {
				errs = append(errs, fmt.Errorf("%q is not what this package makes", l))
				continue
			}
			errs = append(errs, clean(name, tap))
		}
		return errors.Join(errs...)
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// Endpoints are the interfaces in the order in which they were found.
func (n *Network) Endpoints() []*Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.endpoints)
}
