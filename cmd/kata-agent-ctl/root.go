package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/agentctl"
	"github.com/katabuild/katabuild/runtime/agentctl/inside"
)

// app is what every command shares.
type app struct {
	in       io.Reader
	out, err io.Writer
}

const long = `kata-agent-ctl speaks to the agent of a guest, ours or Kata Containers', outside of any runtime: for
tests, and for whoever writes an agent.

Exit codes: 0 done, 1 the agent refused, could not be reached or (--check) differs, 2 wrong usage.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{Use: "kata-agent-ctl", Short: "speak to the agent of a guest", Long: long, Version: version}
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("kata-agent-ctl {{.Version}}\n")
	root.AddCommand(a.connectCmd(), a.examplesCmd(), a.idCmd("generate-cid", "container"),
		a.idCmd("generate-sid", "sandbox"), a.insideCmd(), a.versionCmd())
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

func (a *app) idCmd(name, of string) *cobra.Command {
	return &cobra.Command{
		Use: name, Args: cobra.NoArgs, Short: "print a fresh id for a " + of,
		Long:    name + " prints an id as runtimes make them: 64 hexadecimal digits.",
		Example: "  kata-agent-ctl " + name,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.out, agentctl.NewID())
			return err
		},
	}
}

// insideCmd is what runs in containers that a check makes.
func (a *app) insideCmd() *cobra.Command {
	return &cobra.Command{
		Use: inside.Word + " WORD [ARGUMENT...]", Hidden: true, Args: cobra.MinimumNArgs(1),
		Short:              "be the program of a container",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return inside.Run(args, a.in, a.out, a.err)
		},
	}
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Args: cobra.NoArgs, Short: "print the version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "kata-agent-ctl %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS,
				runtime.GOARCH)
			return err
		},
	}
}

const examples = `Ask whether the agent of a pod serves, and what it can do:

  kata-agent-ctl connect --server-address unix:///run/katabuild/POD/vsock.sock --hybrid-vsock \
    -c Check -c GetGuestDetails

By hand, with the Tab key for names and the arrow keys for what was typed before:

  kata-agent-ctl connect --server-address vsock://3:1024 --interactive

A container in a guest that is booted for it and ends with it:

  kata-agent-ctl connect --vm out/tiny -c CreateSandbox -c 'CreateContainer rootfs=rootfs args=["/bin/date"]' \
    -c StartContainer -c WaitProcess -c ReadStdout -c RemoveContainer -c DestroySandbox

Requests in full, in JSON and from a file:

  kata-agent-ctl connect --server-address unix://@agent --no-auto-values \
    -c 'SignalProcess json://{"container_id": "foo", "signal": 9}' -c 'CreateContainer file:///tmp/request.json'

Whether an agent keeps the API, call by call (it ends the agent):

  kata-agent-ctl connect --server-address unix://@agent --check
`

func (a *app) examplesCmd() *cobra.Command {
	return &cobra.Command{
		Use: "examples", Args: cobra.NoArgs, Short: "print what can be typed, for common tasks",
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.out, examples)
			return err
		},
	}
}
