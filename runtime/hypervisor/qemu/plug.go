package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sealed"
	"golang.org/x/sys/unix"
)

// unplugTime bounds waiting for the guest to let go of a device: Linux waits 5 s between a press of the slot's button
// and its deed (PCI Express Base Specification 5.0, 6.7.1.5), which a guest without ACPI is asked with. One that does
// not answer keeps the device until the sandbox ends.
const unplugTime = 15 * time.Second

// place is where a disk is plugged in.
type place struct {
	port int
	sets []int // of QEMU's descriptors, which are the disk's
}

// PlugDisk gives a running guest a disk. It fails with machine.ErrNoPlace where there is no place. QEMU gets the files
// open, since it has not the rights to open them.
func (v *VM) PlugDisk(ctx context.Context, d machine.Disk) (_ *machine.Plugged, err error) {
	port, err := v.takePort()
	if err != nil {
		return nil, fmt.Errorf("plug in %s: %w", d.Path, err)
	}
	id, pciPath := rootPort(port)
	at := &place{port: port}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("plug in %s: %w", d.Path, err), v.takeBack(ctx, at))
			v.freePort(port)
		}
	}()
	node := "plugged-" + id
	var format string
	var file map[string]any
	if len(d.Parts) > 0 {
		format = "vmdk"
		file, err = v.handParts(ctx, at, d.Parts)
	} else {
		format = "raw"
		file, err = v.handFile(ctx, at, d.Path, d.ReadOnly)
	}
	if err != nil {
		return nil, err
	}
	if err := v.qmp(ctx, "blockdev-add", map[string]any{"driver": format, "node-name": node, "read-only": d.ReadOnly,
		"file": file}); err != nil {
		return nil, err
	}
	device := map[string]any{"driver": "virtio-blk-pci", "id": "disk-" + id, "bus": id, "drive": node}
	if v.plan.Config.IOMMUPlatform {
		device["iommu_platform"] = "on"
	}
	if err := v.qmp(ctx, "device_add", device); err != nil {
		return nil, errors.Join(err, v.qmp(ctx, "blockdev-del", map[string]any{"node-name": node}))
	}
	return &machine.Plugged{PCIPath: pciPath, Place: at}, nil
}

// handFile opens a file, gives it to QEMU for a disk, and returns QEMU's options for it.
func (v *VM) handFile(ctx context.Context, d *place, path string, readOnly bool) (map[string]any, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	driver := "file"
	switch m := st.Mode(); {
	case m.IsRegular():
	case m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0:
		driver = "host_device" // QEMU tells the two apart
	default:
		return nil, fmt.Errorf("%s: neither a block device nor a file", path)
	}
	name, err := v.hand(ctx, d, f)
	if err != nil {
		return nil, err
	}
	return map[string]any{"driver": driver, "filename": name, "read-only": readOnly, "locking": "off"}, nil
}

// hand gives QEMU an open file for a disk, and returns by which name QEMU has it. QEMU: qapi/misc.json, add-fd.
func (v *VM) hand(ctx context.Context, d *place, f *os.File) (string, error) {
	answer, err := v.command(ctx, "add-fd", nil, f)
	if err != nil {
		return "", err
	}
	var set struct {
		ID *int `json:"fdset-id"`
	}
	if err := json.Unmarshal(answer, &set); err != nil || set.ID == nil {
		return "", errors.Join(fmt.Errorf("qmp add-fd: QEMU's answer names no set"), err)
	}
	d.sets = append(d.sets, *set.ID)
	return inheritedFile(*set.ID), nil
}

// takeBack has QEMU close the files of a disk that is not there any more.
func (v *VM) takeBack(ctx context.Context, d *place) error {
	var errs []error
	for _, id := range d.sets {
		errs = append(errs, v.qmp(ctx, "remove-fd", map[string]any{"fdset-id": id}))
	}
	d.sets = nil
	return errors.Join(errs...)
}

// handParts opens the files that are a disk one after the other, gives them to QEMU, and returns QEMU's options for the
// file that tells their order.
func (v *VM) handParts(ctx context.Context, d *place, parts []machine.Part) (map[string]any, error) {
	var names []string
	for _, p := range parts {
		options, err := v.handFile(ctx, d, p.Path, true)
		if err != nil {
			return nil, err
		}
		if options["driver"] != "file" {
			return nil, fmt.Errorf("%s: no file", p.Path)
		}
		names = append(names, options["filename"].(string))
	}
	written, _, err := sealed.From("disk.vmdk", strings.NewReader(describe(names, parts)))
	if err != nil {
		return nil, err
	}
	defer written.Close()
	return v.handFile(ctx, d, fmt.Sprintf("/proc/self/fd/%d", written.Fd()), true)
}

