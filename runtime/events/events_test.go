package events

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	eventtypes "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/testenv"
	"google.golang.org/protobuf/types/known/emptypb"
)

// containerd takes events, and refuses the first tries.
type containerd struct {
	mu     sync.Mutex
	refuse int
	topics []string
}

func (c *containerd) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse > 0 {
		c.refuse--
		return nil, errors.New("not now")
	}
	c.topics = append(c.topics, r.Envelope.Namespace+r.Envelope.Topic+" "+r.Envelope.Event.TypeUrl)
	return &emptypb.Empty{}, nil
}

func TestEventsArriveInOrderAlsoWhenContainerdIsNotReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	c := &containerd{refuse: 1}
	eventsapi.RegisterTTRPCEventsService(srv, c)
	go srv.Serve(t.Context(), l)
	defer srv.Close()
	p := New("ns", Target{Address: path}, slog.New(slog.DiscardHandler))
	p.Send(Create, &eventtypes.TaskCreate{ContainerID: "c1"})
	p.Send(Start, &eventtypes.TaskStart{ContainerID: "c1"})
	p.Close()
	if got := strings.Join(c.topics, ", "); got != "ns/tasks/create containerd.events.TaskCreate, ns/tasks/start "+
		"containerd.events.TaskStart" {
		t.Error(got)
	}
}

func TestEventsGoThroughAProgramWhereThereIsNoSocket(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	out := filepath.Join(t.TempDir(), "out")
	p := New("ns", Target{Command: []string{"/bin/sh", "-c", `cat >` + out + `; echo "$@" >>` + out, "sh",
		"publish"}}, slog.New(slog.DiscardHandler))
	p.Send(Start, &eventtypes.TaskStart{ContainerID: "c1", Pid: 7})
	p.Close()
	b, err := os.ReadFile(out)
	if err != nil || !strings.HasSuffix(string(b), "publish --topic /tasks/start --namespace ns\n") ||
		!strings.Contains(string(b), "containerd.events.TaskStart") {
		t.Errorf("%q, %v", b, err)
	}
}
