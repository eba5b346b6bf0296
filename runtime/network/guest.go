package network

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interfaces are what the guest has to set up.
func (n *Network) Interfaces() []*katapb.Interface {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*katapb.Interface
	for _, e := range n.endpoints {
		out = append(out, e.Interface())
	}
	return out
}

// Interface is what the guest has to set up.
func (e *Endpoint) Interface() *katapb.Interface {
	if e.given != nil {
		return e.given
	}
	i := &katapb.Interface{
		Device: e.Name, Name: e.Name, Mtu: uint64(e.MTU), HwAddr: e.MAC, Type: e.link.Type(),
		RawFlags: e.link.Attrs().RawFlags & unix.IFF_NOARP,
	}
	for _, a := range e.addresses {
		i.IPAddresses = append(i.IPAddresses, address(a.IPNet))
	}
	return i
}

func address(a *net.IPNet) *katapb.IPAddress {
	ones, _ := a.Mask.Size()
	return &katapb.IPAddress{Family: family(a.IP), Address: a.IP.String(), Mask: strconv.Itoa(ones)}
}

func family(ip net.IP) katapb.IPFamily {
	if ip.To4() != nil {
		return katapb.IPFamily_v4
	}
	return katapb.IPFamily_v6
}

// Routes are what the guest has to set up, in an order that works.
func (n *Network) Routes() []*katapb.Route {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.routes)
}

// Neighbours are the entries that somebody has fixed.
func (n *Network) Neighbours() []*katapb.ARPNeighbor {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.neighbours)
}

// sortRoutes puts routes on the link first: gateways are reached over them.
func sortRoutes(list []*katapb.Route) {
	slices.SortStableFunc(list, func(a, b *katapb.Route) int {
		switch {
		case (a.Gateway == "") == (b.Gateway == ""):
			return 0
		case a.Gateway == "":
			return -1
		}
		return 1
	})
}

func route(r netlink.Route, device string) *katapb.Route {
	out := &katapb.Route{Device: device, Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(r.MTU),
		Family: katapb.IPFamily_v4}
	if r.Family == unix.AF_INET6 {
		out.Family = katapb.IPFamily_v6
	}
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 || !r.Dst.IP.IsUnspecified() {
			out.Dest = r.Dst.String()
		}
	}
	if r.Gw != nil {
		out.Gateway = r.Gw.String()
	}
	if r.Src != nil {
		out.Source = r.Src.String()
	}
	return out
}

// read reads the routes and neighbours of one interface, as they are before it is changed.
func (e *Endpoint) read() error {
	index := e.link.Attrs().Index
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index,
		Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", e.Name, err)
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL || r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
			continue // the guest's kernel makes them from the addresses
		}
		e.routes = append(e.routes, route(r, e.Name))
		e.kept = append(e.kept, r)
	}
	neighbours, err := netlink.NeighList(index, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the neighbours of %s: %w", e.Name, err)
	}
	for _, x := range neighbours {
		if x.State&netlink.NUD_PERMANENT != 0 && !x.IP.IsMulticast() {
			e.neighbours = append(e.neighbours, &katapb.ARPNeighbor{
				ToIPAddress: &katapb.IPAddress{Family: family(x.IP), Address: x.IP.String()}, Device: e.Name,
				Lladdr: x.HardwareAddr.String(),
				State:  int32(x.State), Flags: int32(x.Flags),
			})
		}
	}
	return nil
}
