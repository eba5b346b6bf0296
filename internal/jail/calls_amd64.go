package jail

import "golang.org/x/sys/unix"

// moreDenied lists calls that not every architecture has.
func moreDenied() []uint32 {
	return []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_QUOTACTL_FD,
		unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL}
}
