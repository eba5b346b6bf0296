package early

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Path is where an init looks for programs.
const Path = "/bin:/sbin:/usr/bin:/usr/sbin"

// maxFiles is the limit of open files for the agent and, unless they bring their own, its children.
const maxFiles = 1 << 20

// Process prepares this process to be an init: PATH, the limit of open files, and the console as its controlling
// terminal. All errors are for telling, none is a reason to stop.
func Process() error {
	// As Kata's agent does: children that bring no environment of their own find the guest's programs.
	errs := []error{os.Setenv("PATH", Path)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: maxFiles, Max: maxFiles}); err != nil {
		errs = append(errs, fmt.Errorf("limit of open files to %d: %w", maxFiles, err))
	}
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM { // not permitted: it leads its session already
		errs = append(errs, fmt.Errorf("new session: %w", err))
	}
	if _, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == unix.ENOTTY {
		// not a terminal: nothing to control
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil && err != unix.ENOTTY {
			errs = append(errs, fmt.Errorf("console as controlling terminal: %w", err))
		}
	}
	return errors.Join(errs...)
}

// defaultHostname is the guest's name where /etc/hostname has none.
const defaultHostname = "localhost"

// Hostname names the guest after file, which is /etc/hostname, or "localhost".
func Hostname(file string) error {
	name := defaultHostname
	if b, err := os.ReadFile(file); err == nil {
		if n := strings.TrimSpace(string(b)); n != "" {
			name = n
		}
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("host name %q: %w", name, err)
	}
	return nil
}

// LoopbackUp brings up the interface lo.
func LoopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// mostFiles is the largest fs.nr_open on 64-bit machines: what fits an int, less what makes it no multiple of 64.
// Linux: fs/file.c, sysctl_nr_open_max.
const mostFiles = (1<<31 - 1) &^ 63

// AllowManyFiles lets a process have as many open files as the kernel can count: the limit of a container may be that
// of a host where this is so.
func AllowManyFiles() error {
	if err := os.WriteFile("/proc/sys/fs/nr_open", []byte(strconv.Itoa(mostFiles)), 0); err != nil {
		return fmt.Errorf("bound of open files to %d: %w", mostFiles, err)
	}
	return nil
}

// RestartOnPanic makes the kernel restart at once when it panics, as it does when PID 1 ends; by default it stands
// still for good.
func RestartOnPanic() error {
	if err := os.WriteFile("/proc/sys/kernel/panic", []byte("-1"), 0); err != nil {
		return fmt.Errorf("restart on a panic of the kernel: %w", err)
	}
	return nil
}

// PanicOnOops makes the kernel panic when it has gone wrong in itself. By default it goes on without what was running
// then, which in a guest is as a rule something that others wait for, without end and without a cause that the host
// sees.
func PanicOnOops() error {
	if err := os.WriteFile("/proc/sys/kernel/panic_on_oops", []byte("1"), 0); err != nil {
		return fmt.Errorf("panic when the kernel goes wrong: %w", err)
	}
	return nil
}
