//go:build !amd64

package jail

import "golang.org/x/sys/unix"

// moreDenied lists calls that not every architecture has.
func moreDenied() []uint32 {
	return []uint32{unix.SYS_QUOTACTL_FD, unix.SYS_LOOKUP_DCOOKIE}
}
