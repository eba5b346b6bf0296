package agentapi_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/internal/report"
)

// guest answers with what a test puts in it.
type guest struct {
	katapb.AgentServiceService // nil: a test that calls more than what follows fails

	status  katapb.HealthCheckResponse_ServingStatus
	details *katapb.GuestDetailsResponse
	report  []byte
}

func (g *guest) Check(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
	return &katapb.HealthCheckResponse{Status: g.status}, nil
}

func (g *guest) Version(context.Context, *katapb.CheckRequest) (*katapb.VersionCheckResponse, error) {
	return &katapb.VersionCheckResponse{GrpcVersion: "0.0.1", AgentVersion: "7"}, nil
}

func (g *guest) GetGuestDetails(_ context.Context, r *katapb.GuestDetailsRequest) (*katapb.GuestDetailsResponse,
	error) {
	if !r.MemBlockSize || !r.MemHotplugProbe {
		panic("the client must ask for everything it returns")
	}
	return g.details, nil
}

func (g *guest) Get(context.Context, *reportpb.GetRequest) (*reportpb.GetResponse, error) {
	return &reportpb.GetResponse{Report: g.report}, nil
}

func client(t *testing.T, g *guest) *agenttest.Client {
	t.Helper()
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	katapb.RegisterHealthService(s, g)
	katapb.RegisterAgentServiceService(s, g)
	reportpb.RegisterReportService(s, g)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(context.Background(), l)
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := agenttest.NewClient(conn)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

func encoded(t *testing.T, nonce string) []byte {
	t.Helper()
	r := report.Report{
		Version: report.Version, Nonce: nonce, End: report.Done,
		Modules: []string{}, Timeline: []report.Moment{}, Agent: report.Agent{Settings: []report.Setting{}},
	}
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestClientReadsAnswers(t *testing.T) {
	ctx := t.Context()
	g := &guest{status: katapb.HealthCheckResponse_SERVING, details: &katapb.GuestDetailsResponse{
		MemBlockSizeBytes: 128 << 20, SupportMemHotplugProbe: true, AgentDetails: &katapb.AgentDetails{Version: "7",
			InitDaemon: true},
	}}
	c := client(t, g)
	if err := c.Check(ctx); err != nil {
		t.Error(err)
	}
	if v, err := c.Version(ctx); err != nil || v != (agenttest.Version{API: agentapi.APIVersion, Agent: "7"}) {
		t.Error(v, err)
	}
	d, err := c.GuestDetails(ctx)
	if err != nil || d.MemoryBlockSize != 128<<20 || !d.MemoryProbe || d.AgentVersion != "7" || !d.InitDaemon ||
		d.Seccomp {
		t.Error(d, err)
	}
	nonce := []byte("0123456789abcdef")
	g.report = encoded(t, "30313233343536373839616263646566")
	rep, raw, err := c.Report(ctx, nonce, nil)
	if err != nil || rep.End != report.Done || string(raw) != string(g.report) {
		t.Error(rep, err)
	}
}

func TestClientRefusesWhatAGuestMustNotSay(t *testing.T) {
	ctx := t.Context()
	nonce := []byte("0123456789abcdef")
	whole := encoded(t, "30313233343536373839616263646566")
	for name, tc := range map[string]struct {
		g     guest
		nonce []byte
		want  string
	}{
		"a report for another nonce": {guest{report: encoded(t, strings.Repeat("00", 16))}, nonce,
			"made for nonce 0000"},
		"a truncated report":            {guest{report: whole[:len(whole)-9]}, nonce, "truncated"},
		"an empty report":               {guest{}, nonce, "truncated"},
		"a report of a megabyte":        {guest{report: make([]byte, report.MaxSize+1)}, nonce, "more than"},
		"an answer above ttrpc's limit": {guest{report: make([]byte, 5<<20)}, nonce, "closed"},
		"a nonce too short to bind":     {guest{report: whole}, nonce[:15], "a nonce of 15 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, &tc.g)
			if _, _, err := c.Report(ctx, tc.nonce, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	c := client(t, &guest{status: katapb.HealthCheckResponse_NOT_SERVING,
		details: &katapb.GuestDetailsResponse{MemBlockSizeBytes: 1 << 63}})
	if err := c.Check(ctx); err == nil {
		t.Error("an agent that does not serve passes the health check")
	}
	if _, err := c.GuestDetails(ctx); err == nil {
		t.Error("a block size that does not fit in int64 passes")
	}
}
