package clh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// unplugTime bounds waiting for the guest to let go of a device.
const unplugTime = 15 * time.Second

// place is where a disk is plugged in.
type place struct {
	id   string
	path string // its name in the machine's folder; empty where it has the host's
}

// net is a network interface.
func (v *clhVM) net(id string, n machine.NIC) netConfig {
	// There is one rate for both ways, and the configuration's keys for this hypervisor give no others.
	return netConfig{ID: id, MAC: n.MAC, MTU: n.MTU, NumQueues: 2, Rate: limiter(v.plan.spec.RxRate)}
}

// take reserves a slot and a name. v.plugging is held.
func (v *clhVM) take(kind string) (string, error) {
	if v.used >= slots {
		return "", fmt.Errorf("%w: all %d are taken", machine.ErrNoPlace, slots)
	}
	v.used++
	v.number++
	return fmt.Sprintf("%s-%d", kind, v.number), nil
}

// PlugDisk gives the running guest a disk.
func (v *clhVM) PlugDisk(ctx context.Context, d machine.Disk) (_ *machine.Plugged, err error) {
	failed := func(err error) (*machine.Plugged, error) { return nil, fmt.Errorf("plug in %s: %w", d.Path, err) }
	if len(d.Parts) > 0 {
		return failed(fmt.Errorf("%w: Cloud Hypervisor has no disks of several files", machine.ErrNoPlace))
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	id, err := v.take("plugged")
	if err != nil {
		return failed(err)
	}
	at := &place{id: id}
	c := diskConfig{ID: id, Path: d.Path, Readonly: d.ReadOnly, ImageType: "Raw", Serial: d.Serial,
		Rate: limiter(v.plan.spec.DiskRate)}
	if v.walls {
		if at.path, err = v.show(id, d.Path); err != nil {
			v.used--
			return failed(err)
		}
		c.Path = at.path
	}
	pci, err := v.add(ctx, "/vm.add-disk", c.ID, func() ([]byte, error) {
		return v.put(ctx, "/vm.add-disk", rest.Encode(c))
	})
	if err != nil {
		return failed(errors.Join(err, v.hide(at.path)))
	}
	return &machine.Plugged{PCIPath: pci, Place: at}, nil
}

// add has a device plugged in, and says where. The slot is free again where it was refused. v.plugging is held.
func (v *clhVM) add(ctx context.Context, path, id string, ask func() ([]byte, error)) (string, error) {
	b, err := ask()
	if err != nil {
		v.used--
		return "", err
	}
	info, err := rest.Decode[pciDeviceInfo](name, b)
	if err == nil && info.ID != id {
		err = fmt.Errorf("%s plugged in %q, and not %q", name, rest.Clean(info.ID), id)
	}
	var pci string
	if err == nil {
		pci, err = pciPath(info.BDF)
	}
	if err != nil { // it is there, and nobody can find it
		return "", errors.Join(err, v.remove(ctx, id))
	}
	return pci, nil
}

// show lets the program see a file of the host, in the machine's folder. v.plugging is held.
func (v *clhVM) show(id, path string) (string, error) {
	to := filepath.Join(v.dir, id)
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return "", err
	}
	if err := unix.Mount(path, to, "", unix.MS_BIND, ""); err != nil {
		return "", errors.Join(&os.PathError{Op: "mount", Path: path, Err: err}, os.Remove(to))
	}
	v.shown[to] = true
	return to, nil
}

// hide takes back what show did. v.plugging is held.
func (v *clhVM) hide(path string) error {
	if path == "" || !v.shown[path] {
		return nil
	}
	delete(v.shown, path)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return os.Remove(path)
}

