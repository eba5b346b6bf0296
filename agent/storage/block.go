package storage

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
)

// disk is a block device that is there.
type disk struct {
	name   string // as in /sys/class/block
	number devmapper.Device
	node   string // its device file
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
	ccwBus   = regexp.MustCompile(`^[0-9a-f]{1,2}\.[0-3]\.[0-9a-f]{4}$`)
	scsiName = regexp.MustCompile(`^([0-9]{1,5}):([0-9]{1,5})$`)
	diskName = regexp.MustCompile(`^/dev/([a-zA-Z0-9][a-zA-Z0-9._-]*)$`)
)

// buses are all ways.
var buses = []bus{
	{driver: "blk", check: checkPCI, find: findPCI},
	{driver: "blk-ccw", check: matches(ccwBus, "a bus id such as 0.0.0005"),
		find: func(root, source string) ([]string, error) {
			return filepath.Glob(filepath.Join(root, "sys/devices/css*/*", source, "virtio*/block"))
		}},
	{driver: "mmioblk", check: matches(diskName, "a device file below /dev")},
	{driver: "nvdimm", check: matches(diskName, "a device file below /dev")},
	{driver: "scsi", check: matches(scsiName, "ID:LUN"), prepare: scanSCSI, find: func(root, source string) ([]string,
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
	m := scsiName.FindStringSubmatch(source)
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

// disk waits for a disk. A source that is a device file is one for every driver.
func (m *Manager) disk(ctx context.Context, driver, source string) (disk, error) {
	i := slices.IndexFunc(buses, func(b bus) bool { return b.driver == driver })
	if i < 0 {
		return disk{}, fmt.Errorf("disk %s: no way to find one by %q", source, driver)
	}
	b := buses[i]
	if b.find == nil || strings.HasPrefix(source, "/dev/") {
		found := diskName.FindStringSubmatch(source)
		if found == nil {
			return disk{}, fmt.Errorf("disk %q: want a device file below /dev", source)
		}
		b.check, b.prepare = func(string) error { return nil }, nil
		b.find = func(root, _ string) ([]string, error) {
			return nil, nil
		}
		return m.await(ctx, "the disk "+source, func() (string, error) {
			if _, err := os.Stat(filepath.Join(m.c.Root, "sys/class/block", found[1], "dev")); err != nil {
				return "", ignore(err, fs.ErrNotExist)
			}
			return live(m.c.Root, found[1]), nil
		})
	}
	if err := b.check(source); err != nil {
		return disk{}, err
	}
	if b.prepare != nil {
		if err := b.prepare(m.c.Root, source); err != nil {
			return disk{}, err
		}
	}
	return m.await(ctx, fmt.Sprintf("the disk %s (%s)", source, driver), func() (string, error) {
		folders, err := b.find(m.c.Root, source)
		if err != nil {
			return "", err
		}
		for _, f := range folders {
			names, err := os.ReadDir(f)
			if err != nil {
				continue // gone again
			}
			for _, n := range names {
				if _, err := os.Stat(filepath.Join(f, n.Name(), "dev")); err == nil {
					return live(m.c.Root, n.Name()), nil
				}
			}
		}
		return "", nil
	})
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
func (m *Manager) await(ctx context.Context, what string, look func() (string, error)) (disk, error) {
	var name string
	var err error
	if m.c.Devices != nil {
		name, err = m.c.Devices.Wait(ctx, uevent.Match{What: what, Look: look})
	} else if name, err = look(); err == nil && name == "" {
		err = fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err != nil {
		return disk{}, err
	}
	return m.known(name)
}

// known is a disk by its name in sysfs.
func (m *Manager) known(name string) (disk, error) {
	text, err := os.ReadFile(filepath.Join(m.c.Root, "sys/class/block", name, "dev"))
	if err != nil {
		return disk{}, err
	}
	number, err := devmapper.ParseDevice(strings.TrimSpace(string(text)))
	if err != nil {
		return disk{}, fmt.Errorf("disk %s: %w", name, err)
	}
	return disk{name: name, number: number, node: filepath.Join(m.c.Root, "dev", name)}, nil
}

// file makes sure that the disk's device file is there: devtmpfs makes it, and where there is none we do.
func (d disk) file() error {
	var st unix.Stat_t
	want := unix.Mkdev(d.number.Major, d.number.Minor)
	switch err := unix.Lstat(d.node, &st); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && uint64(st.Rdev) == want:
		return nil
	case err == nil:
		return fmt.Errorf("%s is not the device %s", d.node, d.number)
	case err != unix.ENOENT:
		return fmt.Errorf("%s: %w", d.node, err)
	}
	if err := unix.Mknod(d.node, unix.S_IFBLK|0o600, int(want)); err != nil && err != unix.EEXIST {
		return fmt.Errorf("device file %s: %w", d.node, err)
	}
	return nil
}

// partition waits for the n-th partition of a disk: the kernel looks for them once the disk can be used.
// Documentation/ABI/testing/sysfs-block: a folder below the disk's, with its number in it.
func (m *Manager) partition(ctx context.Context, d disk, n int) (disk, error) {
	return m.await(ctx, fmt.Sprintf("partition %d of disk %s", n, d.name), func() (string, error) {
		files, err := filepath.Glob(filepath.Join(m.c.Root, "sys/class/block", d.name, "*/partition"))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(n) {
				return live(m.c.Root, filepath.Base(filepath.Dir(f))), nil
			}
		}
		return "", nil
	})
}

// mountBlock mounts a disk.
func mountBlock(ctx context.Context, m *Manager, r request, u *undo) error {
	if r.s.Fstype == "" {
		return fmt.Errorf("driver %s: want a type of file system", r.driver.name)
	}
	d, err := m.disk(ctx, r.driver.name, r.s.Source)
	if err != nil {
		return err
	}
	if err := d.file(); err != nil {
		return err
	}
	if err := m.makeFileSystem(ctx, d, r.s.DriverOptions); err != nil {
		return err
	}
	if err := mounted(d.node, r.s.Fstype, r.at, parseOptions(r.s.Options), u); err != nil {
		return err
	}
	return own(r.s.FsGroup, r.at)
}

// The options of a driver that change a disk.
const (
	createFileSystem = "create_filesystem"
	encryptionKey    = "encryption_key="
)

// mkfsExt4 are the arguments for a disk that lives as long as its sandbox: no journal, nothing reserved, few and small
// inodes.
var mkfsExt4 = []string{"-q", "-F", "-O", "^has_journal", "-m", "0", "-i", "163840", "-I", "128"}

// makeFileSystem makes one where the host asks for it.
func (m *Manager) makeFileSystem(ctx context.Context, d disk, driverOptions []string) error {
	for _, o := range driverOptions {
		if strings.HasPrefix(o, encryptionKey) {
			// It must not end up on the disk in clear.
			return fmt.Errorf("driver option %s: this agent does not encrypt disks", o)
		}
	}
	if !slices.Contains(driverOptions, createFileSystem) {
		return nil
	}
	if m.c.Programs == nil {
		return errors.New("driver option create_filesystem: this agent runs no programs")
	}
	if _, err := m.c.Programs.Run(ctx, nil, "mkfs.ext4", append(slices.Clone(mkfsExt4), d.node)...); err != nil {
		return fmt.Errorf("make a file system on %s: %w", d.node, err)
	}
	return nil
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
