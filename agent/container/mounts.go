package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"golang.org/x/sys/unix"
)

// mounts is a container's mount namespace, held from its first process's start until no request for a file in it is
// under way.
//
// Of what virtiofsd shares, each file system of the host is one of its own in the guest (a submount of FUSE), which is
// shut down with its last mount. If a read ahead is not answered then, Linux leaves an inode behind that has no file
// system any more ("VFS: Busy inodes after unmount of virtiofs"), and the answer ends the kernel's worker for all
// answers of virtiofsd with an oops: whoever uses a file of the host waits for ever. A process that is killed while its
// program is still being read comes to that. Linux 6.12: fs/fuse/file.c, fuse_file_release waits for the release of a
// file, but not where reads are under way, which fuse_readpages_end then releases; fs/super.c, generic_shutdown_super.
type mounts struct {
	file    *os.File
	dropped chan struct{} // closed once the namespace is given up; nil before drop
}

// keepMounts holds the mounts of p. A stage that has ended has none, and what is wrong with it is told by its control.
func (c *Container) keepMounts(p *Process) {
	pidfd, err := p.dupPidfd()
	if err != nil {
		return
	}
	defer unix.Close(pidfd)
	if f, err := launch.OpenMounts(p.pid, pidfd); err == nil {
		c.mounts.file = f
	}
}

// drop gives the namespace up, after its last process has ended. After an error it may be called again, to wait on.
func (m *mounts) drop(ctx context.Context, background func(func())) error {
	if m.file == nil {
		return nil
	}
	if m.dropped == nil {
		m.dropped = make(chan struct{})
		background(func() {
			defer close(m.dropped)
			awaitAnswers()
			m.file.Close() // what it was for has been done
		})
	}
	select {
	case <-m.dropped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("give up the mounts: the host does not answer for a file: %w", ctx.Err())
	}
}

// Rounds of awaitAnswers. Linux sends at most 12 requests that nobody waits for at a time (fs/fuse/inode.c,
// FUSE_DEFAULT_MAX_BACKGROUND), and each read may be followed by a release: a few rounds are enough where answers come
// in order. Where other containers use files too, there may always be a request under way, and many rounds are as good
// as an end.
const (
	roundsBlind = 4   // if Linux does not say how many are under way
	roundsMost  = 100 // if it does
)

// awaitAnswers waits until virtiofsd has answered what it was asked before: each round is a request that is answered
// behind those. An error is none of a container's, and leaves it to fewer rounds.
func awaitAnswers() {
	all, err := mountinfo.Self()
	if err != nil {
		return
	}
	connections := -1
	defer func() {
		if connections >= 0 {
			unix.Close(connections)
		}
	}()
	seen := map[string]bool{}
	for _, m := range all {
		if m.Type != "virtiofs" || seen[m.Device] {
			continue
		}
		seen[m.Device] = true
		if connections < 0 {
			connections = fuseConnections()
		}
		for i := range roundsMost {
			var st unix.Statfs_t
			if err := unix.Statfs(m.Point, &st); err != nil {
				break
			}
			waiting, err := fuseWaiting(connections, m.Device)
			if err == nil && waiting == 0 || err != nil && i+1 >= roundsBlind {
				break
			}
		}
	}
}

// fuseConnections opens the folder where Linux shows the connections of FUSE, without mounting it anywhere; -1 if there
// is none. Documentation/filesystems/fuse.rst, "Control filesystem".
func fuseConnections() int {
	fd, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1
	}
	defer unix.Close(fd)
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1
	}
	dir, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return dir
}

// fuseWaiting is how many requests of the connection of a file system are not answered. The connection is named by the
// minor number of its device.
func fuseWaiting(connections int, device string) (int, error) {
	_, minor, _ := strings.Cut(device, ":")
	fd, err := unix.Openat(connections, minor+"/waiting", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, 32)
	n, err := unix.Read(fd, b)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b[:n])))
}
