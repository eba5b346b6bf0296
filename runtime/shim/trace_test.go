package shim

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/katabuild/katabuild/runtime/trace/picture"
)

// served is a client of the shim, as containerd is one.
func (h *host) served(t *testing.T) taskapi.TTRPCTaskService {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, l) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() {
		err := client.Close()
		cancel()
		if err := errors.Join(err, <-ended); err != nil {
			t.Error(err)
		}
	})
	return taskapi.NewTTRPCTaskClient(client)
}

// says adds lines to the configuration, whose last section is [runtime].
func (h *host) says(t *testing.T, lines string) {
	t.Helper()
	f, err := os.OpenFile(h.dir+"/configuration.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(lines)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// kept asks the management socket of the pod p for its spans.
func (h *host) kept(t *testing.T) ([]spans.Batch, error) {
	t.Helper()
	b, err := management.Client{Dirs: h.o.Dirs, ID: "p"}.Get(t.Context(), "/trace")
	if err != nil {
		return nil, err
	}
	batches, err := spans.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return batches, nil
}

func TestAPodsStartIsOneTree(t *testing.T) {
	h := newHost(t)
	h.says(t, "enable_tracing = true\n")
	c := h.served(t)
	if _, err := c.Create(t.Context(), h.request(t, "p", "sandbox")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.kept(t); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(t.Context(), &taskapi.StartRequest{ID: "p"}); err != nil {
		t.Fatal(err)
	}
	// A request later is a trace of its own, or of the one that containerd names.
	md := ttrpc.MD{}
	md.Set(spans.Parent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if _, err := c.Kill(ttrpc.WithMetadata(t.Context(), md), &taskapi.KillRequest{ID: "p", Signal: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.State(t.Context(), &taskapi.StateRequest{ID: "p"}); err != nil {
		t.Fatal(err)
	}
	batches, err := h.kept(t)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]spans.Span{}
	for _, s := range batches[0].Spans {
		by[s.Name] = s
	}
	root := by[trace.Name]
	if root.Trace == (spans.TraceID{}) || root.Parent != (spans.SpanID{}) {
		t.Fatalf("%+v", by)
	}
	for name, parent := range map[string]string{
		"shim/Create": trace.Name, "shim/Start": trace.Name, "pod/start": "shim/Create", "pod/network": "pod/start",
		"boot": "pod/start", "hypervisor/start": "boot", "until checked": "boot", "until agent": "boot",
		"pod/attest": "pod/start", "guest until ready": "boot", "pod/introduce": "pod/start",
		"agent/CreateSandbox": "pod/introduce", "pod/create container": "shim/Create",
		"pod/prepare files": "pod/create container", "agent/CreateContainer": "pod/create container",
		"agent/StartContainer": "shim/Start",
	} {
		s, is := by[name]
		if !is || s.Trace != root.Trace || s.Parent != by[parent].Span || s.Start < root.Start ||
			s.End > root.End {
			t.Errorf("%s: %+v, want it below %s", name, s, parent)
		}
	}
	if k := by["shim/Kill"]; k.Trace.String() != "0af7651916cd43dd8448eb211c80319c" ||
		k.Parent.String() != "b7ad6b7169203331" || by["agent/SignalProcess"].Parent != k.Span {
		t.Errorf("%+v", k)
	}
	if _, is := by["shim/State"]; is {
		t.Error("looking is noted")
	}
	p, err := picture.New(batches, trace.Name)
	if err != nil || !strings.HasPrefix(p.Title, trace.Name+" p") || p.Total <= 0 || p.Total > time.Hour {
		t.Errorf("%+v, %v", p, err)
	}
	// The agent is told which span it works for, and the host's time.
	seen := h.agent.Metadata("CreateContainer")
	if parent, ok := spans.ParseTraceparent(seen[spans.Parent]); !ok ||
		parent != by["agent/CreateContainer"].Context || seen[spans.HostTime] == "" {
		t.Errorf("%v", seen)
	}
}

func TestWithoutTracingNothingIsNoted(t *testing.T) {
	h := newHost(t)
	c := h.served(t)
	if _, err := c.Create(t.Context(), h.request(t, "p", "sandbox")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.kept(t); err == nil || !strings.Contains(err.Error(), "enable_tracing") {
		t.Error(err)
	}
	if seen := h.agent.Metadata("CreateContainer"); len(seen) != 0 {
		t.Errorf("the agent is told %v", seen)
	}
}

func TestAStartThatFailsIsATreeToo(t *testing.T) {
	h := newHost(t)
	h.says(t, "enable_tracing = true\n")
	c := h.served(t)
	h.agent.Fail("CreateSandbox", errors.New("no room"))
	if _, err := c.Create(t.Context(), h.request(t, "p", "sandbox")); err == nil {
		t.Fatal("it starts")
	}
	data, ok := h.trace.Kept()
	batches, err := spans.Decode(data)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	p, err := picture.New(batches, trace.Name)
	if err != nil || !strings.Contains(p.Text(), "agent/CreateSandbox: no room") || p.Rows[0].Error == "" {
		t.Errorf("%v\n%s", err, p.Text())
	}
}
