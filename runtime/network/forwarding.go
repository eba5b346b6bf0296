package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tapAddress is the tap's own, by which the namespace asks for the guest's hardware address. It is Kata's.
var tapAddress = &net.IPNet{IP: net.IPv4(169, 254, 0, 1), Mask: net.CIDRMask(32, 32)}

// sysctl is where the kernel's settings of the thread's network namespace are.
const sysctl = "/proc/sys/net/ipv4"

// setting is one, and what it was before.
type setting struct{ path, before string }

// forwarded is what l3 has changed beside the tap.
type forwarded struct {
	settings []setting
	local    []netlink.Route // by which the interface's addresses were the namespace's own
}

// l3 makes a tap and has the namespace forward packets between it and the interface, as a router: the interface's
// addresses are reached over the tap, and each side answers for the other when it is asked who has an address. So the
// namespace's own rules see what passes, as service meshes want it. Kata Containers has the same, for IPv4 too.
func (e *Endpoint) l3() error {
	var addresses []*net.IPNet
	for _, a := range e.addresses {
		if a.IP.To4() == nil {
			return fmt.Errorf("it has the address %s, and l3forwarding is for IPv4 alone", a.IP)
		}
		addresses = append(addresses, &net.IPNet{IP: a.IP, Mask: net.CIDRMask(32, 32)})
	}
	if len(addresses) == 0 {
		return errors.New("it has no address, and l3forwarding finds the guest by its addresses")
	}
	tap, err := e.makeTap()
	if err != nil {
		return err
	}
	e.forwarded = &forwarded{}
	f := e.forwarded
	for _, s := range []struct{ path, value string }{
		{filepath.Join("conf", e.tap, "proxy_arp"), "1"}, {filepath.Join("conf", e.Name, "proxy_arp"), "1"},
		// The guest has its own addresses and no others. Without this Linux would take what it sends for forged, as
		// the interface has these addresses too: net/ipv4/fib_frontend.c, fib_validate_source.
		{filepath.Join("conf", e.tap, "rp_filter"), "1"},
		// Linux waits for up to 0.8 s before it answers for somebody else, so that the owner can.
		{filepath.Join("neigh", e.tap, "proxy_delay"), "0"}, {filepath.Join("neigh", e.Name, "proxy_delay"), "0"},
		{"ip_forward", "1"},
	} {
		if err := f.set(filepath.Join(sysctl, s.path), s.value); err != nil {
			return err
		}
	}
	if err := netlink.AddrAdd(tap, &netlink.Addr{IPNet: tapAddress, Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", e.tap, tapAddress, err)
	}
	for _, a := range addresses {
		if err := f.notLocal(e.link, a); err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: tap.Attrs().Index, Dst: a, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("reach %s over %s: %w", a.IP, e.tap, err)
		}
	}
	return nil
}

// set changes a setting of the kernel.
func (f *forwarded) set(path, value string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return err
	}
	f.settings = append(f.settings, setting{path, strings.TrimSpace(string(b))})
	return nil
}

// notLocal has the namespace not take what is for an address of an interface.
func (f *forwarded) notLocal(l netlink.Link, a *net.IPNet) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: l.Attrs().Index,
		Table: unix.RT_TABLE_LOCAL, Dst: a}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("list the local routes of %s: %w", l.Attrs().Name, err)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_LOCAL {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return fmt.Errorf("take the local route to %s away: %w", a.IP, err)
		}
		f.local = append(f.local, r)
	}
	return nil
}

// undo takes back what l3 changed, the tap being gone. A setting of an interface that is gone, too, is no error.
func (f *forwarded) undo() error {
	var errs []error
	for _, s := range f.settings {
		if err := os.WriteFile(s.path, []byte(s.before), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, r := range f.local {
		err := netlink.RouteAdd(&r)
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("give the local route to %v back: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
