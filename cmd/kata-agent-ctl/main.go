// Command kata-agent-ctl asks an agent for any call of the guest API: by hand, by scripts, or all of them in a row, to
// see whether the agent keeps the API.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/agentctl/inside"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// Exit codes; `kata-agent-ctl help` lists them.
const (
	exitError       = 1   // something is wrong; the last line says what
	exitUsage       = 2   // the command line makes no sense
	exitInterrupted = 130 // ended by Ctrl-C, as shells expect
)

// run does what args ask for and returns the exit code.
func run(args []string, a *app) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code, is := errors.AsType[inside.ExitCode](err); is {
		return int(code)
	}
	fmt.Fprintf(a.err, "kata-agent-ctl: %v\n", err)
	if _, ok := errors.AsType[*usage.Error](err); ok {
		return exitUsage
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return exitError
}
