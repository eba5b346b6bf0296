package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/agent/oci"
)

// show prints a value as JSON for programs and people.
func (a *app) show(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, string(b))
	return err
}

// state is a container's state with its owner's name.
func state(ct *oci.Container) (oci.State, error) {
	s, err := ct.State()
	if err != nil {
		return s, err
	}
	s.Owner = "#" + strconv.FormatUint(uint64(ct.Owner), 10)
	if u, err := user.LookupId(s.Owner[1:]); err == nil {
		s.Owner = u.Username
	}
	return s, nil
}

func (a *app) stateCmd() *cobra.Command {
	return a.one(&cobra.Command{Use: "state ID", Short: "print what a container is and does, as JSON",
		Long:    "state prints the state of a container, as the runtime specification has it, with what runc adds.",
		Example: "  runk state web1",
	}, func(_ context.Context, ct *oci.Container) error {
		s, err := ct.State() // runc's has no owner's name, and its list has
		if err != nil {
			return err
		}
		return a.show(s)
	})
}

func (a *app) listCmd() *cobra.Command {
	var form string
	var quiet bool
	c := &cobra.Command{Use: "list", Args: cobra.NoArgs, Aliases: []string{"ls"}, Short: "list containers",
		Long: "list prints the containers of this --root.", Example: "  runk list --format json"}
	c.Flags().StringVarP(&form, "format", "f", "table", "`form`: table or json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	c.RunE = func(*cobra.Command, []string) error {
		all, err := a.runtime().List()
		if err != nil {
			return err
		}
		states := []oci.State{}
		for _, ct := range all {
			s, err := state(ct)
			if err != nil {
				return err
			}
			states = append(states, s)
		}
		switch {
		case quiet:
			for _, s := range states {
				fmt.Fprintln(a.out, s.ID)
			}
			return nil
		case form == "json":
			return json.NewEncoder(a.out).Encode(states)
		case form != "table":
			return fmt.Errorf("--format %q: want table or json", form)
		}
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, s := range states {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle,
				s.Created.Format(time.RFC3339Nano), s.Owner)
		}
		return w.Flush()
	}
	return c
}

func (a *app) psCmd() *cobra.Command {
	var form string
	c := &cobra.Command{
		Use: "ps ID [OPTION...]", Args: cobra.MinimumNArgs(1), Short: "list the processes in a container",
		Long: `ps prints the processes in a container, by the host's numbers: as JSON, or as the host's ps prints them,
which gets the options.`,
		Example: "  runk ps web1",
	}
	c.Flags().StringVarP(&form, "format", "f", "table", "`form`: table or json")
	c.Flags().SetInterspersed(false)
	c.RunE = func(_ *cobra.Command, args []string) error {
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return err
		}
		pids, err := ct.Pids()
		if err != nil {
			return err
		}
		switch form {
		case "json":
			if pids == nil {
				pids = []int{}
			}
			return json.NewEncoder(a.out).Encode(pids)
		case "table":
			return a.ps(pids, args[1:])
		}
		return fmt.Errorf("--format %q: want table or json", form)
	}
	return c
}

// ps prints those lines of the host's ps that are about some processes.
func (a *app) ps(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps: %w: %s", err, out)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("ps: it prints no column PID, by which processes are told")
	}
	fmt.Fprintln(a.out, lines[0])
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if len(f) <= column {
			continue
		}
		if n, err := strconv.Atoi(f[column]); err == nil && slices.Contains(pids, n) {
			fmt.Fprintln(a.out, l)
		}
	}
	return nil
}

func (a *app) specCmd() *cobra.Command {
	var bundle string
	c := &cobra.Command{Use: "spec", Args: cobra.NoArgs, Short: "write a config.json to begin with",
		Long:    `spec writes a config.json that runs a shell in the root file system rootfs beside it.`,
		Example: "  runk spec --bundle web"}
	c.Flags().StringVarP(&bundle, "bundle", "b", ".", "`folder` to write it to")
	c.RunE = func(*cobra.Command, []string) error {
		b, err := json.MarshalIndent(oci.Example(), "", "\t")
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(bundle, "config.json"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, oci.ExampleMode)
		if err != nil {
			return fmt.Errorf("config.json: %w", err)
		}
		_, err = f.Write(append(b, '\n'))
		return errors.Join(err, f.Close())
	}
	return c
}
