package probe

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// oldCalls wants calls that only old programs of x86 make not to be there, nor the page of calls at a fixed address.
func oldCalls() error {
	var m missing
	for name, call := range map[string]uintptr{"modify_ldt": unix.SYS_MODIFY_LDT, "iopl": unix.SYS_IOPL,
		"ioperm": unix.SYS_IOPERM} {
		if _, _, errno := unix.Syscall(call, 0, 0, 0); errno != unix.ENOSYS {
			m = append(m, "there is "+name)
		}
	}
	b, err := os.ReadFile("/proc/self/maps")
	m.works("own memory", err)
	if strings.Contains(string(b), "[vsyscall]") {
		m = append(m, "there is the page vsyscall")
	}
	return m.err()
}
