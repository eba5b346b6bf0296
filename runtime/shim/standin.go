package shim

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// standIn is a thread of this process that stands for a container's processes on the host: its number is what containerd shows, and by which it names the
// container to others, as in /proc/NUMBER/ns/pid. Numbers of threads and of processes are of one kind, and /proc knows both: proc(5).
type standIn struct {
	tid  int
	done chan struct{}
	once sync.Once
}

func newStandIn() *standIn {
	s := &standIn{done: make(chan struct{})}
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		s.tid = unix.Gettid()
		close(started)
		<-s.done
	}()
	<-started
	return s
}

// end ends the thread. Calling it again is a no-op.
func (s *standIn) end() { s.once.Do(func() { close(s.done) }) }
