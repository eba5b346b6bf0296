package reap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reaper runs one for the test. No test here may wait for a child in another way.
func reaper(t *testing.T) *Reaper {
	t.Helper()
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

func TestEveryChildIsToldApart(t *testing.T) {
	r := reaper(t)
	var wg sync.WaitGroup
	for i := range 60 { // many end before Start has returned
		wg.Go(func() {
			c, err := r.Start(exec.Command("/bin/sh", "-c", "exit "+strconv.Itoa(i)))
			if err != nil {
				t.Error(err)
				return
			}
			for range 2 {
				if e, err := c.Wait(t.Context()); err != nil || e != (Exit{Code: i}) {
					t.Errorf("child %d: %+v, %v", i, e, err)
				}
			}
			if <-c.Done(); !c.Ended() {
				t.Errorf("child %d has not ended", i)
			}
			if err := c.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("signal to a child that has ended: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestAChildStartedInAnotherWayIsCollected(t *testing.T) {
	r := reaper(t)
	c, err := r.StartWith(func() (int, error) {
		cmd := exec.Command("/bin/sh", "-c", "exit 9")
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		defer cmd.Process.Release()
		// It ends before it is known.
		var info unix.Siginfo
		return cmd.Process.Pid, unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(t.Context()); err != nil || e.Code != 9 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := r.StartWith(func() (int, error) { return 0, unix.EAGAIN }); !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
}

func TestSignalEndsAChild(t *testing.T) {
	r := reaper(t)
	c, err := r.Start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("wait with a deadline:", err)
	}
	if err := c.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(t.Context()); err != nil || e != (Exit{Code: 128 + 15, Signal: unix.SIGTERM}) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestOrphansAreCollected(t *testing.T) {
	r := reaper(t)
	file := filepath.Join(t.TempDir(), "pid")
	c, err := r.Start(exec.Command("/bin/sh", "-c", "sleep 0.05 & echo $! >"+file))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(t.Context()); err != nil || e.Code != 0 {
		t.Fatal(e, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	orphan := strings.TrimSpace(string(b))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", orphan))
		if err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still there: %s", status)
		}
	}
}

func TestStartRefusesWhatOnlyOsExecCouldEnd(t *testing.T) {
	r := reaper(t)
	cmd := exec.Command("true")
	cmd.Stdout = new(bytes.Buffer)
	if _, err := r.Start(cmd); !errors.Is(err, errPipes) {
		t.Error(err)
	}
	if _, err := r.Start(exec.Command("/no/such/program")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
