package serve

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// What the API calls of others is declared here, in pieces that each are about one thing. Errors of container and
// storage keep their kinds, by which the API finds its codes.

// Containers runs containers.
type Containers interface {
	// Create makes a container whose first process waits for Start. The streams are the container's from here on, also
	// when it fails, after which nothing of the container is left.
	Create(ctx context.Context, id string, spec *specs.Spec, stdio container.Stdio) (Container, error)
	// Container is the one of an id, or container.ErrNotFound.
	Container(id string) (Container, error)
	// Containers are all there are.
	Containers() []Container
	// OOM has the ids of containers that met their memory limits.
	OOM() <-chan string
}

// Container is one from Create to Remove.
type Container interface {
	life
	limits
	processes
}

// life is a container's.
type life interface {
	ID() string
	Spec() *specs.Spec // as it was made; nobody changes it
	Start(context.Context) error
	Remove(context.Context) error // with all its processes
}

// limits are what a container may use, and does.
type limits interface {
	Update(*specs.LinuxResources) error
	Stats() (container.Stats, error)
	Pause(context.Context) error
	Resume(context.Context) error
}

// processes are a container's.
type processes interface {
	// Process is the one of an id; the first has the container's, or none.
	Process(exec string) (Process, error)
	// Exec adds one. The streams are as in Containers.Create.
	Exec(ctx context.Context, exec string, p *specs.Process, stdio container.Stdio) (Process, error)
	SignalAll(context.Context, unix.Signal) error
}

// Process is one process of a container.
type Process interface {
	running
	piped
	// Drained is closed when all output has been taken.
	Drained() <-chan struct{}
	// Forget gives its id free.
	Forget()
}

// running is a process as the kernel has it.
type running interface {
	PID() int
	// Wait returns the exit code. Any number may wait.
	Wait(context.Context) (int, error)
	Signal(unix.Signal) error
	// SignalOrKill is Signal, and SIGKILL where SIGTERM would be without effect.
	SignalOrKill(unix.Signal) error
	Resize(rows, columns uint16) error
}

// piped is the streams of a process that has no connections for them.
type piped interface {
	WriteStdin(context.Context, []byte) (int, error)
	CloseStdin() error
	ReadStdout(ctx context.Context, most int) ([]byte, error)
	ReadStderr(ctx context.Context, most int) ([]byte, error)
}

// Storage mounts what containers and the sandbox need, and copies files for them.
type Storage interface {
	mounts
	files
	swaps
	kinds
}

// mounts belong to owners: a container by its id, or the sandbox.
type mounts interface {
	// Devices waits for devices and puts their numbers into a specification.
	Devices(context.Context, []*katapb.Device, *specs.Spec) error
	// GuestAddresses is an environment with the guest's addresses of PCI devices instead of the host's.
	GuestAddresses(env []string) []string
	// Add makes all of the mounts, or none.
	Add(ctx context.Context, owner string, storages []*katapb.Storage) error
	// Release takes the mounts of an owner away. One that has none is no error.
	Release(owner string) error
	// Close takes all away.
	Close() error
}

// files are those that a host copies into the guest, and volumes.
type files interface {
	CopyFile(*katapb.CopyFileRequest) error
	VolumeStats(path string) (*katapb.VolumeStatsResponse, error)
	// ResizeVolume makes a file system as large as its disk, which has size bytes.
	ResizeVolume(ctx context.Context, path string, size uint64) error
	UpdateEphemeral([]*katapb.Storage) error
	StaleMounts() error
}

// swaps are the guest's.
type swaps interface {
	AddSwap(ctx context.Context, slots []uint32) error
	AddSwapPath(path string) error
}

// kinds are what storages and devices there can be.
type kinds interface {
	Handlers() []string
	DeviceHandlers() []string
}

// Network sets up the guest's interfaces.
type Network interface {
	links
	DNS(lines []string) error
	IPTables(ctx context.Context, v6 bool) ([]byte, error)
	SetIPTables(ctx context.Context, v6 bool, rules []byte) ([]byte, error)
}

// links are interfaces, routes and neighbours.
type links interface {
	UpdateInterface(context.Context, *katapb.Interface) (*katapb.Interface, error)
	UpdateRoutes(context.Context, []*katapb.Route) ([]*katapb.Route, error)
	ListInterfaces() ([]*katapb.Interface, error)
	ListRoutes() ([]*katapb.Route, error)
	AddARPNeighbors([]*katapb.ARPNeighbor) error
}

// Metrics are the numbers of the guest in Prometheus' text format.
type Metrics interface {
	// Collect returns the text, which is good beside an error: that says which numbers are missing.
	Collect() (string, error)
}
