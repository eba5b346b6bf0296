package launch

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A stage whose plan says Listen outlives whoever started it, and meets another program at a socket in a folder, which
// both reach by way of the folder: the path of a socket has 107 bytes at most. unix(7).

// Listen makes such a socket. The file is for the stage; whoever can write to the socket can start the program.
func Listen(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = at(path, func(a *unix.SockaddrUnix) error {
		if err := unix.Bind(fd, a); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return f, nil
}

// Meet connects to a stage that waits there.
func Meet(path string) (*Control, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := at(path, func(a *unix.SockaddrUnix) error { return unix.Connect(fd, a) }); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return &Control{conn: conn.(*net.UnixConn)}, nil
}

// at does something with a socket's path.
func at(path string, do func(*unix.SockaddrUnix) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return do(&unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + filepath.Base(path)})
}

// readOnly is above all files that a stage is started with, as highFD is.
const readOnly = highFD + 1

// Mounted is a program to execute as a stage, as from Sealed, where there is a right to mount: the very file of this
// program, by a mount of its own that is read-only. It has no place that anybody could find, or make writable.
func Mounted(self string) (string, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return Sealed(self)
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return Sealed(self)
	}
	high, err := unix.FcntlInt(uintptr(tree), unix.F_DUPFD_CLOEXEC, readOnly)
	if err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	return "/proc/self/fd/" + strconv.Itoa(high), nil
}
