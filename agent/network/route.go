package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// routeKey tells routes apart.
type routeKey struct {
	to      netip.Prefix
	gateway netip.Addr // zero is on the link
	link    int        // index
}

// way is a route of a request, read.
type way struct {
	to              netip.Prefix
	gateway, source netip.Addr // zero is none
	device          string
	scope           netlink.Scope
	flags, mtu      int
}

// routeFlags are the flags that a request may set; the others only the kernel does. <linux/rtnetlink.h>.
const routeFlags = unix.RTNH_F_ONLINK | unix.RTNH_F_PERVASIVE

func readRoute(r *katapb.Route) (way, error) {
	w := way{device: r.GetDevice(), scope: netlink.Scope(r.GetScope()), flags: int(r.GetFlags()) & routeFlags,
		mtu: int(min(r.GetMtu(), maxMTU+1))}
	bad := func(err error) (way, error) {
		return way{}, fmt.Errorf("route to %q on %s: %w", r.GetDest(), r.GetDevice(), err)
	}
	if r.GetScope() > 255 {
		return bad(fmt.Errorf("scope %d: want at most 255", r.GetScope()))
	}
	if w.mtu > maxMTU {
		return bad(fmt.Errorf("an MTU of %d: want at most %d", r.Mtu, maxMTU))
	}
	if !linkName().MatchString(w.device) {
		return bad(errors.New("not a name for a link"))
	}
	v6 := r.GetFamily() == katapb.IPFamily_v6
	var err error
	if r.GetGateway() != "" {
		if w.gateway, err = netip.ParseAddr(r.Gateway); err != nil || w.gateway.Zone() != "" {
			return bad(fmt.Errorf("gateway %q is not an address", r.Gateway))
		}
	}
	if r.GetSource() != "" {
		p, err := parsePrefix(r.Source)
		if err != nil {
			return bad(fmt.Errorf("source: %w", err))
		}
		if p.Bits() != 0 && p.Bits() != p.Addr().BitLen() {
			return bad(fmt.Errorf("source %s: this agent has no routes by the source's network", p))
		}
		w.source = p.Addr()
	}
	if r.GetDest() == "" {
		unspecified := netip.IPv4Unspecified()
		if v6 || w.gateway.Is6() || w.source.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		w.to = netip.PrefixFrom(unspecified, 0)
	} else if w.to, err = parsePrefix(r.Dest); err != nil {
		return bad(err)
	}
	w.to = w.to.Masked()
	for _, a := range []netip.Addr{w.gateway, w.source} {
		if a.IsValid() && a.Is4() != w.to.Addr().Is4() {
			return bad(fmt.Errorf("%s is of the other version of IP", a))
		}
	}
	return w, nil
}

// UpdateRoutes makes routes those that the host set, and returns all there are. Those on a link come first, since they
// lead to the gateways of others. A route of an earlier call that is not among them is removed.
func (n *Network) UpdateRoutes(_ context.Context, routes []*katapb.Route) ([]*katapb.Route, error) {
	var ways []way
	for _, r := range routes {
		w, err := readRoute(r)
		if err != nil {
			return nil, err
		}
		ways = append(ways, w)
	}
	slices.SortStableFunc(ways, func(a, b way) int { return order(a) - order(b) })
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := map[routeKey]bool{}
	for _, w := range ways {
		link, err := netlink.LinkByName(w.device)
		if err != nil {
			return nil, fmt.Errorf("route to %s: link %s: %w", w.to, w.device, errors.Join(errNotFound, err))
		}
		if w.to.Addr().Is6() && !n.hasIPv6(w.device) {
			n.c.Log.Info("no route of version 6: it is disabled in this guest", "link", w.device, "to", w.to.String())
			continue
		}
		key := routeKey{w.to, w.gateway, link.Attrs().Index}
		r := w.route(key.link)
		if err := netlink.RouteReplace(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("route to %s by %s on %s: %w", w.to, gatewayName(w), w.device, err)
		}
		wanted[key] = true
		n.set[key] = true // at once: a later route may fail
	}
	if err := n.removeStale(wanted); err != nil {
		return nil, err
	}
	n.set = wanted
	return n.ListRoutes()
}

