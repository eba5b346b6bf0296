// Package dan reads the file of a directly attachable network: interfaces that a CNI plug-in has made on the host for
// one pod, outside of the pod's network namespace, such as the socket of a switch in user space.
//
// In comes a file of Kata Containers' form; out come the interfaces and what the guest has to be told, or errors that
// name the device. It opens nothing but the file.
//
// docs/formats/dan.md owns the form.
package dan

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/owned"
	"golang.org/x/sys/unix"
)

// Network is what a file says.
type Network struct {
	Netns   string // path of the namespace in which the taps are; empty is that of whoever opens them
	Devices []Device
}

// Device is an interface. One of Tap, Socket and PCI is set.
type Device struct {
	Tap    string // name of a tap that exists
	Socket string // path of a socket on which a vhost-user back end listens
	PCI    string // address of a device of the host that VFIO gives away
	Queues int    // pairs of queues, at least 1
	// QueueSize is how many buffers a queue holds, 0 for the hypervisor's own.
	QueueSize int

	Interface  *katapb.Interface // as the guest has it
	Routes     []*katapb.Route
	Neighbours []*katapb.ARPNeighbor
}

// The types of devices, by Kata's names.
const (
	hostTap   = "host-tap"
	vhostUser = "vhost-user"
	vfio      = "vfio"
)

// Bounds of a queue. QEMU: hw/net/virtio-net.c, VIRTIO_NET_RX_QUEUE_MIN_SIZE and VIRTQUEUE_MAX_SIZE; virtio 1.2,
// 5.1.5: VIRTIO_NET_CTRL_MQ_VQ_PAIRS.
const (
	minQueueSize, maxQueueSize = 256, 1024
	maxQueues                  = 256
)

// defaultMTU is Kata's, in bytes.
const defaultMTU, maxMTU = 1500, 65535

// maxFile is how large a file may be, in bytes, and maxDevices how many interfaces it may have.
const (
	maxFile    = 1 << 20
	maxDevices = 32
)

// The file, as Kata Containers' CNI plug-ins write it.
type (
	file struct {
		Netns   *string  `json:"netns"`
		Devices []device `json:"devices"`
	}
	device struct {
		Name        string `json:"name"`
		GuestMAC    string `json:"guest_mac"`
		Device      back   `json:"device"`
		NetworkInfo info   `json:"network_info"`
	}
	back struct {
		Type      string `json:"type"`
		Path      string `json:"path"`
		TapName   string `json:"tap_name"`
		PCIDevice string `json:"pci_device_id"`
		QueueNum  int    `json:"queue_num"`
		QueueSize int    `json:"queue_size"`
	}
	info struct {
		Interface iface       `json:"interface"`
		Routes    []route     `json:"routes"`
		Neighbors []neighbour `json:"neighbors"`
	}
	iface struct {
		Addresses []string `json:"ip_addresses"`
		MTU       *uint64  `json:"mtu"`
		Type      string   `json:"ntype"`
		Flags     uint32   `json:"flags"`
	}
	route struct {
		Dest    string `json:"dest"`
		Gateway string `json:"gateway"`
		Source  string `json:"source"`
		Scope   uint32 `json:"scope"`
		Flags   uint32 `json:"flags"`
		MTU     uint32 `json:"mtu"`
	}
	neighbour struct {
		Address      string `json:"ip_address"`
		Device       string `json:"device"`
		HardwareAddr string `json:"hardware_addr"`
		State        uint32 `json:"state"`
		Flags        uint32 `json:"flags"`
	}
)

// known are all keys of the file, since Go's decoder also takes them in capitals.
var known = []string{"netns", "devices", "name", "guest_mac", "device", "network_info", "type", "path", "tap_name",
	"pci_device_id", "queue_num", "queue_size", "interface", "routes", "neighbors", "ip_addresses", "mtu", "ntype",
	"flags", "dest", "gateway", "source", "scope", "ip_address", "hardware_addr", "state"}

// Path is where the file of a pod lies.
func Path(folder, pod string) string { return filepath.Join(folder, pod+".json") }

