package osthread

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestTheProcessKeepsItsNamespaces(t *testing.T) {
	if !testenv.Inside(t, 0) {
		return
	}
	uts := func() string {
		name, err := os.Readlink("/proc/self/ns/uts")
		if err != nil {
			t.Error(err)
		}
		return name
	}
	before := uts()
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			err := Run(nil, func() error {
				if unix.Gettid() == os.Getpid() {
					return errors.New("on the first thread")
				}
				if err := unix.Unshare(syscall.CLONE_NEWUTS); err != nil {
					return err
				}
				own, err := os.Readlink("/proc/thread-self/ns/uts")
				if own == before {
					return errors.Join(err, errors.New("the namespace is the old one"))
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if after := uts(); after != before {
		t.Errorf("the process was in %s and is in %s", before, after)
	}
}

func TestAnErrorAndTheGuardAreReached(t *testing.T) {
	no := errors.New("no")
	guarded := make(chan struct{}, 2)
	if err := Run(func() { guarded <- struct{}{} }, func() error { return no }); !errors.Is(err, no) {
		t.Error(err)
	}
	<-guarded
}
