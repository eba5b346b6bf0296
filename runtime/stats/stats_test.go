package stats

import (
	"fmt"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/protobuf/proto"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
)

func TestStatisticsHaveTheHostsForm(t *testing.T) {
	r := &katapb.StatsContainerResponse{
		CgroupStats: &katapb.CgroupStats{
			CpuStats: &katapb.CpuStats{CpuUsage: &katapb.CpuUsage{TotalUsage: 5000, UsageInUsermode: 3000},
				ThrottlingData: &katapb.ThrottlingData{Periods: 2}},
			MemoryStats: &katapb.MemoryStats{
				Usage: &katapb.MemoryData{Usage: 100, Limit: 200}, Cache: 30, Stats: map[string]uint64{"anon": 60,
					"pgfault": 7, "inactive_file": 8, "oom_kill": 1},
			},
			PidsStats: &katapb.PidsStats{Current: 3},
			BlkioStats: &katapb.BlkioStats{IoServiceBytesRecursive: []*katapb.BlkioStatsEntry{
				{Major: 254, Op: "Read", Value: 11}, {Major: 254, Op: "Write", Value: 12},
			}},
		},
		NetworkStats: []*katapb.NetworkStats{{Name: "eth0", RxBytes: 9}},
	}
	a, err := Of(r).metrics(false)
	if err != nil || a.TypeUrl != "io.containerd.cgroups.v1.Metrics" {
		t.Fatal(a.GetTypeUrl(), err)
	}
	var one v1.Metrics
	if err := proto.Unmarshal(a.Value, &one); err != nil {
		t.Fatal(err)
	}
	if one.CPU.Usage.Total != 5000 || one.Memory.Usage.Usage != 100 || one.Memory.Usage.Limit != 200 ||
		one.Memory.RSS != 60 || one.Memory.Cache != 30 ||
		one.Memory.TotalInactiveFile != 8 || one.Memory.InactiveFile != 8 || one.Memory.PgFault != 7 ||
		one.Pids.Current != 3 || one.MemoryOomControl.OomKill != 1 ||
		len(one.Blkio.IoServiceBytesRecursive) != 2 || one.Network[0].RxBytes != 9 {
		t.Errorf("%v", &one)
	}
	if a, err = Of(r).metrics(true); err != nil || a.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Fatal(a.GetTypeUrl(), err)
	}
	var two v2.Metrics
	if err := proto.Unmarshal(a.Value, &two); err != nil {
		t.Fatal(err)
	}
	if two.CPU.UsageUsec != 5 || two.CPU.UserUsec != 3 || two.CPU.NrPeriods != 2 || two.Memory.Usage != 100 ||
		two.Memory.Anon != 60 || two.Memory.InactiveFile != 8 ||
		two.Io.Usage[0].Rbytes != 11 || two.Io.Usage[0].Wbytes != 12 || two.MemoryEvents.OomKill != 1 {
		t.Errorf("%v", &two)
	}
}

// An answer has up to 4 MiB: what of it goes to containerd, and on to whoever asks that, is bounded.
func TestAGuestsNumbersAreBounded(t *testing.T) {
	r := &katapb.StatsContainerResponse{CgroupStats: &katapb.CgroupStats{
		CpuStats:     &katapb.CpuStats{CpuUsage: &katapb.CpuUsage{PercpuUsage: make([]uint64, 100_000)}},
		HugetlbStats: map[string]*katapb.HugetlbStats{"2MB": {Usage: 1}, "\x1b[2J": {Usage: 2}},
		BlkioStats:   &katapb.BlkioStats{},
	}}
	for i := range 10_000 {
		r.NetworkStats = append(r.NetworkStats, &katapb.NetworkStats{Name: fmt.Sprint("eth", i)},
			&katapb.NetworkStats{Name: "a\nb"}, &katapb.NetworkStats{Name: strings.Repeat("x", 1000)})
		b := r.CgroupStats.BlkioStats
		e := &katapb.BlkioStatsEntry{Major: uint64(i), Op: "read"}
		b.IoServiceBytesRecursive = append(b.IoServiceBytesRecursive, e)
		b.IoServicedRecursive = append(b.IoServicedRecursive, e)
		r.CgroupStats.HugetlbStats[fmt.Sprint(i, "kB")] = &katapb.HugetlbStats{}
	}
	u := Of(r)
	for _, version2 := range []bool{false, true} {
		a, err := u.metrics(version2)
		if err != nil || len(a.Value) > 64<<10 {
			t.Errorf("%d bytes, %v", len(a.GetValue()), err)
		}
	}
	one, two := metricsV1(u.r), metricsV2(u.r)
	if len(one.Network) != maxEntries || one.Network[1].Name != "eth1" || len(one.CPU.Usage.PerCPU) != maxCPUs ||
		len(two.Hugetlb) != maxEntries || len(two.Io.Usage) != maxEntries {
		t.Errorf("%d interfaces, %d processors, %d sizes of pages, %d devices", len(one.Network),
			len(one.CPU.Usage.PerCPU), len(two.Hugetlb), len(two.Io.Usage))
	}
	for _, empty := range []*katapb.StatsContainerResponse{nil, {}, {CgroupStats: &katapb.CgroupStats{}}} {
		if _, err := Of(empty).metrics(true); err != nil {
			t.Error(err)
		}
	}
}
