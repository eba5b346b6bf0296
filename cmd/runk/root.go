package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/agent/oci"
	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/usage"
)

// app is what every command shares.
type app struct {
	in       *os.File
	out, err io.Writer

	folder, log, logFormat, rootless string
	debug, systemd                   bool
}

const long = `runk runs containers by the OCI runtime specification, as runc does and with the same words: create,
start, state, kill, delete, and what containerd asks for besides. It is the container runner of the guests' agent, for a
host.

Exit codes: that of the process for run and exec, 255 where exec starts none, 1 for all else that is wrong, and 0.`

// defaultFolder is where root's states are.
const defaultFolder = "/run/runk"

func (a *app) root() *cobra.Command {
	root := &cobra.Command{Use: "runk", Short: "run OCI containers on this host", Long: long, Version: version}
	root.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("runk version {{.Version}}\nspec: " + specs.Version + "\n")
	f := root.PersistentFlags()
	f.StringVar(&a.folder, "root", folder(), "`folder` of the containers' states, better on a tmpfs")
	f.StringVar(&a.log, "log", "", "`file` that errors and warnings are added to, besides standard error")
	f.StringVar(&a.logFormat, "log-format", "text", "its `form`: text or json")
	f.BoolVar(&a.debug, "debug", false, "accepted, as callers of runc set it")
	f.BoolVar(&a.systemd, "systemd-cgroup", false,
		"refused for new containers: control groups are made here, not by systemd")
	f.StringVar(&a.rootless, "rootless", "auto", "accepted, as callers of runc set it: `auto`, true or false")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.logFormat != "text" && a.logFormat != "json" {
			return fmt.Errorf("--log-format %q: want text or json", a.logFormat)
		}
		return nil
	}
	root.AddCommand(a.createCmd(), a.runCmd(), a.startCmd(), a.stateCmd(), a.killCmd(), a.deleteCmd(), a.execCmd(),
		a.listCmd(), a.psCmd(), a.specCmd(), a.pauseCmd(), a.resumeCmd(), a.updateCmd(), a.eventsCmd(),
		a.featuresCmd())
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

// folder is the default of --root.
func folder() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return dir + "/runk"
	}
	return defaultFolder
}

// runtime is what does the deeds.
func (a *app) runtime() *oci.Runtime {
	return &oci.Runtime{Root: a.folder, Log: slog.New(warnings{a})}
}

// warnings tell people, and the file of --log.
type warnings struct{ a *app }

func (warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler     { return w }
func (w warnings) WithGroup(string) slog.Handler          { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	fmt.Fprintf(w.a.err, "runk: warning: %s\n", r.Message)
	w.a.say("warning", r.Message)
	return nil
}

// errSystemd refuses --systemd-cgroup.
var errSystemd = errors.New("--systemd-cgroup: runk makes control groups itself and asks no systemd; leave it out, " +
	"and give the path of a group, not slice:prefix:name")

// one is a command for a container that is there.
func (a *app) one(c *cobra.Command, do func(context.Context, *oci.Container) error) *cobra.Command {
	if c.Args == nil {
		c.Args = cobra.ExactArgs(1)
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return err
		}
		return do(cmd.Context(), ct)
	}
	return c
}
