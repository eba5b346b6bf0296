package firecracker

import (
	"context"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// PlugDisk gives a place the disk's file. The guest has the place's device from the start, and sees its size change.
func (v *fcVM) PlugDisk(ctx context.Context, d machine.Disk) (*machine.Plugged, error) {
	failed := func(err error) (*machine.Plugged, error) { return nil, fmt.Errorf("plug in %s: %w", d.Path, err) }
	if len(d.Parts) > 0 {
		return failed(fmt.Errorf("%w: Firecracker has no disks of several files", machine.ErrNoPlace))
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	at, err := v.free(d.ReadOnly)
	if err != nil {
		return failed(err)
	}
	path, err := v.jail.show(v.inside, at.id, d.Path)
	if err != nil {
		return failed(err)
	}
	if err := v.patch(ctx, at.id, path); err != nil {
		return failed(errors.Join(err, v.jail.hide(v.inside, at.id)))
	}
	v.taken[at.id] = true
	return &machine.Plugged{PCIPath: at.device, Place: at}, nil
}

// free is a place that nobody has. v.plugging is held.
func (v *fcVM) free(readOnly bool) (*place, error) {
	n := 0
	for i := range v.plan.places {
		at := &v.plan.places[i]
		if at.readOnly != readOnly {
			continue
		}
		if n++; !v.taken[at.id] {
			return at, nil
		}
	}
	kind := "to write to"
	if readOnly {
		kind = "to read"
	}
	return nil, fmt.Errorf("%w: all %d drives %s are taken, and Firecracker takes no others while a machine runs",
		machine.ErrNoPlace, n, kind)
}

// patch changes the file of a drive.
func (v *fcVM) patch(ctx context.Context, id, path string) error {
	_, err := v.api.Do(ctx, rest.Request{Method: "PATCH", Path: "/drives/" + id,
		Body: rest.Encode(partialDrive{ID: id, Path: path})})
	return err
}

// UnplugDisk leaves the place empty.
func (v *fcVM) UnplugDisk(ctx context.Context, d *machine.Plugged) error {
	at, ok := d.Place.(*place)
	if !ok {
		return fmt.Errorf("unplug the disk at %s: it is not in a machine of Firecracker's", d.PCIPath)
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	if err := v.patch(ctx, at.id, v.name(emptyFile)); err != nil {
		return fmt.Errorf("unplug the disk at %s: %w", d.PCIPath, err)
	}
	delete(v.taken, at.id)
	return v.jail.hide(v.inside, at.id)
}

// PlugNIC is refused: interfaces are there from the start.
func (v *fcVM) PlugNIC(_ context.Context, n machine.NIC) (string, error) {
	return "", fmt.Errorf("plug in the interface %s: %w: Firecracker takes no interface while a machine runs; make "+
		"the pod's network before its start, or use [hypervisor.qemu] or [hypervisor.clh]", n.MAC, machine.ErrNoPlace)
}
