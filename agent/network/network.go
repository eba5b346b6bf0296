// Package network gives the guest's links the names, addresses and routes that the host asks for, and says what there
// is.
//
// Interfaces, routes and neighbours of the guest API go in; netlink does them. What the host asked for earlier and does
// not any more is taken away; what the kernel made stays. It does not know what is at the other end of a link.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/uevent"
)

// errNotFound says that there is no such link. It wraps fs.ErrNotExist.
var errNotFound = fmt.Errorf("no such link in this guest: %w", fs.ErrNotExist)

// Waiter waits for devices; uevent.Listener is one.
type Waiter interface {
	Wait(ctx context.Context, m uevent.Match) (string, error)
}

// Programs runs programs of the guest; program.Runner is one.
type Programs interface {
	Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error)
}

// Config is what a Network needs.
type Config struct {
	Root     string       // where sys and proc are found; empty is "/"
	Run      string       // empty is /run/kata-containers
	Resolv   string       // the file that DNS covers; empty is /etc/resolv.conf
	Devices  Waiter       // needed for links that are plugged in
	Programs Programs     // needed for iptables
	Log      *slog.Logger // nil is none
}

// Network is that of the guest. Its methods may be called from several goroutines; changes are made one at a time, and
// none waits for a device while it keeps others waiting.
type Network struct {
	c Config

	mu  sync.Mutex        // held while links and routes change
	set map[routeKey]bool // guarded by mu: routes that UpdateRoutes made
}

// New looks at nothing yet.
func New(c Config) *Network {
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Run == "" {
		c.Run = "/run/kata-containers"
	}
	if c.Resolv == "" {
		c.Resolv = "/etc/resolv.conf"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{c: c, set: map[routeKey]bool{}}
}

// kernelsDummy is the link that Linux makes by itself where dummy links are built in, and their number is not set to 0
// on its command line. drivers/net/dummy.c, numdummies.
const kernelsDummy = "dummy0"

// RemoveDummy takes away the dummy link that the kernel has made and nobody uses: a pod has the links that its host
// names, and no other.
func RemoveDummy() error {
	l, err := netlink.LinkByName(kernelsDummy)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for %s: %w", kernelsDummy, err)
	}
	if !unused(l) {
		return nil
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("remove %s: %w", kernelsDummy, err)
	}
	return nil
}

// unused says whether a link is a dummy that nobody has taken into use.
func unused(l netlink.Link) bool {
	return l.Type() == "dummy" && l.Attrs().RawFlags&unix.IFF_UP == 0 && l.Attrs().MasterIndex == 0
}

// maxResolv bounds a resolv.conf.
const maxResolv = 64 << 10

// DNS makes lines the guest's resolv.conf, by a mount over it, since the root file system may be read-only. A guest
// without the file goes without.
func (n *Network) DNS(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	if _, err := os.Stat(n.c.Resolv); errors.Is(err, fs.ErrNotExist) {
		n.c.Log.Info("no DNS: the guest has no file for it", "file", n.c.Resolv)
		return nil
	} else if err != nil {
		return err
	}
	text := strings.Join(lines, "\n") + "\n"
	if len(text) > maxResolv || strings.ContainsRune(text, 0) {
		return fmt.Errorf("DNS of %d bytes: want at most %d, and no NUL", len(text), maxResolv)
	}
	file := filepath.Join(n.c.Run, "sandbox/resolv.conf")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// In place: a later call changes what is mounted already.
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	var ours, covered unix.Stat_t
	if err := errors.Join(unix.Stat(file, &ours), unix.Stat(n.c.Resolv, &covered)); err != nil {
		return err
	}
	if ours.Dev == covered.Dev && ours.Ino == covered.Ino {
		return nil
	}
	if err := unix.Mount(file, n.c.Resolv, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s over %s: %w", file, n.c.Resolv, err)
	}
	return nil
}

// tables is a program of iptables, which are others for version 6.
func tables(v6 bool, verb string) string {
	if v6 {
		return "ip6tables-" + verb
	}
	return "iptables-" + verb
}

// errNoPrograms is for a Network without Programs.
var errNoPrograms = errors.New("this agent runs no programs")

// IPTables are the guest's rules, as iptables-save prints them.
func (n *Network) IPTables(ctx context.Context, v6 bool) ([]byte, error) {
	if n.c.Programs == nil {
		return nil, fmt.Errorf("%s: %w", tables(v6, "save"), errNoPrograms)
	}
	return n.c.Programs.Run(ctx, nil, tables(v6, "save"))
}

// SetIPTables replaces the guest's rules, and returns what iptables-restore printed.
func (n *Network) SetIPTables(ctx context.Context, v6 bool, rules []byte) ([]byte, error) {
	if n.c.Programs == nil {
		return nil, fmt.Errorf("%s: %w", tables(v6, "restore"), errNoPrograms)
	}
	return n.c.Programs.Run(ctx, rules, tables(v6, "restore"), "--wait")
}

// hasIPv6 says whether the kernel takes addresses of version 6 on a link. Documentation/networking/ip-sysctl.rst.
func (n *Network) hasIPv6(link string) bool {
	b, err := os.ReadFile(filepath.Join(n.c.Root, "proc/sys/net/ipv6/conf", link, "disable_ipv6"))
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// parsePrefix reads ADDRESS/LENGTH, or an address alone, which is one of all its bits.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, fmt.Errorf("%q is not an address", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not ADDRESS/LENGTH", s)
	}
	return p, nil
}
