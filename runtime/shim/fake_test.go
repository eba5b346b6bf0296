package shim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/events"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/stats"
	"github.com/katabuild/katabuild/runtime/thread"
)

// fakeGuest is a pod without a machine, which does what a test says and writes down what it is asked. A call for a
// container that it does not have fails the test.
type fakeGuest struct {
	management.Pod // nil: nobody asks

	t        *testing.T
	done     chan struct{} // closed by end: the guest has ended
	over     sync.Once     // of end
	sick     chan struct{} // closed by GiveUp
	stopping chan struct{} // closed by Stop
	starved  chan string   // what OOM returns
	fails    map[string]error
	cold     *fakeGuest          // that takes its place after its first container failed; nil is none
	made     func(pod.Container) // told of each container; nil is not

	mu         sync.Mutex // guards what follows
	why        error
	calls      []string
	containers map[string]*fakeProcess
}

func newFake(t *testing.T) *fakeGuest {
	return &fakeGuest{t: t, done: make(chan struct{}), sick: make(chan struct{}), stopping: make(chan struct{}),
		starved: make(chan string, 1), fails: map[string]error{}, containers: map[string]*fakeProcess{}}
}

// called notes a call, and returns how it is to fail.
func (g *fakeGuest) called(call, id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, strings.TrimSpace(call+" "+id))
	if id != "" && call != "Create" && g.containers[id] == nil {
		g.t.Errorf("%s of %s, which is not there", call, id)
	}
	return g.fails[call]
}

func (g *fakeGuest) was(call string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.calls, call)
}

func (g *fakeGuest) Create(_ context.Context, c pod.Container) (process, streams, error) {
	if err := g.called("Create", c.ID); err != nil {
		return nil, streams{}, err
	}
	if g.made != nil {
		g.made(c)
	}
	p := &fakeProcess{ended: make(chan struct{}), guest: g}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.containers[c.ID] = p
	return p, streams{}, nil
}

func (g *fakeGuest) Exec(_ context.Context, id, _ string, _ *specs.Process, _ agentlink.Streams) (process, streams,
	error) {
	return &fakeProcess{ended: make(chan struct{}), guest: g}, streams{}, g.called("Exec", id)
}

func (g *fakeGuest) Start(_ context.Context, id string) error { return g.called("Start", id) }

func (g *fakeGuest) Remove(_ context.Context, id string) error {
	err := g.called("Remove", id)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.containers, id)
	return err
}

// Stop ends all processes, as the guest's end does.
func (g *fakeGuest) Stop() error {
	err := g.called("Stop", "")
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.stopping:
		return nil
	default:
	}
	close(g.stopping)
	for _, p := range g.containers {
		p.end(lostCode)
	}
	close(g.starved)
	g.end()
	return err
}

// Cold starts cold.
func (g *fakeGuest) Cold(_ context.Context, why error) (guest, error) {
	if err := g.Stop(); err != nil || g.cold == nil {
		return nil, errors.Join(why, err)
	}
	return g.cold, nil
}

// end ends the guest.
func (g *fakeGuest) end() { g.over.Do(func() { close(g.done) }) }

func (g *fakeGuest) Update(_ context.Context, id string, _ *specs.LinuxResources) error {
	return g.called("Update", id)
}
func (g *fakeGuest) Pause(_ context.Context, id string) error  { return g.called("Pause", id) }
func (g *fakeGuest) Resume(_ context.Context, id string) error { return g.called("Resume", id) }

func (g *fakeGuest) Stats(_ context.Context, id string) (stats.Usage, error) {
	return stats.Usage{}, g.called("Stats", id)
}

func (g *fakeGuest) OOM(context.Context) (string, error) {
	if id, more := <-g.starved; more {
		return id, nil
	}
	return "", errors.New("the guest has ended")
}

func (g *fakeGuest) Done() <-chan struct{}     { return g.done }
func (g *fakeGuest) Sick() <-chan struct{}     { return g.sick }
func (g *fakeGuest) Stopping() <-chan struct{} { return g.stopping }

func (g *fakeGuest) Why() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// is says why the guest is of no use.
func (g *fakeGuest) is(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.why = why
}

func (g *fakeGuest) GiveUp(why error) {
	g.is(why)
	close(g.sick)
}

func (g *fakeGuest) Ping(context.Context) error { return g.called("Ping", "") }

func (g *fakeGuest) Usage() (stats.Host, error) {
	return stats.Host{Usage: cgroup.Usage{CPU: 3 * time.Second, Memory: 4096}}, g.called("Usage", "")
}

func (g *fakeGuest) PID() int                          { return os.Getpid() }
func (g *fakeGuest) StandIn() (*thread.StandIn, error) { return thread.Stand(nil) }

// fakeProcess ends when the test says so.
type fakeProcess struct {
	guest *fakeGuest
	ended chan struct{}
	once  sync.Once
	code  int
}

