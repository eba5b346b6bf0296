package slack

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThreadsAreLooseAndProcessesAreNot(t *testing.T) {
	runtime.LockOSThread() // a user without rights may change this thread alone
	defer runtime.UnlockOSThread()
	own := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	child := func() (string, error) {
		out, err := exec.Command("cat", "/proc/self/timerslack_ns").Output()
		return strings.TrimSpace(string(out)), err
	}
	if got, err := Without(child); got != "50000" || err != nil || own() != ordinary {
		t.Fatalf("nothing was loosened: a process has %q, %v", got, err)
	}
	Loosen()
	defer Tighten()
	if own() != loose {
		t.Fatalf("a thread has %d", own())
	}
	if got, err := Without(child); got != "50000" || err != nil {
		t.Errorf("a process has %q, %v", got, err)
	}
	if own() != loose {
		t.Errorf("afterwards a thread has %d", own())
	}
	ended := make(chan int)
	go func() { // a thread of its own, which ends with this
		runtime.LockOSThread()
		Tighten()
		ended <- own()
	}()
	if n := <-ended; n == 0 {
		t.Error("a thread has no slack")
	}
}
