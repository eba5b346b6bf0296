// Package slack has the kernel combine the short sleeps of this program's threads.
//
// Go's runtime has a thread, sysmon, that looks after the others while there is something to do: at first every 20
// microseconds (runtime/proc.go, sysmon). Each time the guest has a timer interrupt, two changes of threads and two
// settings of the timer's register, which the hypervisor carries out. A guest whose processor is emulated has little
// time left beside that. With a slack of a millisecond (prctl(2), PR_SET_TIMERSLACK) the sleeps end with other ones.
package slack

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// In nanoseconds. ordinary is Linux's own, include/linux/init_task.h.
const (
	loose    = 1_000_000
	ordinary = 50_000
)

// Loosen gives all threads of this process the slack, and with that those that they make. It is for the first deed of a
// program; a thread that is not found keeps the slack it has.
func Loosen() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		// Nothing depends on it, and a user without rights may not.
		_ = os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), []byte(strconv.Itoa(loose)), 0)
	}
}

// Without calls f, and processes that it starts have the slack that they would have without this package.
func Without[T any](f func() (T, error)) (T, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || before != loose {
		return f()
	}
	set(ordinary)
	defer set(loose)
	return f()
}

// Tighten gives the calling thread, which executes a program next, the slack that it was started with.
func Tighten() { set(0) }

// set cannot fail: prctl(2) takes any number there, and 0 is that of the thread's beginning.
func set(ns uintptr) { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, ns, 0, 0, 0) }
