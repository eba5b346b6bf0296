package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/disks"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
	"golang.org/x/sys/unix"
)

// prepare does what a container's plan says has to be done on the host, and completes the plan by it. What was done
// before an error is the container's, and goes with it.
func (p *Pod) prepare(ctx context.Context, have *container, plan *translate.Plan) error {
	p.tell(ctx, plan.Notes)
	if err := p.root(ctx, have, plan); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	for _, d := range plan.Disks {
		if err := p.disk(ctx, have, plan, d); err != nil {
			return fmt.Errorf("%s: %w", d.What, err)
		}
	}
	for _, x := range plan.Passes {
		if err := p.pass(ctx, plan, x); err != nil {
			return fmt.Errorf("%s: %w", x.What, err)
		}
	}
	for _, b := range plan.Binds {
		if err := p.bindVolume(have, plan, b); err != nil {
			return fmt.Errorf("%s: %w", b.What, err)
		}
	}
	for _, c := range plan.Copies {
		if err := p.copyVolume(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.What, err)
		}
	}
	return nil
}

// tell writes to the log what was noted.
func (p *Pod) tell(ctx context.Context, notes []translate.Note) {
	for _, n := range notes {
		p.log.LogAttrs(ctx, n.Level, n.Text, n.Attrs...)
	}
}

// root brings the root file system into the guest by the first way that the machine has places for.
func (p *Pod) root(ctx context.Context, have *container, plan *translate.Plan) error {
	var full error // why no way before had places
	for _, r := range plan.Roots {
		if len(r.Disks) == 0 && full != nil {
			p.log.Warn("the host mounts the root file system, as the guest cannot take its disks", "container", have.id,
				"err", full)
		}
		at, err := p.rootBy(ctx, have, r)
		switch {
		case errors.Is(err, machine.ErrNoPlace):
			full = err
			continue
		case errors.Is(err, disks.ErrNoPack):
			p.log.Debug("no disk for all layers", "container", have.id, "err", err)
			continue
		case err != nil:
			return err
		}
		p.tell(ctx, r.Notes)
		plan.Rooted(r, at)
		return nil
	}
	return fmt.Errorf("%w; the guest needs a place for each disk, pcie_root_port has their number", full)
}

// rootBy brings the root file system into the guest in one way, and returns where the guest finds the disks. Nothing of
// it is left after an error of the machine's.
func (p *Pod) rootBy(ctx context.Context, have *container, r translate.Root) (at []string, err error) {
	if len(r.Disks) == 0 {
		if len(r.Mounts) > 0 {
			return nil, p.share.Mount(have.id, r.Name, r.Mounts)
		}
		return nil, p.share.Bind(have.id, r.Name, r.Folder, share.Writable, share.Owners{})
	}
	var pack machine.Disk
	if len(r.Pack) > 0 {
		if pack, err = p.disks.Pack(p.dir(), r.Pack); err != nil {
			return nil, err
		}
	}
	before := len(have.disks)
	for i, d := range r.Disks {
		disk := machine.Disk{Path: d.File, ReadOnly: d.ReadOnly}
		if d.File == "" {
			disk = pack
		}
		plugged, err := p.plug(ctx, have, disk)
		if errors.Is(err, machine.ErrNoPlace) { // another way may have use for the places
			err = errors.Join(fmt.Errorf("disk %d of %d: %w", i+1, len(r.Disks), err), p.unplug(ctx, have, before))
		}
		if err != nil {
			return nil, err
		}
		at = append(at, plugged.PCIPath)
	}
	return at, nil
}

// plug gives the machine a disk for a container.
func (p *Pod) plug(ctx context.Context, have *container, want machine.Disk) (*machine.Plugged, error) {
	u, err := p.disks.Plug(ctx, p.vm, want)
	if err != nil {
		if errors.Is(err, machine.ErrNoPlace) { // which one that boots has as few of
			return nil, err
		}
		return nil, p.plugging(err)
	}
	have.disks = append(have.disks, u)
	return u.Disk, nil
}

// unplug ends the uses that a container made of disks, from its from-th on.
func (p *Pod) unplug(ctx context.Context, c *container, from int) error {
	uses := c.disks[from:]
	c.disks = c.disks[:from]
	return p.disks.Unplug(ctx, p.vm, uses)
}

// disk plugs in a disk of the plan.
func (p *Pod) disk(ctx context.Context, have *container, plan *translate.Plan, d translate.Disk) error {
	if d.Exclusive {
		if err := free(d.File); err != nil {
			return err
		}
	}
	if d.Volume != "" {
		if err := p.claimVolume(d); err != nil {
			return err
		}
	}
	plugged, err := p.plug(ctx, have, machine.Disk{Path: d.File, ReadOnly: d.ReadOnly})
	if err != nil {
		return err
	}
	plan.Plugged(d, plugged.PCIPath)
	return nil
}

// claimVolume notes that the pod has a volume that is assigned directly, and refuses one to write to that another pod
// has. It notes first and looks then, so that of two pods which begin at the same time not both have it.
func (p *Pod) claimVolume(d translate.Disk) error {
	if err := directvolume.Record(directvolume.Root, d.Volume, p.id); err != nil || d.ReadOnly {
		return err
	}
	pods, err := directvolume.Pods(directvolume.Root, d.Volume)
	if err != nil {
		return err
	}
	for _, id := range pods {
		if id == p.id || record.CheckID(id) != nil {
			continue
		}
		if r, err := record.Read(p.dirs, id); err == nil && r.QEMU.Alive() {
			return errors.Join(fmt.Errorf("the volume %s is that of pod %s, too: two guests that mount one disk "+
				"destroy it", d.Volume, id), directvolume.Forget(directvolume.Root, d.Volume, p.id))
		}
	}
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

// bindVolume shares a file or folder of the plan.
func (p *Pod) bindVolume(have *container, plan *translate.Plan, b translate.Bind) error {
	name, err := p.bind(have, b)
	if err != nil {
		return err
	}
	foreign := false
	if b.Claimed {
		if foreign, err = p.foreignLocks(have.id, b); err != nil {
			return err
		}
	}
	plan.Bound(b, name, foreign)
	return nil
}

// foreignLocks says whether locks of programs on a volume are to be refused, as they would not exclude the other pod
// that has it.
func (p *Pod) foreignLocks(id string, b translate.Bind) (bool, error) {
	if p.claims == nil {
		return false, nil
	}
	foreign, err := p.claims.Claim(b.Source, b.Access)
	if err != nil || !foreign {
		return false, err
	}
	if !p.link.Can.ForeignLocks {
		p.log.Warn("another pod has the volume too; locks of one do not exclude the other, and the guest's agent "+
			"cannot refuse them", "container", id, "volume", b.Source)
		return false, nil
	}
	p.log.Warn(`another pod has the volume too; locks on its files are refused with ENOLCK here `+
		`(foreign_locks = "grant" grants them)`, "container", id, "volume", b.Source)
	return true, nil
}
