package shim

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
)

func TestAPodIsWatchedWhileItRuns(t *testing.T) {
	h := newHost(t)
	if _, err := h.Create(t.Context(), h.request(t, "p", "sandbox")); err != nil {
		t.Fatal(err)
	}
	socket := h.o.Dirs.MonitorSocket("p")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}}}
	resp, err := c.Get("http://shim/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"katabuild_pod_up 1", "katabuild_pod_attested 1", "katabuild_pod_containers 1",
		`kata_shim_agent_rpc_durations_histogram_milliseconds_count{action="grpc.CreateContainerRequest"} 1`,
		"katabuild_pod_guest_answers 0"} { // agenttest's agent counts nothing
		if !strings.Contains(string(b), "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if _, err := h.Kill(t.Context(), &taskapi.KillRequest{ID: "p", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	h.wait(t, "p", "")
	if _, err := h.Delete(t.Context(), &taskapi.DeleteRequest{ID: "p"}); err != nil {
		t.Fatal(err)
	}
	h.managing.Wait()
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
