package main

import "github.com/spf13/cobra"

func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "the policies of pods' agents: which calls of the guest API the host may make",
		Long: `policy is about the policies of the agents in pods' guests. Such a policy is a text that says which calls
of the guest API the host may make; the agent refuses all others. docs/formats/policy.md has the language.`,
	}
	c.AddCommand(a.policyGenerateCmd())
	return c
}
