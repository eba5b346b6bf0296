package serve

import (
	"math"
	"testing"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/container/cgroup"
)

func TestInterfacesAreCounted(t *testing.T) {
	list, err := parseNetDev(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0
  eth0: 1234567     890    1    2    0     0          0         0  7654321     987    3    4    0     0       0          0
`)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if e := list[0]; e.Name != "eth0" || e.RxBytes != 1234567 || e.RxPackets != 890 || e.RxErrors != 1 ||
		e.RxDropped != 2 ||
		e.TxBytes != 7654321 || e.TxPackets != 987 || e.TxErrors != 3 || e.TxDropped != 4 {
		t.Errorf("%v", e)
	}
	for _, s := range []string{"eth0: 1 2 3\n", "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 x\n"} {
		if _, err := parseNetDev(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
}

func TestNoLimitIsZeroOnTheWire(t *testing.T) {
	w := statsToWire(container.Stats{
		CPU: cgroup.CPUStats{Usage: 3, User: 2, System: 1, Periods: 9, Throttled: 8, ThrottledPeriod: 7},
		Memory: cgroup.MemoryStats{Usage: 10, Limit: math.MaxUint64, SwapLimit: 5, OOMKills: 2,
			Stat: map[string]uint64{"file": 4, "anon": 6}},
		Pids: cgroup.PidsStats{Current: 1, Limit: math.MaxUint64},
		IO:   []cgroup.IOStats{{Major: 254, ReadBytes: 1, WriteBytes: 2, Reads: 3, Writes: 4}},
	})
	m := w.MemoryStats
	if m.Usage.Usage != 10 || m.Usage.Limit != 0 || m.SwapUsage.Limit != 5 || m.Cache != 4 || m.Stats["anon"] != 6 ||
		m.Stats["oom_kill"] != 2 || w.PidsStats.Limit != 0 {
		t.Errorf("%v", w)
	}
	if c := w.CpuStats; c.CpuUsage.TotalUsage != 3 || c.ThrottlingData.ThrottledTime != 8 ||
		c.ThrottlingData.ThrottledPeriods != 7 {
		t.Errorf("%v", c)
	}
	if len(w.BlkioStats.IoServiceBytesRecursive) != 3 || len(w.BlkioStats.IoServicedRecursive) != 3 {
		t.Errorf("%v", w.BlkioStats)
	}
}
