package stage

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// terminal is the process's end of a new pseudo-terminal, whose other end the agent has.
type terminal struct{ peer int }

// errNoDevpts: a /dev/ptmx that an image brought could be anything.
var errNoDevpts = errors.New("/dev/pts is not a devpts")

// devptsMagic is DEVPTS_SUPER_MAGIC of <linux/magic.h>.
const devptsMagic = 0x1cd1

// openTerminal makes a pseudo-terminal in the room's devpts, or for nil in that of the root.
func openTerminal(r *room, p Process) (*terminal, error) {
	root := -1
	if r != nil {
		root = r.fd
	} else {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("terminal: %w", err)
		}
		defer unix.Close(fd)
		root = fd
	}
	master, err := openIn(root, "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return nil, fmt.Errorf("terminal: open /dev/pts/ptmx: %w", err)
	}
	defer unix.Close(master)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil || int64(fs.Type) != devptsMagic {
		return nil, fmt.Errorf("terminal: %w", errors.Join(errNoDevpts, err))
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("terminal: unlock: %w", err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("terminal: open the process's end: %w", errno)
	}
	if p.Rows != 0 || p.Columns != 0 {
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: p.Rows,
			Col: p.Columns}); err != nil {
			return nil, fmt.Errorf("terminal: size: %w", err)
		}
	}
	tell(Message{Kind: Terminal}, master)
	return &terminal{int(slave)}, nil
}

// take makes it the controlling terminal and the three standard streams.
func (t *terminal) take(p Process) error {
	if err := unix.Fchown(t.peer, int(p.UID), -1); err != nil && err != unix.EPERM && err != unix.EINVAL {
		return fmt.Errorf("terminal: owner: %w", err)
	}
	if err := unix.IoctlSetInt(t.peer, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("terminal: make it the controlling one: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(t.peer, fd, 0); err != nil {
			return fmt.Errorf("terminal: as file %d: %w", fd, err)
		}
	}
	unix.Close(t.peer)
	return nil
}