func (p *fakeProcess) end(code int) {
	p.once.Do(func() {
		p.code = code
		close(p.ended)
	})
}

func (p *fakeProcess) Wait(context.Context) (int, error) {
	<-p.ended
	return p.code, nil
}

func (p *fakeProcess) Signal(context.Context, uint32, bool) error {
	return p.guest.called("Signal", "")
}
func (p *fakeProcess) Resize(context.Context, uint32, uint32) error {
	return p.guest.called("Resize", "")
}
func (p *fakeProcess) CloseStdin() error { return nil }
func (p *fakeProcess) Close() error      { return nil }

// listener is a containerd that writes topics down.
type listener struct {
	mu     sync.Mutex
	topics []string // guarded by mu
	bodies []string // the events themselves, guarded by mu
}

func (c *listener) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics = append(c.topics, r.Envelope.Topic)
	c.bodies = append(c.bodies, string(r.Envelope.Event.GetValue()))
	return &emptypb.Empty{}, nil
}

// hears waits for an event.
func (c *listener) hears(t *testing.T, topic string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		there := slices.Contains(c.topics, topic)
		c.mu.Unlock()
		if there {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no event %s", topic)
		}
	}
}

// faked is a service whose pod is a fakeGuest, with a sandbox "p" and a container "c" that are started.
func faked(t *testing.T) (*host, *fakeGuest, *listener) {
	t.Helper()
	h, g, heard := empty(t)
	h.made(t, "p", "sandbox")
	h.made(t, "c", "container")
	return h, g, heard
}

// empty is a service whose pod will be a fakeGuest.
func empty(t *testing.T) (*host, *fakeGuest, *listener) {
	t.Helper()
	h, g, heard := &host{dir: t.TempDir()}, newFake(t), &listener{}
	if err := os.WriteFile(h.dir+"/configuration.toml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", h.dir+"/events")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(srv, heard)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(context.Background(), l) // until it is closed
	}()
	h.Service = New(Options{Namespace: "test", Log: slog.New(slog.DiscardHandler),
		Publish: events.Target{Address: h.dir + "/events"}}, func() { h.ended = true })
	h.start = func(context.Context, pod.Options) (guest, error) { return g, nil }
	t.Cleanup(func() {
		if err := errors.Join(h.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
		<-served
		for _, task := range h.tasks { // nobody deletes them
			if task.stand != nil {
				task.stand.End()
			}
		}
	})
	return h, g, heard
}

// made makes a container and starts it.
func (h *host) made(t *testing.T, id, kind string) {
	t.Helper()
	if _, err := h.Create(t.Context(), h.request(t, id, kind)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Service.Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
}

func (h *host) kill(t *testing.T, id string) error {
	t.Helper()
	_, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL)})
	return err
}

func TestAPodWhoseAgentIsSilentCanBeKilled(t *testing.T) {
	h, g, _ := faked(t)
	g.fails["Signal"] = agentlink.ErrSilent
	g.is(agentlink.ErrSilent)
	if err := h.kill(t, "c"); err == nil {
		t.Error("a container of it is said to be killed")
	}
	if err := h.kill(t, "p"); err != nil {
		t.Error(err)
	}
	if code := h.wait(t, "c", ""); code != lostCode {
		t.Errorf("code %d", code)
	}
	if !g.was("Stop") {
		t.Error("the pod goes on")
	}
}

func TestAProcessIsNotThereOnceItsGuestIsGone(t *testing.T) {
	h, g, heard := faked(t)
	g.fails["Signal"] = errors.New("the connection is closed")
	if err := h.kill(t, "c"); status.Code(err) != codes.Unknown {
		t.Errorf("a signal that fails: %v", err)
	}
	g.is(pod.ErrOutOfMemory)
	g.end()
	heard.hears(t, events.OOM) // all containers met the limit of their pod
	g.mu.Lock()
	for _, p := range g.containers {
		p.end(lostCode)
	}
	g.mu.Unlock()
	if err := h.kill(t, "c"); status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	heard.hears(t, events.Exit)
}

func TestAKilledContainerThatStaysTakesItsGuestWithIt(t *testing.T) {
	for name, tc := range map[string]struct {
		id    string
		times int
	}{"the first of a pod": {"p", 1}, "another, killed again": {"c", 2}} {
		t.Run(name, func(t *testing.T) {
			h, g, _ := faked(t)
			h.patience = 20 * time.Millisecond
			for i := range tc.times {
				if i > 0 {
					time.Sleep(h.patience)
					select {
					case <-g.sick:
						t.Error("the others of the pod are ended for one")
					default:
					}
				}
				if err := h.kill(t, tc.id); err != nil {
					t.Fatal(err)
				}
			}
			<-g.sick
			if !errors.Is(g.Why(), pod.ErrStuck) {
				t.Error(g.Why())
			}
			h.wait(t, "p", "")
		})
	}
}

