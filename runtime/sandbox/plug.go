package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
)

// unplugTime bounds waiting for the guest to let go of a device: Linux waits 5 s between a press of the slot's button and its deed (PCI Express Base
// Specification 5.0, 6.7.1.5), which a guest without ACPI is asked with. One that does not answer keeps the device until the sandbox ends.
const unplugTime = 15 * time.Second

// ErrNoPlug says that nothing can be plugged into this guest: its machine has no places for devices, or they are all taken.
var ErrNoPlug = errors.New("no place for another device")

// PluggedDisk is a disk that was plugged into a running guest.
type PluggedDisk struct {
	PCIPath string // where the guest finds it, as the guest API wants it
	port    int
}

// Disk is a disk to plug in.
type Disk struct {
	Path     string // a file or a block device of the host
	ReadOnly bool
	VMDK     bool // the file describes a disk of several files, in VMware's format; else it is the disk
}

// PlugDisk gives a running guest a disk. It fails with ErrNoPlug where there is no place.
func (s *Sandbox) PlugDisk(ctx context.Context, d Disk) (*PluggedDisk, error) {
	port, err := s.takePort()
	if err != nil {
		return nil, fmt.Errorf("plug in %s: %w", d.Path, err)
	}
	id, pciPath := qemu.RootPort(port)
	node := "plugged-" + id
	driver := "file"
	if st, err := os.Stat(d.Path); err == nil && st.Mode()&os.ModeDevice != 0 {
		driver = "host_device" // QEMU tells the two apart
	}
	format := "raw"
	if d.VMDK {
		format = "vmdk"
	}
	err = s.qmp(ctx, "blockdev-add", map[string]any{
		"driver": format, "node-name": node, "read-only": d.ReadOnly,
		"file": map[string]any{"driver": driver, "filename": d.Path, "read-only": d.ReadOnly, "locking": "off"},
	})
	if err == nil {
		err = s.qmp(ctx, "device_add", map[string]any{"driver": "virtio-blk-pci", "id": "disk-" + id, "bus": id, "drive": node})
		if err != nil {
			err = errors.Join(err, s.qmp(ctx, "blockdev-del", map[string]any{"node-name": node}))
		}
	}
	if err != nil {
		s.freePort(port)
		return nil, fmt.Errorf("plug in %s: %w", d.Path, err)
	}
	return &PluggedDisk{PCIPath: pciPath, port: port}, nil
}

// UnplugDisk takes a disk away. The guest must not use it any more. Where the guest does not let go of it in time, its place stays taken.
func (s *Sandbox) UnplugDisk(ctx context.Context, d *PluggedDisk) error {
	id, _ := qemu.RootPort(d.port)
	if err := s.qmp(ctx, "device_del", map[string]any{"id": "disk-" + id}); err != nil {
		return fmt.Errorf("unplug the disk at %s: %w", d.PCIPath, err)
	}
	// The device is gone when its block node is no longer in use; QEMU says so by an event, which others may have read.
	ctx, cancel := context.WithTimeout(ctx, unplugTime)
	defer cancel()
	for {
		err := s.qmp(ctx, "blockdev-del", map[string]any{"node-name": "plugged-" + id})
		if refused, ok := errors.AsType[*qmp.Error](err); ok && strings.Contains(refused.Desc, "Failed to find node") { // an answer of before was lost
			err = nil
		}
		if err == nil {
			s.freePort(d.port)
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("unplug the disk at %s: the guest does not let go of it: %w", d.PCIPath, err)
		}
	}
}

func (s *Sandbox) takePort() (int, error) {
	s.ports.Lock()
	defer s.ports.Unlock()
	if s.plugged == nil {
		s.plugged = make([]bool, s.plan.QEMU.RootPorts)
	}
	for i, taken := range s.plugged {
		if !taken {
			s.plugged[i] = true
			return i, nil
		}
	}
	if len(s.plugged) == 0 {
		return 0, fmt.Errorf("%w: the machine %s has none", ErrNoPlug, s.plan.QEMU.Machine)
	}
	return 0, fmt.Errorf("%w: all %d are taken", ErrNoPlug, len(s.plugged))
}

func (s *Sandbox) freePort(i int) {
	s.ports.Lock()
	s.plugged[i] = false
	s.ports.Unlock()
}

// qmp has QEMU carry out one command.
func (s *Sandbox) qmp(ctx context.Context, name string, arguments map[string]any) error {
	_, err := s.command(ctx, name, arguments, nil)
	return err
}

// command has QEMU carry out one command, with a file that goes along or nil, and returns what it says.
func (s *Sandbox) command(ctx context.Context, name string, arguments map[string]any, file *os.File) (json.RawMessage, error) {
	var b json.RawMessage
	if arguments != nil {
		var err error
		if b, err = json.Marshal(arguments); err != nil {
			return nil, fmt.Errorf("qmp %s: %w", name, err)
		}
	}
	select {
	case c := <-s.monitor:
		s.monitor <- c // the client takes many callers at once
		return c.Execute(ctx, qmp.Command{Name: name, Arguments: b, File: file})
	case <-s.process.Done():
		return nil, fmt.Errorf("qmp %s: QEMU has ended", name)
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp %s: %w", name, context.Cause(ctx))
	}
}
