// Command katabuild builds, boots and verifies guests for lightweight virtual machines.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/refusal"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

// commit is katabuild's own commit, set by -ldflags "-X main.commit=..."; empty where it is not known.
var commit string

// garbage is how much garbage may pile up, in percent of what is in use, before the collector runs: half of Go's
// default, as the tree of an image with a million files takes much memory for long.
const garbage = 50

func main() {
	if os.Getenv("GOGC") == "" { // whoever sets it knows better
		debug.SetGCPercent(garbage)
	}
	jail.Main() // does not return in the process that sets up a jail
	os.Exit(run(os.Args[1:], &app{out: os.Stdout, err: os.Stderr, getenv: os.Getenv}))
}

// Exit codes; `katabuild help` lists them.
const (
	exitError       = 1   // something went wrong; the last line says what
	exitUsage       = 2   // the command line makes no sense
	exitVerdict     = 3   // everything ran, and a guest is not the one that was built, or a release is refused
	exitInterrupted = 130 // ended by Ctrl-C, as shells expect
)

const interrupted = "katabuild: interrupted; what was finished is kept, run it again to go on"

// patience is how long an interrupted command may take to put its things away.
const patience = 1500 * time.Millisecond

// insist ends the process when a command does not end by itself after an interrupt: a read of many gigabytes, or a
// compression, may take longer than anybody waits. Nothing is lost by that, since files appear whole or not at all, and
// the next command sweeps what lies about.
func (a *app) insist(ctx context.Context, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	select {
	case <-ended:
	case <-time.After(patience):
		fmt.Fprintln(a.err, interrupted)
		os.Exit(exitInterrupted)
	}
}

// run does what args ask for and returns the exit code.
func run(args []string, a *app) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	go a.insist(ctx, ended)
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var wrong *usage.Error
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errVerdict):
		return exitVerdict
	case ctx.Err() != nil:
		fmt.Fprintln(a.err, interrupted)
		return exitInterrupted
	case errors.As(err, &wrong):
		fmt.Fprintf(a.err, "katabuild: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(a.err, "katabuild: %v\n", err)
	if _, refused := errors.AsType[*refusal.Error](err); refused {
		return exitVerdict
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(a.err, hint)
	}
	return exitError
}