// describe is the description of a disk in parts, by the names that QEMU has for them. VMware Virtual Disk Format 5.0,
// "The Descriptor File": QEMU reads it, and knows no other format for a disk of several files.
func describe(names []string, parts []machine.Part) string {
	var b strings.Builder
	b.WriteString("# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n" +
		"createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n")
	for i, n := range names {
		fmt.Fprintf(&b, "RW %d FLAT \"%s\" 0\n", parts[i].Size/gpt.SectorSize, n)
	}
	b.WriteString("\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = " +
		"\"1\"\nddb.geometry.heads = \"1\"\nddb.geometry.sectors = \"1\"\n")
	return b.String()
}

// ResizeDisk tells the guest how large a disk is now. QEMU: qapi/block-core.json, block_resize.
func (v *VM) ResizeDisk(ctx context.Context, d *machine.Plugged, size int64) error {
	at, ok := d.Place.(*place)
	if !ok {
		return fmt.Errorf("resize the disk at %s: it is not in a machine of QEMU's", d.PCIPath)
	}
	id, _ := rootPort(at.port)
	if err := v.qmp(ctx, "block_resize", map[string]any{"node-name": "plugged-" + id, "size": size}); err != nil {
		return fmt.Errorf("resize the disk at %s: %w", d.PCIPath, err)
	}
	return nil
}

// UnplugDisk takes a disk away. The guest must not use it any more. Where the guest does not let go of it in time, its
// place stays taken.
func (v *VM) UnplugDisk(ctx context.Context, d *machine.Plugged) error {
	at, ok := d.Place.(*place)
	if !ok {
		return fmt.Errorf("unplug the disk at %s: it is not in a machine of QEMU's", d.PCIPath)
	}
	id, _ := rootPort(at.port)
	if err := v.qmp(ctx, "device_del", map[string]any{"id": "disk-" + id}); err != nil {
		return fmt.Errorf("unplug the disk at %s: %w", d.PCIPath, err)
	}
	// The device is gone when its block node is no longer in use; QEMU says so by an event, which others may have read.
	ctx, cancel := context.WithTimeout(ctx, unplugTime)
	defer cancel()
	for {
		err := v.qmp(ctx, "blockdev-del", map[string]any{"node-name": "plugged-" + id})
		// an answer of before was lost
		if refused, ok := errors.AsType[*qmp.Error](err); ok && strings.Contains(refused.Desc, "Failed to find node") {
			err = nil
		}
		if err == nil {
			v.freePort(at.port)
			return v.takeBack(ctx, at)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("unplug the disk at %s: the guest does not let go of it: %w", d.PCIPath, err)
		}
	}
}

func (v *VM) takePort() (int, error) {
	v.ports.Lock()
	defer v.ports.Unlock()
	if v.plugged == nil {
		v.plugged = make([]bool, v.plan.Config.RootPorts)
		if !v.plan.Config.Switch {
			for i := range v.plan.Config.Passed { // which are there from the start
				v.plugged[i] = true
			}
		}
	}
	for i, taken := range v.plugged {
		if !taken {
			v.plugged[i] = true
			return i, nil
		}
	}
	if len(v.plugged) == 0 {
		return 0, fmt.Errorf("%w: the machine %s has none", machine.ErrNoPlace, v.plan.Config.Machine)
	}
	return 0, fmt.Errorf("%w: all %d are taken", machine.ErrNoPlace, len(v.plugged))
}

func (v *VM) freePort(i int) {
	v.ports.Lock()
	v.plugged[i] = false
	v.ports.Unlock()
}

// Query has QEMU carry out one command of its monitor, and returns what it says: for those who want to see what QEMU
// itself makes of a machine.
func (v *VM) Query(ctx context.Context, name string, arguments map[string]any) (json.RawMessage, error) {
	return v.command(ctx, name, arguments, nil)
}

// qmp has QEMU carry out one command.
func (v *VM) qmp(ctx context.Context, name string, arguments map[string]any) error {
	_, err := v.command(ctx, name, arguments, nil)
	return err
}

// command has QEMU carry out one command, with a file that goes along or nil, and returns what it says.
func (v *VM) command(ctx context.Context, name string, arguments map[string]any, file *os.File) (json.RawMessage,
	error) {
	var b json.RawMessage
	if arguments != nil {
		var err error
		if b, err = json.Marshal(arguments); err != nil {
			return nil, fmt.Errorf("qmp %s: %w", name, err)
		}
	}
	select {
	case c := <-v.monitor:
		v.monitor <- c // the client takes many callers at once
		return c.Execute(ctx, qmp.Command{Name: name, Arguments: b, File: file})
	case <-v.process.Done():
		return nil, fmt.Errorf("qmp %s: QEMU has ended", name)
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp %s: %w", name, context.Cause(ctx))
	}
}
