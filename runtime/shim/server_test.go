package shim

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAShimWithoutContainersEnds(t *testing.T) {
	const every = 20 * time.Millisecond
	ended := make(chan struct{})
	s := New(Options{Log: slog.New(slog.DiscardHandler)}, func() { close(ended) })
	defer s.events.Close()
	s.create.Lock() // a container is being made
	s.tasks["c"] = &task{}
	go s.endIdle(t.Context(), every)
	still := func(why string) {
		t.Helper()
		select {
		case <-ended:
			t.Fatalf("it ended while %s", why)
		case <-time.After(10 * every):
		}
	}
	still("a container was made")
	s.create.Unlock()
	still("there was a container")
	s.mu.Lock()
	delete(s.tasks, "c")
	s.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it serves nothing, and does not end")
	}
}

func TestAShimRemovesItsSocketAndNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listen := func() *Socket {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		s, err := newSocket(l)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := listen()
	first.Close()
	if err := os.Remove(path); err != nil { // as a successor does
		t.Fatal(err)
	}
	second := listen()
	if err := first.Remove(); err != nil || !answers(path) {
		t.Errorf("the successor's is there no more: %v", err)
	}
	second.Close()
	for range 2 {
		if err := second.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its own is still there: %v", err)
		}
	}
}

func TestCallsAreCountedByKatasNames(t *testing.T) {
	for method, want := range map[string]string{"/containerd.task.v3.Task/CloseIO": "close_io",
		"/containerd.task.v2.Task/ResizePty": "resize_pty", "/containerd.task.v2.Task/Create": "create",
		"Wait": "wait"} {
		if got := action(method); got != want {
			t.Errorf("%s is %s, want %s", method, got, want)
		}
	}
}
