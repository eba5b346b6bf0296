package network

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/katabuild/katabuild/runtime/network/dan"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Direct opens the interfaces that somebody has made for a guest on the host. o.Netns is the pod's own namespace, none
// of whose interfaces the guest gets then; Detach closes the taps, which stay with whoever made them.
func Direct(o Options, from *dan.Network) (*Network, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.RxRate|o.TxRate != 0 {
		return nil, errors.New("the interfaces of a directly attachable network (dan_conf) are bounded by whoever " +
			"makes them: a bound of the rate of interfaces cannot be had with them")
	}
	n := &Network{o: o, direct: true}
	if from.Netns == "" {
		from = &dan.Network{Netns: "/proc/thread-self/ns/net", Devices: from.Devices}
	}
	fail := func(err error) (*Network, error) {
		return nil, errors.Join(fmt.Errorf("directly attachable network: %w", err), n.Detach())
	}
	for _, d := range from.Devices {
		i := d.Interface
		e := &Endpoint{Name: i.Name, MAC: i.HwAddr, MTU: int(i.Mtu), Socket: d.Socket, PCI: d.PCI, Queues: d.Queues,
			QueueSize: d.QueueSize, tap: d.Tap, given: i}
		if d.Tap != "" {
			if err := inside(from.Netns, func() (err error) { e.Tap, err = joinTap(d.Tap); return err }); err != nil {
				return fail(fmt.Errorf("interface %s: %w", e.Name, err))
			}
		}
		n.endpoints = append(n.endpoints, e)
		n.routes, n.neighbours = append(n.routes, d.Routes...), append(n.neighbours, d.Neighbours...)
	}
	sortRoutes(n.routes)
	return n, nil
}

// joinTap opens a tap that somebody has made, and brings it up. One that is not there would be made by opening it, so
// it is looked for before.
func joinTap(name string) (*os.File, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("the tap %s: %w", name, err)
	}
	t, ok := l.(*netlink.Tuntap)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s is no tap, but an interface of type %s", name, l.Type())
	case t.Mode != netlink.TUNTAP_MODE_TAP:
		return nil, fmt.Errorf("%s is a tun, which carries no Ethernet; want a tap", name)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if t.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	f, err := openTun(name, flags)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: somebody else has it", err)
	}
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, errors.Join(fmt.Errorf("bring up %s: %w", name, err), f.Close())
	}
	return f, nil
}
