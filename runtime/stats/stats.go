// Package stats says what a container in a guest uses, or a pod's processes on the host, in the forms that containerd
// reads.
//
// In come the agent's numbers, which are those of control groups of version 2, or those of a group of the host's; out
// come containerd's messages for one version of control groups or the other. It does not know where the numbers come
// from.
package stats

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// hostHasV2 says whether the host's cgroups are of version 2 alone, in whose form its containerd expects numbers then.
func hostHasV2(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// Usage is what a container uses. The zero value is nothing.
type Usage struct {
	r *katapb.StatsContainerResponse
}

// Bounds of what is taken of an agent's answer, which is a guest's word.
const (
	maxEntries = 256 // network interfaces, entries of block devices and sizes of huge pages, of each
	maxCPUs    = 512 // numbers of single processors
	maxName    = 64  // bytes of a name
)

// Of is the usage in an agent's answer. Of lists that are too long the beginning is taken; what has a name that is too
// long or has characters other than visible ASCII ones is left out.
func Of(r *katapb.StatsContainerResponse) Usage {
	if b := r.GetCgroupStats().GetBlkioStats(); b != nil {
		op := func(e *katapb.BlkioStatsEntry) string { return e.GetOp() }
		b.IoServiceBytesRecursive = first(b.GetIoServiceBytesRecursive(), op)
		b.IoServicedRecursive = first(b.GetIoServicedRecursive(), op)
	}
	if u := r.GetCgroupStats().GetCpuStats().GetCpuUsage(); u != nil {
		u.PercpuUsage = u.GetPercpuUsage()[:min(len(u.GetPercpuUsage()), maxCPUs)]
	}
	if c := r.GetCgroupStats(); c != nil {
		sizes := first(slices.Sorted(maps.Keys(c.GetHugetlbStats())), func(s string) string { return s })
		maps.DeleteFunc(c.GetHugetlbStats(), func(s string, _ *katapb.HugetlbStats) bool {
			return !slices.Contains(sizes, s)
		})
	}
	if r != nil {
		r.NetworkStats = first(r.GetNetworkStats(), func(n *katapb.NetworkStats) string { return n.GetName() })
	}
	return Usage{r}
}

// first is the first maxEntries of a list whose names are good.
func first[E any](list []E, name func(E) string) []E {
	list = slices.DeleteFunc(list, func(e E) bool {
		n := name(e)
		return len(n) > maxName || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' })
	})
	return list[:min(len(list), maxEntries)]
}

// Metrics packs it in the form of the host's version of control groups.
func (u Usage) Metrics() (*anypb.Any, error) { return u.metrics(hostHasV2("/sys/fs/cgroup")) }

func (u Usage) metrics(version2 bool) (*anypb.Any, error) {
	if version2 {
		return pack(metricsV2(u.r))
	}
	return pack(metricsV1(u.r))
}

// Host is what processes of the host use. The zero value is nothing.
type Host struct{ cgroup.Usage }

// Metrics packs it in the form of the host's version of control groups.
func (h Host) Metrics() (*anypb.Any, error) { return h.metrics(hostHasV2("/sys/fs/cgroup")) }

func (h Host) metrics(version2 bool) (*anypb.Any, error) {
	u := h.Usage
	if version2 {
		return pack(&v2.Metrics{
			Pids: &v2.PidsStat{Current: u.Processes}, CPU: &v2.CPUStat{UsageUsec: uint64(u.CPU.Microseconds())},
			Memory: &v2.MemoryStat{Usage: u.Memory, InactiveFile: u.InactiveFile, Anon: u.Anonymous, Pgfault: u.Faults,
				Pgmajfault: u.MajorFaults},
		})
	}
	return pack(&v1.Metrics{
		Pids: &v1.PidsStat{Current: u.Processes}, CPU: &v1.CPUStat{Usage: &v1.CPUUsage{Total: uint64(u.CPU)}},
		Memory: &v1.MemoryStat{Usage: &v1.MemoryEntry{Usage: u.Memory}, InactiveFile: u.InactiveFile,
			TotalInactiveFile: u.InactiveFile, RSS: u.Anonymous, TotalRSS: u.Anonymous, PgFault: u.Faults,
			TotalPgFault: u.Faults, PgMajFault: u.MajorFaults, TotalPgMajFault: u.MajorFaults},
	})
}

func pack(m proto.Message) (*anypb.Any, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	// as containerd's packages do, under its bare name
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: b}, nil
}

