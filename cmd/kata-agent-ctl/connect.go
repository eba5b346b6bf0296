package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/agentctl"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// connectFlags are what a user may say about a connection.
type connectFlags struct {
	address, bundle, vm, timeout, program            string
	commands                                         []string
	hybrid, ignore, bare, interactive, check, asJSON bool
	hybridPort, repeat                               uint32
	limit                                            time.Duration
}

func (a *app) connectCmd() *cobra.Command {
	var f connectFlags
	c := &cobra.Command{
		Use: "connect", Args: cobra.NoArgs, Short: "ask an agent for calls of the API",
		Long: `connect connects to an agent and asks it for what -c says, one after the other, or for what is typed
(--interactive), or for the lines of standard input. A line is a call with its request:

  CALL                  with ids and defaults that this program fills in
  CALL KEY=VALUE...     with fields set; a.b is a field in a field, file://PATH a file's content
  CALL json://{...}     with the whole request in JSON
  CALL file://PATH      the same, in a file

or one of the words echo, help, list, repeat, sleep and quit. "list" prints all calls with their fields, "help CALL"
what a call takes besides. Ids of container, process and sandbox are the same throughout, so that calls are about one
container where nobody says otherwise.

An agent's address is vsock://CID:PORT, unix://PATH, unix://@NAME for an abstract socket, or a hypervisor's UNIX socket
(hvsock://PATH:PORT, or unix:// with --hybrid-vsock). With --vm GUEST a guest that katabuild has built is booted
instead, and ends with the connection.

With --check the agent is asked for every call of the API, and a table says for each what was asked, what it answered,
and whether that is what the API promises ("pass", "differs", or "not served"). It makes a sandbox with a container,
whose program is this one, so the guest needs this host's architecture; --program names the one for another. In the end
the agent is told to end. Where an answer differs, the exit code is 1.

Nothing that an agent says reaches the terminal as it is: control characters are taken out, and long answers are cut.`,
		Example: `  kata-agent-ctl connect --server-address unix:///run/katabuild/POD/vsock.sock --hybrid-vsock -c Check
  kata-agent-ctl connect --vm out/tiny --check`,
	}
	fl := c.Flags()
	fl.StringVar(&f.address, "server-address", "", "the agent's `address`")
	fl.StringArrayVarP(&f.commands, "cmd", "c", nil, "a `line` to do; may be repeated")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "do what is typed, until quit or the end of input")
	fl.StringVar(&f.bundle, "bundle-dir", "", "`folder` with config.json and the root of containers, which is copied "+
		"into the guest")
	fl.BoolVar(&f.ignore, "ignore-errors", false, "go on behind a line that fails")
	fl.BoolVar(&f.hybrid, "hybrid-vsock", false, "the address is a UNIX socket of a hypervisor's")
	fl.Uint32Var(&f.hybridPort, "hybrid-vsock-port", agentapi.Port, "the `port` that it is asked for")
	fl.BoolVarP(&f.bare, "no-auto-values", "n", false, "send requests as they are typed, without ids and defaults")
	fl.Uint32Var(&f.repeat, "repeat", 1, "how `often` to do all lines of -c")
	fl.StringVar(&f.timeout, "timeout", "", "how long an answer may take, such as 5s (default: for ever)")
	fl.StringVar(&f.vm, "vm", "", "boot this `guest`, a folder made by katabuild, and connect to its agent")
	fl.BoolVar(&f.check, "check", false, "ask for every call, and compare the answers with the API; the agent ends")
	fl.StringVar(&f.program, "program", "", "`file` to run in the container of --check (default: this program)")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON: an object a call, or the table of --check")
	usage.Rules(c, usage.Rule{Flag: "vm", Excludes: []string{"server-address", "hybrid-vsock"},
		Why: "which is its own address"},
		usage.Rule{Flag: "check", Excludes: []string{"cmd", "interactive", "bundle-dir", "repeat", "no-auto-values",
			"ignore-errors"}, Why: "which asks on its own"},
		usage.Rule{Flag: "interactive", Excludes: []string{"cmd", "json"}},
		usage.Rule{Flag: "program", Needs: "check"},
		usage.Rule{Flag: "hybrid-vsock-port", Needs: "hybrid-vsock"},
		usage.Rule{Flag: "repeat", Needs: "cmd"})
	c.RunE = func(c *cobra.Command, _ []string) error { return a.connect(c.Context(), f) }
	return c
}

