package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/agent/uevent/pcipath"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// linkName is what a link may be called: IFNAMSIZ of <linux/if.h> is 16 with the NUL. net/core/dev.c, dev_valid_name,
// and a little stricter.
var linkName = lazyregexp.New(`^[a-zA-Z0-9_][a-zA-Z0-9_.@-]{0,14}$`)

// maxMTU is the longest packet of IP.
const maxMTU = 65535

// wish is an interface of a request, read.
type wish struct {
	name      string
	hardware  net.HardwareAddr
	addresses []netip.Prefix
	mtu       int
	noARP     bool
	path      *pcipath.Path
}

func readInterface(i *katapb.Interface) (wish, error) {
	w := wish{name: i.GetName(), mtu: int(min(i.GetMtu(), maxMTU+1)), noARP: i.GetRawFlags()&unix.IFF_NOARP != 0}
	if w.name == "" {
		w.name = i.GetDevice()
	}
	if !linkName().MatchString(w.name) {
		return wish{}, fmt.Errorf("interface %q: not a name for a link", w.name)
	}
	if w.mtu > maxMTU {
		return wish{}, fmt.Errorf("interface %s: an MTU of %d: want at most %d", w.name, i.Mtu, maxMTU)
	}
	var err error
	if w.hardware, err = net.ParseMAC(i.GetHwAddr()); err != nil {
		return wish{}, fmt.Errorf("interface %s: %w", w.name, err)
	}
	for _, a := range i.GetIPAddresses() {
		p, err := readAddress(a)
		if err != nil {
			return wish{}, fmt.Errorf("interface %s: %w", w.name, err)
		}
		w.addresses = append(w.addresses, p)
	}
	if i.GetDevicePath() != "" {
		p, err := pcipath.Parse(i.DevicePath)
		if err != nil {
			return wish{}, fmt.Errorf("interface %s: %w", w.name, err)
		}
		w.path = &p
	}
	return w, nil
}

// readAddress does not believe the family: the address says it.
func readAddress(a *katapb.IPAddress) (netip.Prefix, error) {
	p, err := parsePrefix(a.GetAddress() + "/" + a.GetMask())
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("address %s: %w", a.GetAddress(), err)
	}
	return p, nil
}

