package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// DeviceHandlers are the types of devices, sorted: GetGuestDetails tells the host.
func (m *Manager) DeviceHandlers() []string {
	names := append(disk.Drivers(), vfioKernel, vfioContainer)
	slices.Sort(names)
	return names
}

// change is a device of the spec that has another number in this guest.
type change struct {
	path string // in the container
	to   devmapper.Device
	as   string // the path in the container from here on; empty is the same
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
		if d.Type == vfioKernel || d.Type == vfioContainer {
			c, err := m.passed(ctx, d)
			if err != nil {
				return fmt.Errorf("device %s: %w", d.Id, err)
			}
			if c != nil {
				changes = append(changes, *c)
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
			changes = append(changes, change{path: d.ContainerPath, to: found.Number})
		}
	}
	if spec != nil && spec.Process != nil {
		spec.Process.Env = m.GuestAddresses(spec.Process.Env)
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
	at := map[int]change{} // by index in the spec's devices
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
		at[i] = c
	}
	for i, c := range at {
		spec.Linux.Devices[i].Major, spec.Linux.Devices[i].Minor = int64(c.to.Major), int64(c.to.Minor)
		if c.as != "" {
			spec.Linux.Devices[i].Path = c.as
		}
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
