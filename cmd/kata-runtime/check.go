package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/check"
)

func (a *app) checkCmd() *cobra.Command {
	var asJSON, verbose, noNetwork, strict bool
	var o offered
	c := &cobra.Command{
		Use: "check", Aliases: []string{"kata-check"}, Args: cobra.NoArgs,
		Short: "say whether this host can run pods, and what to do where it cannot",
		Long: `check looks at everything that pods need on this host: the configuration and its guest, QEMU, the
processor, KVM, which has to run a few instructions, the kernel's modules, the shared folder, the network. A line for
each, whatever is missing:

  ok NAME: fact
  missing NAME: fact; way out      no pod runs
  optional NAME: fact; way out     pods run without it

It changes nothing and loads no modules. It ends with 1 when pods cannot run, with --strict also when something optional
is not there. Run it as root, as the runtime is.

No network is asked, unless for releases: --only-list-releases and --check-version-only ask the roles that the policy
trusts which there are. Nothing of their answer is remembered.`,
		Example: `  kata-runtime check
  kata-runtime check --json
  kata-runtime check --check-version-only`,
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVarP(&verbose, "verbose", "v", false, "also what a line sums up")
	f.BoolVarP(&strict, "strict", "s", false, "end with 1 also when something optional is not there")
	f.BoolVarP(&noNetwork, "no-network-checks", "n", false, "ask no network, which is the default")
	f.BoolVar(&o.list, "only-list-releases", false, "list the releases that the policy takes, and end")
	f.BoolVar(&o.version, "check-version-only", false, "say whether a newer release than this program's is offered, "+
		"and end")
	f.BoolVar(&o.all, "include-all-releases", false, "with either of these: also releases that the policy does not "+
		"take")
	f.StringVar(&o.policy, "policy", defaultPolicy, "`file` that says whose releases are accepted")
	usage.Rules(c,
		usage.Rule{Flag: "only-list-releases", Excludes: []string{"check-version-only", "strict", "verbose",
			"no-network-checks"}},
		usage.Rule{Flag: "check-version-only", Excludes: []string{"strict", "verbose", "no-network-checks"}})
	c.RunE = func(c *cobra.Command, _ []string) error {
		if o.list || o.version {
			return a.releases(c.Context(), o, asJSON)
		}
		if o.all || c.Flags().Changed("policy") {
			return &usage.Error{Err: errors.New("--include-all-releases and --policy go with --only-list-releases or " +
				"--check-version-only")}
		}
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
		if lacking := r.Findings.Lacking(); strict && len(lacking) > 0 {
			return fmt.Errorf("pods run here without %s", strings.Join(lacking, ", "))
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