func (a *app) connect(ctx context.Context, f connectFlags) (err error) {
	if f.timeout != "" {
		if f.limit, err = time.ParseDuration(f.timeout); err != nil || f.limit < 0 {
			return &usage.Error{Err: fmt.Errorf("--timeout %q: want a duration such as 5s", f.timeout)}
		}
	}
	if (f.address == "") == (f.vm == "") {
		return &usage.Error{Err: errors.New("want --server-address or --vm; see: kata-agent-ctl connect --help")}
	}
	conn, end, err := a.reach(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	s := agentctl.New(conn, agentctl.Options{Out: a.out, Bundle: f.bundle, Timeout: f.limit, Bare: f.bare,
		JSON: f.asJSON})
	defer s.Close() //nolint:errcheck // every answer has been read
	switch {
	case f.check:
		return a.check(ctx, s, f)
	case f.interactive:
		return a.interact(ctx, s)
	case len(f.commands) == 0:
		return a.lines(ctx, s, bufio.NewScanner(a.in), f.ignore)
	}
	for range f.repeat {
		if err := a.lines(ctx, s, bufio.NewScanner(strings.NewReader(strings.Join(f.commands, "\n"))),
			f.ignore); err != nil {
			return err
		}
	}
	return nil
}

// reach connects to the agent. end is called when the connection is not needed any more.
func (a *app) reach(ctx context.Context, f connectFlags) (conn net.Conn, end func() error, err error) {
	none := func() error { return nil }
	if f.vm == "" {
		at, err := agentctl.ParseAddress(f.address, agentctl.Hybrid{Asked: f.hybrid, Port: f.hybridPort})
		if err != nil {
			return nil, none, &usage.Error{Err: err}
		}
		conn, err := at.Dial(ctx)
		if err != nil {
			return nil, none, fmt.Errorf("connect to the agent: %w", err)
		}
		return conn, none, nil
	}
	g, err := guest.ReadFolder(f.vm, "", "")
	if err != nil {
		return nil, none, err
	}
	fmt.Fprintf(a.err, "connect: booting the guest in %s\n", f.vm)
	s, err := sandbox.Start(ctx, sandbox.Config{Guest: g, Hypervisor: hypervisor.Default(), Timeout: bootTime})
	if err != nil {
		return nil, none, err
	}
	conn, err = s.Dial(ctx, agentapi.Port)
	if err != nil {
		return nil, none, errors.Join(err, s.Stop())
	}
	return conn, s.Stop, nil
}

// bootTime is how long a guest may take to be ready: many times what it takes where it is emulated.
const bootTime = 3 * time.Minute

// lines does lines until one fails or says quit.
func (a *app) lines(ctx context.Context, s *agentctl.Session, in *bufio.Scanner, ignore bool) error {
	in.Buffer(nil, maxLine)
	for in.Scan() {
		err := s.Do(ctx, in.Text())
		switch {
		case errors.Is(err, agentctl.ErrQuit):
			return nil
		case err != nil && (!ignore || ctx.Err() != nil):
			return err
		case err != nil:
			fmt.Fprintf(a.err, "kata-agent-ctl: %v\n", err)
		}
	}
	return in.Err()
}

// maxLine bounds a line, in bytes: requests in JSON are long.
const maxLine = 8 << 20

// check asks for everything, and prints the table.
func (a *app) check(ctx context.Context, s *agentctl.Session, f connectFlags) error {
	program := f.program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	findings, err := s.Check(ctx, program, func(got agentctl.Finding) {
		if !f.asJSON {
			fmt.Fprintf(a.err, "check: %s, %s: %s\n", got.Call, got.Asked, got.Judgement)
		}
	})
	if err != nil {
		return err
	}
	if f.asJSON {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		err = e.Encode(findings)
	} else {
		err = agentctl.PrintTable(a.out, findings)
	}
	return errors.Join(err, agentctl.Judge(findings))
}

const prompt = "agent> "

// interact does what is typed at a terminal, or comes on standard input, and goes on behind what fails.
func (a *app) interact(ctx context.Context, s *agentctl.Session) error {
	f, is := a.in.(*os.File)
	if !is {
		return a.lines(ctx, s, bufio.NewScanner(a.in), true)
	}
	restore, raw, err := pty.MakeRaw(f)
	if err != nil {
		return err
	}
	if !raw {
		return a.lines(ctx, s, bufio.NewScanner(a.in), true)
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{f, a.out}, prompt)
	t.AutoCompleteCallback = complete
	s.SetOutput(t)
	return errors.Join(a.typed(ctx, s, t), restore())
}

func (a *app) typed(ctx context.Context, s *agentctl.Session, t *term.Terminal) error {
	fmt.Fprintln(t, `Calls by their names; Tab completes, "list" lists, "help" explains, Ctrl-D leaves.`)
	for {
		line, err := t.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return err
		}
		switch err := s.Do(ctx, line); {
		case errors.Is(err, agentctl.ErrQuit):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			fmt.Fprintln(t, err)
		}
	}
}

// complete is what the Tab key makes of a line: the word under the cursor as far as it is clear.
func complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || pos != len(line) {
		return "", 0, false
	}
	done := agentctl.Complete(line)
	return done, len(done), true
}
