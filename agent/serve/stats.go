package serve

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// limit is 0 for none: the wire has no other word, and hosts show 0 as "no limit".
func limit(n uint64) uint64 {
	if n == math.MaxUint64 {
		return 0
	}
	return n
}

func statsToWire(s container.Stats) *katapb.CgroupStats {
	m := &katapb.MemoryStats{
		Cache: s.Memory.Stat["file"],
		Usage: &katapb.MemoryData{Usage: s.Memory.Usage, MaxUsage: s.Memory.MaxUsage,
			Failcnt: s.Memory.FailCount, Limit: limit(s.Memory.Limit)},
		SwapUsage:    &katapb.MemoryData{Usage: s.Memory.Swap, Limit: limit(s.Memory.SwapLimit)},
		KernelUsage:  &katapb.MemoryData{Usage: s.Memory.Stat["kernel"]},
		UseHierarchy: true, // version 2 knows nothing else
		Stats:        map[string]uint64{"oom": s.Memory.OOMCount, "oom_kill": s.Memory.OOMKills},
	}
	for k, v := range s.Memory.Stat {
		m.Stats[k] = v
	}
	w := &katapb.CgroupStats{
		CpuStats: &katapb.CpuStats{
			CpuUsage: &katapb.CpuUsage{TotalUsage: s.CPU.Usage, UsageInKernelmode: s.CPU.System,
				UsageInUsermode: s.CPU.User},
			ThrottlingData: &katapb.ThrottlingData{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriod,
				ThrottledTime: s.CPU.Throttled},
		},
		MemoryStats: m,
		PidsStats:   &katapb.PidsStats{Current: s.Pids.Current, Limit: limit(s.Pids.Limit)},
		BlkioStats:  &katapb.BlkioStats{},
	}
	for _, d := range s.IO {
		for op, n := range map[string][2]uint64{"Read": {d.ReadBytes, d.Reads}, "Write": {d.WriteBytes, d.Writes},
			"Discard": {d.DiscardBytes, d.Discards}} {
			w.BlkioStats.IoServiceBytesRecursive = append(w.BlkioStats.IoServiceBytesRecursive,
				&katapb.BlkioStatsEntry{Major: d.Major, Minor: d.Minor, Op: op, Value: n[0]})
			w.BlkioStats.IoServicedRecursive = append(w.BlkioStats.IoServicedRecursive,
				&katapb.BlkioStatsEntry{Major: d.Major, Minor: d.Minor, Op: op, Value: n[1]})
		}
	}
	for size, h := range s.Hugetlb {
		if w.HugetlbStats == nil {
			w.HugetlbStats = map[string]*katapb.HugetlbStats{}
		}
		w.HugetlbStats[size] = &katapb.HugetlbStats{Usage: h.Usage, MaxUsage: limit(h.Limit), Failcnt: h.Failures}
	}
	return w
}

// networkStats reads the counters of the guest's interfaces, which are those of every container. proc_net(5): two lines
// of headings, then "name:" and sixteen numbers, eight received and eight sent.
func networkStats() ([]*katapb.NetworkStats, error) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil, err
	}
	return parseNetDev(string(b))
}

func parseNetDev(s string) ([]*katapb.NetworkStats, error) {
	var out []*katapb.NetworkStats
	for line := range strings.Lines(s) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); name == "lo" {
			continue
		}
		if len(f) < 16 {
			return nil, fmt.Errorf("/proc/net/dev: %d numbers of %s, want 16", len(f), name)
		}
		var n [16]uint64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseUint(f[i], 10, 64); err != nil {
				return nil, fmt.Errorf("/proc/net/dev: %s: %w", name, err)
			}
		}
		out = append(out, &katapb.NetworkStats{
			Name: name, RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8],
			TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	return out, nil
}