// UnplugDisk takes a disk away.
func (v *clhVM) UnplugDisk(ctx context.Context, d *machine.Plugged) error {
	at, ok := d.Place.(*place)
	if !ok {
		return fmt.Errorf("unplug the disk at %s: it is not in a machine of Cloud Hypervisor's", d.PCIPath)
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	if err := v.remove(ctx, at.id); err != nil {
		return fmt.Errorf("unplug the disk at %s: %w", d.PCIPath, err)
	}
	return v.hide(at.path)
}

// remove has the guest let go of a device, and waits for that: the answer comes before. v.plugging is held.
func (v *clhVM) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, unplugTime, errors.New("the guest does not let go of it"))
	defer cancel()
	if _, err := v.put(ctx, "/vm.remove-device", rest.Encode(vmRemoveDevice{ID: id})); err != nil {
		return err
	}
	for {
		b, err := v.api.Do(ctx, rest.Request{Method: "GET", Path: "/vm.info"})
		if err != nil {
			return err
		}
		info, err := rest.Decode[vmInfo](name, b)
		if err != nil {
			return err
		}
		if _, there := info.DeviceTree[id]; !there {
			v.used--
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// PlugNIC gives the running guest a network interface, whose tap goes along as an open file.
func (v *clhVM) PlugNIC(ctx context.Context, n machine.NIC) (string, error) {
	if n.Tap == nil {
		return "", fmt.Errorf("plug in the interface %s: it has no tap", n.MAC)
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	id, err := v.take("nic")
	var pci string
	if err == nil {
		pci, err = v.add(ctx, "/vm.add-net", id, func() ([]byte, error) {
			return v.put(ctx, "/vm.add-net", rest.Encode(v.net(id, n)), n.Tap)
		})
	}
	if err != nil {
		return "", fmt.Errorf("plug in the interface %s: %w", n.MAC, err)
	}
	return pci, nil
}

// Size is what the machine has now.
func (v *clhVM) Size() machine.Size {
	v.growing.Lock()
	defer v.growing.Unlock()
	return v.size
}

// Grow asks for processors and memory, in one request.
func (v *clhVM) Grow(ctx context.Context, want machine.Size) (machine.Size, error) {
	v.growing.Lock()
	defer v.growing.Unlock()
	next, memory, err := v.next(want)
	if next == v.size {
		return v.size, err
	}
	r := vmResize{}
	if next.CPUs > v.size.CPUs {
		r.VCPUs = next.CPUs
	}
	if memory {
		r.RAM = int64(next.MemoryMiB) << 20
	}
	if _, e := v.put(ctx, "/vm.resize", rest.Encode(r)); e != nil {
		return v.size, errors.Join(err, fmt.Errorf("grow to %d processors and %d MiB of memory: %w", next.CPUs,
			next.MemoryMiB, e))
	}
	if memory {
		v.pieces++
	}
	v.size = next
	return v.size, err
}

// next is the size that the machine can have of what is wanted, whether it is of more memory, and what cannot be had.
// v.growing is held.
func (v *clhVM) next(want machine.Size) (machine.Size, bool, error) {
	c, next := &v.plan.Config, v.size
	var errs, cannot []error
	if want.CPUs > next.CPUs {
		switch {
		case c.CPUs.Max <= c.CPUs.Boot:
			cannot = append(cannot, fmt.Errorf("%w: %d processors", machine.ErrNoGrowth, next.CPUs))
		case want.CPUs > c.CPUs.Max:
			errs = append(errs, fmt.Errorf("%d processors are wanted, and the machine can have %d", want.CPUs,
				c.CPUs.Max))
		}
		next.CPUs = max(next.CPUs, min(want.CPUs, c.CPUs.Max))
	}
	if want.MemoryMiB > next.MemoryMiB {
		most := int((c.Memory.Size + c.Memory.HotplugSize) >> 20)
		blocks := (want.MemoryMiB - next.MemoryMiB + memoryMiB - 1) / memoryMiB * memoryMiB
		switch {
		case c.Memory.HotplugSize == 0:
			cannot = append(cannot, fmt.Errorf("%w: %d MiB of memory", machine.ErrNoGrowth, next.MemoryMiB))
			blocks = 0
		case v.pieces == min(v.plan.spec.MemorySlots, memorySlots):
			errs = append(errs, fmt.Errorf("%d MiB of memory are wanted, and all %d slots are taken", want.MemoryMiB,
				v.pieces))
			blocks = 0
		case next.MemoryMiB+blocks > most:
			errs = append(errs, fmt.Errorf("%d MiB of memory are wanted, and the machine can have %d", want.MemoryMiB,
				most))
			blocks = most - next.MemoryMiB
		}
		next.MemoryMiB += blocks
	}
	err := errors.Join(errs...)
	if err == nil {
		err = errors.Join(cannot...)
	}
	return next, next.MemoryMiB > v.size.MemoryMiB, err
}
