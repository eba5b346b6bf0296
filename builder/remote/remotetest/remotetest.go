// Package remotetest has machines with stores, and servers of the cache protocol, for tests.
package remotetest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/katabuild/katabuild/builder/plan"
	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/remote/reapi"
	"github.com/katabuild/katabuild/builder/remote/serve"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/progress"
)

// Machine is a user with a key and an empty store.
type Machine struct {
	*store.Store
	Writer store.Writer
	dir    string
}

// New makes a machine whose user trusts some writers.
func New(t testing.TB, trusts ...store.Writer) *Machine {
	t.Helper()
	m := &Machine{dir: t.TempDir()}
	m.open(t, trusts)
	return m
}

// Trust makes the machine's user trust further writers.
func (m *Machine) Trust(t testing.TB, trusts ...store.Writer) {
	t.Helper()
	m.open(t, trusts)
}

func (m *Machine) open(t testing.TB, trusts []store.Writer) {
	t.Helper()
	key, err := store.ReadKey(filepath.Join(m.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if m.Store, err = store.Open(filepath.Join(m.dir, "store"), store.Options{Key: key, Trusted: trusts}); err != nil {
		t.Fatal(err)
	}
	m.Writer = key.Writer()
}

// Make records a step that made some outputs, which are given by name.
func (m *Machine) Make(t testing.TB, step string, outputs map[string]string) plan.Step {
	t.Helper()
	s := plan.New(step, nil, []artifact.Input{{Name: "of", Value: step}})
	a := &store.Action{Key: s.Key, Step: step, Inputs: s.Inputs, Outputs: []store.Output{}}
	for name, text := range outputs {
		d, n, err := m.Put(name, strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		a.Outputs = append(a.Outputs, store.Output{Name: name, Digest: d, Size: n})
	}
	if err := m.PutAction(a); err != nil {
		t.Fatal(err)
	}
	return s
}

// Check fails t unless the store has a step with these outputs.
func (m *Machine) Check(t testing.TB, s plan.Step, outputs map[string]string) {
	t.Helper()
	a, err := m.Complete(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range outputs {
		o, err := a.Output(name)
		if err != nil {
			t.Fatal(err)
		}
		path, err := m.Get(o.Digest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	}
}

// Serve serves a store on loopback until the test ends, and returns the address.
func Serve(t testing.TB, o serve.Options, how ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(how...)
	serve.New(o).Register(g)
	done := make(chan error)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// Client is a client of a server, until the test ends.
func Client(t testing.TB, address string) remote.Cache {
	t.Helper()
	c, err := reapi.New(reapi.Options{Name: "grpc://" + address, Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	return c
}

// Said keeps what a step logs.
type Said struct {
	mu   sync.Mutex
	text strings.Builder
}

// Report is a progress.Func.
func (s *Said) Report(e progress.Event) {
	if e.Kind != progress.Log {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.WriteString(e.Message + "\n")
}

// String is what was logged, a line a message.
func (s *Said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Offer gives what a step made to a cache, which must take it.
func (m *Machine) Offer(t testing.TB, s plan.Step, to remote.Cache) {
	t.Helper()
	a, err := m.Complete(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	team := &remote.Team{Store: m.Store, To: []remote.Cache{to}, Required: true}
	if err := team.Offer(context.Background(), a, nil); err != nil {
		t.Fatal(err)
	}
}
