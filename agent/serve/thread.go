package serve

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNewNamespaces runs f on a thread with namespaces of its own. The caller's goroutine must end soon after: its thread
// is spoilt.
func inNewNamespaces(flags int, f func() error) error {
	runtime.LockOSThread()
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	return f()
}
