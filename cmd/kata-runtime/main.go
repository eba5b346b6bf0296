// Command kata-runtime shows how the runtime is configured, whether this host can run pods, and how those that run are
// doing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/config"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	_, suffix, _ := strings.Cut(filepath.Base(os.Args[0]), "kata-runtime-")
	os.Exit(run(os.Args[1:], &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, suffix: suffix}))
}

// Exit codes; `kata-runtime help` lists them.
const (
	exitError       = 1   // something is wrong; the last lines say what
	exitUsage       = 2   // the command line makes no sense
	exitInterrupted = 130 // ended by Ctrl-C, as shells expect
)

// exitCode is the end of a command in a guest: nothing is wrong with ours.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("the command ended with %d", int(e)) }

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
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintf(a.err, "kata-runtime: %v\n", err)
	if _, ok := errors.AsType[*usage.Error](err); ok {
		return exitUsage
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(a.err, hint)
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return exitError
}

// hintFor is what a person can do about an error, or empty.
func hintFor(err error) string {
	if _, ok := errors.AsType[*config.NotFoundError](err); ok {
		return `Make one with "kata-runtime config --template", or name one with --config.`
	}
	if e, ok := errors.AsType[*refusedError](err); ok && e.console {
		return "The debug console is off. Set debug_console_enabled = true in [agent.kata] of configuration.toml " +
			"and start the pod anew; the guest needs a shell."
	}
	if errors.Is(err, errNoPod) {
		return `"kata-runtime state" lists the pods; --root names another folder of records.`
	}
	return ""
}
