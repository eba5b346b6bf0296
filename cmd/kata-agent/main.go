// Command kata-agent is the agent inside the guest: PID 1 of a small one, a service of a large one.
//
// It starts containers by running itself once more; nobody else does. As PID 1 it takes no arguments: the kernel passes it every word of its
// command line that it does not know itself. Options are read from /proc/cmdline, and for tests from KATA_AGENT_SERVER_ADDR and
// KATA_AGENT_LOG_LEVEL.
//
// The guest's processors may be few and its idle time is worth money: Go shall not look for cgroup limits at start, nor every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"github.com/katabuild/katabuild/agent"
	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/fatal"
	"github.com/katabuild/katabuild/agent/timeline"
	"golang.org/x/sys/unix"
)

// version is set by -ldflags "-X main.version=..."; else it is that of the module.
var version = ""

func main() {
	if container.IsStage(os.Args) {
		container.Stage()
	}
	boot := timeline.New()
	pid1 := os.Getpid() == 1
	if !pid1 && len(os.Args) > 1 {
		if a := os.Args[1]; len(os.Args) > 2 || a != "--version" && a != "-v" {
			fmt.Fprintln(os.Stderr, "usage: kata-agent [--version]")
			os.Exit(2)
		}
		fmt.Printf("kata-agent %s (katabuild, %s, %s)\n", agentVersion(), runtime.Version(), runtime.GOARCH)
		return
	}

	// Standard error of PID 1 is /dev/console, which the kernel opened for it.
	say := func(message string) { fatal.Console(os.Stderr, message) }
	f := &fatal.Handler{Say: say, End: func() { end(pid1, 1) }}
	defer f.Guard()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	err := agent.Run(ctx, agent.Config{
		Version:    agentVersion(),
		PID1:       pid1,
		ServerAddr: os.Getenv("KATA_AGENT_SERVER_ADDR"),
		LogLevel:   os.Getenv("KATA_AGENT_LOG_LEVEL"),
		Console:    os.Stderr,
		Fatal:      f,
		Timeline:   boot,
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
			fmt.Fprintf(os.Stderr, "katabuild-agent: power off: %v\n", err)
		}
	}
	os.Exit(code)
}

func agentVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
