package serve

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/report"
)

// guest answers what a test put in it.
type guest struct {
	report func(nonce []byte) ([]byte, error)
	probes []report.Probe // those of the last report
	size   uint64
	err    error
}

func (g *guest) Report(nonce []byte, probes []report.Probe) ([]byte, error) {
	g.probes = probes
	return g.report(nonce)
}
func (g *guest) MemoryBlockSize() (uint64, error) { return g.size, g.err }
func (g *guest) MemoryProbe() bool                { return true }

// start serves g on a socket and returns a client of it.
func start(t *testing.T, g Guest, guard func()) *agenttest.Client {
	t.Helper()
	path := t.TempDir() + "/agent"
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Agent: Agent{Version: "1.2", PID1: true}, Guest: g, Guard: guard,
		Probe: func(names []string) []report.Probe { return []report.Probe{{Name: names[0], Met: true}} }})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := agenttest.NewClient(conn)
	t.Cleanup(func() {
		c.Close()
		if err := s.Shutdown(0); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestServerAnswersAHost(t *testing.T) {
	g := &guest{size: 1 << 27}
	c := start(t, g, func() {})
	ctx := t.Context()
	if err := c.Check(ctx); err != nil {
		t.Error(err)
	}
	if v, err := c.Version(ctx); err != nil || v != (agenttest.Version{API: "0.0.1", Agent: "1.2"}) {
		t.Error(v, err)
	}
	d, err := c.GuestDetails(ctx)
	if err != nil || d.MemoryBlockSize != 1<<27 || !d.MemoryProbe || !d.InitDaemon || d.Seccomp ||
		d.AgentVersion != "1.2" ||
		strings.Join(d.ExtraFeatures, " ") != "katabuild.report.v1" {
		t.Errorf("%+v, %v", d, err)
	}
	g.err = errors.New("unreadable")
	if _, err := c.GuestDetails(ctx); err == nil || !strings.Contains(err.Error(), "unreadable") {
		t.Error(err)
	}
	nonce := []byte("0123456789abcdef")
	g.report = func(n []byte) ([]byte, error) {
		if string(n) != string(nonce) {
			t.Errorf("nonce %q", n)
		}
		r := report.Report{
			Version: report.Version, Nonce: "30313233343536373839616263646566", End: report.Done,
			Modules: []string{}, Timeline: []report.Moment{}, Agent: report.Agent{Settings: []report.Setting{}},
		}
		return r.Encode()
	}
	if _, _, err := c.Report(ctx, nonce, nil); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Report(ctx, nonce, []string{"core.calls"}); err != nil || !slices.Equal(g.probes,
		[]report.Probe{{Name: "core.calls", Met: true}}) {
		t.Error(g.probes, err)
	}
	for _, names := range [][]string{{"Core"}, {""}, {"a\nb"}, {strings.Repeat("a", 65)}, make([]string, maxProbes+1)} {
		if _, _, err := c.Report(ctx, nonce, names); status.Code(errors.Unwrap(err)) != codes.InvalidArgument {
			t.Errorf("%.3q: %v", names, err)
		}
	}
	g.report = func([]byte) ([]byte, error) { return nil, errors.New("no proc") }
	if _, _, err := c.Report(ctx, nonce, nil); err == nil || !strings.Contains(err.Error(), "no proc") {
		t.Error(err)
	}
}

func TestAPanicInARequestReachesTheGuard(t *testing.T) {
	caught := make(chan any, 1)
	c := start(t, &guest{report: func([]byte) ([]byte, error) { panic("in a request") }}, func() {
		if v := recover(); v != nil {
			caught <- v
		}
	})
	go c.Report(t.Context(), make([]byte, 16), nil) // nobody answers
	if v := <-caught; v != "in a request" {
		t.Error(v)
	}
}

func TestListenRefusesOddAddresses(t *testing.T) {
	for _, a := range []string{
		"", "tcp://127.0.0.1:1", "vsock://", "vsock://-1", "vsock://-2:1024", "vsock://-1:", "vsock://4294967296:1",
		"vsock://-1:4294967296",
		"vsock://a:b", "unix:///no/such/folder/s",
	} {
		if l, err := Listen(a); err == nil {
			l.Close()
			t.Errorf("%q: listens on %s", a, l.Addr())
		}
	}
	for s, want := range map[string][2]uint32{"-1:1024": {1<<32 - 1, 1024}, "3:1": {3, 1}} {
		if cid, port, err := parseVsock(s); err != nil || cid != want[0] || port != want[1] {
			t.Error(s, cid, port, err)
		}
	}
}
