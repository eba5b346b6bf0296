package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/place"
)

// sector is the unit in which the kernel tells the size of a disk, in bytes, whatever the disk's own is.
// Linux: Documentation/ABI/stable/sysfs-block, /sys/block/<disk>/size.
const sector = 512

// resizeExt4 has an ext4 grow that is mounted: the argument is its new size in its own blocks. It is _IOW('f', 16,
// __u64), written by way of another number of that form, since architectures differ in how.
// Linux: fs/ext4/ioctl.c, EXT4_IOC_RESIZE_FS.
const resizeExt4 = unix.BLKBSZSET&^0xffff | 'f'<<8 | 16

// growTime is how long the guest's kernel may take to hear that a disk has grown.
const growTime = 10 * time.Second

// errNoGrowth says that a file system does not grow while it is mounted.
var errNoGrowth = errors.New("this file system does not grow here")

// ResizeVolume makes the file system at a path of the guest as large as its disk, which the host has made size bytes
// large, and waits until it is so. One that is as large already is left as it is.
func (m *Manager) ResizeVolume(ctx context.Context, path string, size uint64) error {
	p, err := place.In(m.c.Below, path)
	if err != nil {
		return fmt.Errorf("volume %w", err)
	}
	h, err := p.Open(unix.O_RDONLY | unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume %s: %w", p, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer h.Close()
	dir, err := os.Open(h.Path())
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	var stfs unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(dir.Fd()), &st), unix.Fstatfs(int(dir.Fd()), &stfs)); err != nil {
		return fmt.Errorf("volume %s: %w", p, err)
	}
	if stfs.Type != unix.EXT4_SUPER_MAGIC || stfs.Bsize <= 0 {
		return fmt.Errorf("volume %s: a file system of the type %#x: %w: ext4 alone does", p, stfs.Type, errNoGrowth)
	}
	bytes, err := grown(ctx, uint64(st.Dev), size)
	if err != nil {
		return fmt.Errorf("volume %s: %w", p, err)
	}
	blocks := bytes / uint64(stfs.Bsize)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeExt4, uintptr(unsafe.Pointer(&blocks))); e != 0 {
		return fmt.Errorf("volume %s: grow to %d blocks: %w", p, blocks, e)
	}
	return nil
}

// grown waits until a disk has size bytes, and says how many it has.
func grown(ctx context.Context, dev, size uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	file := fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(dev), unix.Minor(dev))
	for {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 54)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		if n*sector >= size {
			return n * sector, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("the disk has %d bytes, want %d: %w", n*sector, size, ctx.Err())
		}
	}
}
