package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/runtime/machine"
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
