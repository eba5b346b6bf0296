package stats

import (
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