func metricsV2(r *katapb.StatsContainerResponse) *v2.Metrics {
	c := r.GetCgroupStats()
	cpu, mem := c.GetCpuStats(), c.GetMemoryStats()
	m := &v2.Metrics{
		Pids: &v2.PidsStat{Current: c.GetPidsStats().GetCurrent(), Limit: c.GetPidsStats().GetLimit()},
		CPU: &v2.CPUStat{
			UsageUsec:     cpu.GetCpuUsage().GetTotalUsage() / 1000,
			UserUsec:      cpu.GetCpuUsage().GetUsageInUsermode() / 1000,
			SystemUsec:    cpu.GetCpuUsage().GetUsageInKernelmode() / 1000,
			NrPeriods:     cpu.GetThrottlingData().GetPeriods(),
			NrThrottled:   cpu.GetThrottlingData().GetThrottledPeriods(),
			ThrottledUsec: cpu.GetThrottlingData().GetThrottledTime() / 1000,
		},
		Memory: &v2.MemoryStat{}, MemoryEvents: &v2.MemoryEvents{OomKill: mem.GetStats()["oom_kill"]}, Io: &v2.IOStat{},
	}
	fill(m.Memory, mem.GetStats(), "")
	m.Memory.Usage, m.Memory.UsageLimit = mem.GetUsage().GetUsage(), mem.GetUsage().GetLimit()
	m.Memory.SwapUsage, m.Memory.SwapLimit = mem.GetSwapUsage().GetUsage(), mem.GetSwapUsage().GetLimit()
	entries := map[[2]uint64]*v2.IOEntry{}
	entry := func(e *katapb.BlkioStatsEntry) *v2.IOEntry {
		k := [2]uint64{e.GetMajor(), e.GetMinor()}
		if entries[k] == nil {
			entries[k] = &v2.IOEntry{Major: k[0], Minor: k[1]}
			m.Io.Usage = append(m.Io.Usage, entries[k])
		}
		return entries[k]
	}
	for _, e := range c.GetBlkioStats().GetIoServiceBytesRecursive() {
		switch strings.ToLower(e.GetOp()) {
		case "read":
			entry(e).Rbytes = e.GetValue()
		case "write":
			entry(e).Wbytes = e.GetValue()
		}
	}
	for _, e := range c.GetBlkioStats().GetIoServicedRecursive() {
		switch strings.ToLower(e.GetOp()) {
		case "read":
			entry(e).Rios = e.GetValue()
		case "write":
			entry(e).Wios = e.GetValue()
		}
	}
	for size, h := range c.GetHugetlbStats() {
		m.Hugetlb = append(m.Hugetlb, &v2.HugeTlbStat{Pagesize: size, Current: h.GetUsage(), Max: h.GetMaxUsage(),
			Failcnt: h.GetFailcnt()})
	}
	for _, n := range r.GetNetworkStats() {
		m.Network = append(m.Network, &v2.NetworkStat{
			Name: n.GetName(), RxBytes: n.GetRxBytes(), RxPackets: n.GetRxPackets(), RxErrors: n.GetRxErrors(),
			RxDropped: n.GetRxDropped(),
			TxBytes:   n.GetTxBytes(), TxPackets: n.GetTxPackets(), TxErrors: n.GetTxErrors(),
			TxDropped: n.GetTxDropped(),
		})
	}
	return m
}

// fill sets the numbers of a message from a map, by their names with a prefix taken off. The names of version 2 are
// those of memory.stat.
func fill(m proto.Message, from map[string]uint64, prefix string) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name, ok := strings.CutPrefix(string(f.Name()), prefix)
		if !ok || f.Kind() != protoreflect.Uint64Kind {
			continue
		}
		if v, ok := from[name]; ok {
			r.Set(f, protoreflect.ValueOfUint64(v))
		}
	}
}