func TestContainerdHearsOfExhaustedMemory(t *testing.T) {
	_, g, heard := faked(t)
	g.starved <- "c"
	heard.hears(t, events.OOM)
}

// A guest's word about other pods' containers goes no further, and a flood of events is taken slowly.
func TestAGuestTellsExhaustedMemoryOfItsOwnContainersAlone(t *testing.T) {
	h, g, heard := faked(t)
	var log strings.Builder
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	begun := time.Now()
	const lies = 5
	for range lies {
		g.starved <- "another-pods\x1b[2J"
	}
	g.starved <- "c"
	heard.hears(t, events.OOM)
	if took := time.Since(begun); took < lies*starvedEvery {
		t.Errorf("%d events were taken in %s", lies+1, took)
	}
	g.end()
	heard.mu.Lock()
	defer heard.mu.Unlock()
	for i, b := range heard.bodies {
		if heard.topics[i] == events.OOM && strings.Contains(b, "another") {
			t.Errorf("containerd hears of %q", b)
		}
	}
	if n := strings.Count(log.String(), "does not have"); n != 1 || strings.Contains(log.String(), "\x1b") {
		t.Errorf("the log says it %d times: %q", n, log.String())
	}
}

func TestWhatCannotBeDeletedIsForgottenAllTheSame(t *testing.T) {
	h, g, heard := faked(t)
	out := h.dir + "/poststop"
	spec := `{"root": {"path": "/"}, "process": {}, "hooks": {"poststop": [{"path": "/bin/sh", ` +
		`"args": ["sh", "-c", "cat >` + out + `; exit 3"]}]}}`
	if err := os.WriteFile(h.dir+"/bundle-c/config.json", []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	g.fails["Remove"] = errors.New("no")
	g.containers["c"].end(3)
	h.wait(t, "c", "")
	r, err := h.Service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"})
	if err != nil || r.ExitStatus != 3 {
		t.Errorf("%v, %v", r, err)
	}
	if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), `"status":"stopped"`) {
		t.Errorf("the hook got %q, %v", b, err)
	}
	if _, err := h.State(t.Context(), &taskapi.StateRequest{ID: "c"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	heard.hears(t, events.Delete)
}

func TestWhatAGuestCannotDoIsTold(t *testing.T) {
	h, g, _ := faked(t)
	for call, do := range map[string]func() error{
		"Pause": func() error { _, err := h.Pause(t.Context(), &taskapi.PauseRequest{ID: "c"}); return err },
		"Resume": func() error {
			_, err := h.Resume(t.Context(), &taskapi.ResumeRequest{ID: "c"})
			return err
		},
		"Stats": func() error { _, err := h.Stats(t.Context(), &taskapi.StatsRequest{ID: "c"}); return err },
		"Update": func() error {
			_, err := h.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c", Resources: &anypb.Any{
				Value: []byte("{}")}})
			return err
		},
		"Resize": func() error {
			_, err := h.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: "c"})
			return err
		},
	} {
		g.fails[call] = status.Error(codes.ResourceExhausted, "full")
		if err := do(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", call, err)
		}
	}
	for what, err := range map[string]error{
		"a process that is none": func() error {
			_, err := h.Service.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", ExecID: "e", Spec: &anypb.Any{
				Value: []byte("[")}})
			return err
		}(),
		"resources that are none": func() error {
			_, err := h.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c"})
			return err
		}(),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	g.fails["Create"] = context.DeadlineExceeded
	if _, err := h.Create(t.Context(), h.request(t, "d", "container")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	if _, err := h.Service.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", ExecID: "e", Spec: &anypb.Any{
		Value: []byte("{}")}, Stdout: h.dir + "/none"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Service.Start(t.Context(), &taskapi.StartRequest{ID: "c", ExecID: "e"}); err == nil ||
		!strings.Contains(err.Error(), "standard output") {
		t.Errorf("a process whose output leads nowhere: %v", err)
	}
}

func TestContainerdIsServedInBothVersions(t *testing.T) {
	h, _, _ := faked(t)
	// A path of a socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, l) }()
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	for _, service := range []string{"containerd.task.v2.Task", serviceV3} {
		var r taskapi.StateResponse
		if err := client.Call(t.Context(), service, "State", &taskapi.StateRequest{ID: "c"}, &r); err != nil ||
			r.ID != "c" {
			t.Errorf("%s: %v, %v", service, &r, err)
		}
		err := client.Call(t.Context(), service, "State", &taskapi.StateRequest{ID: "none"}, &r)
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", service, err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestAConfigurationThatIsNoneIsTold(t *testing.T) {
	h, _, _ := faked(t)
	for text, says := range map[string]string{"x": "configuration", "[runtime]\nattestation = 1\n": "attestation"} {
		if err := os.WriteFile(h.dir+"/configuration.toml", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := h.loadConfig(h.dir+"/configuration.toml", nil)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
