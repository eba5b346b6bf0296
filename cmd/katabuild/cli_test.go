package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	jail.Main()
	testscript.Main(m, map[string]func(){"katabuild": main})
}

// TestCommandLines runs a script for each word, in a folder and with a store of its own.
func TestCommandLines(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("KATABUILD_STORE", filepath.Join(e.WorkDir, ".store"))
			e.Setenv("HOME", e.WorkDir)
			self, err := os.Executable() // a Go program, as the agent is
			e.Setenv("AGENT", self)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"guest": writeGuest,
			"code":  code,
		},
		RequireExplicitExec: true,
	})
}

// writeGuest is the word guest: guest DIR writes the guest of documenttest.Manifest, and DIR.report.json as it would
// report.
func writeGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: guest DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(documenttest.WriteGuest(dir))
	data, err := documenttest.Report().Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(dir+".report.json", data, 0o644))
}

// code N COMMAND... runs a command that must end with that exit code; "any" is any.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); args[0] != "any" && (err != nil || got != want) {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}
