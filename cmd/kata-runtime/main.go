// Command kata-runtime shows how the runtime is configured.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/config"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], &app{out: os.Stdout, err: os.Stderr, getenv: os.Getenv}))
}

// Exit codes; `kata-runtime help` lists them.
const (
	exitError = 1 // something is wrong; the last lines say what
	exitUsage = 2 // the command line makes no sense
)

// run does what args ask for and returns the exit code.
func run(args []string, a *app) int {
	root := a.root()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.err, "kata-runtime: %v\n", err)
	if _, ok := errors.AsType[*usage.Error](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*config.NotFoundError](err); ok {
		fmt.Fprintln(a.err, `Make one with "kata-runtime config --template", or name one with --config.`)
	}
	return exitError
}
