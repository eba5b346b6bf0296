package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/metrics"
)

// metricsTime bounds the agent's answer.
const metricsTime = 30 * time.Second

// hostPrefix begins the names of what the host says. The guest cannot say it.
const hostPrefix = "katabuild_"

func (a *app) metricsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "metrics SANDBOX", Args: cobra.ExactArgs(1), Short: "print a pod's metrics, in Prometheus' text format",
		Long: `metrics prints what the host knows of a pod's processes (` + hostPrefix + `...) and what the agent says
of its guest (kata_...), in Prometheus' text format. When the agent does not answer, the host's part is printed, and
the exit code is 1.`,
		Example: `  kata-runtime metrics POD`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.record(args[0])
			if err != nil {
				return err
			}
			if _, err := io.WriteString(a.out, hostMetrics(stateOf(r), metrics.ReadStat)); err != nil {
				return err
			}
			text, err := a.guestMetrics(c.Context(), args[0])
			if err != nil {
				return err
			}
			families, dropped := metrics.Guest(text)
			if dropped > 0 {
				fmt.Fprintf(a.err, "warning: %d lines of the guest's metrics are none, or not the guest's to say, "+
					"and are left out\n", dropped)
			}
			_, err = a.out.Write(promtext.Append(nil, families))
			return err
		},
	}
}

func (a *app) guestMetrics(ctx context.Context, id string) (string, error) {
	conn, err := a.dial(ctx, id, agentapi.Port)
	if err != nil {
		return "", err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close() // only read from
	ctx, cancel := context.WithTimeout(ctx, metricsTime)
	defer cancel()
	m, err := katapb.NewAgentServiceClient(client).GetMetrics(ctx, &katapb.GetMetricsRequest{})
	if err != nil {
		return "", fmt.Errorf("metrics of the guest of %s: %w", id, err)
	}
	return m.GetMetrics(), nil
}

// hostMetrics is what the host says of a pod. Processes that are gone are left out.
func hostMetrics(s podState, read func(pid int) (metrics.Stat, error)) string {
	families := metrics.Pod(s.Record)
	processes := []struct {
		name  string
		pid   int
		alive bool
	}{{"shim", s.Shim.PID, s.Alive.Shim}, {"qemu", s.QEMU.PID, s.Alive.QEMU}, {"virtiofsd", s.VirtioFSD.PID,
		s.Alive.VirtioFSD}}
	memory := promtext.Family{Name: hostPrefix + "process_resident_memory_bytes", Kind: promtext.Gauge,
		Help: "Resident memory of the pod's processes on the host."}
	cpu := promtext.Family{Name: hostPrefix + "process_cpu_seconds_total", Kind: promtext.Counter,
		Help: "Processor time of the pod's processes on the host."}
	threads := promtext.Family{Name: hostPrefix + "process_threads", Kind: promtext.Gauge,
		Help: "Threads of the pod's processes on the host."}
	for _, p := range processes {
		if !p.alive {
			continue
		}
		st, err := read(p.pid)
		if err != nil { // it ended in between
			continue
		}
		sample := func(value string) promtext.Sample {
			return promtext.Sample{Labels: promtext.Labels("process", p.name), Value: value}
		}
		memory.Samples = append(memory.Samples, sample(promtext.Int(st.ResidentBytes)))
		cpu.Samples = append(cpu.Samples, sample(promtext.Value(st.CPU().Seconds())))
		threads.Samples = append(threads.Samples, sample(promtext.Int(st.Threads)))
	}
	return string(promtext.Append(nil, append(families, memory, cpu, threads)))
}
