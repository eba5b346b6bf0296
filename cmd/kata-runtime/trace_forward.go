package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/mdlayher/vsock"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/katabuild/katabuild/runtime/trace/picture"
)

// forwardFlags are those of trace-forward, by Kata's names.
type forwardFlags struct {
	dump     bool
	endpoint string
	socket   string
	cid      string
	port     uint32
	level    string
}

// nobody is the user and group that trace-forward becomes: Linux, the overflow ids.
const nobody = 65534

func (a *app) traceForwardCmd() *cobra.Command {
	var f forwardFlags
	c := &cobra.Command{
		Use: "trace-forward", Args: cobra.NoArgs,
		Short: "hand the spans of guests' agents on to a collector",
		Long: `trace-forward listens where guests' agents send their spans (agent.trace), and hands them on to a
collector as they are, by OTLP/HTTP. It is for guests whose runtime does not take them itself: pods with enable_tracing
in [agent.kata] alone, and this agent below Kata Containers' runtimes.

Once it listens it gives up being root. What a guest sends is bounded in size and rate, and must be spans of its agent;
otherwise its connection ends. It ends with SIGTERM.`,
		Example: `  kata-runtime trace-forward --otlp-endpoint http://localhost:4318
  kata-runtime trace-forward --dump-only --socket-path /run/katabuild/POD/vsock`,
		RunE: func(c *cobra.Command, _ []string) error { return a.traceForward(c.Context(), f) },
	}
	fl := c.Flags()
	fl.BoolVar(&f.dump, "dump-only", false, "print spans in OpenTelemetry's JSON form, and hand nothing on")
	fl.StringVar(&f.endpoint, "otlp-endpoint", "http://localhost:4318", "the collector's `address`")
	fl.StringVar(&f.socket, "socket-path", "", "listen for one guest, by its hypervisor's vsock `socket`")
	fl.StringVar(&f.cid, "vsock-cid", "any", "listen as this vsock `address` of the host, a number or any")
	fl.Uint32Var(&f.port, "vsock-port", agentapi.TracePort, "listen on this vsock `port`")
	fl.StringVarP(&f.level, "log-level", "l", "info", "least `level` that is logged: debug, info, warn or error")
	usage.Rules(c, usage.Rule{Flag: "dump-only", Excludes: []string{"otlp-endpoint"}},
		usage.Rule{Flag: "socket-path", Excludes: []string{"vsock-cid"}})
	return c
}

// listen listens for guests.
func (f *forwardFlags) listen() (net.Listener, error) {
	if f.socket != "" { // as hypervisors with hybrid vsock have it, docs/formats/vsock.md
		return net.Listen("unix", fmt.Sprintf("%s_%d", f.socket, f.port))
	}
	cid := uint32(math.MaxUint32) // VMADDR_CID_ANY
	if f.cid != "any" {
		n, err := strconv.ParseUint(f.cid, 10, 32)
		if err != nil {
			return nil, &usage.Error{Err: fmt.Errorf("--vsock-cid %q: want a number or any", f.cid)}
		}
		cid = uint32(n)
	}
	return vsock.ListenContextID(cid, f.port, nil)
}

func (a *app) traceForward(ctx context.Context, f forwardFlags) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return &usage.Error{Err: fmt.Errorf("--log-level %q: want debug, info, warn or error", f.level)}
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	sender, err := trace.NewSender(f.endpoint)
	if err != nil {
		return &usage.Error{Err: err}
	}
	defer sender.Close()
	l, err := f.listen()
	if err != nil {
		return fmt.Errorf("listen for the spans of guests: %w", err)
	}
	defer l.Close()
	if err := dropPrivileges(); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	log.Info("spans are awaited", "at", l.Addr().String(), "uid", os.Getuid())
	take := func(data []byte) error {
		if err := sender.Send(ctx, data); err != nil {
			log.Warn("spans are lost, as they cannot be handed on", "err", err)
		}
		return nil
	}
	if f.dump {
		var out sync.Mutex
		take = func(data []byte) error {
			batches, err := trace.CheckFrame(data)
			if err != nil {
				return err
			}
			b, err := picture.JSON(batches)
			if err != nil {
				return err
			}
			out.Lock()
			defer out.Unlock()
			_, err = a.out.Write(b)
			return err
		}
	}
	return trace.Frames(ctx, l, log, take)
}

// dropPrivileges makes the process that of nobody, where it is root's, for good.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(syscall.Setgroups([]int{}), syscall.Setgid(nobody), syscall.Setuid(nobody))
}
