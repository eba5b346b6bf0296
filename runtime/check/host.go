package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/share"
	"golang.org/x/sys/unix"
)

// Host is what the checks see of a host. Nothing it does lasts.
type Host interface {
	programs
	files
}

// programs are those of a host.
type programs interface {
	// Find is the path of a program, of which a name without slash is looked for in $PATH.
	Find(program string) (string, error)
	// Output is what a program prints, on both streams, and the error of it.
	Output(ctx context.Context, argv ...string) ([]byte, error)
	// Isolated runs a program isolated as QEMU is, until it ends, and says which barriers could not be built.
	Isolated(isolation *child.Isolation, argv ...string) ([]string, error)
}

// files is what a host's kernel shows: files, devices and facts.
type files interface {
	// Read is a small file.
	Read(path string) ([]byte, error)
	// Device opens a device for reading and writing, and closes it. One whose driver is not there is errNotLoaded:
	// opening would load its module.
	Device(path string) error
	// System are the facts that need system calls.
	System(guest arch.Arch) System
}

// System is what a host's kernel says.
type System struct {
	UID       int
	Release   string // uname -r
	Accel     accel.Facts
	Memfd     error  // of making memory that can be sealed
	VirtioFSD string // of share.FindProgram; empty is none
}

// errNotLoaded says that a device's file is there, and its driver is not.
var errNotLoaded = errors.New("its driver is not loaded")

// this is the host that the program runs on.
type this struct{}

// programTime is how long a program may take to say its version.
const programTime = 10 * time.Second

// readLimit bounds what is read of a file, in bytes: a kernel's configuration has some 300 KB.
const readLimit = 8 << 20

// Find implements Host.
func (this) Find(program string) (string, error) { return exec.LookPath(program) }

// Output implements Host.
func (this) Output(ctx context.Context, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	return cmd.CombinedOutput()
}

// Read implements Host.
func (this) Read(path string) ([]byte, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	b, err := io.ReadAll(io.LimitReader(f, readLimit+1))
	if err == nil && len(b) > readLimit {
		err = fmt.Errorf("%s has more than %d bytes", path, readLimit)
	}
	return b, err
}

// Device implements Host.
func (this) Device(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if !registered(path) {
		return &fs.PathError{Op: "open", Path: path, Err: errNotLoaded}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Isolated implements Host.
func (this) Isolated(isolation *child.Isolation, argv ...string) ([]string, error) {
	p, err := child.StartIn("QEMU", argv, nil, child.Options{Isolation: isolation})
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
	case <-time.After(programTime):
		return p.Missing(), errors.Join(fmt.Errorf("%s does not end", argv[0]), p.Stop(context.Background(), nil))
	}
	return p.Missing(), p.ExitError()
}

// System implements Host.
func (this) System(guest arch.Arch) System {
	s := System{UID: os.Geteuid(), Memfd: memfd()}
	if _, err := os.Stat(accel.Device); err == nil && !registered(accel.Device) {
		s.Accel = accel.Facts{GuestArch: guest.Name, HostArch: hostArch().Name, Open: &fs.PathError{Op: "open",
			Path: accel.Device, Err: errNotLoaded}}
	} else {
		s.Accel = accel.Probe(guest)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		s.Release = unix.ByteSliceToString(u.Release[:])
	}
	if p, err := share.FindProgram(context.Background()); err == nil { // that there is none is the answer
		s.VirtioFSD = p.Path
	}
	return s
}

// registered says whether the driver of a miscellaneous device is there. Device files may exist before their drivers,
// and opening one then has the kernel load the module. /proc/misc has a line for each driver: its minor number and its
// name, proc(5).
func registered(path string) bool {
	b, err := os.ReadFile("/proc/misc")
	if err != nil {
		return true // nothing can be told
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) == 2 && (f[1] == filepath.Base(path) ||
			f[1] == strings.ReplaceAll(filepath.Base(path), "-", "_")) {
			return true
		}
	}
	return false
}

// memfd makes sealed memory, as the kernel and the disks of a guest are handed to QEMU.
func memfd() error {
	fd, err := unix.MemfdCreate("check", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|
		unix.F_SEAL_SEAL)
	if err != nil {
		err = fmt.Errorf("seal memory: %w", err)
	}
	return errors.Join(err, unix.Close(fd))
}
