package share

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// mountLong mounts an overlay whose many layers do not fit into a page of options: what the layers' paths have in
// common is the working folder of the thread that mounts.
func mountLong(source, target, fstype string, flags uintptr, data string) error {
	options := strings.Split(data, ",")
	base := ""
	for i, o := range options {
		lower, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		dirs := strings.Split(lower, ":")
		base = commonDir(dirs)
		for j, d := range dirs {
			rel, err := filepath.Rel(base, d)
			if err != nil {
				return err
			}
			dirs[j] = rel
		}
		options[i] = "lowerdir=" + strings.Join(dirs, ":")
	}
	if data = strings.Join(options, ","); len(data) >= maxData || base == "" {
		return fmt.Errorf("too many layers: the options have %d bytes, the kernel takes %d", len(data), maxData-1)
	}
	done := make(chan error)
	go func() {
		// The thread has another working folder than the process from here on, and ends with this goroutine, as it
		// stays locked.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = os.NewSyscallError("chdir", unix.Chdir(base))
		}
		if err == nil {
			err = unix.Mount(source, target, fstype, flags, data)
		}
		done <- err
	}()
	return <-done
}

// commonDir is the deepest folder that all of dirs are in.
func commonDir(dirs []string) string {
	base := filepath.Dir(dirs[0])
	for _, d := range dirs[1:] {
		for base != "/" && !strings.HasPrefix(d, base+"/") {
			base = filepath.Dir(base)
		}
	}
	return base
}
