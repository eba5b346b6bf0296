package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/metrics"
	"github.com/katabuild/katabuild/agent/network"
	"github.com/katabuild/katabuild/agent/options"
	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/agent/serve"
	"github.com/katabuild/katabuild/agent/storage"
	"github.com/katabuild/katabuild/agent/storage/machine"
	"github.com/katabuild/katabuild/agent/storage/program"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi"
)

// endDelay lets the answer to DestroySandbox get out before the agent ends.
const endDelay = 50 * time.Millisecond

// newSandbox puts together what the API makes containers with. It is nil, with the reason, in a guest that cannot have
// any, because its kernel lacks something.
func newSandbox(ctx context.Context, c Config, o options.Options, rules *policy.Policy, reaper *reap.Reaper,
	log *slog.Logger, end func()) (*serve.Sandbox, error) {
	devices := &uevent.Listener{Root: "/", Timeout: o.HotplugTimeout, Log: log}
	runner, err := container.New(container.Config{Reaper: reaper, Log: log, Guard: c.Fatal.Guard, PipeSize: o.PipeSize})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, runner.Close)
	streams := serve.NewStreams(log)
	port := o.StreamsPort
	if port == 0 {
		port = agentapi.StreamsPort // a host that has not asked does not connect
	}
	l, err := serve.Listen(fmt.Sprintf("vsock://-1:%d", port))
	if err != nil {
		log.Info("standard streams go by calls", "err", err)
		streams = nil
	} else {
		c.Fatal.Go(func() {
			if err := streams.Serve(l); err != nil {
				log.Error(err.Error())
			}
		})
		context.AfterFunc(ctx, func() { _ = l.Close() }) // nobody is served any more
	}
	forwards, err := serve.Listen(fmt.Sprintf("vsock://-1:%d", agentapi.ForwardPort))
	if err != nil {
		log.Info("ports are not forwarded", "err", err)
	} else {
		c.Fatal.Go(func() {
			if err := serve.Forward(ctx, forwards, log); err != nil {
				log.Error(err.Error())
			}
		})
		context.AfterFunc(ctx, func() { _ = forwards.Close() })
	}
	c.Fatal.Go(func() {
		if err := devices.Run(ctx, nil); err != nil && ctx.Err() == nil {
			log.Error("hear of devices: " + err.Error()) // waits look by themselves then
		}
	})
	if err := network.RemoveDummy(); err != nil {
		log.Warn(err.Error())
	}
	programs := program.Runner{Reaper: reaper}
	return &serve.Sandbox{
		Containers: containers{runner},
		Storage:    storage.New(storage.Config{Devices: devices, Programs: programs, Go: c.Fatal.Go, Log: log}),
		Network:    network.New(network.Config{Devices: devices, Programs: programs, Log: log}),
		Machine:    machine.Machine{},
		Metrics:    &metrics.Collector{},
		Policy:     rules,
		Streams:    streams,
		Forwards:   forwards != nil,
		Log:        log,
		End:        func() { time.AfterFunc(endDelay, end) },
	}, nil
}
