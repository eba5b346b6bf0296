package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/cobratest"
	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kata-agent-ctl": main})
}

// words are what all scripts have.
func words() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){"agent": startAgent, "code": cobratest.Code,
		"documented": documented}
}

// TestCommandLines runs the scripts that need an agent in memory, or none.
func TestCommandLines(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: setPage, Cmds: words(),
		Condition: func(cond string) (bool, error) {
			if cond == "pty" {
				master, tty, err := pty.Open(pty.VT100())
				if err == nil {
					err = errors.Join(master.Close(), tty.Close())
				}
				return err == nil, nil
			}
			return false, errors.New("unknown condition")
		},
		RequireExplicitExec: true})
}

// setPage names the page of the program.
func setPage(e *testscript.Env) error {
	page, err := filepath.Abs("../../docs/agent-ctl.md")
	e.Setenv("PAGE", page)
	return err
}

// agent PATH [NAME]: an agent in memory at a UNIX socket; $AGENT is its address, or that of NAME.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agent PATH or @NAME")
	}
	path := args[0]
	if path[0] != '@' {
		path = ts.MkAbs(path)
	}
	l, err := net.Listen("unix", path)
	ts.Check(err)
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = new(agenttest.Agent).Serve(l, "", over) }) // until it is over
	ts.Defer(func() { close(over); wg.Wait() })
	ts.Setenv("AGENT", "unix://"+path)
}

// blocks are the blocks of shell commands of a page.
func blocks(page string) (out []string) {
	for i, part := range strings.Split(page, "\n```") {
		if i%2 == 1 && strings.HasPrefix(part, "sh\n") {
			out = append(out, strings.TrimPrefix(part, "sh\n"))
		}
	}
	return out
}

// documented FILE WORD [OLD NEW]...: runs those blocks of commands of a page that hold a word, by a shell, with other
// words put in the place of the page's.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: documented FILE WORD [OLD NEW]...")
	}
	n := 0
	for _, b := range blocks(ts.ReadFile(args[0])) {
		if !strings.Contains(b, args[1]) {
			continue
		}
		n++
		b = strings.NewReplacer(args[2:]...).Replace(b)
		ts.Check(ts.Exec("sh", "-euc", b))
	}
	if n == 0 {
		ts.Fatalf("%s has no command with %q", args[0], args[1])
	}
}

// TestAgentsInGuests runs the scripts for which there is a real agent: at $AGENT in a guest of their own, or in one
// that they boot themselves from $GUEST. They tell anew what the tests of Kata Containers' agent,
// tests/functional/kata-agent-apis, ask it.
func TestAgentsInGuests(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	program := boottest.Build(t, "../../runtime/agentctl", "build", "-trimpath", "-ldflags=-s -w", "./testdata/program")
	scripts, err := filepath.Glob("testdata/guest/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	more := words()
	more["boot"] = bootGuest
	for _, s := range scripts { // one guest at a time
		testscript.RunT(oneByOne{t}, testscript.Params{Files: []string{s}, Cmds: more, RequireExplicitExec: true,
			Setup: func(e *testscript.Env) error {
				e.Setenv("PROGRAM", program)
				e.Setenv("GUEST", os.Getenv("KATABUILD_TEST_GUEST"))
				return setPage(e)
			}})
	}
}

// oneByOne is a test whose scripts do not run side by side.
type oneByOne struct{ *testing.T }

// Parallel does nothing.
func (oneByOne) Parallel() {}

// Run is testscript's.
func (o oneByOne) Run(name string, f func(testscript.T)) {
	o.T.Run(name, func(t *testing.T) { f(oneByOne{t}) })
}

// Verbose is testscript's.
func (oneByOne) Verbose() bool { return testing.Verbose() }

// boot starts a guest, whose hypervisor's socket is $AGENT.
func bootGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: boot")
	}
	dir, err := os.MkdirTemp("", "ctl")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	g, err := guest.ReadFolder(ts.Getenv("GUEST"), "", "")
	ts.Check(err)
	s, err := sandbox.Start(context.Background(), sandbox.Config{Guest: g, Hypervisor: hypervisor.Default(),
		Timeout: bootTime, Hybrid: filepath.Join(dir, "s")})
	ts.Check(err)
	ts.Defer(func() { _ = s.Stop() }) // a script may have ended it
	ts.Setenv("AGENT", "unix://"+filepath.Join(dir, "s"))
}