// metricsV1 has version 2's numbers of the guest under version 1's names, where there is one for what they mean.
func metricsV1(r *katapb.StatsContainerResponse) *v1.Metrics {
	c := r.GetCgroupStats()
	cpu, mem := c.GetCpuStats(), c.GetMemoryStats()
	entry := func(d *katapb.MemoryData) *v1.MemoryEntry {
		return &v1.MemoryEntry{Limit: d.GetLimit(), Usage: d.GetUsage(), Max: d.GetMaxUsage(), Failcnt: d.GetFailcnt()}
	}
	st := mem.GetStats()
	memory := &v1.MemoryStat{Usage: entry(mem.GetUsage()), Swap: entry(mem.GetSwapUsage()),
		Kernel: entry(mem.GetKernelUsage()), KernelTCP: &v1.MemoryEntry{}}
	fill(memory, st, "")
	fill(memory, st, "total_")
	// Version 2 calls page cache "file" and anonymous memory "anon". Linux: Documentation/admin-guide/cgroup-v2.rst,
	// memory.stat.
	memory.Cache, memory.RSS, memory.RSSHuge, memory.MappedFile = mem.GetCache(), st["anon"], st["anon_thp"],
		st["file_mapped"]
	if memory.Cache == 0 {
		memory.Cache = st["file"]
	}
	memory.Dirty, memory.Writeback, memory.PgFault, memory.PgMajFault = st["file_dirty"], st["file_writeback"],
		st["pgfault"], st["pgmajfault"]
	memory.TotalCache, memory.TotalRSS, memory.TotalRSSHuge, memory.TotalMappedFile = memory.Cache, memory.RSS,
		memory.RSSHuge, memory.MappedFile
	memory.TotalDirty, memory.TotalWriteback, memory.TotalPgFault, memory.TotalPgMajFault = memory.Dirty,
		memory.Writeback, memory.PgFault, memory.PgMajFault
	m := &v1.Metrics{
		Pids: &v1.PidsStat{Current: c.GetPidsStats().GetCurrent(), Limit: c.GetPidsStats().GetLimit()},
		CPU: &v1.CPUStat{
			Usage: &v1.CPUUsage{
				Total: cpu.GetCpuUsage().GetTotalUsage(), Kernel: cpu.GetCpuUsage().GetUsageInKernelmode(),
				User:   cpu.GetCpuUsage().GetUsageInUsermode(),
				PerCPU: cpu.GetCpuUsage().GetPercpuUsage(),
			},
			Throttling: &v1.Throttle{
				Periods:          cpu.GetThrottlingData().GetPeriods(),
				ThrottledPeriods: cpu.GetThrottlingData().GetThrottledPeriods(),
				ThrottledTime:    cpu.GetThrottlingData().GetThrottledTime(),
			},
		},
		Memory: memory, MemoryOomControl: &v1.MemoryOomControl{OomKill: st["oom_kill"]},
	}
	blk := func(list []*katapb.BlkioStatsEntry) []*v1.BlkIOEntry {
		var out []*v1.BlkIOEntry
		for _, e := range list {
			out = append(out, &v1.BlkIOEntry{Major: e.GetMajor(), Minor: e.GetMinor(), Op: e.GetOp(),
				Value: e.GetValue()})
		}
		return out
	}
	m.Blkio = &v1.BlkIOStat{
		IoServiceBytesRecursive: blk(c.GetBlkioStats().GetIoServiceBytesRecursive()),
		IoServicedRecursive:     blk(c.GetBlkioStats().GetIoServicedRecursive()),
	}
	for size, h := range c.GetHugetlbStats() {
		m.Hugetlb = append(m.Hugetlb, &v1.HugetlbStat{Pagesize: size, Usage: h.GetUsage(), Max: h.GetMaxUsage(),
			Failcnt: h.GetFailcnt()})
	}
	for _, n := range r.GetNetworkStats() {
		m.Network = append(m.Network, &v1.NetworkStat{
			Name: n.GetName(), RxBytes: n.GetRxBytes(), RxPackets: n.GetRxPackets(), RxErrors: n.GetRxErrors(),
			RxDropped: n.GetRxDropped(),
			TxBytes:   n.GetTxBytes(), TxPackets: n.GetTxPackets(), TxErrors: n.GetTxErrors(),
			TxDropped: n.GetTxDropped(),
		})
	}
	return m
}
