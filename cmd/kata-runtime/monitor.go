package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/monitor"
	"github.com/katabuild/katabuild/runtime/record"
)

// Kata's defaults.
const (
	monitorAddress  = "127.0.0.1:8090"
	monitorEndpoint = "/run/containerd/containerd.sock"
)

// rustSandboxes is where Kata's runtime in Rust has its pods' sockets.
const rustSandboxes = "/run/kata"

// Times that bound a request of the monitor, which asks pods for some seconds at most.
const (
	monitorHead   = 5 * time.Second
	monitorAnswer = time.Minute
)

// logLevels are the words of Kata's monitor, each with what it is here.
var logLevels = map[string]slog.Level{
	"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn,
	"warning": slog.LevelWarn, "error": slog.LevelError, "fatal": slog.LevelError, "panic": slog.LevelError,
}

func (a *app) monitorCmd() *cobra.Command {
	var address, endpoint, level string
	c := &cobra.Command{
		Use: "monitor", Args: cobra.NoArgs, Short: "tell Prometheus of all pods of this host",
		Long: `monitor serves HTTP until it is told to end: /metrics has the numbers of all pods in Prometheus' text
format, each with its pod's id and Kubernetes' names for it, and those of the monitor itself; / lists what else
there is.

It asks each pod when it is asked itself, a pod at most 3 s, and keeps nothing. Pods of Kata Containers' own runtimes
are told of, too. Whoever reaches the address reads all numbers: there are no logins.`,
		Example: `  kata-runtime monitor
  kata-runtime monitor --listen-address 127.0.0.1:9000 --runtime-endpoint /run/crio/crio.sock`,
	}
	f := c.Flags()
	f.StringVar(&address, "listen-address", monitorAddress, "`address` and port to serve on")
	f.StringVar(&endpoint, "runtime-endpoint", monitorEndpoint,
		"`socket` of the container engine that knows the pods' names; empty asks nobody")
	f.StringVar(&level, "log-level", "info", "what is logged: trace, debug, info, warn, error, fatal or panic")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, known := logLevels[strings.ToLower(level)]
		if !known {
			return &usage.Error{Err: fmt.Errorf("--log-level %q: want trace, debug, info, warn, error, fatal or panic",
				level)}
		}
		log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: l}))
		o := monitor.Options{Folders: a.monitored(), Log: log}
		if endpoint != "" {
			o.Names = monitor.CRI(endpoint)
		}
		return serveMonitor(c.Context(), address, monitor.New(o).Handler(), log)
	}
	return c
}

// monitored are the folders of pods' sockets.
func (a *app) monitored() []string {
	out := []string{a.dirs.WithDefaults().Monitor}
	if a.dirs.WithDefaults().State == record.DefaultState {
		out = append(out, rustSandboxes)
	}
	return slices.Compact(out)
}

func serveMonitor(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	log.Info("serves", "address", "http://"+l.Addr().String())
	s := &http.Server{Handler: h, ReadHeaderTimeout: monitorHead, ReadTimeout: monitorHead,
		WriteTimeout: monitorAnswer, IdleTimeout: monitorAnswer, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), monitorHead)
		defer cancel()
		if err = s.Shutdown(stop); err != nil {
			err = s.Close()
		}
		err = errors.Join(err, <-ended)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
