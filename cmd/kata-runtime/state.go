package main

import (
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/record"
)

// podState is a pod's record and what has become of it.
type podState struct {
	*record.Record
	Alive alive `json:"alive"`
}

// alive says which of a pod's processes still run.
type alive struct {
	Shim      bool `json:"shim"`
	QEMU      bool `json:"qemu"`
	VirtioFSD bool `json:"virtiofsd"`
}

func stateOf(r *record.Record) podState {
	return podState{r, alive{r.Shim.Alive(), r.QEMU.Alive(), r.VirtioFSD.Alive()}}
}

// word is the state for people. A pod whose shim is gone is left over: nobody looks after it.
func (s podState) word() string {
	switch {
	case !s.Alive.Shim:
		return "left over"
	case s.State == record.Running && !s.Alive.QEMU:
		return "ending"
	}
	return string(s.State)
}

func (a *app) stateCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "state [ID...]", Short: "list the pods of this host",
		Long: `state lists the pods that the runtime has records of: state, guest, what attestation said, processes on
the host, containers. A pod that is "left over" has no shim any more: containerd cleans it up when it is told to
delete the pod.`,
		Example: `  kata-runtime state
  kata-runtime state --json POD`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: the records, and which processes still run")
	c.RunE = func(_ *cobra.Command, ids []string) error {
		if len(ids) == 0 {
			var err error
			if ids, err = record.List(a.dirs); err != nil {
				return err
			}
		}
		states := []podState{}
		var errs []error
		for _, id := range ids {
			r, err := a.record(id)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			states = append(states, stateOf(r))
		}
		print := a.printStates
		if asJSON {
			print = func(s []podState) error { return a.writeJSON(s) }
		}
		return errors.Join(append(errs, print(states))...)
	}
	return c
}

func (a *app) printStates(states []podState) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tGUEST\tVERDICT\tSHIM\tQEMU\tVIRTIOFSD\tCONTAINERS\tCREATED")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", s.ID, s.word(), metrics.GuestName(s.Record),
			metrics.Verdict(s.Record), process(s.Shim, s.Alive.Shim), process(s.QEMU, s.Alive.QEMU),
			process(s.VirtioFSD, s.Alive.VirtioFSD),
			len(s.Containers), s.Created)
	}
	return w.Flush()
}

// process is a number, or a dash for none.
func process(p record.HostProcess, alive bool) string {
	switch {
	case p.PID == 0:
		return "-"
	case !alive:
		return "gone"
	}
	return strconv.Itoa(p.PID)
}
