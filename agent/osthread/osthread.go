// Package osthread runs functions on threads of the kernel that end with them, so that they may change what belongs to
// a thread, such as namespaces.
package osthread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that ends with it, and returns its error. It is never the first one: that cannot end before
// the others, and its namespaces are those that /proc shows for the process. guard, where not nil, is deferred in each
// goroutine of Run's.
func Run(guard func(), f func() error) error {
	if guard == nil {
		guard = func() {}
	}
	ended := make(chan error, 1)
	var run func()
	run = func() {
		defer guard()
		runtime.LockOSThread() // never unlocked: that is what ends the thread
		if unix.Gettid() == os.Getpid() {
			// Hold it while another one is found.
			inner := make(chan struct{})
			go func() {
				defer close(inner)
				run()
			}()
			<-inner
			runtime.UnlockOSThread()
			return
		}
		ended <- f()
	}
	go run()
	return <-ended
}
