// Package serve answers the guest API: it listens where it is told and hands requests to the packages that know.
//
// Bytes from the host are trusted no more than bytes from a network: sizes are bounded by ttrpc (4 MiB a message) and
// by each method.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/internal/lazyregexp"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/mdlayher/vsock"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Guest is what the API tells about the guest.
type Guest interface {
	// Report is the encoded report for a nonce, with what became of probes. It may take tenths of a second, the first
	// time.
	Report(nonce []byte, probes []report.Probe) ([]byte, error)
	// MemoryBlockSize is the granularity of memory hotplug in bytes, 0 where the guest cannot plug memory.
	MemoryBlockSize() (uint64, error)
	// MemoryProbe says whether plugged memory has to be announced through sysfs.
	MemoryProbe() bool
}

// Agent is what the API tells about the agent.
type Agent struct {
	Version string
	PID1    bool
}

// Features are the names by which hosts can tell what this agent has beyond Kata Containers' API.
var features = []string{"katabuild.report.v1"}

// probeName is what a probe may be called: a feature's name, and that of a part of it.
var probeName = lazyregexp.New(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// Server answers requests. Get one from New.
type Server struct{ s *ttrpc.Server }

// Config is what a server serves.
type Config struct {
	Agent Agent
	Guest Guest
	// Probe tries what is named, and answers in order of names.
	Probe func(names []string) []report.Probe
	// Sandbox is nil for an agent that runs no containers: those calls answer UNIMPLEMENTED.
	Sandbox *Sandbox
	// Trace is around every call, by its full name, and ends with the function that it returns; nil is not.
	Trace func(ctx context.Context, method string) (context.Context, func(error))
	// Guard is deferred in every goroutine that runs a request, to turn panics into the end of the guest.
	Guard func()
}

// New makes a server.
func New(c Config) (*Server, error) {
	var check func(method string, req proto.Message) error
	if c.Sandbox != nil {
		check = c.Sandbox.Policy.Check
	}
	s, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(
		func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo,
			method ttrpc.Method) (_ any, err error) {
			defer c.Guard()
			if c.Trace != nil {
				traced, end := c.Trace(ctx, info.FullMethod)
				ctx = traced
				defer func() { end(err) }()
			}
			name, ours := strings.CutPrefix(info.FullMethod, agentService)
			if check == nil || !ours {
				return method(ctx, unmarshal)
			}
			return method(ctx, func(v any) error {
				if err := unmarshal(v); err != nil {
					return err
				}
				return check(name, v.(proto.Message))
			})
		}))
	if err != nil {
		return nil, err
	}
	a := &api{agent: c.Agent, guest: c.Guest, probe: c.Probe}
	katapb.RegisterHealthService(s, a)
	reportpb.RegisterReportService(s, a)
	if c.Sandbox == nil {
		katapb.RegisterAgentServiceService(s, a)
	} else {
		katapb.RegisterAgentServiceService(s, &full{api: a, s: *c.Sandbox, ended: make(chan struct{})})
	}
	return &Server{s}, nil
}

// agentService begins the names of the calls that a policy is about.
const agentService = "/grpc.AgentService/"

// Serve answers on l until Shutdown, and closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.s.Serve(ctx, l); !errors.Is(err, ttrpc.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown lets requests under way be answered, for at most d, and then ends all connections, and Serve.
func (s *Server) Shutdown(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := s.s.Shutdown(ctx); err != nil {
		return s.s.Close()
	}
	return nil
}

// Listen opens an address in Kata Containers' notation: vsock://CID:PORT, where CID -1 is any, unix://PATH, or
// unix://@NAME.
func Listen(address string) (net.Listener, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "vsock":
		cid, port, err := parseVsock(rest)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		l, err := vsock.ListenContextID(cid, port, nil)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		return l, nil
	case "unix":
		l, err := net.Listen("unix", rest)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("listen on %q: want vsock://CID:PORT or unix://PATH", address)
}

func parseVsock(s string) (cid, port uint32, err error) {
	c, p, _ := strings.Cut(s, ":")
	n, err := strconv.ParseInt(c, 10, 64)
	if err != nil || n < -1 || n > 1<<32-1 {
		return 0, 0, fmt.Errorf("CID %q: want -1 or a number of 32 bits", c)
	}
	q, err := strconv.ParseUint(p, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q: want a number of 32 bits", p)
	}
	return uint32(n), uint32(q), nil // -1 becomes VMADDR_CID_ANY, 0xffffffff
}

// Announce tells the host that the agent is ready: it connects to a vsock port of the host, writes line and closes.
// Hosts that do not listen there refuse, which is no error of the agent.
func Announce(ctx context.Context, cid, port uint32, line string) error {
	c, err := vsock.DialContext(ctx, cid, port, nil)
	if err != nil {
		return fmt.Errorf("announce to the host: %w", err)
	}
	_, err = c.Write([]byte(line))
	if err := errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("announce to the host: %w", err)
	}
	return nil
}

// api implements the services.
type api struct {
	unimplemented
	agent Agent
	guest Guest
	probe func([]string) []report.Probe

	probing sync.Mutex // held while something is tried: what probes make has names
}

func (a *api) Check(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
	return &katapb.HealthCheckResponse{Status: katapb.HealthCheckResponse_SERVING}, nil
}

func (a *api) Version(context.Context, *katapb.CheckRequest) (*katapb.VersionCheckResponse, error) {
	return &katapb.VersionCheckResponse{GrpcVersion: agentapi.APIVersion, AgentVersion: a.agent.Version}, nil
}

func (a *api) GetGuestDetails(_ context.Context, r *katapb.GuestDetailsRequest) (*katapb.GuestDetailsResponse, error) {
	resp := &katapb.GuestDetailsResponse{AgentDetails: &katapb.AgentDetails{
		Version:       a.agent.Version,
		InitDaemon:    a.agent.PID1,
		ExtraFeatures: features,
	}}
	if r.MemBlockSize {
		n, err := a.guest.MemoryBlockSize()
		if err != nil {
			return nil, status.Errorf(codes.Internal, "%v", err)
		}
		resp.MemBlockSizeBytes = n
	}
	if r.MemHotplugProbe {
		resp.SupportMemHotplugProbe = a.guest.MemoryProbe()
	}
	return resp, nil
}

// maxProbes is the most that may be asked for at once; there are fewer.
const maxProbes = 256

func (a *api) Get(_ context.Context, r *reportpb.GetRequest) (*reportpb.GetResponse, error) {
	if n := len(r.Nonce); n < report.MinNonce || n > report.MaxNonce {
		return nil, status.Errorf(codes.InvalidArgument, "a nonce of %d bytes, want %d to %d", n, report.MinNonce,
			report.MaxNonce)
	}
	if len(r.Probes) > maxProbes {
		return nil, status.Errorf(codes.InvalidArgument, "%d probes, want at most %d", len(r.Probes), maxProbes)
	}
	for _, name := range r.Probes {
		if !probeName().MatchString(name) {
			return nil, status.Errorf(codes.InvalidArgument, "probe %q: not a name of one", name)
		}
	}
	var probes []report.Probe
	if len(r.Probes) > 0 {
		a.probing.Lock()
		probes = a.probe(r.Probes)
		a.probing.Unlock()
	}
	b, err := a.guest.Report(r.Nonce, probes)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	return &reportpb.GetResponse{Report: b}, nil
}
