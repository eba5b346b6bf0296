package main

import (
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/policygen"
)

func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "the policies of pods' agents: which calls of the guest API the host may make",
		Long: `policy is about the policies of the agents in pods' guests. Such a policy is a text that says which calls
of the guest API the host may make; the agent refuses all others. docs/formats/policy.md has the language.`,
	}
	c.AddCommand(a.policyGenerateCmd(), a.policySetCmd(), a.policyGetCmd())
	return c
}

func (a *app) policySetCmd() *cobra.Command {
	var id string
	c := &cobra.Command{Use: "set --sandbox-id POD FILE", Args: cobra.ExactArgs(1),
		Short: "replace the policy of a pod by a file's, - for standard input",
		Long: `set replaces the policy of a pod's agent, where the one in force lets it (it can deny SetPolicy). A text
that is no policy changes nothing.`,
		Example: "  kata-runtime policy set --sandbox-id POD policy",
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.sent(args[0])
			if err != nil {
				return err
			}
			return management.Client{Dirs: a.dirs, ID: id}.Put(c.Context(), "/policy", b)
		}}
	sandboxFlag(c, &id)
	return c
}

func (a *app) policyGetCmd() *cobra.Command {
	var id string
	c := &cobra.Command{Use: "get --sandbox-id POD", Args: cobra.NoArgs, Short: "print the policy a pod began with",
		Long: `get prints the policy that a pod's annotation brought to its agent. One that was set later is not told:
agents answer no call for that.`,
		Example: "  kata-runtime policy get --sandbox-id POD",
		RunE: func(*cobra.Command, []string) error {
			r, err := a.record(id)
			if err != nil {
				return err
			}
			text, has := r.Annotations[policygen.PolicyAnnotation]
			if !has {
				return fmt.Errorf("pod %s: it was started without a policy", id)
			}
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return fmt.Errorf("pod %s: the annotation %s: %w", id, policygen.PolicyAnnotation, err)
			}
			return a.printGuest(b)
		}}
	sandboxFlag(c, &id)
	return c
}
