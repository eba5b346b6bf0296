package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/record"
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
			if _, err := io.WriteString(a.out, hostMetrics(stateOf(r), procStats)); err != nil {
				return err
			}
			text, err := a.guestMetrics(c.Context(), args[0])
			if err != nil {
				return err
			}
			text, dropped := cleanMetrics(text)
			if dropped > 0 {
				fmt.Fprintf(a.err, "warning: %d lines of the guest's metrics are none, and are left out\n", dropped)
			}
			_, err = io.WriteString(a.out, text)
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

// stats are what is told of a process.
type stats struct {
	residentBytes int64
	cpu           time.Duration // user and system
	threads       int64
}

// clockTick is the unit of times in /proc/PID/stat: sysconf(_SC_CLK_TCK), which is 100 on every architecture that Linux
// has today.
const clockTick = time.Second / 100

// procStats reads them from /proc/PID/stat.
func procStats(pid int) (stats, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stats{}, err
	}
	return parseStat(string(b), int64(os.Getpagesize()))
}

// parseStat reads a line of /proc/PID/stat, proc_pid_stat(5): of the fields behind the name in parentheses, utime is
// the 14th, stime the 15th, num_threads the 20th and rss, in pages, the 24th of all.
func parseStat(line string, page int64) (stats, error) {
	i := strings.LastIndex(line, ") ")
	if i < 0 {
		return stats{}, errors.New("/proc/PID/stat: no name")
	}
	f := strings.Fields(line[i+2:])
	const before = 3 // the first field here is the 3rd
	var n [4]int64
	for j, field := range []int{14, 15, 20, 24} {
		if len(f) <= field-before {
			return stats{}, fmt.Errorf("/proc/PID/stat: %d fields", len(f)+before-1)
		}
		v, err := strconv.ParseInt(f[field-before], 10, 64)
		if err != nil || v < 0 {
			return stats{}, fmt.Errorf("/proc/PID/stat: field %d is %q", field, f[field-before])
		}
		n[j] = v
	}
	return stats{residentBytes: n[3] * page, cpu: time.Duration(n[0]+n[1]) * clockTick, threads: n[2]}, nil
}

// hostMetrics is what the host says of a pod. Processes that are gone are left out.
func hostMetrics(s podState, read func(pid int) (stats, error)) string {
	var b strings.Builder
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s%s %s\n# TYPE %s%s %s\n", hostPrefix, name, help, hostPrefix, name, kind)
	}
	flag := map[bool]int{true: 1}
	family("pod_up", "gauge", "Whether the shim and the virtual machine run.")
	fmt.Fprintf(&b, "%spod_up %d\n", hostPrefix, flag[s.Alive.Shim && s.Alive.QEMU && s.State == record.Running])
	family("pod_info", "gauge", "What the pod is; the value is always 1.")
	fmt.Fprintf(&b, "%spod_info{sandbox=%s,guest=%s,verdict=%s} 1\n", hostPrefix, label(s.ID), label(s.guest()),
		label(s.verdict()))
	family("pod_attested", "gauge", "Whether the guest is the one that was built.")
	fmt.Fprintf(&b, "%spod_attested %d\n", hostPrefix, flag[s.verdict() == verdict.Attested])
	family("pod_containers", "gauge", "Containers of the pod.")
	fmt.Fprintf(&b, "%spod_containers %d\n", hostPrefix, len(s.Containers))

	type named struct {
		name string
		stats
	}
	var list []named
	for _, p := range []struct {
		name  string
		pid   int
		alive bool
	}{{"shim", s.Shim.PID, s.Alive.Shim}, {"qemu", s.QEMU.PID, s.Alive.QEMU}, {"virtiofsd", s.VirtioFSD.PID,
		s.Alive.VirtioFSD}} {
		if !p.alive {
			continue
		}
		if st, err := read(p.pid); err == nil { // it ended in between
			list = append(list, named{p.name, st})
		}
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(stats) string
	}{
		{"process_resident_memory_bytes", "gauge", "Resident memory of the pod's processes on the host.",
			func(s stats) string { return strconv.FormatInt(s.residentBytes, 10) }},
		{"process_cpu_seconds_total", "counter", "Processor time of the pod's processes on the host.",
			func(s stats) string { return strconv.FormatFloat(s.cpu.Seconds(), 'f', 2, 64) }},
		{"process_threads", "gauge", "Threads of the pod's processes on the host.",
			func(s stats) string { return strconv.FormatInt(s.threads, 10) }},
	} {
		if len(list) > 0 {
			family(m.name, m.kind, m.help)
		}
		for _, p := range list {
			fmt.Fprintf(&b, "%s%s{process=%s} %s\n", hostPrefix, m.name, label(p.name), m.value(p.stats))
		}
	}
	return b.String()
}

// label is a label's value as the text format has it.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// metricLine is a line of the text format 0.0.4: HELP or TYPE, or a sample. What a guest says goes to a terminal and to
// Prometheus, so nothing else is let through.
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
var metricLine = regexp.MustCompile(`^(?:# (?:HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) [^\x00-\x1f\x7f]*` +
	`|([a-zA-Z_:][a-zA-Z0-9_:]*)` +
	`(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\x00-\x1f\x7f]|\\["\\n])*",?)*\})? ` +
	`(?:[+-]?[0-9][0-9.eE+-]*|NaN|[+-]Inf)(?: -?[0-9]+)?)$`)

// cleanMetrics keeps the lines that are metrics, and none in the host's name.
func cleanMetrics(text string) (clean string, dropped int) {
	var b strings.Builder
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if l == "" {
			continue
		}
		m := metricLine.FindStringSubmatch(l)
		if m == nil || !utf8.ValidString(l) || hasC1(l) || strings.HasPrefix(m[1]+m[2], hostPrefix) {
			dropped++
			continue
		}
		b.WriteString(l + "\n")
	}
	return b.String(), dropped
}

// hasC1 says whether there is a control character of ISO 8859, some of which terminals act on.
func hasC1(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 && r < 0xa0 })
}
