// Package agent is what runs inside the guest: as PID 1 it prepares the system, then it answers the guest API until it
// is told to end.
//
// In come the kernel command line and requests over vsock; out go answers, one-line messages on the console, and the
// report of what this guest is. The packages below it are early (an init's first deeds), extension (more read-only
// disks, on devmapper), reap (the end of children), osthread (threads whose namespaces change), serve (the API),
// container, storage and network (what the API asks for), uevent, policy, metrics, measure (the report), options (the
// command line), timeline, trace (spans for the host) and fatal. It knows nothing of how guests are built.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/early"
	"github.com/katabuild/katabuild/agent/extension"
	"github.com/katabuild/katabuild/agent/fatal"
	"github.com/katabuild/katabuild/agent/measure"
	"github.com/katabuild/katabuild/agent/modules"
	"github.com/katabuild/katabuild/agent/options"
	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/agent/probe"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/agent/serve"
	"github.com/katabuild/katabuild/agent/slack"
	"github.com/katabuild/katabuild/agent/storage/machine"
	"github.com/katabuild/katabuild/agent/timeline"
	"github.com/katabuild/katabuild/agent/trace"
	"github.com/katabuild/katabuild/agent/wake"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/report"
)

// firstLine is the first line on the console: user space has begun.
const firstLine = agentapi.InitLine

// Telling the host that the agent is ready, which may ignore it. docs/formats/agent-api.md.
const (
	// for one attempt: that of Linux itself, net/vmw_vsock/af_vsock.c, VSOCK_DEFAULT_CONNECT_TIMEOUT
	readyAttempt = 2 * time.Second
	readyPause   = 100 * time.Millisecond // between two; it doubles
	readyTime    = time.Minute            // for all, by the guest's clock: a busy host may not run for seconds
)

// lastAnswer is how long the answer to the request that ends the agent may take to get out.
const lastAnswer = 500 * time.Millisecond

// Config is what main knows. Console, Fatal and Timeline are needed.
type Config struct {
	Version    string
	PID1       bool   // prepare the system first
	Woken      bool   // that was done before the guest was saved, from which it was restored
	Before     string // what was found then for the report: see measure.Guest
	ServerAddr string // listen here, whatever the kernel command line says
	LogLevel   string // as agent.log, likewise
	Console    io.Writer
	Fatal      *fatal.Handler
	Timeline   *timeline.Timeline
	// Rego reads policies in Rego; nil refuses them.
	Rego func(text string, log *slog.Logger) (policy.Engine, error)
}

// Run is the life of the agent. It returns nil when ctx ends.
func Run(ctx context.Context, c Config) error {
	var level slog.LevelVar
	level.Set(slog.LevelError)
	log := newLogger(c.Console, &level)

	if c.PID1 {
		fmt.Fprintln(c.Console, firstLine)
	}
	line, err := prepare(c, log)
	if err != nil {
		return err
	}
	slack.Loosen()
	opts, line := readOptions(c, line, &level, log)
	testPanic(opts.TestPanic, c.Fatal)
	console := log
	var stream *logStream
	if opts.LogPort != 0 {
		stream = newLogStream(c.Version, &level)
		log = stream.tee(console)
	}

	// Before anything is served, so that nobody meets a guest with half of what it was given. Any error here ends the
	// guest.
	attach := extension.Mount
	if c.Woken {
		attach = extension.Mounted
	}
	extensions, err := attach("/", options.Words(line))
	if err != nil {
		return err
	}
	if len(extensions) > 0 && !c.Woken {
		c.Timeline.Mark(timeline.Extensions)
	}
	if opts.WaitToWake && c.PID1 && !c.Woken {
		return waitToWake(c)
	}

	l, err := serve.Listen(opts.ServerAddr)
	if err != nil {
		return err
	}
	ports := takePorts(opts, console)
	defer ports.close()
	c.Timeline.Mark(timeline.Listen)
	guest := &measure.Guest{Version: c.Version, PID1: c.PID1, Timeline: c.Timeline, Root: "/", Extensions: extensions,
		Before: c.Before}
	reaper, err := reap.New()
	if err != nil {
		return err
	}
	rules, err := newPolicy(c, policyFile, log)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	sandbox, err := newSandbox(ctx, c, opts, rules, reaper, log, end)
	if err != nil {
		// The guest still says what it is, and why it runs no containers.
		log.Error("no containers: " + err.Error())
	}
	server, err := serve.New(serve.Config{Agent: serve.Agent{Version: c.Version, PID1: c.PID1}, Guest: guest,
		Trace:   traced(ctx, c, opts, log),
		Probe:   func(names []string) []report.Probe { return probe.Run(c.Fatal.Guard, names) },
		Sandbox: sandbox, Guard: c.Fatal.Guard})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	c.Fatal.Go(func() { ended <- server.Serve(ctx, l) })
	c.Timeline.Mark(timeline.Ready) // from here on the kernel queues connections for us
	if ports.log != nil {
		c.Fatal.Go(func() { serveOn(ctx, "log on vsock", ports.log, console, stream.serve) })
	}
	openConsole(ctx, c, opts, ports.console, reaper, log)
	if opts.ServerAddr == options.DefaultServerAddr {
		c.Fatal.Go(func() {
			if err := announce(ctx, tellReady); err != nil {
				log.Debug(err.Error())
			}
		})
	}
	c.Fatal.Go(func() { reaper.Run(ctx) })
	for _, m := range c.Timeline.Moments() {
		log.Debug("timeline", m.Name, m.At)
	}
	select {
	case <-ctx.Done():
		log.Info("told to end")
		return server.Shutdown(lastAnswer)
	case err := <-ended:
		return err
	}
}

