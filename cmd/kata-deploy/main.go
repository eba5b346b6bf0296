// Command kata-deploy puts the runtime on a node of Kubernetes, keeps it as it is asked to be, and takes it off again.
// It is the only program of the image that katabuild node-image makes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/katabuild/katabuild/internal/usage"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], &app{out: os.Stdout, err: os.Stderr, getenv: os.Getenv}))
}

// Exit codes; `kata-deploy help` lists them.
const (
	exitError = 1 // something is wrong; the last line says what
	exitUsage = 2 // the command line makes no sense
)

// run does what args ask for and returns the exit code. A signal ends a command in good order: what is installed stays.
func run(args []string, a *app) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.err, "kata-deploy: %v\n", err)
	if _, ok := errors.AsType[*usage.Error](err); ok {
		return exitUsage
	}
	return exitError
}
