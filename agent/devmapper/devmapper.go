// Package devmapper makes device-mapper devices and reads their tables, by the ioctls of <linux/dm-ioctl.h>, version 4.
//
// A Control comes from Open; what a table's parameters mean is the caller's business.
package devmapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands: _IOWR(0xfd, DM_..._CMD, struct dm_ioctl), the same number on every architecture of ours.
const (
	devCreate = 0xc138fd03 // DM_DEV_CREATE
	devRemove = 0xc138fd04 // DM_DEV_REMOVE
	// DM_DEV_SUSPEND: without DM_SUSPEND_FLAG it resumes, which makes the loaded table the live one
	devSuspend  = 0xc138fd06
	tableLoad   = 0xc138fd09 // DM_TABLE_LOAD
	tableStatus = 0xc138fd0c // DM_TABLE_STATUS
	listTargets = 0xc138fd0d // DM_LIST_VERSIONS
)

// A request is a struct dm_ioctl of 312 bytes, which the kernel copies from the start of a buffer and answers in place;
// what either side has to say more follows at data_start.
const (
	headerSize    = 312 // sizeof(struct dm_ioctl) with its padding
	major         = 4   // of the interface
	offsetSize    = 12  // of data_size
	offsetStart   = 16  // of data_start
	offsetTargets = 20  // of target_count
	offsetFlags   = 28  // of flags
	offsetDev     = 40  // of dev: a huge-encoded number of the device
	offsetName    = 48  // of name
	nameSize      = 128 // DM_NAME_LEN
	bufferSize    = 16 << 10

	flagReadOnly    = 1 << 0  // DM_READONLY_FLAG
	flagStatusTable = 1 << 4  // DM_STATUS_TABLE_FLAG: the parameters, not the state
	flagBufferFull  = 1 << 8  // DM_BUFFER_FULL_FLAG
	flagDeferred    = 1 << 17 // DM_DEFERRED_REMOVE: with its last user, where it has any
)

// A target is a struct dm_target_spec and its parameters as text that ends in a NUL.
const (
	specSize       = 40 // sizeof(struct dm_target_spec)
	specLength     = 8  // of length, in sectors
	specType       = 24 // of target_type
	specTypeLength = 16 // DM_MAX_TYPE_NAME
	sectorSize     = 512
)

// fallback is the control device where devtmpfs has none.
const fallback = "/dev/katabuild-dm-control"

// Device is the number of a block device.
type Device struct{ Major, Minor uint32 }

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// ParseDevice reads major:minor.
func ParseDevice(s string) (Device, error) {
	major, minor, ok := strings.Cut(s, ":")
	ma, err1 := strconv.ParseUint(major, 10, 12)
	mi, err2 := strconv.ParseUint(minor, 10, 20)
	if !ok || err1 != nil || err2 != nil {
		return Device{}, fmt.Errorf("device %q: want major:minor", s)
	}
	return Device{uint32(ma), uint32(mi)}, nil
}

// huge is how user space writes a device number in 64 bits. <linux/kdev_t.h>, huge_encode_dev: as new_encode_dev, 12
// bits of major between the lower 8 and the upper 12 of minor.
func (d Device) huge() uint64 {
	return uint64(d.Minor)&0xff | uint64(d.Major)<<8 | (uint64(d.Minor)&^0xff)<<12
}

func fromHuge(n uint64) Device {
	return Device{Major: uint32(n >> 8 & 0xfff), Minor: uint32(n&0xff | n>>12&0xfff00)}
}

// Target is the one target of a table.
type Target struct {
	Type   string
	Size   int64 // bytes
	Params string
}

// Control is the device-mapper of this kernel. Close it.
type Control struct{ f *os.File }

// Open opens the device-mapper's control device: where devtmpfs put it, or under a name of our own. root is where sys
// is found.
func Open(root string) (*Control, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err == nil {
		return &Control{f}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	numbers := filepath.Join(root, "sys/class/misc/device-mapper/dev")
	text, err := os.ReadFile(numbers)
	if err != nil {
		return nil, fmt.Errorf("device-mapper: %w", err)
	}
	d, err := ParseDevice(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", numbers, err)
	}
	if err := unix.Mknod(fallback, unix.S_IFCHR|0o600, int(unix.Mkdev(d.Major, d.Minor))); err != nil &&
		!errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("%s: %w", fallback, err)
	}
	if f, err = os.OpenFile(fallback, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	return &Control{f}, nil
}

// Close closes the control device; the devices stay.
func (c *Control) Close() error { return c.f.Close() }

// Create makes a read-only device with a table of one target. name must be free. Where the table is refused the device
// stays without one.
func (c *Control) Create(name string, t Target) (Device, error) {
	b, err := named(name, bufferSize)
	if err != nil {
		return Device{}, err
	}
	if err := c.ioctl(devCreate, b); err != nil {
		return Device{}, fmt.Errorf("create the device %s: %w", name, err)
	}
	d := fromHuge(binary.NativeEndian.Uint64(b[offsetDev:]))
	if b, err = loadRequest(name, t); err != nil {
		return d, err
	}
	if err := c.ioctl(tableLoad, b); err != nil {
		return d, fmt.Errorf("load the table of the device %s: %w", name, err)
	}
	if b, err = named(name, bufferSize); err != nil {
		return d, err
	}
	if err := c.ioctl(devSuspend, b); err != nil {
		return d, fmt.Errorf("start the device %s: %w", name, err)
	}
	return d, nil
}

// Remove removes a device once nobody has it open any more.
func (c *Control) Remove(name string) error {
	b, err := removeRequest(name)
	if err != nil {
		return err
	}
	if err := c.ioctl(devRemove, b); err != nil {
		return fmt.Errorf("remove the device %s: %w", name, err)
	}
	return nil
}

// table is the running table of a device, where it has one target; nil where it has more or none.
func (c *Control) table(d Device) (*Target, error) {
	b := request(bufferSize)
	binary.NativeEndian.PutUint32(b[offsetFlags:], flagStatusTable)
	binary.NativeEndian.PutUint64(b[offsetDev:], d.huge())
	if err := c.ioctl(tableStatus, b); err != nil {
		return nil, fmt.Errorf("table of device %s: %w", d, err)
	}
	return parseTable(b)
}

// Targets lists the types of targets that the kernel has.
func (c *Control) Targets() ([]string, error) {
	b := request(bufferSize)
	if err := c.ioctl(listTargets, b); err != nil {
		return nil, fmt.Errorf("targets of the device-mapper: %w", err)
	}
	return parseTargets(b)
}

func (c *Control) ioctl(command uintptr, b []byte) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), command, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return e
	}
	return nil
}

