package agenttest

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// Client asks an agent what no host of ours asks in this form, beside the report. Its methods may be called from
// several goroutines at once.
type Client struct {
	*agentapi.Client
	c *ttrpc.Client
}

// NewClient takes over conn, a stream to the agent.
func NewClient(conn net.Conn) *Client {
	c := ttrpc.NewClient(conn)
	return &Client{agentapi.NewClient(c), c}
}

// Version is the name and the versions of the agent that answers.
type Version struct {
	API   string // agentapi.APIVersion for agents that speak its API
	Agent string
}

// Check returns nil when the agent says that it serves.
func (c *Client) Check(ctx context.Context) error {
	r, err := katapb.NewHealthClient(c.c).Check(ctx, &katapb.CheckRequest{})
	if err != nil {
		return fmt.Errorf("health check of the agent: %w", err)
	}
	if s := r.GetStatus(); s != katapb.HealthCheckResponse_SERVING {
		return fmt.Errorf("health check of the agent: it answers %d, want %d", s, katapb.HealthCheckResponse_SERVING)
	}
	return nil
}

// Version asks for the versions of the API and of the agent.
func (c *Client) Version(ctx context.Context) (Version, error) {
	r, err := katapb.NewHealthClient(c.c).Version(ctx, &katapb.CheckRequest{})
	if err != nil {
		return Version{}, fmt.Errorf("version of the agent: %w", err)
	}
	return Version{API: r.GetGrpcVersion(), Agent: r.GetAgentVersion()}, nil
}

// Details is what a host needs to know before it makes a sandbox.
type Details struct {
	MemoryBlockSize int64 // bytes, the granularity of memory hotplug; 0 where the guest cannot plug memory
	MemoryProbe     bool  // memory is announced through /sys/devices/system/memory/probe
	AgentVersion    string
	InitDaemon      bool // the agent is PID 1
	Seccomp         bool
	DeviceHandlers  []string
	StorageHandlers []string
	ExtraFeatures   []string
}

// GuestDetails asks for everything in Details.
func (c *Client) GuestDetails(ctx context.Context) (Details, error) {
	r, err := katapb.NewAgentServiceClient(c.c).GetGuestDetails(ctx, &katapb.GuestDetailsRequest{MemBlockSize: true,
		MemHotplugProbe: true})
	if err != nil {
		return Details{}, fmt.Errorf("guest details: %w", err)
	}
	size := int64(r.GetMemBlockSizeBytes())
	if size < 0 {
		return Details{}, fmt.Errorf("guest details: a memory block size of %d bytes", r.GetMemBlockSizeBytes())
	}
	d := r.GetAgentDetails()
	return Details{
		MemoryBlockSize: size,
		MemoryProbe:     r.GetSupportMemHotplugProbe(),
		AgentVersion:    d.GetVersion(),
		InitDaemon:      d.GetInitDaemon(),
		Seccomp:         d.GetSupportsSeccomp(),
		DeviceHandlers:  d.GetDeviceHandlers(),
		StorageHandlers: d.GetStorageHandlers(),
		ExtraFeatures:   d.GetExtraFeatures(),
	}, nil
}
