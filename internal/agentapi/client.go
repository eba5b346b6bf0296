// Package agentapi is the guest API as a host sees it: a small client over one connection to the agent, and the numbers
// of its ports.
//
// The messages are in katapb (Kata Containers' own, wire-compatible) and reportpb (ours). docs/formats/agent-api.md
// owns the bytes.
package agentapi

//go:generate make -C ../.. generate

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/containerd/ttrpc"

	"github.com/katabuild/katabuild/internal/agentapi/reportpb"
	"github.com/katabuild/katabuild/internal/report"
)

// Ports on vsock. The agent listens on Port; it connects once to ReadyPort of HostCID as soon as it listens, writes
// ReadyLine and closes. A host that does not care refuses the connection.
const (
	Port     = 1024
	PortText = "1024" // Port, as addresses have it
	// LogPort and DebugConsolePort are where an agent has its log and a shell for each connection, if asked for, as
	// Kata Containers' agent has them. They are taken by the agent in any case.
	LogPort          = 1025
	DebugConsolePort = 1026
	// StreamsPort is where an agent with StreamsFeature takes connections for standard streams; a process's are named
	// by the ports of the host's ends. Kata Containers' agent has the same, if asked for.
	StreamsPort = 1027
	// ForwardPort is where an agent with ForwardFeature connects to TCP ports of its own loopback interface: the host
	// writes the port in decimal and a line feed, the agent answers ForwardOK, and the stream follows; or it closes.
	ForwardPort = 1032
	ForwardOK   = "ok\n"
	ReadyPort   = 1031
	// TracePort is the host's port to which an agent sends its spans, where it is told to, as Kata Containers' agent
	// has it.
	TracePort = 10240
	// WakePort is where an agent that waits to be woken is, and nothing else: docs/formats/wake.md.
	WakePort  = 1033
	HostCID   = 2 // VMADDR_CID_HOST, <linux/vm_sockets.h>
	ReadyLine = "ready\n"
)

// InitLine begins an agent's first line on the console: it is PID 1, and user space has begun.
const InitLine = LinePrefix + "init"

// WaitWord is the word of the kernel command line that has an agent which is PID 1 prepare the guest and then wait to
// be woken; WaitLine is its line on the console when it does. Such a guest can be saved, and restored as often as one
// likes.
const (
	WaitWord = "agent.wait_to_wake"
	WaitLine = LinePrefix + "waits to be woken"
)

// LinePrefix begins all lines of the agent's on the console.
const LinePrefix = "katabuild-agent: "

// StreamsFeature is among an agent's extra features when it listens on StreamsPort.
const StreamsFeature = "katabuild.streams.v1"

// ForwardFeature is among an agent's extra features when it listens on ForwardPort.
const ForwardFeature = "katabuild.forward.v1"

// AllProcesses is the exec_id of SignalProcess for all processes of a container, with agents that have
// SignalAllFeature. It is no id of a process.
const AllProcesses = "*"

// SignalAllFeature is among an agent's extra features when it knows AllProcesses, and a signal to a process named by
// its container's id is sent as it is.
const SignalAllFeature = "katabuild.signal-all.v1"

// PIDOf is the annotation of a container that names another one of its pod, whose processes it shares. Agents have it
// that have PIDOfFeature among their extra features.
const (
	PIDOf        = "io.katabuild.pid-of"
	PIDOfFeature = "katabuild.pid-of.v1"
)

// GuestDevice is the option of a bind whose source is a device of the guest by its name there, /dev/NAME. Where the
// guest has none of that name, the mount is left out. Agents know it that have GuestDevicesFeature among their extra
// features; they also give all devices of the guest to a container whose rules allow it to use every device.
const (
	GuestDevice         = "x-katabuild.guest-device"
	GuestDevicesFeature = "katabuild.guest-devices.v1"
)

// ForeignLocks is the option of a bind of a shared folder or file whose locks are another pod's: flock(2) and fcntl(2)
// are to refuse them with ENOLCK. Agents know it that have ForeignLocksFeature among their extra features.
const (
	ForeignLocks        = "x-katabuild.foreign-locks"
	ForeignLocksFeature = "katabuild.foreign-locks.v1"
)

// APIVersion is what Health.Version answers as grpc_version: the version of every Kata Containers release so far.
const APIVersion = "0.0.1"

// Client talks to one agent. Its methods may be called from several goroutines at once.
type Client struct{ c *ttrpc.Client }

// NewClient takes over c, whose connection is a stream to the agent (behind a hybrid vsock socket, after its CONNECT
// line was answered).
func NewClient(c *ttrpc.Client) *Client { return &Client{c} }

// Close ends the connection. Calls under way fail.
func (c *Client) Close() error { return c.c.Close() }

// Report asks for the report bound to nonce, with answers to probes, if any. It reads what comes back strictly and
// refuses a report made for another nonce. The bytes are returned too, as the guest wrote them.
func (c *Client) Report(ctx context.Context, nonce []byte, probes []string) (*report.Report, []byte, error) {
	if len(nonce) < report.MinNonce || len(nonce) > report.MaxNonce {
		return nil, nil, fmt.Errorf("report: a nonce of %d bytes, want %d to %d", len(nonce), report.MinNonce,
			report.MaxNonce)
	}
	r, err := reportpb.NewReportClient(c.c).Get(ctx, &reportpb.GetRequest{Nonce: nonce, Probes: probes})
	if err != nil {
		return nil, nil, fmt.Errorf("report: %w", err)
	}
	rep, err := report.Decode(r.GetReport())
	if err != nil {
		return nil, nil, err
	}
	if want := hex.EncodeToString(nonce); rep.Nonce != want {
		return nil, nil, fmt.Errorf("report: made for nonce %s, asked with %s", rep.Nonce, want)
	}
	return rep, r.GetReport(), nil
}
