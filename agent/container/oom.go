package container

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// memoryWatch tells when a control group's events change. inotify(7): the kernel reports a modification of the file.
type memoryWatch struct {
	f *os.File

	mu    sync.Mutex
	calls map[int32]func() // guarded by mu; by watch descriptor
	ids   map[string]int32 // guarded by mu
}

func newMemoryWatch() (*memoryWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for lack of memory: %w", err)
	}
	return &memoryWatch{f: os.NewFile(uintptr(fd), "inotify"), calls: map[int32]func(){}, ids: map[string]int32{}}, nil
}

// watch calls f when the file changes. Without a memory controller there is no file, and nothing to tell.
func (e *memoryWatch) watch(file, id string, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var wd int
	c, err := e.f.SyscallConn()
	if err != nil {
		return
	}
	c.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), file, unix.IN_MODIFY) })
	if err == nil {
		e.calls[int32(wd)], e.ids[id] = f, int32(wd)
	}
}

func (e *memoryWatch) unwatch(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wd, ok := e.ids[id]
	if !ok {
		return
	}
	delete(e.ids, id)
	delete(e.calls, wd)
	if c, err := e.f.SyscallConn(); err == nil {
		// the file may be gone, and the watch with it
		c.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

// listen runs for good.
func (e *memoryWatch) listen() {
	b := make([]byte, 4096)
	for {
		n, err := e.f.Read(b)
		if err != nil {
			return
		}
		for _, wd := range watches(b[:n]) {
			e.mu.Lock()
			f := e.calls[wd]
			e.mu.Unlock()
			if f != nil {
				f()
			}
		}
	}
}

// watches are the watch descriptors of a read from inotify: wd, mask, cookie and length of the name, 4 bytes each, and
// the name.
func watches(b []byte) []int32 {
	var out []int32
	for len(b) >= unix.SizeofInotifyEvent {
		out = append(out, int32(binary.NativeEndian.Uint32(b)))
		skip := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(skip, len(b)):]
	}
	return out
}