// UpdateInterface makes a link what i says: its name, addresses, MTU and flags. Asked again it changes nothing. The
// link is the one with i's hardware address, else the one with its name, which then gets that address.
func (n *Network) UpdateInterface(ctx context.Context, i *katapb.Interface) (*katapb.Interface, error) {
	w, err := readInterface(i)
	if err != nil {
		return nil, err
	}
	if err := n.await(ctx, w); err != nil {
		return nil, fmt.Errorf("interface %s: %w", w.name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.update(w); err != nil {
		return nil, fmt.Errorf("interface %s: %w", w.name, err)
	}
	return i, nil
}

// await waits for the link of a PCI device.
func (n *Network) await(ctx context.Context, w wish) error {
	if w.path == nil || n.c.Devices == nil {
		return nil
	}
	_, err := n.c.Devices.Wait(ctx, uevent.Match{What: "the network card at PCI path " + w.path.String(),
		Look: func() (string, error) {
			dir, err := w.path.Find(n.c.Root)
			if errors.Is(err, pcipath.ErrNotFound) {
				return "", nil
			}
			if err != nil {
				return "", err
			}
			for _, pattern := range []string{"virtio*/net/*", "net/*"} {
				if found, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(found) > 0 {
					if err != nil {
						return "", err
					}
					return filepath.Base(found[0]), nil
				}
			}
			return "", nil
		}})
	return err
}

func (n *Network) update(w wish) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	by := func(ok func(*netlink.LinkAttrs) bool) netlink.Link {
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return ok(l.Attrs()) })
		if i < 0 {
			return nil
		}
		return links[i]
	}
	named := by(func(a *netlink.LinkAttrs) bool { return a.Name == w.name })
	link := by(func(a *netlink.LinkAttrs) bool {
		return a.Name == w.name && bytes.Equal(a.HardwareAddr, w.hardware)
	})
	if link == nil {
		link = by(func(a *netlink.LinkAttrs) bool { return bytes.Equal(a.HardwareAddr, w.hardware) })
	}
	if link == nil && named != nil && named.Attrs().Flags&net.FlagLoopback == 0 {
		// A guest that was cloned from another has the card with the other's address.
		if err := netlink.LinkSetHardwareAddr(named, w.hardware); err != nil {
			return fmt.Errorf("hardware address %s: %w", w.hardware, err)
		}
		link = named
	}
	if link == nil {
		return fmt.Errorf("hardware address %s: %w", w.hardware, errNotFound)
	}
	if link.Attrs().Name != w.name {
		if err := rename(link, w.name, named); err != nil {
			return err
		}
	}
	if w.mtu > 0 && link.Attrs().MTU != w.mtu {
		if err := netlink.LinkSetMTU(link, w.mtu); err != nil {
			return fmt.Errorf("MTU %d: %w", w.mtu, err)
		}
	}
	if arp := link.Attrs().RawFlags&unix.IFF_NOARP == 0; arp == w.noARP {
		set := netlink.LinkSetARPOn
		if w.noARP {
			set = netlink.LinkSetARPOff
		}
		if err := set(link); err != nil {
			return fmt.Errorf("flag NOARP: %w", err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return n.addresses(link, w)
}

// rename gives link a name, and whoever has the name that of link. A link must be down for it, which takes its routes.
func rename(link netlink.Link, name string, owner netlink.Link) error {
	old := link.Attrs().Name
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	if owner == nil {
		if err := netlink.LinkSetName(link, name); err != nil {
			return fmt.Errorf("name %s: %w", name, err)
		}
		return nil
	}
	if err := netlink.LinkSetDown(owner); err != nil {
		return fmt.Errorf("down of the one that is called %s: %w", name, err)
	}
	between := "katabuild" + strconv.Itoa(owner.Attrs().Index) // no host asks for such a name
	if len(between) > unix.IFNAMSIZ-1 {
		between = between[len(between)-(unix.IFNAMSIZ-1):]
	}
	for _, step := range []struct {
		link netlink.Link
		name string
	}{{owner, between}, {link, name}, {owner, old}} {
		if err := netlink.LinkSetName(step.link, step.name); err != nil {
			return fmt.Errorf("name %s: %w", step.name, err)
		}
	}
	if owner.Attrs().Flags&net.FlagUp != 0 {
		if err := netlink.LinkSetUp(owner); err != nil {
			return fmt.Errorf("up again of %s: %w", old, err)
		}
	}
	return nil
}

// addresses removes what is not wanted, then adds: with the first address of a network Linux takes the others of it
// away.
func (n *Network) addresses(link netlink.Link, w wish) error {
	have, err := listAddresses(link)
	if err != nil {
		return err
	}
	for _, a := range have {
		p := prefixOf(a.IPNet)
		// The kernel makes link-local addresses of version 6 by itself.
		if slices.Contains(w.addresses, p) || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &netlink.Addr{IPNet: a.IPNet, Peer: a.Peer}); err != nil &&
			!errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	if have, err = listAddresses(link); err != nil {
		return err
	}
	v6 := n.hasIPv6(w.name)
	for _, p := range w.addresses {
		if p.Addr().Is6() && !v6 {
			n.c.Log.Info("no address of version 6: it is disabled in this guest", "link", w.name, "address", p.String())
			continue
		}
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == p }) {
			continue
		}
		a := &netlink.Addr{IPNet: netOf(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // the host gave it to this guest alone, and it shall work at once
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	return nil
}

// listAddresses asks again where a change of others made the answer doubtful.
func listAddresses(link netlink.Link) ([]netlink.Addr, error) {
	return again(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
}

func again[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 5
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// prefixOf keeps the bits behind the prefix: an address, not a network.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ListInterfaces says what links there are.
func (n *Network) ListInterfaces() ([]*katapb.Interface, error) {
	links, err := again(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	var out []*katapb.Interface
	for _, l := range links {
		a := l.Attrs()
		i := &katapb.Interface{Device: a.Name, Name: a.Name, Mtu: uint64(a.MTU), HwAddr: a.HardwareAddr.String(),
			Type: l.Type(), RawFlags: a.RawFlags}
		addresses, err := listAddresses(l)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addresses {
			p := prefixOf(addr.IPNet)
			i.IPAddresses = append(i.IPAddresses, &katapb.IPAddress{Family: familyOf(p.Addr()),
				Address: p.Addr().String(), Mask: strconv.Itoa(p.Bits())})
		}
		out = append(out, i)
	}
	return out, nil
}

func familyOf(a netip.Addr) katapb.IPFamily {
	if a.Is4() {
		return katapb.IPFamily_v4
	}
	return katapb.IPFamily_v6
}
