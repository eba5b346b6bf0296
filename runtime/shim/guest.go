package shim

import (
	"context"
	"io"

	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/stats"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// guest is a running pod, as far as this package needs one. Its methods are called from several goroutines. Tests have
// one without a machine.
type guest interface {
	maker
	life
	controls
	health
	presence
	whole
	management.Pod
}

// maker makes processes in the guest.
type maker interface {
	// Create makes a container whose first process waits for Start. With an error nothing of it is left.
	Create(context.Context, pod.Container) (process, streams, error)
	// Exec runs another process in a container.
	Exec(ctx context.Context, id, exec string, spec *specs.Process, want agentlink.Streams) (process, streams, error)
}

// life is what containers go through between Create and Remove, and the pod at last.
type life interface {
	// Start lets the first process of a container run.
	Start(ctx context.Context, id string) error
	// Remove takes a container away. One that is not there is no error.
	Remove(ctx context.Context, id string) error
	// Stop ends the pod and removes all of it from the host. Calling it again is a no-op.
	Stop() error
	// Cold ends a pod whose first container failed, and starts it again where a guest that boots may do better than
	// its own. Otherwise the error is why it failed.
	Cold(ctx context.Context, why error) (guest, error)
}

// controls are what can be done with containers that run.
type controls interface {
	// Update changes what a container may use.
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Pause freezes a container until Resume.
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Stats says what a container uses.
	Stats(ctx context.Context, id string) (stats.Usage, error)
	// OOM waits for a container that met its memory limit, and returns its id. An error is the last answer.
	OOM(context.Context) (string, error)
}

// health is whether the pod is of use.
type health interface {
	// Done is closed when the guest has ended.
	Done() <-chan struct{}
	// Sick is closed when the pod is of no use any more, though the guest may run.
	Sick() <-chan struct{}
	// Stopping is closed when Stop begins.
	Stopping() <-chan struct{}
	// Why is why the guest ended or is of no use any more; nil while it is well.
	Why() error
	// GiveUp makes the pod sick, for the first reason given.
	GiveUp(why error)
}

// presence is what of the pod is seen on the host.
type presence interface {
	// PID is the process that is the pod.
	PID() int
	// StandIn is a thread in the pod's network namespace, to stand for a container. The caller ends it.
	StandIn() (*thread.StandIn, error)
}

// whole is what is asked of a pod without a first container.
type whole interface {
	// Ping asks the agent whether it is well.
	Ping(context.Context) error
	// Usage is what the pod's processes use on the host.
	Usage() (stats.Host, error)
}

// process is a process in the guest.
type process interface {
	// Wait waits for the end of it, and returns its exit code, 128 and more for a signal.
	Wait(context.Context) (int, error)
	// Signal sends a signal, with all to every process of the container.
	Signal(ctx context.Context, signal uint32, all bool) error
	// Resize sets the size of its terminal.
	Resize(ctx context.Context, rows, columns uint32) error
	// CloseStdin is the end of file for it. Calling it again is a no-op.
	CloseStdin() error
	// Close hangs up on its streams.
	Close() error
}

// streams are the ends of a process's streams that lead into the guest. Nil ones lead nowhere.
type streams struct {
	stdin          io.WriteCloser
	stdout, stderr io.ReadCloser
}

// running is a guest in a machine.
type running struct{ *pod.Pod }

// startPod starts one.
func startPod(ctx context.Context, o pod.Options) (guest, error) {
	p, err := pod.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	return running{p}, nil
}

// Cold implements life.
func (r running) Cold(ctx context.Context, why error) (guest, error) {
	p, err := r.Pod.Cold(ctx, why)
	if err != nil {
		return nil, err
	}
	return running{p}, nil
}

// Create implements maker.
func (r running) Create(ctx context.Context, c pod.Container) (process, streams, error) {
	return split(r.Pod.Create(ctx, c))
}

// Exec implements maker.
func (r running) Exec(ctx context.Context, id, exec string, spec *specs.Process, want agentlink.Streams) (process,
	streams, error) {
	return split(r.Pod.Exec(ctx, id, exec, spec, want))
}

func split(p *agentlink.Process, err error) (process, streams, error) {
	if err != nil {
		return nil, streams{}, err
	}
	return p, streams{p.Stdin, p.Stdout, p.Stderr}, nil
}