// Read reads a file that nobody but root and this user could have written. One that is not there is fs.ErrNotExist.
func Read(path, pod string) (*Network, error) {
	data, err := owned.Read(path, maxFile+1)
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	n, err := Parse(data, pod)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// Parse reads the file of a pod: keys that Kata Containers does not know, and keys that stand twice, are errors.
func Parse(data []byte, pod string) (*Network, error) {
	var f file
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the network")
	}
	if err := unique(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return nil, err
	}
	n := &Network{}
	if f.Netns != nil {
		n.Netns = *f.Netns
		if !clean(n.Netns) {
			return nil, fmt.Errorf("netns %q: want an absolute path, or null", n.Netns)
		}
	}
	switch {
	case f.Devices == nil:
		return nil, errors.New("no devices")
	case len(f.Devices) > maxDevices:
		return nil, fmt.Errorf("%d devices: at most %d are possible", len(f.Devices), maxDevices)
	}
	for i, x := range f.Devices {
		made, err := x.read(pod)
		if err != nil {
			return nil, fmt.Errorf("device %d (%s): %w", i, x.Name, err)
		}
		for _, before := range n.Devices {
			switch {
			case before.Interface.Name == x.Name:
				return nil, fmt.Errorf("device %d (%s): another one has this name", i, x.Name)
			case before.Interface.HwAddr == made.Interface.HwAddr:
				return nil, fmt.Errorf("device %d (%s): %s has its hardware address %s", i, x.Name,
					before.Interface.Name, made.Interface.HwAddr)
			case before.Tap != "" && before.Tap == made.Tap, before.Socket != "" && before.Socket == made.Socket,
				before.PCI != "" && before.PCI == made.PCI:
				return nil, fmt.Errorf("device %d (%s): it is that of %s", i, x.Name, before.Interface.Name)
			}
		}
		n.Devices = append(n.Devices, *made)
	}
	return n, nil
}

// unique refuses a key that stands twice in an object, or in another spelling.
func unique(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	var seen []string
	switch t {
	case json.Delim('{'), json.Delim('['):
	default:
		return nil
	}
	for d.More() {
		if t == json.Delim('{') {
			k, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := k.(string) // keys of JSON are
			if slices.Contains(seen, name) {
				return fmt.Errorf("%q stands twice", name)
			}
			if !slices.Contains(known, name) {
				return fmt.Errorf("unknown field %q", name)
			}
			seen = append(seen, name)
		}
		if err := unique(d); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

// namePattern is what an interface may be called. Linux: dev_valid_name of net/core/dev.c has more, 15 bytes too.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}$`)

// pciPattern is the address of a PCI device. Linux: Documentation/PCI/pci.rst.
var pciPattern = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

func (x *device) read(pod string) (*Device, error) {
	if !namePattern.MatchString(x.Name) {
		return nil, fmt.Errorf("name %q: want that of an interface, of at most 15 letters, digits and _ . -", x.Name)
	}
	out, err := x.Device.read()
	if err != nil {
		return nil, err
	}
	if out.PCI != "" && x.GuestMAC == "" {
		return nil, errors.New("no guest_mac: the guest finds a device of the host by that")
	}
	mac, err := x.mac(pod)
	if err != nil {
		return nil, err
	}
	i := x.NetworkInfo.Interface
	mtu := uint64(defaultMTU)
	if i.MTU != nil {
		mtu = *i.MTU
	}
	switch {
	case i.Addresses == nil:
		return nil, errors.New("network_info.interface: no ip_addresses; an interface without any has []")
	case mtu < 68 || mtu > maxMTU: // RFC 791, 3.2
		return nil, fmt.Errorf("mtu %d: want 68 to %d", mtu, maxMTU)
	}
	out.Interface = &katapb.Interface{Device: x.Name, Name: x.Name, HwAddr: mac, Mtu: mtu, Type: i.Type,
		RawFlags: i.Flags & unix.IFF_NOARP}
	for _, a := range i.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil || p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsUnspecified() {
			return nil, fmt.Errorf("ip_addresses: %q: want the address of an interface, as 192.0.2.7/24", a)
		}
		out.Interface.IPAddresses = append(out.Interface.IPAddresses, address(p.Addr(), p.Bits()))
	}
	for _, r := range x.NetworkInfo.Routes {
		made, err := r.read(x.Name)
		if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
		out.Routes = append(out.Routes, made)
	}
	for _, n := range x.NetworkInfo.Neighbors {
		made, err := n.read(x.Name)
		if err != nil {
			return nil, fmt.Errorf("neighbors: %w", err)
		}
		out.Neighbours = append(out.Neighbours, made)
	}
	return out, nil
}

// mac is the hardware address of the guest's interface: the one that is said, or one of pod and name.
func (x *device) mac(pod string) (string, error) {
	if x.GuestMAC == "" {
		h := sha256.Sum256([]byte(pod + "\x00" + x.Name))
		m := net.HardwareAddr(h[:6])
		m[0] = m[0]&^1 | 2 // unicast, locally administered. IEEE 802, 8.2
		return m.String(), nil
	}
	m, err := net.ParseMAC(x.GuestMAC)
	if err != nil || len(m) != 6 || m[0]&1 != 0 {
		return "", fmt.Errorf("guest_mac %q: want a unicast one of six bytes, as 02:00:00:00:00:01", x.GuestMAC)
	}
	return m.String(), nil
}

func (b *back) read() (*Device, error) {
	d := &Device{Tap: b.TapName, Socket: b.Path, PCI: b.PCIDevice, Queues: max(b.QueueNum, 1), QueueSize: b.QueueSize}
	if b.QueueNum < 0 || b.QueueNum > maxQueues {
		return nil, fmt.Errorf("queue_num %d: want 0 to %d", b.QueueNum, maxQueues)
	}
	if n := b.QueueSize; n != 0 && (n < minQueueSize || n > maxQueueSize || n&(n-1) != 0) {
		return nil, fmt.Errorf("queue_size %d: want 0, or a power of two from %d to %d", n, minQueueSize, maxQueueSize)
	}
	others := func(of ...string) error {
		for key, set := range map[string]bool{"path": b.Path != "", "tap_name": b.TapName != "",
			"pci_device_id": b.PCIDevice != ""} {
			if set && !slices.Contains(of, key) {
				return fmt.Errorf("%s is no key of a device of type %s", key, b.Type)
			}
		}
		return nil
	}
	switch b.Type {
	case hostTap:
		switch {
		case !namePattern.MatchString(b.TapName):
			return nil, fmt.Errorf("tap_name %q: want the name of a tap", b.TapName)
		case b.QueueNum > 1:
			return nil, fmt.Errorf("queue_num %d: an interface on a tap has one pair of queues here", b.QueueNum)
		}
		return d, others("tap_name")
	case vhostUser:
		if !clean(b.Path) {
			return nil, fmt.Errorf("path %q: want the absolute path of a socket", b.Path)
		}
		return d, others("path")
	case vfio:
		switch {
		case !pciPattern.MatchString(b.PCIDevice):
			return nil, fmt.Errorf("pci_device_id %q: want an address, as 0000:01:00.0", b.PCIDevice)
		case b.QueueNum != 0 || b.QueueSize != 0:
			return nil, errors.New("a device of the host has queues of its own: no queue_num and queue_size")
		}
		return d, others("pci_device_id")
	}
	return nil, fmt.Errorf("type %q: want %s, %s or %s", b.Type, hostTap, vhostUser, vfio)
}

func (r *route) read(device string) (*katapb.Route, error) {
	out := &katapb.Route{Dest: r.Dest, Gateway: r.Gateway, Source: r.Source, Device: device, Scope: r.Scope,
		Flags: r.Flags, Mtu: r.MTU}
	var family []netip.Addr // of all that is said
	if r.Dest != "" {
		p, err := netip.ParsePrefix(r.Dest)
		if err != nil {
			return nil, fmt.Errorf("dest %q: want a network, as 192.0.2.0/24", r.Dest)
		}
		out.Dest = p.Masked().String()
		if p.Bits() == 0 {
			out.Dest = "" // the default route, as the agent has it
		}
		family = append(family, p.Addr())
	}
	for key, text := range map[string]string{"gateway": r.Gateway, "source": r.Source} {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%s %q: want an address, as 192.0.2.1", key, text)
		}
		family = append(family, a)
	}
	if len(family) == 0 {
		return nil, errors.New("one has neither dest nor gateway nor source")
	}
	out.Family = familyOf(family[0])
	for _, a := range family {
		if familyOf(a) != out.Family {
			return nil, fmt.Errorf("one to %q has addresses of both families", r.Dest)
		}
	}
	return out, nil
}

