package agentlink

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// health is an agent's health service.
type health struct {
	katapb.HealthService
	status katapb.HealthCheckResponse_ServingStatus
}

func (h health) Check(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
	return &katapb.HealthCheckResponse{Status: h.status}, nil
}

func TestAnAgentServesWhenItsHealthSaysSo(t *testing.T) {
	for status, want := range map[katapb.HealthCheckResponse_ServingStatus]bool{
		katapb.HealthCheckResponse_SERVING: true, katapb.HealthCheckResponse_NOT_SERVING: false} {
		s, err := ttrpc.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		katapb.RegisterHealthService(s, health{status: status})
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(t.Context(), l) // it ends by Close
		t.Cleanup(func() { s.Close() })
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := Serves(t.Context(), c); (err == nil) != want {
			t.Errorf("%s: %v", status, err)
		}
	}
	// Whoever closes the connection does not serve.
	a, b := net.Pipe()
	b.Close()
	if Serves(t.Context(), a) == nil {
		t.Error("a closed connection serves")
	}
}
