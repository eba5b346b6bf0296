package thread

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestAStandInIsElsewhereAndEnds(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) {
		return
	}
	own := func(tid int) string {
		l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", tid))
		if err != nil {
			t.Error(err)
		}
		return l
	}
	here := own(os.Getpid())
	var all []*StandIn
	for range 5 {
		s, err := Stand(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
		if err != nil {
			t.Fatal(err)
		}
		if s.TID == os.Getpid() || own(s.TID) == here {
			t.Errorf("thread %d of process %d is in %s", s.TID, os.Getpid(), own(s.TID))
		}
		all = append(all, s)
	}
	if own(os.Getpid()) != here {
		t.Error("the process went along")
	}
	for _, s := range all {
		s.End()
		s.End()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", s.TID)); errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the thread goes on")
			}
		}
	}
	boom := errors.New("boom")
	if _, err := Stand(func() error { return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
}
