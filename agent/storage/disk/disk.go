// Package disk finds the disks of this guest by what the host knows of them, and makes them ready to be mounted.
//
// In come drivers and sources of the guest API: a place on a bus, or a device file. Out go block devices that can be
// opened, and mapped ones that check what is read. It does not know what is on a disk and where it is mounted.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/agent/uevent/pcipath"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// ErrNotFound says that what a request names is not there. It wraps fs.ErrNotExist.
var ErrNotFound = fmt.Errorf("not found in this guest: %w", fs.ErrNotExist)

// Waiter waits for devices; uevent.Listener is one. Wait returns what m.Look returned, or the path of an event.
type Waiter interface {
	Wait(ctx context.Context, m uevent.Match) (string, error)
}

// Finder finds disks below a root folder, which has sys and dev in it.
type Finder struct {
	Root    string
	Devices Waiter // nil waits for none: what is not there is ErrNotFound
}

// Disk is a block device that is there.
type Disk struct {
	Number devmapper.Device
	Node   string // its device file, which is there after MakeNode
	name   string // as in /sys/class/block
}

// bus is a way to name a disk.
type bus struct {
	driver string
	// prepare makes the kernel look where it does not by itself; nil is none.
	prepare func(root, source string) error
	// find lists the folders that hold the disk's: each has one folder, named as the disk. check is called with every
	// source first.
	find  func(root, source string) ([]string, error)
	check func(source string) error
}

var (
	// CSSID.SSID.DEVNO, Documentation/arch/s390/driver-model.rst
	ccwBus   = lazyregexp.New(`^[0-9a-f]{1,2}\.[0-3]\.[0-9a-f]{4}$`)
	scsiName = lazyregexp.New(`^([0-9]{1,5}):([0-9]{1,5})$`)
	diskName = lazyregexp.New(`^/dev/([a-zA-Z0-9][a-zA-Z0-9._-]*)$`)
)

// Drivers are the drivers of the guest API that name a disk.
func Drivers() []string {
	var names []string
	for _, b := range buses {
		names = append(names, b.driver)
	}
	return names
}

// HasPlaces says whether a driver names its disks by their places on a bus, rather than by device files.
func HasPlaces(driver string) bool {
	return slices.ContainsFunc(buses, func(b bus) bool { return b.driver == driver && b.find != nil })
}

// DriverOf guesses a disk's driver from its source, where nothing else says it.
func DriverOf(source string) string {
	switch {
	case strings.HasPrefix(source, "/dev/"):
		return "mmioblk"
	case scsiName().MatchString(source):
		return "scsi"
	case ccwBus().MatchString(source):
		return "blk-ccw"
	}
	return "blk"
}

// buses are all ways.
var buses = []bus{
	{driver: "blk", check: checkPCI, find: findPCI},
	{driver: "blk-ccw", check: matches(ccwBus(), "a bus id such as 0.0.0005"),
		find: func(root, source string) ([]string, error) {
			return filepath.Glob(filepath.Join(root, "sys/devices/css*/*", source, "virtio*/block"))
		}},
	{driver: "mmioblk", check: matches(diskName(), "a device file below /dev")},
	{driver: "nvdimm", check: matches(diskName(), "a device file below /dev")},
	{driver: "scsi", check: matches(scsiName(), "ID:LUN"), prepare: scanSCSI, find: func(root, source string) ([]string,
		error) {
		return filepath.Glob(filepath.Join(root, "sys/bus/scsi/devices/*:0:"+source, "block"))
	}},
}

func matches(r *regexp.Regexp, want string) func(string) error {
	return func(s string) error {
		if !r.MatchString(s) {
			return fmt.Errorf("disk %q: want %s", s, want)
		}
		return nil
	}
}

func checkPCI(source string) error {
	_, err := pcipath.Parse(source)
	return err
}

// findPCI knows virtio's disks, and NVMe's, whose name spaces are below a controller.
func findPCI(root, source string) ([]string, error) {
	p, err := pcipath.Parse(source)
	if err != nil {
		return nil, err
	}
	dir, err := p.Find(root)
	if errors.Is(err, pcipath.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "virtio*/block"))
}

// scanSCSI asks every host adapter for one target. Documentation/ABI/testing/sysfs-class-scsi_host: "channel id lun".
func scanSCSI(root, source string) error {
	m := scsiName().FindStringSubmatch(source)
	if there, err := filepath.Glob(filepath.Join(root, "sys/bus/scsi/devices/*:0:"+source, "block/*")); err != nil ||
		len(there) > 0 {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "sys/class/scsi_host/*/scan"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("SCSI disk %s: no SCSI host adapter: %w", source, ErrNotFound)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte(fmt.Sprintf("0 %s %s", m[1], m[2])), 0); err != nil {
			return fmt.Errorf("scan for SCSI disk %s: %w", source, err)
		}
	}
	return nil
}

