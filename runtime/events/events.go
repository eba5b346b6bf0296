// Package events tells containerd what happens to containers.
//
// In come events as they happen; out they go in that order, each until containerd has taken it or has had enough tries.
// Whoever sends one waits for nothing. The package does not know what an event means.
package events

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The topics of containerd's task events.
const (
	Create      = "/tasks/create"
	Start       = "/tasks/start"
	Exit        = "/tasks/exit"
	Delete      = "/tasks/delete"
	OOM         = "/tasks/oom"
	ExecAdded   = "/tasks/exec-added"
	ExecStarted = "/tasks/exec-started"
	Paused      = "/tasks/paused"
	Resumed     = "/tasks/resumed"
)

// Target is how containerd takes events: over its ttrpc socket, or else through a program of its own.
type Target struct {
	Address string   // path of the UNIX socket; may be empty
	Command []string // fed with the packed event; topic and namespace are appended. May be empty.
}

// Times of publishing.
const (
	publishTime = 5 * time.Second // for one try
	publishRest = time.Second     // before the next: containerd may be starting anew
	publishMax  = 2048            // events that wait; more are dropped, the oldest first
	closeTime   = 3 * time.Second // for what waits when the process ends
)

// Publisher sends events in order, each until it has arrived or has been tried often enough.
type Publisher struct {
	namespace string
	to        Target
	log       *slog.Logger
	wake      chan struct{}
	done      chan struct{} // closed when run has ended
	stop      context.CancelFunc

	client *ttrpc.Client // of run alone

	mu      sync.Mutex // guards what follows
	waiting []*types.Envelope
	closing bool
}

// New makes a publisher for a namespace of containerd's. Close ends it.
func New(namespace string, to Target, log *slog.Logger) *Publisher {
	p := &Publisher{namespace: namespace, to: to, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go p.run(ctx)
	return p
}

// Send queues an event. It never waits.
func (p *Publisher) Send(topic string, event proto.Message) {
	b, err := proto.Marshal(event)
	if err != nil {
		p.log.Error("pack an event", "topic", topic, "err", err)
		return
	}
	e := &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topic,
		// under its bare name, as containerd's packages do
		Event: &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: b},
	}
	p.mu.Lock()
	if len(p.waiting) == publishMax {
		p.log.Error("an event is dropped: containerd takes none", "topic", p.waiting[0].Topic)
		p.waiting = p.waiting[1:]
	}
	p.waiting = append(p.waiting, e)
	p.mu.Unlock()
	p.poke()
}

func (p *Publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *Publisher) run(ctx context.Context) {
	defer close(p.done)
	defer p.hangUp()
	for {
		p.mu.Lock()
		var next *types.Envelope
		if len(p.waiting) > 0 {
			next = p.waiting[0]
		}
		closing := p.closing
		p.mu.Unlock()
		if next == nil {
			if closing {
				return
			}
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			continue
		}
		if err := p.publish(ctx, next); err != nil {
			p.log.Debug("publish an event", "topic", next.Topic, "err", err)
			p.hangUp()
			select {
			case <-time.After(publishRest):
			case <-ctx.Done():
				return
			}
			continue
		}
		p.mu.Lock()
		if len(p.waiting) > 0 && p.waiting[0] == next {
			p.waiting = p.waiting[1:]
		}
		p.mu.Unlock()
	}
}

func (p *Publisher) publish(ctx context.Context, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	if p.to.Address == "" {
		return p.byCommand(ctx, e)
	}
	if p.client == nil {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", strings.TrimPrefix(p.to.Address, "unix://"))
		if err != nil {
			return err
		}
		p.client = ttrpc.NewClient(c)
	}
	_, err := eventsapi.NewTTRPCEventsClient(p.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	return err
}

func (p *Publisher) byCommand(ctx context.Context, e *types.Envelope) error {
	if len(p.to.Command) == 0 {
		return nil // nobody wants to know
	}
	b, err := proto.Marshal(e.Event)
	if err != nil {
		return err
	}
	args := append(p.to.Command[1:len(p.to.Command):len(p.to.Command)], "--topic", e.Topic, "--namespace", e.Namespace)
	cmd := exec.CommandContext(ctx, p.to.Command[0], args...)
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.to.Command[0], err, bytes.TrimSpace(out))
	}
	return nil
}

func (p *Publisher) hangUp() {
	if p.client != nil {
		_ = p.client.Close() // a new one is made
		p.client = nil
	}
}

// Close sends what waits, for a while, and ends.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.poke()
	select {
	case <-p.done:
	case <-time.After(closeTime):
	}
	p.stop()
	<-p.done
}
