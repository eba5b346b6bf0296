package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// The fakes note what is asked of them, and fail where a test wants it. What they do not know panics: each has the
// whole contract as a nil interface within.

// told notes calls, and has failures for them.
type told struct {
	calls   []string
	failing map[string]error
}

func (t *told) call(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	t.calls = append(t.calls, s)
	return t.failing[s]
}

func (t *told) fail(call string, err error) {
	if t.failing == nil {
		t.failing = map[string]error{}
	}
	t.failing[call] = err
}

// fakeContainers keeps containers in memory.
type fakeContainers struct {
	*told
	list []*fakeContainer
	oom  chan string
}

func (f *fakeContainers) Create(_ context.Context, id string, spec *specs.Spec, stdio container.Stdio) (Container,
	error) {
	if err := f.call("create %s", id); err != nil {
		return nil, err
	}
	c := &fakeContainer{told: f.told, of: f, id: id, spec: spec, stdio: stdio, processes: map[string]*fakeProcess{}}
	c.processes[id] = newFakeProcess(f.told, id, 100+len(f.list))
	f.list = append(f.list, c)
	return c, nil
}

func (f *fakeContainers) Container(id string) (Container, error) {
	for _, c := range f.list {
		if c.id == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %s: %w", id, container.ErrNotFound)
}

func (f *fakeContainers) Containers() []Container {
	var out []Container
	for _, c := range f.list {
		out = append(out, c)
	}
	return out
}

func (f *fakeContainers) OOM() <-chan string { return f.oom }

// fakeContainer is one of them.
type fakeContainer struct {
	*told
	Container // panics
	of        *fakeContainers
	id        string
	spec      *specs.Spec
	stdio     container.Stdio
	processes map[string]*fakeProcess
}

func (c *fakeContainer) ID() string                   { return c.id }
func (c *fakeContainer) Spec() *specs.Spec            { return c.spec }
func (c *fakeContainer) Start(context.Context) error  { return c.call("start %s", c.id) }
func (c *fakeContainer) Pause(context.Context) error  { return c.call("pause %s", c.id) }
func (c *fakeContainer) Resume(context.Context) error { return c.call("resume %s", c.id) }
func (c *fakeContainer) Stats() (container.Stats, error) {
	return container.Stats{}, c.call("stats %s", c.id)
}

func (c *fakeContainer) Update(r *specs.LinuxResources) error {
	return c.call("update %s %d", c.id, *r.CPU.Shares)
}

func (c *fakeContainer) Remove(context.Context) error {
	if err := c.call("remove %s", c.id); err != nil {
		return err
	}
	c.of.list = slices.DeleteFunc(c.of.list, func(o *fakeContainer) bool { return o == c })
	return nil
}

func (c *fakeContainer) SignalAll(_ context.Context, s unix.Signal) error {
	return c.call("signal all of %s %d", c.id, s)
}

func (c *fakeContainer) Process(exec string) (Process, error) {
	if exec == "" {
		exec = c.id
	}
	if p := c.processes[exec]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s: %w", exec, container.ErrNotFound)
}

func (c *fakeContainer) Exec(_ context.Context, exec string, _ *specs.Process, _ container.Stdio) (Process, error) {
	if err := c.call("exec %s %s", c.id, exec); err != nil {
		return nil, err
	}
	p := newFakeProcess(c.told, exec, 200)
	c.processes[exec] = p
	return p, nil
}

// fakeProcess is a process that has ended.
type fakeProcess struct {
	*told
	Process // panics
	name    string
	pid     int
	drained chan struct{}
}

func newFakeProcess(t *told, name string, pid int) *fakeProcess {
	p := &fakeProcess{told: t, name: name, pid: pid, drained: make(chan struct{})}
	close(p.drained)
	return p
}

func (p *fakeProcess) PID() int                          { return p.pid }
func (p *fakeProcess) Wait(context.Context) (int, error) { return 5, p.call("wait %s", p.name) }
func (p *fakeProcess) Drained() <-chan struct{}          { return p.drained }
func (p *fakeProcess) Forget()                           { _ = p.call("forget %s", p.name) }
func (p *fakeProcess) CloseStdin() error                 { return p.call("close %s", p.name) }

func (p *fakeProcess) Signal(s unix.Signal) error { return p.call("signal %s %d", p.name, s) }

func (p *fakeProcess) SignalOrKill(s unix.Signal) error {
	return p.call("signal or kill %s %d", p.name, s)
}

func (p *fakeProcess) Resize(rows, columns uint16) error {
	return p.call("resize %s %dx%d", p.name, rows, columns)
}

func (p *fakeProcess) WriteStdin(_ context.Context, b []byte) (int, error) {
	return len(b), p.call("write %s %s", p.name, b)
}

func (p *fakeProcess) ReadStdout(_ context.Context, most int) ([]byte, error) {
	return []byte("out"), p.call("read %s %d", p.name, most)
}

func (p *fakeProcess) ReadStderr(context.Context, int) ([]byte, error) { return nil, io.EOF }

// fakeStorage notes who owns mounts.
type fakeStorage struct {
	*told
	Storage // panics
	owners  []string
}

func (s *fakeStorage) Devices(context.Context, []*katapb.Device, *specs.Spec) error {
	return s.call("devices")
}

func (s *fakeStorage) Add(_ context.Context, owner string, _ []*katapb.Storage) error {
	if err := s.call("add %s", owner); err != nil {
		return err
	}
	s.owners = append(s.owners, owner)
	return nil
}

func (s *fakeStorage) Release(owner string) error {
	s.owners = slices.DeleteFunc(s.owners, func(o string) bool { return o == owner })
	return s.call("release %s", owner)
}

func (s *fakeStorage) GuestAddresses(env []string) []string    { return env }
func (s *fakeStorage) Close() error                            { return s.call("close storage") }
func (s *fakeStorage) Handlers() []string                      { return []string{"blk"} }
func (s *fakeStorage) DeviceHandlers() []string                { return []string{"vfio"} }
func (s *fakeStorage) CopyFile(*katapb.CopyFileRequest) error  { return s.call("copy") }
func (s *fakeStorage) UpdateEphemeral([]*katapb.Storage) error { return s.call("ephemeral") }
func (s *fakeStorage) StaleMounts() error                      { return s.call("stale") }
func (s *fakeStorage) AddSwap(context.Context, []uint32) error { return s.call("swap") }
func (s *fakeStorage) AddSwapPath(string) error                { return s.call("swap path") }
func (s *fakeStorage) ResizeVolume(context.Context, string, uint64) error {
	return s.call("resize volume")
}
func (s *fakeStorage) VolumeStats(string) (*katapb.VolumeStatsResponse, error) {
	return &katapb.VolumeStatsResponse{}, s.call("volume")
}

// fakeNetwork and the others only say that they were asked.
type fakeNetwork struct {
	*told
	Network // panics
}

func (n *fakeNetwork) UpdateInterface(_ context.Context, i *katapb.Interface) (*katapb.Interface, error) {
	return i, n.call("interface %s", i.Name)
}

func (n *fakeNetwork) UpdateRoutes(_ context.Context, r []*katapb.Route) ([]*katapb.Route, error) {
	return r, n.call("routes %d", len(r))
}

func (n *fakeNetwork) DNS(servers []string) error { return n.call("dns %d", len(servers)) }

func (n *fakeNetwork) ListInterfaces() ([]*katapb.Interface, error) { return nil, n.call("interfaces") }
func (n *fakeNetwork) ListRoutes() ([]*katapb.Route, error)         { return nil, n.call("list routes") }
func (n *fakeNetwork) AddARPNeighbors([]*katapb.ARPNeighbor) error  { return n.call("neighbours") }

func (n *fakeNetwork) IPTables(_ context.Context, v6 bool) ([]byte, error) {
	return []byte("rules"), n.call("iptables %v", v6)
}

func (n *fakeNetwork) SetIPTables(_ context.Context, v6 bool, rules []byte) ([]byte, error) {
	return rules, n.call("set iptables %v", v6)
}

type fakeMachine struct{ *told }

func (m *fakeMachine) OnlineCPUMem(_ context.Context, n uint32, _ bool) error {
	return m.call("online %d", n)
}
func (m *fakeMachine) MemHotplugByProbe([]uint64) error    { return m.call("probe") }
func (m *fakeMachine) ReseedRandomDev([]byte) error        { return m.call("reseed") }
func (m *fakeMachine) SetGuestDateTime(int64, int64) error { return m.call("time") }

type fakeMetrics struct{}

func (fakeMetrics) Collect() (string, error) { return "text", errors.New("a number is missing") }
