package child

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// firstFile is the first file that a program inherits beside its standard ones.
const firstFile = 3

// Inheritance is the files that a program inherits: its ends, which are ours to close once it has them. The zero value
// has none.
type Inheritance struct{ files []*os.File }

// Add takes a file over, and says by which number the program has it.
func (i *Inheritance) Add(f *os.File) int {
	i.files = append(i.files, f)
	return firstFile + len(i.files) - 1
}

// Lend is Add of a file that stays its owner's.
func (i *Inheritance) Lend(f *os.File) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return i.Add(os.NewFile(uintptr(fd), f.Name())), nil
}

// LendPath is Lend, and says by which path the program may open the file again.
func (i *Inheritance) LendPath(f *os.File) (string, error) {
	fd, err := i.Lend(f)
	return Path(fd), err
}

// Path is that by which a program may open again what it has by a number.
func Path(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// Files are they, in the order of their numbers. They stay the Inheritance's.
func (i *Inheritance) Files() []*os.File { return i.files }

// Close closes them. The program has its own.
func (i *Inheritance) Close() {
	for _, f := range i.files {
		_ = f.Close() // or nobody needs it
	}
	i.files = nil
}

// SocketPair makes a connection between this process and a program, called name in errors.
func SocketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for the %s: %w", name, err)
	}
	inner := os.NewFile(uintptr(fds[1]), name)
	f := os.NewFile(uintptr(fds[0]), name)
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket pair for the %s: %w", name, err), inner.Close())
	}
	return conn.(*net.UnixConn), inner, nil
}
