package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/agent/uevent/pcipath"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// The types of devices of the host that were passed to the guest; the options of each are HOST=PATH, an address of the
// host's PCI and the path in the guest.
const (
	vfioKernel    = "vfio-pci-gk" // the guest's own driver has it
	vfioContainer = "vfio-pci"    // the container has it, by VFIO
)

// vfioDriver is the guest's driver that gives devices away.
const vfioDriver = "vfio-pci"

// passed waits for the PCI devices of a group, and notes where they are. What the guest's drivers make of them is known
// only to their users. For the container it is bound to VFIO; the change is the file of the group then.
func (m *Manager) passed(ctx context.Context, d *katapb.Device) (*change, error) {
	if len(d.Options) == 0 {
		return nil, fmt.Errorf("type %s: the options name no device", d.Type)
	}
	group := ""
	for _, o := range d.Options {
		host, path, ok := strings.Cut(o, "=")
		if !ok {
			return nil, fmt.Errorf("option %q: want HOST=PATH", o)
		}
		dir, err := m.waitPCI(ctx, path)
		if err != nil {
			return nil, err
		}
		m.noteAddress(host, filepath.Base(dir))
		if d.Type == vfioKernel {
			continue
		}
		if err := bindVFIO(m.c.Root, dir, writeFile); err != nil {
			return nil, fmt.Errorf("bind %s to %s: %w", filepath.Base(dir), vfioDriver, err)
		}
		g, err := os.Readlink(filepath.Join(dir, "iommu_group"))
		if err != nil {
			return nil, fmt.Errorf("%s has no IOMMU group; enable_iommu gives the guest an IOMMU (%w)",
				filepath.Base(dir), err)
		}
		if g = filepath.Base(g); group != "" && g != group {
			return nil, fmt.Errorf("%s is in the IOMMU group %s of the guest, and those before it in %s",
				filepath.Base(dir), g, group)
		}
		group = g
	}
	if d.Type == vfioKernel {
		return nil, nil
	}
	if d.ContainerPath == "" {
		return nil, errors.New("it has no path in the container")
	}
	name, number, err := m.groupFile(group)
	if err != nil {
		return nil, err
	}
	return &change{path: d.ContainerPath, to: number, as: "/dev/vfio/" + name}, nil
}

// waitPCI waits for the device at a path, and returns its folder in sysfs.
func (m *Manager) waitPCI(ctx context.Context, path string) (string, error) {
	p, err := pcipath.Parse(path)
	if err != nil {
		return "", err
	}
	if m.c.Devices == nil {
		return p.Find(m.c.Root)
	}
	look := func() (string, error) {
		dir, err := p.Find(m.c.Root)
		if errors.Is(err, pcipath.ErrNotFound) {
			return "", nil
		}
		return dir, err
	}
	return m.c.Devices.Wait(ctx, uevent.Match{What: "the PCI device " + p.String(), Look: look})
}

// groupFile is the name below /dev/vfio of a group, and its number. One without an IOMMU has another name. Linux:
// drivers/vfio/group.c, vfio_group_alloc.
func (m *Manager) groupFile(group string) (string, devmapper.Device, error) {
	for _, name := range []string{group, "noiommu-" + group} {
		b, err := os.ReadFile(filepath.Join(m.c.Root, "sys/class/vfio", name, "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", devmapper.Device{}, err
		}
		number, err := devmapper.ParseDevice(strings.TrimSpace(string(b)))
		return name, number, err
	}
	return "", devmapper.Device{}, fmt.Errorf("VFIO of the guest has no group %s", group)
}

func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// bindVFIO gives the device of a folder of sysfs to VFIO, taking it from the driver that has it. write writes a file of
// sysfs. Linux: Documentation/ABI/testing/sysfs-bus-pci, driver_override.
func bindVFIO(root, dir string, write func(path, text string) error) error {
	driver := func() string {
		to, err := os.Readlink(filepath.Join(dir, "driver"))
		if err != nil {
			return ""
		}
		return filepath.Base(to)
	}
	if driver() == vfioDriver {
		return nil
	}
	bus := filepath.Join(root, "sys/bus/pci")
	if _, err := os.Stat(filepath.Join(bus, "drivers", vfioDriver)); err != nil {
		return fmt.Errorf("the guest's kernel does not have it; the feature vfio has: %w", err)
	}
	name := filepath.Base(dir)
	if err := write(filepath.Join(dir, "driver_override"), vfioDriver); err != nil {
		return err
	}
	if driver() != "" {
		if err := write(filepath.Join(dir, "driver/unbind"), name); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(bus, "drivers_probe"), name); err != nil {
		return err
	}
	if got := driver(); got != vfioDriver {
		return fmt.Errorf("its driver is %q then", got)
	}
	return nil
}

// noteAddress notes where the guest has a PCI device of the host.
func (m *Manager) noteAddress(host, guest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addresses == nil {
		m.addresses = map[string]string{}
	}
	m.addresses[strings.ToLower(host)] = guest
}

// Variables by which device plug-ins for SR-IOV say which PCI devices a container has: addresses with commas between,
// and, under the same name with infoSuffix, JSON in which they are.
const (
	pciVariable = "PCIDEVICE_"
	infoSuffix  = "_INFO"
)

// pciAddress is one of a PCI device. Linux: Documentation/PCI/pci.rst.
var pciAddress = lazyregexp.New(`^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$`)

// GuestAddresses is an environment in which the addresses of PCI devices of the host that were passed are the guest's.
// A variable with a device that was not is left as it is.
func (m *Manager) GuestAddresses(env []string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.addresses) == 0 {
		return env
	}
	out := append([]string{}, env...)
	moved := map[string]*strings.Replacer{} // by the names of variables with infoSuffix
	for i, e := range out {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, pciVariable) || strings.HasSuffix(name, infoSuffix) {
			continue
		}
		var guests, pairs []string
		for _, host := range strings.Split(value, ",") {
			guest, ok := m.addresses[strings.ToLower(host)]
			if !ok || !pciAddress().MatchString(host) {
				guests = nil
				break
			}
			guests, pairs = append(guests, guest), append(pairs, host, guest)
		}
		if guests != nil {
			out[i] = name + "=" + strings.Join(guests, ",")
			moved[name+infoSuffix] = strings.NewReplacer(pairs...)
		}
	}
	for i, e := range out {
		name, value, _ := strings.Cut(e, "=")
		if r := moved[name]; r != nil {
			out[i] = name + "=" + r.Replace(value)
		}
	}
	return out
}
