package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// File is a control file and what to write to it.
type File struct {
	Name, Value string
	Optional    bool // nothing is lost where the kernel has no such file
}

// weight turns CPU shares, 2 to 262144, into a weight, 1 to 10000. 0 is "not set". Kubernetes enhancement 2254 has the
// formula.
func weight(shares uint64) uint64 {
	if shares == 0 {
		return 0
	}
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// ioWeight turns a block I/O weight, 10 to 1000, into io.weight's 1 to 10000. config-linux.md, "Block IO".
func ioWeight(w uint16) uint64 {
	w = min(max(w, 10), 1000)
	return 1 + (uint64(w)-10)*9999/990
}

// limit is a number of the specification where -1 is no limit.
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Files is what to write for resources, in order. What only version 1 knows is left out, as is what is not set.
func Files(r *specs.LinuxResources) ([]File, error) {
	if r == nil {
		return nil, nil
	}
	var out []File
	add := func(name, value string) { out = append(out, File{Name: name, Value: value}) }
	if c := r.CPU; c != nil {
		cpuFiles(c, add)
	}
	if m := r.Memory; m != nil {
		if err := memoryFiles(m, add); err != nil {
			return nil, err
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil && *p.Limit != 0 {
		add("pids.max", limit(*p.Limit))
	}
	if b := r.BlockIO; b != nil {
		ioFiles(b, add)
	}
	for _, h := range r.HugepageLimits {
		if strings.ContainsAny(h.Pagesize, "/\x00") {
			return nil, fmt.Errorf("huge page size %q: not a size", h.Pagesize)
		}
		n := strconv.FormatUint(h.Limit, 10)
		add("hugetlb."+h.Pagesize+".max", n)
		out = append(out, File{"hugetlb." + h.Pagesize + ".rsvd.max", n, true})
	}
	for _, dev := range slices.Sorted(maps.Keys(r.Rdma)) {
		l, s := r.Rdma[dev], dev
		if l.HcaHandles != nil {
			s += " hca_handle=" + strconv.FormatUint(uint64(*l.HcaHandles), 10)
		}
		if l.HcaObjects != nil {
			s += " hca_object=" + strconv.FormatUint(uint64(*l.HcaObjects), 10)
		}
		add("rdma.max", s)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		if strings.Contains(name, "/") || !strings.Contains(name, ".") {
			return nil, fmt.Errorf("unified resource %q: not a control file", name)
		}
		for line := range strings.SplitSeq(strings.TrimRight(r.Unified[name], "\n"), "\n") {
			add(name, line) // files with several keys take one a write
		}
	}
	return out, nil
}

func cpuFiles(c *specs.LinuxCPU, add func(name, value string)) {
	if c.Idle != nil {
		add("cpu.idle", strconv.FormatInt(*c.Idle, 10))
	}
	if c.Shares != nil && *c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) { // an idle group has no weight
		add("cpu.weight", strconv.FormatUint(weight(*c.Shares), 10))
	}
	quota, period := c.Quota, c.Period
	if quota != nil && *quota != 0 || period != nil && *period != 0 {
		v := "max"
		if quota != nil && *quota > 0 {
			v = strconv.FormatInt(*quota, 10)
		}
		if period != nil && *period != 0 {
			v += " " + strconv.FormatUint(*period, 10)
		}
		add("cpu.max", v)
	}
	if c.Burst != nil && *c.Burst != 0 {
		add("cpu.max.burst", strconv.FormatUint(*c.Burst, 10))
	}
	if c.Cpus != "" {
		add("cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		add("cpuset.mems", c.Mems)
	}
}

func memoryFiles(m *specs.LinuxMemory, add func(name, value string)) error {
	value := func(p *int64) int64 {
		if p == nil {
			return 0
		}
		return *p
	}
	max, swap := value(m.Limit), value(m.Swap)
	if swap > 0 {
		switch {
		case max <= 0:
			return fmt.Errorf("memory: a limit of memory and swap together of %d without a limit of memory", swap)
		case swap < max:
			return fmt.Errorf(
				"memory: a limit of memory and swap together of %d, which is less than %d for memory alone", swap, max)
		}
		// Version 1 counts both together, version 2 swap alone.
		add("memory.swap.max", strconv.FormatInt(swap-max, 10))
	} else if swap < 0 {
		add("memory.swap.max", "max")
	}
	if max != 0 {
		add("memory.max", limit(max))
	}
	if r := value(m.Reservation); r != 0 {
		add("memory.low", limit(r))
	}
	return nil
}

func ioFiles(b *specs.LinuxBlockIO, add func(name, value string)) {
	if b.Weight != nil && *b.Weight != 0 {
		add("io.weight", "default "+strconv.FormatUint(ioWeight(*b.Weight), 10))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			add("io.weight", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, ioWeight(*d.Weight)))
		}
	}
	for _, t := range []struct {
		key  string
		list []specs.LinuxThrottleDevice
	}{{"rbps", b.ThrottleReadBpsDevice}, {"wbps", b.ThrottleWriteBpsDevice}, {"riops", b.ThrottleReadIOPSDevice},
		{"wiops", b.ThrottleWriteIOPSDevice}} {
		for _, d := range t.list {
			v := "max"
			if d.Rate != 0 && d.Rate != math.MaxUint64 {
				v = strconv.FormatUint(d.Rate, 10)
			}
			add("io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, v))
		}
	}
}
