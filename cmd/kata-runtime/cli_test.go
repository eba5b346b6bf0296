package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/documenttest"
)

func TestMain(m *testing.M) {
	// The second is there to be installed.
	testscript.Main(m, map[string]func(){"kata-runtime": main, "containerd-shim-kata-v2": main})
}

// TestCommandLines runs a script for each word.
func TestCommandLines(t *testing.T) {
	docs, err := filepath.Abs("../../docs")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("DOCS", docs)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "guest": writeGuest, "pod": startPod, "documented": documented,
			"watched": startWatched, "layout": writeLayout, "freeport": freePort, "get": get,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "pty" {
				return hasTerminals() == nil, nil
			}
			return false, errors.New("unknown condition")
		},
		RequireExplicitExec: true,
	})
}

// code N COMMAND... runs a command that must end with that exit code; "any" is 0 or 1.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if args[0] == "any" {
		if got > 1 {
			ts.Fatalf("exit code %d, want 0 or 1", got)
		}
		return
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// writeGuest is the word guest: guest DIR writes the guest of documenttest.Manifest, and DIR.toml, a configuration that
// names it.
func writeGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: guest DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(documenttest.WriteGuest(dir))
	ts.Check(os.WriteFile(dir+".toml", []byte("[hypervisor.qemu]\nguest = \""+dir+"\"\n[factory]\n"+
		"template_path = \""+dir+"-templates\"\nvm_cache_endpoint = \""+dir+"-pool/s\"\n"), 0o644))
}

// documented N FILE ARGUMENT... runs every kata-runtime command in the code blocks of FILE, with the arguments put
// before its own. Each ends with the exit code N, or with any: 0 or 1, as this host is, and never with a usage error.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: documented N FILE ARGUMENT...")
	}
	for _, own := range shown(ts.ReadFile(args[1])) {
		ts.Logf("> kata-runtime %s", strings.Join(own, " "))
		if own[0] == "trace-forward" { // it runs until it is ended
			forwards(ts, own)
			continue
		}
		code(ts, false, append(append([]string{args[0], "kata-runtime"}, args[2:]...), own...))
	}
}

// shown are the arguments of the kata-runtime commands in a page's code blocks.
func shown(page string) (out [][]string) {
	block := false
	for l := range strings.Lines(page) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "```") {
			block = !block
			continue
		}
		if rest, ok := strings.CutPrefix(l, "kata-runtime "); block && ok {
			out = append(out, strings.Fields(rest))
		}
	}
	return out
}

func TestEveryWordIsShown(t *testing.T) {
	words := map[string]bool{}
	for _, page := range []string{"kata-runtime.md", "installation.md", "monitoring.md", "tracing.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for _, own := range shown(string(text)) {
			words[own[0]] = true
		}
	}
	for _, c := range new(app).root().Commands() {
		if n := c.Name(); !c.Hidden && n != "help" && n != "completion" && !words[n] {
			t.Errorf("no page shows a command with %q", n)
		}
	}
}
