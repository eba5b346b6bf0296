package translate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"golang.org/x/sys/unix"
)

// Host answers questions about files of the host. It changes nothing.
type Host interface {
	// Stat describes a file, through symbolic links.
	Stat(path string) (File, error)
	// Tmpfs says whether a file lies on a tmpfs, and how large that may become, in bytes.
	Tmpfs(path string) (size uint64, is bool)
	// MountsBelow says whether something is mounted below a folder.
	MountsBelow(dir string) (bool, error)
	// DeviceName is the name below /dev of the device of a kind, "block" or "char", with these numbers.
	DeviceName(kind string, major, minor int64) (string, error)
	// DirectVolume describes the volume that is assigned directly at a path; directvolume.ErrNone says that none is.
	DirectVolume(path string) (*directvolume.Info, error)
	// Read reads a file of at most limit bytes. A larger one is an error.
	Read(path string, limit int64) ([]byte, error)
}

// File is what stat(2) says of a file.
type File struct {
	Mode         uint32 // with the file's type, S_IFMT
	GID          uint32
	Dev, Node    uint64 // which file it is
	Major, Minor int64  // of the device that it is
}

// is says whether the file is of a type, such as unix.S_IFDIR.
func (f File) is(kind uint32) bool { return f.Mode&unix.S_IFMT == kind }

// ThisHost is the host that the program runs on.
type ThisHost struct {
	Root string // in which /sys and descriptions of volumes are looked for; empty is /
}

// Stat implements Host.
func (ThisHost) Stat(path string) (File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return File{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	dev := uint64(st.Rdev)
	return File{Mode: st.Mode, GID: st.Gid, Dev: uint64(st.Dev), Node: st.Ino, Major: int64(unix.Major(dev)),
		Minor: int64(unix.Minor(dev))}, nil
}

// tmpfsMagic is TMPFS_MAGIC of <linux/magic.h>.
const tmpfsMagic = 0x01021994

// Tmpfs implements Host.
func (ThisHost) Tmpfs(path string) (size uint64, is bool) {
	var sf unix.Statfs_t
	if err := unix.Statfs(path, &sf); err != nil || int64(sf.Type) != tmpfsMagic {
		return 0, false
	}
	return sf.Blocks * uint64(sf.Bsize), true
}

// MountsBelow implements Host.
func (ThisHost) MountsBelow(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	all, err := mountinfo.Self()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(m mountinfo.Mount) bool {
		return m.Point != dir && hasPrefix(m.Point, dir)
	}), nil
}

// DeviceName implements Host. Linux: Documentation/ABI/testing/sysfs-dev, and DEVNAME of the device's uevent.
func (h ThisHost) DeviceName(kind string, major, minor int64) (string, error) {
	b, err := os.ReadFile(filepath.Join("/", h.Root, fmt.Sprintf("sys/dev/%s/%d:%d/uevent", kind, major, minor)))
	if err != nil {
		return "", fmt.Errorf("the host has no %s device %d:%d: %w", kind, major, minor, err)
	}
	for l := range strings.Lines(string(b)) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "DEVNAME=")
		if !ok || !filepath.IsLocal(name) {
			continue
		}
		return name, nil
	}
	return "", fmt.Errorf("%s device %d:%d of the host has no name", kind, major, minor)
}

// DirectVolume implements Host.
func (h ThisHost) DirectVolume(path string) (*directvolume.Info, error) {
	return directvolume.Read(filepath.Join("/", h.Root, directvolume.Root), path)
}

// Read implements Host.
func (ThisHost) Read(path string, limit int64) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}
