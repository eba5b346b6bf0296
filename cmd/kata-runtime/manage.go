package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/management"
)

// maxSent bounds what is sent to a pod, in bytes, as its management socket does.
const maxSent = 1 << 20

// sandboxFlag is how Kata Containers' runtime names a pod for these words.
func sandboxFlag(c *cobra.Command, id *string) {
	c.Flags().StringVar(id, "sandbox-id", "", "the `pod`")
	require(c, "sandbox-id")
}

// require refuses command lines without some flags.
func require(c *cobra.Command, flags ...string) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, name := range flags {
			if !c.Flags().Changed(name) {
				return &usage.Error{Err: fmt.Errorf("--%s is missing; see: %s --help", name, c.CommandPath())}
			}
		}
		return nil
	}
}

// sent reads a file that is to be sent to a pod; - is standard input.
func (a *app) sent(path string) ([]byte, error) {
	r := a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSent+1))
	if err == nil && len(b) > maxSent {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSent)
	}
	return b, err
}

func (a *app) iptablesCmd() *cobra.Command {
	var id string
	var v6 bool
	path := func() string {
		if v6 {
			return "/ip6tables"
		}
		return "/iptables"
	}
	c := &cobra.Command{Use: "iptables", Short: "look at or replace the packet filter of a pod's guest",
		Long: `iptables asks a pod's management socket for the rules of the guest's packet filter, as iptables-save
writes them, or replaces them. The guest needs iptables.`}
	get := &cobra.Command{Use: "get --sandbox-id POD", Args: cobra.NoArgs, Short: "print the rules",
		Example: "  kata-runtime iptables get --sandbox-id POD",
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := management.Client{Dirs: a.dirs, ID: id}.Get(c.Context(), path())
			if err != nil {
				return err
			}
			return a.printGuest(b)
		}}
	set := &cobra.Command{Use: "set --sandbox-id POD FILE", Args: cobra.ExactArgs(1),
		Short:   "replace the rules by a file's, - for standard input",
		Example: "  kata-runtime iptables set --sandbox-id POD rules",
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.sent(args[0])
			if err != nil {
				return err
			}
			return management.Client{Dirs: a.dirs, ID: id}.Put(c.Context(), path(), b)
		}}
	for _, sub := range []*cobra.Command{get, set} {
		sandboxFlag(sub, &id)
		sub.Flags().BoolVar(&v6, "v6", false, "of IPv6")
	}
	c.AddCommand(get, set)
	return c
}
