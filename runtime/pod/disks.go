package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// disks are the disks that are plugged into the guest. A disk that several containers use is plugged in once. The zero
// value has none.
type disks struct {
	mu   sync.Mutex
	list map[diskKey]*pluggedDisk // guarded by mu
}

// diskKey tells disks apart: by the device, or by the file and its file system's device.
type diskKey struct {
	block     bool
	dev, node uint64
	readOnly  bool
}

// pluggedDisk is a disk with how often it is in use.
type pluggedDisk struct {
	key  diskKey
	disk *machine.Plugged
	uses int // guarded by disks.mu
}

// keyOf says which disk a file of the host is.
func keyOf(file string, readOnly bool) (diskKey, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return diskKey{}, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return diskKey{block: true, dev: uint64(st.Rdev), readOnly: readOnly}, nil
	case unix.S_IFREG:
		return diskKey{dev: uint64(st.Dev), node: st.Ino, readOnly: readOnly}, nil
	}
	return diskKey{}, fmt.Errorf("%s: neither a block device nor a file", file)
}

// plug gives the guest a disk for a container, or another use of one it has.
func (p *Pod) plug(ctx context.Context, have *container, want machine.Disk) (*machine.Plugged, error) {
	key, err := keyOf(want.Path, want.ReadOnly)
	if err != nil {
		return nil, err
	}
	p.disks.mu.Lock()
	defer p.disks.mu.Unlock()
	d := p.disks.list[key]
	if d == nil {
		disk, err := p.vm.PlugDisk(ctx, want)
		if err != nil {
			return nil, err
		}
		d = &pluggedDisk{key: key, disk: disk}
		if p.disks.list == nil {
			p.disks.list = map[diskKey]*pluggedDisk{}
		}
		p.disks.list[key] = d
	}
	d.uses++
	have.disks = append(have.disks, d)
	return d.disk, nil
}

// unplug ends the uses that a container made of disks, from its from-th on, and takes away those that nobody uses any
// more.
func (p *Pod) unplug(ctx context.Context, c *container, from int) error {
	uses := c.disks[from:]
	c.disks = c.disks[:from]
	var errs []error
	for _, d := range slices.Backward(uses) {
		p.disks.mu.Lock()
		d.uses--
		last := d.uses == 0
		if last {
			delete(p.disks.list, d.key)
		}
		p.disks.mu.Unlock()
		if last {
			errs = append(errs, p.vm.UnplugDisk(ctx, d.disk))
		}
	}
	return errors.Join(errs...)
}

// isPlugged says whether a disk is in the guest.
func (p *Pod) isPlugged(file string) bool {
	key, err := keyOf(file, true)
	p.disks.mu.Lock()
	defer p.disks.mu.Unlock()
	return err == nil && p.disks.list[key] != nil
}

// endTime is how long the guest may take to end its containers. Shared files are the host's, so that nothing of them is
// lost when it does not answer; what was written to disks has to leave its memory.
func (p *Pod) endTime() time.Duration {
	p.disks.mu.Lock()
	defer p.disks.mu.Unlock()
	for k := range p.disks.list {
		if !k.readOnly {
			return requestTime
		}
	}
	return endTime
}

// diskVolume plugs a block device of the host into the guest, at the destination of a bind mount.
func (p *Pod) diskVolume(ctx context.Context, have *container, g *inGuest, m specs.Mount) error {
	d := specs.LinuxDevice{Path: m.Destination, Type: "b"}
	if err := p.disk(ctx, have, g, &d, m.Source, slices.Contains(m.Options, "ro")); err != nil {
		return err
	}
	g.spec.Linux.Devices = append(g.spec.Linux.Devices, d)
	return nil
}

// devices plugs the block devices of the specification into the guest. Those without a rule of their own are left out:
// privileged containers have all of the host's so. Other devices are the guest's own of the same numbers.
func (p *Pod) devices(ctx context.Context, c Container, have *container, g *inGuest) error {
	var list []specs.LinuxDevice
	all := c.Spec.Linux.Resources != nil && usesAll(c.Spec.Linux.Resources) && p.can.guestDevices
	for _, d := range c.Spec.Linux.Devices {
		if name, err := deviceName("/", "char", d.Major, d.Minor); all && d.Type == "c" && err == nil &&
			d.Path == "/dev/"+name {
			// privileged: all of the host's are named, and all of the guest's are there, with the numbers they have
			// there
			continue
		}
		if d.Type == "b" {
			access, ok := accessTo(c.Spec.Linux.Resources, d)
			if !ok {
				p.log.Warn("no rule names a block device of the host; it is left out", "container", c.ID, "device",
					d.Path)
				continue
			}
			file, err := blockFile("/", d.Major, d.Minor)
			if err == nil {
				err = p.disk(ctx, have, g, &d, file, !strings.Contains(access, "w"))
			}
			if err != nil {
				return fmt.Errorf("device %s: %w", d.Path, err)
			}
		}
		list = append(list, d)
	}
	g.spec.Linux.Devices = list
	return nil
}

// disk plugs a block device in for a container. The agent replaces the device's number by that in the guest; until then
// it has one that no other of the container has, also where the host has one device twice, to write to and to read.
func (p *Pod) disk(ctx context.Context, have *container, g *inGuest, d *specs.LinuxDevice, file string,
	readOnly bool) error {
	if !readOnly {
		if err := free(file); err != nil {
			return err
		}
	}
	plugged, err := p.plug(ctx, have, machine.Disk{Path: file, ReadOnly: readOnly})
	if err != nil {
		return err
	}
	g.devices = append(g.devices, &katapb.Device{Id: plugged.PCIPath, Type: "blk", ContainerPath: d.Path})
	d.Major, d.Minor = 0, int64(len(g.devices)) // Linux: Documentation/admin-guide/devices.txt: 0 is of no device
	return nil
}

// free refuses a device that the host itself has mounted or put to another use: two kernels that write to one file
// system destroy it.
func free(file string) error {
	// open(2): EBUSY where it is in use
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is in use on the host: a guest may only read it", file)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: file, Err: err}
	}
	return unix.Close(fd)
}

// blockFile is the device file of a block device below root. Linux: Documentation/ABI/testing/sysfs-dev, and DEVNAME of
// the device's uevent.
func blockFile(root string, major, minor int64) (string, error) {
	name, err := deviceName(root, "block", major, minor)
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "dev", name), nil
}

// deviceName is the name below /dev of a device of a kind, block or char.
func deviceName(root, kind string, major, minor int64) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, fmt.Sprintf("sys/dev/%s/%d:%d/uevent", kind, major, minor)))
	if err != nil {
		return "", fmt.Errorf("the host has no %s device %d:%d: %w", kind, major, minor, err)
	}
	for l := range strings.Lines(string(b)) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "DEVNAME=")
		if !ok || !filepath.IsLocal(name) {
			continue
		}
		return name, nil
	}
	return "", fmt.Errorf("%s device %d:%d of the host has no name", kind, major, minor)
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
