package hostgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/internal/mountinfo"
)

func ptr[T any](v T) *T { return &v }

func TestHierarchiesAreFoundAmongMounts(t *testing.T) {
	all, err := mountinfo.Parse(`20 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw
21 20 0:21 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
22 20 0:22 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
23 20 0:23 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
24 20 0:23 / /elsewhere rw - cgroup cgroup rw,memory
25 20 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`)
	if err != nil {
		t.Fatal(err)
	}
	own := groupsOf("9:name=systemd:/s\n4:cpu,cpuacct:/\n3:memory:/outer/m\n0::/u\nnonsense\n")
	got := hierarchies(all, own)
	want := []hierarchy{
		{"cpu,cpuacct", []string{"cpu", "cpuacct"}, "/sys/fs/cgroup/cpu,cpuacct", "/"},
		{"memory", []string{"memory"}, "/sys/fs/cgroup/memory", "/m"},
		{"name=systemd", []string{"name=systemd"}, "/sys/fs/cgroup/systemd", "/s"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

// words are settings, one a line.
func words(t *testing.T, r *specs.LinuxResources) string {
	t.Helper()
	list, err := settings(r)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range list {
		out = append(out, s.controller+" "+s.name+"="+s.value)
	}
	return strings.Join(out, "\n")
}

func TestResourcesBecomeFilesOfVersion1(t *testing.T) {
	got := words(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(-1)), Reservation: ptr(int64(50)),
			Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(true)},
		CPU:  &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(-1)), Period: ptr(uint64(1000)), Cpus: "0-1"},
		Pids: &specs.LinuxPids{Limit: ptr(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(100)),
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 77)}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 5}},
		Network: &specs.LinuxNetwork{ClassID: ptr(uint32(9)),
			Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 3}}},
	})
	want := `memory memory.limit_in_bytes=100
memory memory.memsw.limit_in_bytes=-1
memory memory.soft_limit_in_bytes=50
memory memory.oom_control=1
memory memory.swappiness=0
cpu cpu.shares=512
cpu cpu.cfs_period_us=1000
cpu cpu.cfs_quota_us=-1
cpuset cpuset.cpus=0-1
pids pids.max=max
blkio blkio.weight=100
blkio blkio.throttle.read_bps_device=8:0 77
hugetlb hugetlb.2MB.limit_in_bytes=5
net_cls net_cls.classid=9
net_prio net_prio.ifpriomap=eth0 3`
	if got != want {
		t.Errorf("%s", got)
	}
	for what, r := range map[string]*specs.LinuxResources{
		"swap below memory":   {Memory: &specs.LinuxMemory{Limit: ptr(int64(5)), Swap: ptr(int64(4))}},
		"files of version 2":  {Unified: map[string]string{"memory.high": "5"}},
		"a size with a slash": {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}},
	} {
		if got, err := settings(r); err == nil {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestRulesBecomeWordsOfVersion1(t *testing.T) {
	for want, r := range map[string]cgroup.Rule{
		"a *:* rwm":  {Allow: true, Type: 'a', Major: -1, Minor: -1, Access: "rwm"},
		"c 136:* rw": {Allow: true, Type: 'c', Major: 136, Minor: -1, Access: "rw"},
		"b 8:1 m":    {Type: 'b', Major: 8, Minor: 1, Access: "m"},
	} {
		if got := entry(r); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}

func TestCountersOfVersion1(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cpuacct.usage": "1500\n", "cpuacct.stat": "user 3\nsystem 4\n", "cpu.stat": "nr_periods 5\nnr_throttled 6\n" +
			"throttled_time 7\n", "memory.usage_in_bytes": "100\n", "memory.max_usage_in_bytes": "200\n",
		memoryLimit: "9223372036854771712\n", memorySwap: "300\n", "memory.memsw.usage_in_bytes": "150\n",
		"memory.failcnt": "2\n", "memory.stat": "cache 11\nodd\n", "memory.oom_control": "oom_kill 8\n",
		"pids.current": "4\n", "pids.max": "max\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := Open(map[string]string{"cpu": dir, "cpuacct": dir, "memory": dir, "pids": dir})
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CPU; c.Usage != 1500 || c.User != 3e7 || c.System != 4e7 || c.Periods != 5 || c.Throttled != 7 {
		t.Errorf("%+v", c)
	}
	if m := s.Memory; m.Usage != 100 || m.Swap != 50 || m.Limit != ^uint64(0) || m.SwapLimit != 300 ||
		m.OOMKills != 8 || m.Stat["cache"] != 11 {
		t.Errorf("%+v", m)
	}
	if s.Pids.Current != 4 || s.Pids.Limit != ^uint64(0) {
		t.Errorf("%+v", s.Pids)
	}
	if err := os.WriteFile(filepath.Join(dir, "pids.current"), []byte("many\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stats(); err == nil {
		t.Error("a number that is none is read")
	}
}
