package share

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopMajor is the number of loop devices. Linux: Documentation/admin-guide/devices.txt.
const loopMajor = 7

// loopTries is how often somebody else may take the device that was free.
const loopTries = 64

// attachLoop makes a block device of a file. The device goes with its last user: close it once it is mounted. loop(4).
func attachLoop(file string, readOnly bool) (*os.File, error) {
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR)
	if readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	f, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range loopTries {
		var n int
		if n, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		var device *os.File
		if device, err = openLoop(n, mode); err != nil {
			return nil, err
		}
		c := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: flags}}
		copy(c.Info.File_name[:len(c.Info.File_name)-1], file)
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &c); err == nil {
			return device, nil
		}
		err = errors.Join(&os.PathError{Op: "LOOP_CONFIGURE", Path: device.Name(), Err: err}, device.Close())
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, fmt.Errorf("a loop device for %s: %w", file, err)
}

// openLoop opens a loop device, and makes its file where nobody does, as in a container.
func openLoop(n, mode int) (*os.File, error) {
	name := fmt.Sprintf("/dev/loop%d", n)
	d, err := os.OpenFile(name, mode, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return d, err
	}
	if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil &&
		err != unix.EEXIST {
		return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	return os.OpenFile(name, mode, 0)
}
