package probe

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/osthread"
)

// threads runs what is tried where its changes end with it.
type threads struct{ guard func() }

// thread has what is tried on a thread of its own, which ends with it.
func (t threads) thread(try func() error) func() error {
	return func() error { return osthread.Run(t.guard, try) }
}

// network has it in a namespace of networks of its own, with nothing in it but a loopback interface that is down.
func (t threads) network(try func() error) func() error {
	return t.thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a namespace for networks to try it in: %w", err)
		}
		return try()
	})
}

// folder has it in a namespace of mounts of its own, with an empty tmpfs in the folder that it is given.
func (t threads) folder(try func(dir string) error) func() error {
	return t.thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a namespace for mounts to try it in: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keep mounts from others: %w", err)
		}
		for _, dir := range []string{"/dev/shm", "/run", "/tmp"} {
			if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
				continue
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"); err != nil {
				return fmt.Errorf("a folder to try it in: %w", err)
			}
			return try(dir)
		}
		return fmt.Errorf("there is no folder to try it in")
	})
}
