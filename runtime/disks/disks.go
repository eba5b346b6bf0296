// Package disks knows which disks are plugged into a pod's machine.
//
// In come files and block devices of the host that containers want as disks; out come places at which the guest finds
// them. A disk that several containers use is plugged in once, and goes with its last use. Layers for which a machine
// has not places enough become one disk (Pack). It does not know what is on a disk.
package disks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/katabuild/katabuild/runtime/machine"
	"golang.org/x/sys/unix"
)

// Machine is what disks are plugged into.
type Machine interface {
	// PlugDisk and UnplugDisk are as machine.Plugger says.
	PlugDisk(context.Context, machine.Disk) (*machine.Plugged, error)
	UnplugDisk(context.Context, *machine.Plugged) error
}

// Pool is the disks that are plugged into one machine. The zero value has none. Its methods may be called from several
// goroutines. plugging is locked before mu.
type Pool struct {
	plugging sync.Mutex // held while a disk is plugged in, so that none is twice

	mu   sync.Mutex
	list map[key]*Use // guarded by mu
}

// key tells disks apart: by the device, or by the file and its file system's device.
type key struct {
	block     bool
	dev, node uint64
	readOnly  bool
}

// Use is a use of a disk. All uses of one disk are the same value, which is given back as often as it was got.
type Use struct {
	Disk *machine.Plugged

	key   key
	count int // guarded by Pool.mu
}

// keyOf says which disk a file of the host is.
func keyOf(file string, readOnly bool) (key, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return key{}, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return key{block: true, dev: uint64(st.Rdev), readOnly: readOnly}, nil
	case unix.S_IFREG:
		return key{dev: uint64(st.Dev), node: st.Ino, readOnly: readOnly}, nil
	}
	return key{}, fmt.Errorf("%s: neither a block device nor a file", file)
}

// Plug gives the machine a disk, or another use of one it has. An error of the machine's is as it says.
func (p *Pool) Plug(ctx context.Context, m Machine, want machine.Disk) (*Use, error) {
	k, err := keyOf(want.Path, want.ReadOnly)
	if err != nil {
		return nil, err
	}
	p.plugging.Lock()
	defer p.plugging.Unlock()
	if u := p.use(k); u != nil {
		return u, nil
	}
	disk, err := m.PlugDisk(ctx, want)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		p.list = map[key]*Use{}
	}
	p.list[k] = &Use{Disk: disk, key: k, count: 1}
	return p.list[k], nil
}

// use is another use of a disk that is plugged in, or nil.
func (p *Pool) use(k key) *Use {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.list[k]
	if u != nil {
		u.count++
	}
	return u
}

// Unplug ends uses, the last one first, and takes away the disks that nobody uses any more.
func (p *Pool) Unplug(ctx context.Context, m Machine, uses []*Use) error {
	var errs []error
	for _, u := range slices.Backward(uses) {
		p.mu.Lock()
		u.count--
		last := u.count == 0
		if last {
			delete(p.list, u.key)
		}
		p.mu.Unlock()
		if last {
			errs = append(errs, m.UnplugDisk(ctx, u.Disk))
		}
	}
	return errors.Join(errs...)
}

// errNotPlugged says that a machine has no such disk.
var errNotPlugged = errors.New("the machine has no such disk")

// Resize tells the guest that the file or device of a disk that it may write to has become larger, and says how many
// bytes it has. errNotPlugged says that the machine has no such disk.
func (p *Pool) Resize(ctx context.Context, file string, resize func(context.Context, *machine.Plugged, int64) error) (
	size int64, err error) {
	k, err := keyOf(file, false)
	if err != nil {
		return 0, err
	}
	p.plugging.Lock()
	defer p.plugging.Unlock()
	p.mu.Lock()
	u := p.list[k]
	p.mu.Unlock()
	if u == nil {
		return 0, fmt.Errorf("%s: %w", file, errNotPlugged)
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	return size, resize(ctx, u.Disk, size)
}

// Written says whether the machine has a disk that it may write to. It waits for no machine.
func (p *Pool) Written() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.list {
		if !k.readOnly {
			return true
		}
	}
	return false
}

// has says whether a disk that is only read is plugged in.
func (p *Pool) has(file string) bool {
	k, err := keyOf(file, true)
	p.mu.Lock()
	defer p.mu.Unlock()
	return err == nil && p.list[k] != nil
}
