// Command runk runs containers on hosts, by the command line that runc has: for containerd, and for people.
//
// Most of its processes live for milliseconds, and one of them is run again as what becomes a container's program.
//
// Its idle time is a container's: Go shall not look for cgroup limits at start, nor every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/katabuild/katabuild/agent/oci"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	if oci.IsStage(os.Args) {
		oci.Stage()
	}
	// What lives for milliseconds needs no garbage collection; what waits for a container's end has this bound.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memory)
	os.Exit(run(os.Args[1:], &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// memory is how much the heap grows before garbage is collected.
const memory = 16 << 20

// exitError is the exit code when something is wrong, as runc has it; the last line says what.
const exitError = 1

// exitCode is the error of a command that ends as the container's process did, or as runc would.
type exitCode struct {
	code  int
	cause error // nil for nothing to say
}

func (e *exitCode) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.cause) }
func (e *exitCode) Unwrap() error { return e.cause }

// run does what args ask for and returns the exit code.
func run(args []string, a *app) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	code := exitError
	if e, is := errors.AsType[*exitCode](err); is {
		if code, err = e.code, e.cause; err == nil {
			return code
		}
	}
	fmt.Fprintf(a.err, "runk: %v\n", err)
	a.say("error", err.Error())
	return code
}

// say adds a line to the file of --log, where programs look for what is wrong. That it cannot be written is told where
// people look.
func (a *app) say(level, text string) {
	if a.log == "" {
		return
	}
	f, err := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		fmt.Fprintf(a.err, "runk: log: %v\n", err)
		return
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	line := fmt.Sprintf("time=%q level=%s msg=%q\n", now, level, text)
	if a.logFormat == "json" {
		b, _ := json.Marshal(struct {
			Level string `json:"level"`
			Text  string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now})
		line = string(b) + "\n"
	}
	if _, err := f.WriteString(line); err != nil {
		fmt.Fprintf(a.err, "runk: log: %v\n", err)
	}
}
