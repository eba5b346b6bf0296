package storage

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/uevent/pcipath"
)

// AddSwap swaps to a disk, once it is there.
func (m *Manager) AddSwap(ctx context.Context, slots []uint32) error {
	p, err := pcipath.FromSlots(slots)
	if err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	d, err := m.disks().Find(ctx, "blk", p.String())
	if err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	if err := d.MakeNode(); err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	return swapOn(d.Node)
}

// AddSwapPath swaps to a device file or a file below a folder of ours.
func (m *Manager) AddSwapPath(path string) error {
	p, err := m.deviceFile(path)
	if err != nil {
		return fmt.Errorf("swap: %w", err)
	}
	return swapOn(p)
}

func swapOn(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("swap to %s: %w", path, err)
	}
	if _, _, e := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(p)), 0, 0); e != 0 {
		return fmt.Errorf("swap to %s: %w", path, e)
	}
	return nil
}
