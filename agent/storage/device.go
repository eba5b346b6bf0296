package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/agent/uevent/pcipath"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// vfioKernel is the type of a device that the guest's own driver serves; its options are HOST=PATH, with a PCI path of
// the guest.
const vfioKernel = "vfio-pci-gk"

// DeviceHandlers are the types of devices, sorted: GetGuestDetails tells the host.
func (m *Manager) DeviceHandlers() []string {
	names := append(disk.Drivers(), vfioKernel)
	slices.Sort(names)
	return names
}

// change is a device of the spec that has another number in this guest.
type change struct {
	path string // in the container
	to   devmapper.Device
}

// Devices waits for the devices of a container, and writes their numbers in this guest into the spec: of the device
// files and of the rules about them. A device without a path in the container is only waited for.
func (m *Manager) Devices(ctx context.Context, devices []*katapb.Device, spec *specs.Spec) error {
	var changes []change
	for _, d := range devices {
		switch {
		case d.GetType() == "":
			return fmt.Errorf("device %q: want a type", d.GetId())
		case d.GetId() == "" && d.GetVmPath() == "":
			return fmt.Errorf("device for %q: want an id or a path", d.GetContainerPath())
		}
		if d.Type == vfioKernel {
			if err := m.waitVFIO(ctx, d); err != nil {
				return fmt.Errorf("device %s: %w", d.Id, err)
			}
			continue
		}
		if !slices.Contains(disk.Drivers(), d.Type) {
			return fmt.Errorf("device %s: this agent has no driver %q", d.ContainerPath, d.Type)
		}
		found, err := m.disks().Find(ctx, d.Type, sourceOf(d))
		if err != nil {
			return fmt.Errorf("device %s: %w", d.ContainerPath, err)
		}
		if err := found.MakeNode(); err != nil {
			return err
		}
		if d.ContainerPath != "" {
			changes = append(changes, change{d.ContainerPath, found.Number})
		}
	}
	return rewrite(spec, changes)
}

// sourceOf is what a device is found by: its place on the bus, in id. A name in vm_path is a guess of the host's, which
// does not count every disk of the guest, and is looked at only where nothing else says which device it is: without an
// id, and on buses that have no places.
func sourceOf(d *katapb.Device) string {
	if d.VmPath != "" && (d.Id == "" || !disk.HasPlaces(d.Type)) {
		return d.VmPath
	}
	return d.Id
}

// waitVFIO waits for the PCI devices themselves: what their drivers make of them is known only to their users.
func (m *Manager) waitVFIO(ctx context.Context, d *katapb.Device) error {
	if len(d.Options) == 0 {
		return fmt.Errorf("type %s: the options name no device", d.Type)
	}
	for _, o := range d.Options {
		_, path, ok := strings.Cut(o, "=")
		if !ok {
			return fmt.Errorf("option %q: want HOST=PATH", o)
		}
		p, err := pcipath.Parse(path)
		if err != nil {
			return err
		}
		look := func() (string, error) {
			dir, err := p.Find(m.c.Root)
			if errors.Is(err, pcipath.ErrNotFound) {
				return "", nil
			}
			return dir, err
		}
		if m.c.Devices == nil {
			if _, err := p.Find(m.c.Root); err != nil {
				return err
			}
			continue
		}
		if _, err := m.c.Devices.Wait(ctx, uevent.Match{What: "the PCI device " + p.String(), Look: look}); err != nil {
			return err
		}
	}
	return nil
}

// rewrite changes numbers in a spec. A number may be one device's on the host and another's here, so all are found
// before any is changed.
func rewrite(spec *specs.Spec, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	if spec == nil || spec.Linux == nil {
		return fmt.Errorf("device %s: the specification has no devices", changes[0].path)
	}
	type number struct {
		kind         string
		major, minor int64
	}
	moved := map[number]devmapper.Device{}
	at := map[int]devmapper.Device{} // by index in the spec's devices
	for _, c := range changes {
		i := slices.IndexFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == c.path })
		if i < 0 {
			return fmt.Errorf("device %s: the specification does not have it", c.path)
		}
		d := spec.Linux.Devices[i]
		from := number{d.Type, d.Major, d.Minor}
		if before, twice := moved[from]; twice && before != c.to {
			return fmt.Errorf("device %s: it shares the number %d:%d with another that is %s here", c.path, d.Major,
				d.Minor, before)
		}
		moved[from] = c.to
		at[i] = c.to
	}
	for i, to := range at {
		spec.Linux.Devices[i].Major, spec.Linux.Devices[i].Minor = int64(to.Major), int64(to.Minor)
	}
	if spec.Linux.Resources == nil {
		return nil
	}
	for i, r := range spec.Linux.Resources.Devices {
		if r.Major == nil || r.Minor == nil {
			continue // a rule for many
		}
		if to, ok := moved[number{r.Type, *r.Major, *r.Minor}]; ok {
			major, minor := int64(to.Major), int64(to.Minor)
			spec.Linux.Resources.Devices[i].Major, spec.Linux.Resources.Devices[i].Minor = &major, &minor
		}
	}
	return nil
}

// deviceFile makes sure that a path that others name is a device of this guest.
func (m *Manager) deviceFile(path string) (string, error) {
	p, err := place.In(append([]string{filepath.Join(m.c.Root, "dev")}, m.c.Below...), path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(p.String()); err != nil {
		return "", err
	}
	return p.String(), nil
}
