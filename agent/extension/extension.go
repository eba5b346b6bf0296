// Package extension attaches extension images: disks whose serial says so, behind dm-verity, mounted read-only.
// docs/formats/extensions.md.
//
// The kernel command line and sysfs go in; mounts come out, all of them, or one error that names the extension and the
// cause, upon which the agent ends the guest. A guest never runs with less, more or other than its host asked for.
package extension

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
)

// fileSystem is what an extension holds.
const fileSystem = manifest.EROFS

// The partitions of an extension's disk. docs/formats/disk.md, mbr.
const (
	dataPartition = 1
	hashPartition = 2
)

// mountFlags: an extension brings programs, but neither devices nor other people's rights.
const mountFlags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID

// disk is a block device with a serial.
type disk struct {
	Name   string // as in /sys/block
	Serial string
}

// located is an extension and the disk it is on.
type located struct {
	extension.Extension
	disk string // as in /sys/block
}

// Mount mounts every extension and returns them, sorted by name. words is the kernel command line; root is where sys is
// found.
func Mount(root string, words []string) ([]extension.Extension, error) {
	disks, err := findDisks(root)
	if err != nil {
		return nil, err
	}
	wanted, err := decide(disks, words)
	if err != nil || len(wanted) == 0 {
		return nil, err
	}
	control, err := devmapper.Open(root)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	var done []extension.Extension
	for _, w := range wanted {
		if err := w.mount(root, control); err != nil {
			return nil, fmt.Errorf("extension %s: %w", w.Name, err)
		}
		done = append(done, w.Extension)
	}
	return done, nil
}

// Mounted are the extensions that Mount has mounted before, sorted by name.
func Mounted(root string, words []string) ([]extension.Extension, error) {
	disks, err := findDisks(root)
	if err != nil {
		return nil, err
	}
	wanted, err := decide(disks, words)
	if err != nil {
		return nil, err
	}
	var done []extension.Extension
	for _, w := range wanted {
		done = append(done, w.Extension)
	}
	return done, nil
}

// findDisks lists the block devices that say their serial.
func findDisks(root string) ([]disk, error) {
	files, err := filepath.Glob(filepath.Join(root, "sys/block/*/serial"))
	if err != nil {
		return nil, err
	}
	var disks []disk
	for _, f := range files {
		serial, err := os.ReadFile(f)
		if err != nil {
			continue // a disk that does not answer is no extension; were it meant as one, its parameters would lack it
		}
		disks = append(disks, disk{Name: filepath.Base(filepath.Dir(f)), Serial: strings.TrimSpace(string(serial))})
	}
	return disks, nil
}

// decide says what to mount from where. Each extension's disk and its word on the command line need each other.
func decide(disks []disk, words []string) ([]located, error) {
	params := map[string]dmverity.Params{}
	for _, w := range words {
		e, is, err := extension.ParseWord(w)
		if err != nil {
			return nil, err
		}
		if !is {
			continue
		}
		if _, twice := params[e.Name]; twice {
			return nil, fmt.Errorf("extension %s: the kernel command line has its parameters twice", e.Name)
		}
		params[e.Name] = e.Params
	}
	var wanted []located
	there := map[string]string{}
	for _, d := range disks {
		name, is := strings.CutPrefix(d.Serial, extension.SerialPrefix)
		if !is {
			continue
		}
		if err := extension.CheckName(name); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		if other := there[name]; other != "" {
			return nil, fmt.Errorf("extension %s: two disks are called so, %s and %s", name, other, d.Name)
		}
		there[name] = d.Name
		p, ok := params[name]
		if !ok {
			return nil, fmt.Errorf(
				"extension %s: disk %s holds it, but the kernel command line lacks its parameters, without which "+
					"nothing says what it must be", name, d.Name)
		}
		wanted = append(wanted, located{extension.Extension{Name: name, Params: p}, d.Name})
	}
	slices.SortFunc(wanted, func(a, b located) int { return strings.Compare(a.Name, b.Name) })
	var missing []string
	for name := range params {
		if there[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf(
			"extension %s: the kernel command line has its parameters, but no disk has the serial %s%s", missing[0],
			extension.SerialPrefix, missing[0])
	}
	return wanted, nil
}

func (w located) mount(root string, control *devmapper.Control) error {
	data, err := partition(root, w.disk, dataPartition)
	if err != nil {
		return err
	}
	hash, err := partition(root, w.disk, hashPartition)
	if err != nil {
		return err
	}
	p := w.Params
	device, err := control.Create(w.Serial(), devmapper.VerityTarget(p.Table(0), data, hash))
	if err != nil {
		// The kernel's numbers are coarse; its words are on the console above ours.
		return fmt.Errorf("%w (it takes a kernel with dm-verity, and partitions with room for %d blocks and their "+
			"hashes)", err, p.DataBlocks)
	}
	node, err := deviceNode(root, device, w.Serial())
	if err != nil {
		return err
	}
	point := w.MountPoint()
	if err := os.MkdirAll(point, 0o755); err != nil {
		return err
	}
	switch err := unix.Mount(node, point, fileSystem, mountFlags, ""); err {
	case nil:
		return covered(point, p)
	case unix.EIO:
		return fmt.Errorf("mount %s at %s: %w: its data or hash tree is not what the root hash %s says", node, point,
			err, p.RootHash)
	case unix.ENODEV:
		return fmt.Errorf("mount %s at %s: this kernel has no %s", node, point, fileSystem)
	default:
		return fmt.Errorf("mount %s at %s: %w", node, point, err)
	}
}

// covered says whether dm-verity covers all of a mounted file system. The root hash alone does not tell: a tree over a
// few blocks less has the same one, and what lies behind would turn out to be missing much later.
func covered(point string, p dmverity.Params) error {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return fmt.Errorf("%s: %w", point, err)
	}
	if want := int64(st.Blocks) * int64(st.Bsize); want > p.DataSize() {
		return fmt.Errorf("its file system has %d bytes, its parameters are for %d", want, p.DataSize())
	}
	return nil
}

// partition is the number of a disk's n-th partition. Documentation/ABI/testing/sysfs-block: a folder below the disk's,
// with its number in it.
func partition(root, disk string, n int) (devmapper.Device, error) {
	folders, err := filepath.Glob(filepath.Join(root, "sys/block", disk, "*/partition"))
	if err != nil {
		return devmapper.Device{}, err
	}
	for _, f := range folders {
		text, err := os.ReadFile(f)
		if err != nil {
			return devmapper.Device{}, err
		}
		if strings.TrimSpace(string(text)) != strconv.Itoa(n) {
			continue
		}
		dev, err := os.ReadFile(filepath.Join(filepath.Dir(f), "dev"))
		if err != nil {
			return devmapper.Device{}, err
		}
		return devmapper.ParseDevice(strings.TrimSpace(string(dev)))
	}
	return devmapper.Device{}, fmt.Errorf("disk %s has no partition %d", disk, n)
}

// deviceNode is a device file: where devtmpfs put it, or one of our own.
func deviceNode(root string, d devmapper.Device, name string) (string, error) {
	target, err := os.Readlink(filepath.Join(root, "sys/dev/block", d.String()))
	if err != nil {
		return "", err
	}
	node := "/dev/" + filepath.Base(target)
	var st unix.Stat_t
	want := unix.Mkdev(d.Major, d.Minor)
	if err := unix.Stat(node, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && uint64(st.Rdev) == want {
		return node, nil
	}
	node = "/dev/katabuild-" + name
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(want)); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%s: %w", node, err)
	}
	return node, nil
}
