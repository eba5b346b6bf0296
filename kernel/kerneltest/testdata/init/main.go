// Command init is process 1 of the kernel's boot tests: it says when it came up and what the kernel says of itself, and
// switches off.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// ticks reads the processor's time-stamp counter: under -icount shift=0 one tick is one nanosecond since the machine
// was switched on, whatever the kernel believes about time.
func ticks() uint64

func main() {
	t := ticks()
	if os.Args[0] != "/init" { // a child, which may be process 1 of its own namespace
		job(os.Args[1])
		return
	}
	var ts syscall.Timespec
	const clockBoottime = 7 // include/uapi/linux/time.h
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0)
	os.Mkdir("/proc", 0o755)
	os.Mkdir("/sys", 0o755)
	err := syscall.Mount("proc", "/proc", "proc", 0, "")
	if err == nil {
		err = syscall.Mount("sysfs", "/sys", "sysfs", 0, "")
	}
	var u syscall.Utsname
	if err == nil {
		err = syscall.Uname(&u)
	}
	say("boottime_ns", ts.Nano())
	say("tsc", t)
	say("release", text(u.Release[:]))
	say("version", text(u.Version[:]))
	say("cpus", runtime.NumCPU())
	notes, e := os.ReadFile("/sys/kernel/notes")
	err = first(err, e)
	if i := bytes.Index(notes, []byte("GNU\x00")); i >= 0 && len(notes) >= i+4+20 {
		say("build_id", hex.EncodeToString(notes[i+4:i+4+20]))
	}
	if f, e := os.Open("/proc/config.gz"); e != nil {
		err = first(err, e)
	} else {
		z, e := gzip.NewReader(f)
		if err = first(err, e); e == nil {
			h := sha256.New()
			_, e = io.Copy(h, z)
			err = first(err, e)
			say("config", "sha256:"+hex.EncodeToString(h.Sum(nil)))
		}
	}
	const afVsock = 40
	_, e = syscall.Socket(afVsock, syscall.SOCK_STREAM, 0)
	say("vsock", e == nil)
	if line, e := os.ReadFile("/proc/cmdline"); e == nil && bytes.Contains(line, []byte("kernel_test_parts")) {
		parts()
	}
	say("error", err)
	say("done", true)
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
}

func say(key string, value any) { fmt.Printf("kernel-test: %s=%v\n", key, value) }

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func text(b []int8) string {
	var s []byte
	for _, c := range b {
		if c == 0 {
			break
		}
		s = append(s, byte(c))
	}
	return string(s)
}