// readOptions reads the kernel command line with what main adds to it, and tells what is odd about it. The line is
// returned with the additions.
func readOptions(c Config, line string, level *slog.LevelVar, log *slog.Logger) (options.Options, string) {
	if c.LogLevel != "" {
		line += " agent.log=" + c.LogLevel
	}
	if c.ServerAddr != "" {
		line += " agent.server_addr=" + c.ServerAddr
	}
	opts := options.Parse(line)
	level.Set(opts.Log)
	for _, s := range opts.Complaints {
		log.Error(s)
	}
	for _, s := range opts.Later {
		log.Info("kernel command line: this agent does nothing about it yet", "option", s)
	}
	if opts.CgroupV1 {
		log.Error("kernel command line: cgroups of version 1 were asked for; this agent only mounts version 2")
	}
	return opts, line
}

// traced is what makes spans of calls for the host, where that was asked for, and else nil.
func traced(ctx context.Context, c Config, opts options.Options, log *slog.Logger) func(context.Context,
	string) (context.Context, func(error)) {
	if !opts.Trace {
		return nil
	}
	if !trace.Built {
		log.Error("kernel command line: agent.trace: this agent was built without it")
		return nil
	}
	t := trace.New(trace.Options{Log: log, Dial: func(ctx context.Context) (net.Conn, error) {
		return vsock.DialContext(ctx, agentapi.HostCID, agentapi.TracePort, nil)
	}})
	c.Fatal.Go(func() { t.Run(ctx) })
	return t.Call
}

// openConsole serves the debug console, if one was asked for: on its port, where l is not nil, or on the guest's
// console.
func openConsole(ctx context.Context, c Config, opts options.Options, l net.Listener, reaper *reap.Reaper,
	log *slog.Logger) {
	switch {
	case l != nil:
		c.Fatal.Go(func() {
			serveOn(ctx, "debug console", l, log, func(ctx context.Context, l net.Listener) error {
				return serveShells(ctx, l, reaper, log)
			})
		})
	case opts.DebugConsole && opts.DebugConsolePort == 0:
		c.Fatal.Go(func() { debugConsole(ctx, reaper, log) })
	}
}

// prepare does an init's work if the agent is one, and returns the kernel command line.
func prepare(c Config, log *slog.Logger) (string, error) {
	complain := func(err error) { log.Error(err.Error()) }
	if c.PID1 && !c.Woken {
		// The command line says what to do with kernel.panic, and proc is mounted by the first step.
		table := early.Table()
		if err := early.Run(table, complain); err != nil {
			return "", err
		}
		c.Timeline.Mark(timeline.Mounts)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("kernel command line: %w", err)
	}
	if !c.PID1 || c.Woken {
		return string(line), nil
	}
	if !options.Parse(string(line)).Panic {
		if err := early.RestartOnPanic(); err != nil {
			complain(err)
		}
	}
	for _, deed := range []func() error{early.PanicOnOops, early.AllowManyFiles, early.Process,
		func() error { return early.Hostname("/etc/hostname") }, early.LoopbackUp,
		func() error { return modules.LoadConfigured("/") }} {
		if err := deed(); err != nil {
			complain(err)
		}
	}
	c.Timeline.Mark(timeline.Network)
	return string(line), nil
}

// waitToWake waits for the host that restores this guest from what it saved of it, and puts the agent that serves in
// the place of this one. It returns only with an error.
func waitToWake(c Config) error {
	l, err := serve.Listen(fmt.Sprintf("vsock://-1:%d", agentapi.WakePort))
	if err != nil {
		return err
	}
	// While the guest is saved nobody waits for it.
	before, err := (&measure.Guest{Root: "/"}).Ahead()
	if err != nil {
		return err
	}
	g := wake.Guest{Machine: machine.Machine{}, Now: timeline.SinceStart, Before: before,
		Environment: []string{"HOME=/", "TERM=linux", "PATH=" + early.Path}} // as the kernel and early.Process have it
	return g.Wait(l, func() { fmt.Fprintln(c.Console, agentapi.WaitLine) })
}

func tellReady(ctx context.Context) error {
	return serve.Announce(ctx, agentapi.HostCID, agentapi.ReadyPort, agentapi.ReadyLine)
}

// announce has tell tell the host that the agent is ready, until it is told, refuses, or time is over. Nobody waits for
// it.
func announce(ctx context.Context, tell func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for pause := readyPause; ; pause *= 2 {
		attempt, end := context.WithTimeout(ctx, readyAttempt)
		err := tell(attempt)
		end()
		// A host that does not listen there answers at once.
		if err == nil || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}