func (n *neighbour) read(device string) (*katapb.ARPNeighbor, error) {
	if n.Device != "" && n.Device != device {
		return nil, fmt.Errorf("device %q: want that of the interface, %s", n.Device, device)
	}
	a, err := netip.ParseAddr(n.Address)
	bits := 0
	if err != nil {
		var p netip.Prefix
		p, err = netip.ParsePrefix(n.Address)
		a, bits = p.Addr(), p.Bits()
	}
	if err != nil || a.Zone() != "" {
		return nil, fmt.Errorf("ip_address %q: want an address, as 192.0.2.1 or 192.0.2.1/24", n.Address)
	}
	m, err := net.ParseMAC(n.HardwareAddr)
	if err != nil || len(m) != 6 {
		return nil, fmt.Errorf("hardware_addr %q: want one of six bytes", n.HardwareAddr)
	}
	to := address(a, bits)
	if bits == 0 {
		to.Mask = ""
	}
	return &katapb.ARPNeighbor{ToIPAddress: to, Device: device, Lladdr: m.String(), State: int32(n.State),
		Flags: int32(n.Flags)}, nil
}

func address(a netip.Addr, bits int) *katapb.IPAddress {
	return &katapb.IPAddress{Family: familyOf(a), Address: a.String(), Mask: strconv.Itoa(bits)}
}

func familyOf(a netip.Addr) katapb.IPFamily {
	if a.Is4() {
		return katapb.IPFamily_v4
	}
	return katapb.IPFamily_v6
}

// clean says whether a path is absolute and as plain as can be.
func clean(p string) bool { return filepath.IsAbs(p) && filepath.Clean(p) == p }
