package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/runtime/check"
)

func (a *app) checkCmd() *cobra.Command {
	var asJSON, verbose, noNetwork bool
	c := &cobra.Command{
		Use: "check", Aliases: []string{"kata-check"}, Args: cobra.NoArgs,
		Short: "say whether this host can run pods, and what to do where it cannot",
		Long: `check looks at everything that pods need on this host: the configuration and its guest, QEMU, KVM,
which has to run a few instructions, the shared folder, the network. A line for each, whatever is missing:

  ok NAME: fact
  missing NAME: fact; way out      no pod runs
  optional NAME: fact; way out     pods run without it

It changes nothing and loads no modules. It ends with 1 when pods cannot run. Run it as root, as the runtime is.`,
		Example: `  kata-runtime check
  kata-runtime check --json`,
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVarP(&verbose, "verbose", "v", false, "also what a line sums up")
	f.BoolVarP(&noNetwork, "no-network-checks", "n", false, "taken for Kata's sake: there are no such checks")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := a.load()
		r := check.Run(c.Context(), check.Options{Config: l, ConfigErr: err})
		if err := c.Context().Err(); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if asJSON {
			if err := a.writeJSON(r); err != nil {
				return err
			}
		} else if err := r.Findings.Print(a.out, verbose); err != nil {
			return err
		}
		if !r.Pods {
			return fmt.Errorf("pods cannot run here: missing %s", strings.Join(r.Findings.Missing(), ", "))
		}
		return nil
	}
	return c
}

func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
