package oci

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// handConsole gives the master of a terminal to whoever listens at a socket, or returns it where there is none. The
// message is the terminal's name in the container. runc's terminal document, "Detached".
func handConsole(master *os.File, socket string) (*os.File, error) {
	if master == nil || socket == "" {
		return master, nil
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("number of the terminal: %w", err)
	}
	// Whoever gets it may want it blocking, which is a property of both.
	if err := unix.SetNonblock(int(master.Fd()), false); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return nil, fmt.Errorf("console socket %s: %w", socket, err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	if err := unix.Sendmsg(fd, []byte(name), unix.UnixRights(int(master.Fd())), nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, fmt.Errorf("console socket %s: %w", socket, err)
	}
	return nil, nil
}
