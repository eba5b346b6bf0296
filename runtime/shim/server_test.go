package shim

import (
	"log/slog"
	"testing"
	"time"
)

func TestAShimWithoutContainersEnds(t *testing.T) {
	const every = 20 * time.Millisecond
	ended := make(chan struct{})
	s := New(Options{Log: slog.New(slog.DiscardHandler)}, func() { close(ended) })
	defer s.events.close()
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
