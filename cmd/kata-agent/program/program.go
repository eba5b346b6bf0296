// Package program is the life of the agent's process: what kata-agent does, whichever policies it can read.
package program

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"github.com/katabuild/katabuild/agent"
	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/fatal"
	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/agent/timeline"
	"github.com/katabuild/katabuild/agent/wake"
	"github.com/katabuild/katabuild/internal/agentapi"
	"golang.org/x/sys/unix"
)

// Main is the whole program. Without a version it is that of the module; rego reads policies in Rego, and nil refuses
// them.
func Main(version string, rego func(text string, log *slog.Logger) (policy.Engine, error)) {
	if container.IsStage(os.Args) {
		container.Stage()
	}
	boot := timeline.New()
	at, before, woken := wake.Woken(os.Args)
	if woken {
		boot = timeline.Resumed(at)
	}
	pid1 := os.Getpid() == 1
	if !pid1 && len(os.Args) > 1 {
		if a := os.Args[1]; len(os.Args) > 2 || a != "--version" && a != "-v" {
			fmt.Fprintln(os.Stderr, "usage: kata-agent [--version]")
			os.Exit(2)
		}
		fmt.Printf("kata-agent %s (katabuild, %s, %s)\n", versionOf(version), runtime.Version(), runtime.GOARCH)
		return
	}

	// Standard error of PID 1 is /dev/console, which the kernel opened for it.
	say := func(message string) { fatal.Console(os.Stderr, message) }
	f := &fatal.Handler{Say: say, End: func() { end(pid1, 1) }}
	defer f.Guard()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err := agent.Run(ctx, agent.Config{
		Version:    versionOf(version),
		PID1:       pid1,
		Woken:      woken,
		Before:     before,
		ServerAddr: os.Getenv("KATA_AGENT_SERVER_ADDR"),
		LogLevel:   os.Getenv("KATA_AGENT_LOG_LEVEL"),
		Console:    os.Stderr,
		Fatal:      f,
		Timeline:   boot,
		Rego:       rego,
	})
	if err != nil {
		f.Die(err)
	}
	end(pid1, 0)
}

// end is the end of the guest, or else of the process.
func end(pid1 bool, code int) {
	if pid1 {
		if err := fatal.PowerOff(); err != nil {
			fmt.Fprintf(os.Stderr, agentapi.LinePrefix+"power off: %v\n", err)
		}
	}
	os.Exit(code)
}

func versionOf(version string) string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
