package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// macvtap makes a tap on top of the interface. The guest has the interface's address, so the interface gets another.
func (e *Endpoint) macvtap() error {
	a := e.link.Attrs()
	other := slices.Clone(a.HardwareAddr)
	other[0] = other[0]&^1 | 2 // unicast, locally administered. IEEE 802, 8.2
	other[5] ^= 0x5a
	e.moved = true
	if err := netlink.LinkSetHardwareAddr(e.link, other); err != nil {
		return fmt.Errorf("hardware address to %s: %w", other, err)
	}
	attrs := netlink.NewLinkAttrs() // with the kernel's length of the queue: without a queue nothing arrives
	attrs.Name, attrs.ParentIndex, attrs.MTU, attrs.HardwareAddr = e.tap, a.Index, e.MTU, a.HardwareAddr
	l := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}}
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("make the macvtap %s: %w", e.tap, err)
	}
	made, err := netlink.LinkByName(e.tap)
	if err != nil {
		return fmt.Errorf("find %s: %w", e.tap, err)
	}
	if err := netlink.LinkSetUp(made); err != nil {
		return fmt.Errorf("bring up %s: %w", e.tap, err)
	}
	// The addresses would make the kernel of the host answer for the guest.
	for _, x := range e.addresses {
		if err := netlink.AddrDel(e.link, &x); err != nil {
			return fmt.Errorf("take %s away: %w", x.IPNet, err)
		}
	}
	e.Tap, err = openMacvtap(e.tap, made.Attrs().Index)
	return err
}

// restore gives the interface back what the guest had of it. An interface that is gone is no error.
func (e *Endpoint) restore() error {
	l, err := netlink.LinkByName(e.Name)
	if err != nil {
		return nil // whoever made it has taken it away
	}
	var errs []error
	if err := netlink.LinkSetHardwareAddr(l, e.link.Attrs().HardwareAddr); err != nil {
		errs = append(errs, fmt.Errorf("hardware address of %s back to %s: %w", e.Name, e.MAC, err))
	}
	for _, x := range e.addresses {
		if err := netlink.AddrAdd(l, &x); err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, fmt.Errorf("give %s back to %s: %w", x.IPNet, e.Name, err))
		}
	}
	// gateways are reached over the others
	slices.SortStableFunc(e.kept, func(a, b netlink.Route) int { return len(a.Gw) - len(b.Gw) })
	for _, r := range e.kept {
		if err := netlink.RouteAdd(&r); err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, fmt.Errorf("give the route to %v back to %s: %w", r.Dst, e.Name, err))
		}
	}
	return errors.Join(errs...)
}

// openMacvtap opens the macvtap of this name and index of the namespace that the thread is in. Its device node would be
// called after the index (Linux: drivers/net/macvtap.c), which interfaces of other namespaces may have as well: whose
// node it is, only sysfs of this namespace says.
func openMacvtap(name string, index int) (*os.File, error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, with its namespaces
		f, err := func() (*os.File, error) {
			if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("enter the network namespace: %w", err)
			}
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return nil, fmt.Errorf("a mount namespace: %w", err)
			}
			for _, m := range []struct {
				kind  string
				flags uintptr
			}{{"", unix.MS_REC | unix.MS_PRIVATE}, {"sysfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV}} {
				at := "/sys"
				if m.kind == "" {
					at = "/"
				}
				if err := unix.Mount(m.kind, at, m.kind, m.flags, ""); err != nil {
					return nil, &os.PathError{Op: "mount", Path: at, Err: err}
				}
			}
			b, err := os.ReadFile(filepath.Join("/sys/class/net", name, "tap"+strconv.Itoa(index), "dev"))
			if err != nil {
				return nil, err
			}
			var major, minor uint32
			if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d:%d", &major, &minor); err != nil {
				return nil, fmt.Errorf("device number %q: %w", b, err)
			}
			if err := unix.Mount("tmpfs", "/sys", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC,
				"size=64k,mode=0700"); err != nil {
				return nil, &os.PathError{Op: "mount", Path: "/sys", Err: err}
			}
			const node = "/sys/tap"
			if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
				return nil, &os.PathError{Op: "make the device", Path: node, Err: err}
			}
			return os.OpenFile(node, os.O_RDWR|unix.O_CLOEXEC, 0)
		}()
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("open the macvtap %s: %w", name, r.err)
	}
	q, err := unix.NewIfreq("")
	if err == nil {
		q.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(int(r.f.Fd()), unix.TUNSETIFF, q)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the macvtap %s: %w", name, err), r.f.Close())
	}
	return r.f, nil
}