func order(w way) int {
	if w.gateway.IsValid() {
		return 1
	}
	return 0
}

func gatewayName(w way) string {
	if !w.gateway.IsValid() {
		return "the link"
	}
	return w.gateway.String()
}

func (w way) route(link int) *netlink.Route {
	r := &netlink.Route{LinkIndex: link, Dst: netOf(w.to), Scope: w.scope, Protocol: unix.RTPROT_BOOT,
		Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Flags: w.flags, MTU: w.mtu}
	if w.gateway.IsValid() {
		r.Gw = w.gateway.AsSlice()
	}
	if w.source.IsValid() {
		r.Src = w.source.AsSlice()
	}
	return r
}

// removeStale removes routes that we set and nobody wants.
func (n *Network) removeStale(wanted map[routeKey]bool) error {
	routes, err := mainRoutes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_BOOT && r.Protocol != unix.RTPROT_STATIC {
			continue
		}
		key := keyOf(r)
		if !n.set[key] || wanted[key] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s: %w", key.to, err)
		}
	}
	return nil
}

func mainRoutes() ([]netlink.Route, error) {
	return again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_TABLE)
	})
}

func keyOf(r netlink.Route) routeKey {
	k := routeKey{link: r.LinkIndex, to: prefixOf(r.Dst)}
	if r.Dst == nil {
		k.to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Family == netlink.FAMILY_V6 {
			k.to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		k.gateway = a.Unmap()
	}
	return k
}

// ListRoutes says what routes the main table has, but for those to multicast.
func (n *Network) ListRoutes() ([]*katapb.Route, error) {
	routes, err := mainRoutes()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	links, err := again(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []*katapb.Route
	for _, r := range routes {
		k := keyOf(r)
		if r.Type != unix.RTN_UNICAST || names[r.LinkIndex] == "" {
			continue
		}
		p := &katapb.Route{Device: names[r.LinkIndex], Scope: uint32(r.Scope), Family: familyOf(k.to.Addr()),
			Flags: uint32(r.Flags), Mtu: uint32(r.MTU)}
		if k.to.Bits() > 0 {
			p.Dest = k.to.String()
		}
		if k.gateway.IsValid() {
			p.Gateway = k.gateway.String()
		}
		if a, ok := netip.AddrFromSlice(r.Src); ok {
			p.Source = a.Unmap().String()
		}
		out = append(out, p)
	}
	return out, nil
}

// AddARPNeighbors tells the kernel hardware addresses that it would have to ask for.
func (n *Network) AddARPNeighbors(neighbours []*katapb.ARPNeighbor) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range neighbours {
		to, err := netip.ParseAddr(a.GetToIPAddress().GetAddress())
		if err != nil {
			return fmt.Errorf("neighbour %q: not an address", a.GetToIPAddress().GetAddress())
		}
		link, err := netlink.LinkByName(a.GetDevice())
		if err != nil {
			return fmt.Errorf("neighbour %s: link %q: %w", to, a.GetDevice(), errors.Join(errNotFound, err))
		}
		hardware, err := net.ParseMAC(a.GetLladdr())
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", to, err)
		}
		state := int(a.GetState())
		if state == 0 {
			state = unix.NUD_PERMANENT
		}
		family := netlink.FAMILY_V4
		if to.Is6() {
			family = netlink.FAMILY_V6
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, State: state,
			Flags: int(a.GetFlags()), IP: to.AsSlice(), HardwareAddr: hardware}); err != nil {
			return fmt.Errorf("neighbour %s on %s: %w", to, a.Device, err)
		}
	}
	return nil
}