// request is an empty one in a buffer of size bytes.
func request(size int) []byte {
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b, major)
	binary.NativeEndian.PutUint32(b[offsetSize:], uint32(size))
	binary.NativeEndian.PutUint32(b[offsetStart:], headerSize)
	return b
}

func named(name string, size int) ([]byte, error) {
	if name == "" || len(name) >= nameSize || strings.ContainsAny(name, "\x00/") {
		return nil, fmt.Errorf("name of a device %q: want 1 to %d bytes without slashes", name, nameSize-1)
	}
	b := request(size)
	copy(b[offsetName:], name)
	return b, nil
}

func removeRequest(name string) ([]byte, error) {
	b, err := named(name, headerSize)
	if err == nil {
		binary.NativeEndian.PutUint32(b[offsetFlags:], flagDeferred)
	}
	return b, err
}

// loadRequest asks for a table of one read-only target.
func loadRequest(name string, t Target) ([]byte, error) {
	if len(t.Type) >= specTypeLength || strings.ContainsRune(t.Type+t.Params, 0) || t.Size <= 0 ||
		t.Size%sectorSize != 0 {
		return nil, fmt.Errorf("table of the device %s: a target %q of %d bytes", name, t.Type, t.Size)
	}
	b, err := named(name, headerSize+specSize+len(t.Params)+1)
	if err != nil {
		return nil, err
	}
	binary.NativeEndian.PutUint32(b[offsetTargets:], 1)
	binary.NativeEndian.PutUint32(b[offsetFlags:], flagReadOnly)
	spec := b[headerSize:]
	binary.NativeEndian.PutUint64(spec[specLength:], uint64(t.Size/sectorSize))
	copy(spec[specType:], t.Type)
	copy(spec[specSize:], t.Params)
	return b, nil
}

// parseTable reads the answer to tableStatus.
func parseTable(b []byte) (*Target, error) {
	if binary.NativeEndian.Uint32(b[offsetFlags:])&flagBufferFull != 0 {
		return nil, errors.New("device-mapper table: longer than any of ours")
	}
	at := int(binary.NativeEndian.Uint32(b[offsetStart:]))
	if binary.NativeEndian.Uint32(b[offsetTargets:]) != 1 {
		return nil, nil
	}
	if at < headerSize || at > len(b)-specSize {
		return nil, fmt.Errorf("device-mapper table: at %d of %d bytes", at, len(b))
	}
	spec, params := b[at:at+specSize], b[at+specSize:]
	text, _, ok := bytes.Cut(params, []byte{0})
	if !ok {
		return nil, errors.New("device-mapper table: parameters without an end")
	}
	return &Target{
		Type: unix.ByteSliceToString(spec[specType : specType+specTypeLength]),
		Size: int64(binary.NativeEndian.Uint64(spec[specLength:])) * sectorSize, Params: string(text),
	}, nil
}

// versionName is where the name is in a struct dm_target_versions, behind the distance to the next one and a version of
// three parts.
const versionName = 16

// parseTargets reads the answer to listTargets.
func parseTargets(b []byte) ([]string, error) {
	if binary.NativeEndian.Uint32(b[offsetFlags:])&flagBufferFull != 0 {
		return nil, errors.New("device-mapper targets: more than any kernel of ours has")
	}
	at, end := uint64(binary.NativeEndian.Uint32(b[offsetStart:])), uint64(len(b))
	var names []string
	for {
		if at < headerSize || at+versionName >= end {
			return nil, fmt.Errorf("device-mapper targets: one at %d of %d bytes", at, end)
		}
		name, _, ok := bytes.Cut(b[at+versionName:], []byte{0})
		if !ok {
			return nil, errors.New("device-mapper targets: a name without an end")
		}
		names = append(names, string(name))
		next := uint64(binary.NativeEndian.Uint32(b[at:]))
		if next == 0 {
			return names, nil
		}
		at += next
	}
}
