package translate

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/vfio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// The types of a device, by the words of the specification and of /sys/dev.
const (
	charType, charKind   = "c", "char"
	blockType, blockKind = "b", "block"
)

// devices plugs the block devices of the specification into the guest. Those without a rule of their own are left out:
// privileged containers have all of the host's so. Other devices are the guest's own of the same numbers.
func (p *Plan) devices(pod Pod, host Host, c Container) error {
	var list []specs.LinuxDevice
	all := c.Spec.Linux.Resources != nil && usesAll(c.Spec.Linux.Resources) && pod.GuestDevices
	for _, d := range c.Spec.Linux.Devices {
		if all && d.Type == charType {
			if name, err := host.DeviceName(charKind, d.Major, d.Minor); err == nil && d.Path == "/dev/"+name {
				// privileged: all of the host's are named, and all of the guest's are there, with the numbers they
				// have there
				continue
			}
		}
		if d.Type == charType && vfio.Is(d.Path) {
			keep, err := p.pass(pod, host, &d)
			if err != nil {
				return fmt.Errorf("device %s: %w", d.Path, err)
			}
			if !keep {
				continue
			}
		}
		if d.Type == blockType {
			access, ok := accessTo(c.Spec.Linux.Resources, d)
			if !ok {
				p.warn(c, "no rule names a block device of the host; it is left out", slog.String("device", d.Path))
				continue
			}
			what := "device " + d.Path
			name, err := host.DeviceName(blockKind, d.Major, d.Minor)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			p.disk(what, &d, "/dev/"+name, !strings.Contains(access, "w"))
		}
		list = append(list, d)
	}
	p.Spec.Linux.Devices = list
	return nil
}

// The types of devices that are passed, as the agent knows them.
const (
	passedToKernel    = "vfio-pci-gk"
	passedToContainer = "vfio-pci"
)

// pass has a group of devices of the host passed, and says whether the container has a file of it: where the guest's
// kernel has the devices it has none.
func (p *Plan) pass(pod Pod, host Host, d *specs.LinuxDevice) (keep bool, err error) {
	name, err := host.DeviceName(charKind, d.Major, d.Minor)
	if err != nil {
		return false, err
	}
	switch file := "/dev/" + name; {
	case file == vfio.Container: // the guest's has the same number
		return pod.Passes != guestKernel, nil
	case !vfio.Is(file):
		return false, fmt.Errorf("on the host it is %s, and no file of VFIO's", file)
	case pod.Passes == "":
		return false, fmt.Errorf("%s of the host is not passed to guests: set hot_plug_vfio, or cold_plug_vfio", file)
	default:
		p.Devices = append(p.Devices, &katapb.Device{Type: passedToKernel, Id: filepath.Base(file),
			ContainerPath: d.Path})
		p.Passes = append(p.Passes, Pass{What: "device " + d.Path, Group: file, device: len(p.Devices)})
	}
	if pod.Passes == guestKernel {
		return false, nil
	}
	p.Devices[len(p.Devices)-1].Type = passedToContainer
	d.Major, d.Minor = 0, int64(len(p.Devices)) // until the agent knows better, as disk does
	return true, nil
}

// Groups are the groups of VFIO's that a specification names, each once.
func Groups(host Host, s *specs.Spec) ([]string, error) {
	var out []string
	if s.Linux == nil {
		return nil, nil
	}
	for _, d := range s.Linux.Devices {
		if d.Type != charType || !vfio.Is(d.Path) {
			continue
		}
		name, err := host.DeviceName(charKind, d.Major, d.Minor)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		if file := "/dev/" + name; vfio.Is(file) && file != vfio.Container && !slices.Contains(out, file) {
			out = append(out, file)
		}
	}
	return out, nil
}

// diskVolume plugs a block device of the host into the guest, at the destination of a bind mount.
func (p *Plan) diskVolume(what string, m specs.Mount) {
	d := specs.LinuxDevice{Path: m.Destination, Type: blockType}
	p.disk(what, &d, m.Source, slices.Contains(m.Options, "ro"))
	p.Spec.Linux.Devices = append(p.Spec.Linux.Devices, d)
}

// disk has a block device plugged in for a container. The agent replaces the device's number by that in the guest;
// until then it has one that no other of the container has, also where the host has one device twice, to write to and
// to read.
func (p *Plan) disk(what string, d *specs.LinuxDevice, file string, readOnly bool) {
	p.Devices = append(p.Devices, &katapb.Device{Type: "blk", ContainerPath: d.Path})
	p.Disks = append(p.Disks, Disk{What: what, File: file, ReadOnly: readOnly, Exclusive: !readOnly,
		device: len(p.Devices)})
	d.Major, d.Minor = 0, int64(len(p.Devices)) // Linux: Documentation/admin-guide/devices.txt: 0 is of no device
}

// usesAll says whether the last rule about all devices allows everything, as for privileged containers.
func usesAll(r *specs.LinuxResources) bool {
	all := false
	for _, d := range r.Devices {
		if (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil {
			all = d.Allow && (d.Access == "" || d.Access == "rwm")
		}
	}
	return all
}

// accessTo is what the rules for a container's devices allow it to do with one, of r, w and m: the last that names the
// device counts. config-linux.md, "Device allowlist".
func accessTo(r *specs.LinuxResources, d specs.LinuxDevice) (access string, ok bool) {
	if r == nil {
		return "", false
	}
	for _, rule := range r.Devices {
		if rule.Type == d.Type && rule.Major != nil && rule.Minor != nil && *rule.Major == d.Major &&
			*rule.Minor == d.Minor {
			access, ok = rule.Access, rule.Allow
		}
	}
	return access, ok
}