// Find waits for a disk. A source that is a device file is one for every driver. One that does not come in time is
// uevent.ErrTimeout.
func (f Finder) Find(ctx context.Context, driver, source string) (Disk, error) {
	i := slices.IndexFunc(buses, func(b bus) bool { return b.driver == driver })
	if i < 0 {
		return Disk{}, fmt.Errorf("disk %s: no way to find one by %q", source, driver)
	}
	b := buses[i]
	if b.find == nil || strings.HasPrefix(source, "/dev/") {
		name := diskName().FindStringSubmatch(source)
		if name == nil {
			return Disk{}, fmt.Errorf("disk %q: want a device file below /dev", source)
		}
		return f.await(ctx, "the disk "+source, func() (string, error) { return f.named(name[1]) })
	}
	if err := b.check(source); err != nil {
		return Disk{}, err
	}
	if b.prepare != nil {
		if err := b.prepare(f.Root, source); err != nil {
			return Disk{}, err
		}
	}
	return f.await(ctx, fmt.Sprintf("the disk %s (%s)", source, driver), func() (string, error) {
		folders, err := b.find(f.Root, source)
		if err != nil {
			return "", err
		}
		for _, folder := range folders {
			names, err := os.ReadDir(folder)
			if err != nil {
				continue // gone again
			}
			for _, n := range names {
				if _, err := os.Stat(filepath.Join(folder, n.Name(), "dev")); err == nil {
					return live(f.Root, n.Name()), nil
				}
			}
		}
		return "", nil
	})
}

// named is the name itself once there is such a disk.
func (f Finder) named(name string) (string, error) {
	if _, err := os.Stat(filepath.Join(f.Root, "sys/class/block", name, "dev")); err != nil {
		return "", ignore(err, fs.ErrNotExist)
	}
	return live(f.Root, name), nil
}

// live is the name of a disk, or empty while it cannot be opened: the kernel shows a disk, with its device file, a
// moment before it can be used, and tells of it by an event a moment after. Linux: block/genhd.c, device_add_disk.
func live(root, name string) string {
	fd, err := unix.Open(filepath.Join(root, "dev", name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENXIO {
		return ""
	}
	if err == nil {
		_ = unix.Close(fd) // nothing was done with it
	}
	return name
}

// await waits for a name in /sys/class/block.
func (f Finder) await(ctx context.Context, what string, look func() (string, error)) (Disk, error) {
	var name string
	var err error
	if f.Devices != nil {
		name, err = f.Devices.Wait(ctx, uevent.Match{What: what, Look: look})
	} else if name, err = look(); err == nil && name == "" {
		err = fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err != nil {
		return Disk{}, err
	}
	return f.known(name)
}

// known is a disk by its name in sysfs.
func (f Finder) known(name string) (Disk, error) {
	text, err := os.ReadFile(filepath.Join(f.Root, "sys/class/block", name, "dev"))
	if err != nil {
		return Disk{}, err
	}
	number, err := devmapper.ParseDevice(strings.TrimSpace(string(text)))
	if err != nil {
		return Disk{}, fmt.Errorf("disk %s: %w", name, err)
	}
	return Disk{Number: number, Node: filepath.Join(f.Root, "dev", name), name: name}, nil
}

// MakeNode makes sure that the disk's device file is there: devtmpfs makes it, and where there is none we do.
func (d Disk) MakeNode() error {
	var st unix.Stat_t
	want := unix.Mkdev(d.Number.Major, d.Number.Minor)
	switch err := unix.Lstat(d.Node, &st); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && uint64(st.Rdev) == want:
		return nil
	case err == nil:
		return fmt.Errorf("%s is not the device %s", d.Node, d.Number)
	case err != unix.ENOENT:
		return fmt.Errorf("%s: %w", d.Node, err)
	}
	if err := unix.Mknod(d.Node, unix.S_IFBLK|0o600, int(want)); err != nil && err != unix.EEXIST {
		return fmt.Errorf("device file %s: %w", d.Node, err)
	}
	return nil
}

// Partition waits for the n-th partition of a disk, which is one itself: the kernel looks for them once the disk can be
// used. Documentation/ABI/testing/sysfs-block: a folder below the disk's, with its number in it.
func (f Finder) Partition(ctx context.Context, d Disk, n int) (Disk, error) {
	return f.await(ctx, fmt.Sprintf("partition %d of disk %s", n, d.name), func() (string, error) {
		files, err := filepath.Glob(filepath.Join(f.Root, "sys/class/block", d.name, "*/partition"))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(n) {
				return live(f.Root, filepath.Base(filepath.Dir(file))), nil
			}
		}
		return "", nil
	})
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
