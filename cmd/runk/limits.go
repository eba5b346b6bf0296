package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/agent/oci"
)

// limits are what update's flags say.
type limits struct {
	resources                                        string
	memory, swap, reservation, quota, realtime, pids int64
	shares, period, realtimePeriod, weight, burst    uint64
	cpus, mems                                       string
}

func (a *app) updateCmd() *cobra.Command {
	var l limits
	c := &cobra.Command{
		Use: "update ID", Args: cobra.ExactArgs(1), Short: "change a container's limits",
		Long: `update changes limits of a container that is there: those of flags, or of a file as the specification's
resources. What is not given stays as it is.`,
		Example: "  runk update --memory 134217728 web1",
	}
	f := c.Flags()
	f.StringVarP(&l.resources, "resources", "r", "", "`file` with resources as JSON; - is standard input")
	f.Int64Var(&l.memory, "memory", 0, "`bytes` of memory; -1 is no limit")
	f.Int64Var(&l.swap, "memory-swap", 0, "`bytes` of memory and swap together; -1 is no limit")
	f.Int64Var(&l.reservation, "memory-reservation", 0, "`bytes` that are left alone when memory is short")
	f.Int64Var(&l.quota, "cpu-quota", 0, "`microseconds` of a period that it may run; -1 is no limit")
	f.Uint64Var(&l.period, "cpu-period", 0, "`microseconds` of a period")
	f.Uint64Var(&l.burst, "cpu-burst", 0, "`microseconds` that it may save up")
	f.Uint64Var(&l.shares, "cpu-share", 0, "`share` of processors beside others, 2 to 262144")
	f.Uint64Var(&l.realtimePeriod, "cpu-rt-period", 0, "`microseconds` of a period for real-time processes")
	f.Int64Var(&l.realtime, "cpu-rt-runtime", 0, "`microseconds` of that for them")
	f.StringVar(&l.cpus, "cpuset-cpus", "", "`processors` to run on, like 0-2,4")
	f.StringVar(&l.mems, "cpuset-mems", "", "memory `nodes`, likewise")
	f.Int64Var(&l.pids, "pids-limit", 0, "`number` of processes; -1 is no limit")
	f.Uint64Var(&l.weight, "blkio-weight", 0, "`weight` of its input and output, 10 to 1000")
	c.RunE = func(_ *cobra.Command, args []string) error {
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return err
		}
		res, err := l.of(a.in)
		if err != nil {
			return err
		}
		return ct.Update(res)
	}
	return c
}

// maxResources bounds what is read of resources.
const maxResources = 1 << 20

// of are the resources.
func (l *limits) of(in io.Reader) (*specs.LinuxResources, error) {
	if l.resources != "" {
		if l.resources != "-" {
			f, err := os.Open(l.resources)
			if err != nil {
				return nil, fmt.Errorf("resources: %w", err)
			}
			defer f.Close()
			in = f
		}
		b, err := io.ReadAll(io.LimitReader(in, maxResources))
		if err != nil {
			return nil, fmt.Errorf("resources: %w", err)
		}
		var r specs.LinuxResources
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("resources %s: %w", l.resources, err)
		}
		return &r, nil
	}
	if l.weight > 1000 {
		return nil, errors.New("--blkio-weight: want 10 to 1000")
	}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &l.memory, Swap: &l.swap, Reservation: &l.reservation},
		CPU: &specs.LinuxCPU{Shares: &l.shares, Quota: &l.quota, Period: &l.period, Burst: &l.burst,
			RealtimePeriod: &l.realtimePeriod, RealtimeRuntime: &l.realtime, Cpus: l.cpus, Mems: l.mems},
		Pids: &specs.LinuxPids{Limit: &l.pids},
	}
	if l.weight > 0 {
		w := uint16(l.weight)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	return r, nil
}

// defaultInterval is runc's.
const defaultInterval = 5 * time.Second

func (a *app) eventsCmd() *cobra.Command {
	var once bool
	var interval time.Duration
	c := &cobra.Command{
		Use: "events ID", Args: cobra.ExactArgs(1), Short: "print what a container uses, and when it lacks memory",
		Long: `events prints a line of JSON with what a container has used, again and again until it stops, and one when
the kernel has killed a process in it for want of memory.`,
		Example: "  runk events --stats web1",
	}
	c.Flags().BoolVar(&once, "stats", false, "print one line and end")
	c.Flags().DurationVar(&interval, "interval", defaultInterval, "`time` between lines")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ct, err := a.runtime().Load(args[0])
		if err != nil {
			return err
		}
		out := json.NewEncoder(a.out)
		if once {
			u, err := ct.Stats()
			if err != nil {
				return err
			}
			return out.Encode(oci.Event{Type: "stats", ID: ct.ID, Data: u})
		}
		if interval <= 0 {
			return errors.New("--interval: want more than nothing")
		}
		return ct.Watch(cmd.Context(), interval, func(e oci.Event) error { return out.Encode(e) })
	}
	return c
}

func (a *app) featuresCmd() *cobra.Command {
	return &cobra.Command{Use: "features", Args: cobra.NoArgs, Short: "print what this runtime can do, as JSON",
		Long: "features prints what the runtime specification's features document has.", Example: "  runk features",
		RunE: func(*cobra.Command, []string) error { return a.show(oci.Features()) }}
}
