// Package thread has threads of this process that are somewhere else than the others, such as in another network
// namespace.
//
// In comes a function, which runs on a thread of its own. It does not know what is done there.
package thread

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Run starts f on a thread that ends with it, so that f may take the thread to other namespaces. It is never the
// process's first thread, which cannot end, and whose namespaces are what others take for those of the process:
// proc(5), /proc/self.
func Run(f func()) {
	go func() {
		runtime.LockOSThread() // and never unlocked: that is what ends the thread
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// Hold the first one while another one is found.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

// StandIn is a thread that does nothing, and stands for something on the host: it has a number of its own, by which
// others find its namespaces, as in /proc/NUMBER/ns/net. Numbers of threads and of processes are of one kind, and /proc
// knows both: proc(5).
type StandIn struct {
	TID  int
	done chan struct{}
	once sync.Once
}

// Stand starts a thread that has done enter, which may be nil, and then waits for End.
func Stand(enter func() error) (*StandIn, error) {
	s := &StandIn{done: make(chan struct{})}
	started := make(chan error)
	Run(func() {
		s.TID = unix.Gettid()
		var err error
		if enter != nil {
			err = enter()
		}
		started <- err
		if err == nil {
			<-s.done
		}
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return s, nil
}

// End ends the thread. Calling it again is a no-op.
func (s *StandIn) End() { s.once.Do(func() { close(s.done) }) }
