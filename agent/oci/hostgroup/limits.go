package hostgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/cgroup"
)

// setting is a file of version 1 and what to write to it.
type setting struct{ controller, name, value string }

// Set sets limits. What is not set stays as it is.
func (g *Groups) Set(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if g.v2 != nil {
		files, err := cgroup.Files(r)
		if err != nil {
			return err
		}
		return g.v2.Set(files)
	}
	list, err := settings(r)
	if err != nil {
		return err
	}
	for i, s := range list {
		dir := g.dirs[s.controller]
		if dir == "" {
			return fmt.Errorf("set %s to %s: this host has no controller %s", s.name, s.value, s.controller)
		}
		err := write(dir, s.name, s.value)
		// What is for memory may not be above what is for memory and swap together, so the order depends on whether
		// they grow.
		if (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)) && s.name == memoryLimit && i+1 < len(list) &&
			list[i+1].name == memorySwap {
			if err = write(dir, memorySwap, list[i+1].value); err == nil {
				err = write(dir, s.name, s.value)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The files of the memory controller whose order matters.
const (
	memoryLimit = "memory.limit_in_bytes"
	memorySwap  = "memory.memsw.limit_in_bytes"
)

// settings are what is to be written for resources, in order. Documentation/admin-guide/cgroup-v1: memory.rst,
// cpusets.rst, pids.rst, blkio-controller.rst, hugetlb.rst, net_cls.rst, net_prio.rst; scheduler/sched-bwc.rst.
func settings(r *specs.LinuxResources) ([]setting, error) {
	var out []setting
	add := func(controller, name, value string) { out = append(out, setting{controller, name, value}) }
	number := func(controller, name string, v *int64) {
		if v != nil && *v != 0 {
			add(controller, name, strconv.FormatInt(*v, 10))
		}
	}
	unsigned := func(controller, name string, v *uint64) {
		if v != nil && *v != 0 {
			add(controller, name, strconv.FormatUint(*v, 10))
		}
	}
	if m := r.Memory; m != nil {
		if m.Swap != nil && *m.Swap > 0 && m.Limit != nil && *m.Limit > *m.Swap {
			return nil, fmt.Errorf(
				"memory: a limit of memory and swap together of %d, which is less than %d for memory alone", *m.Swap,
				*m.Limit)
		}
		number("memory", memoryLimit, m.Limit)
		number("memory", memorySwap, m.Swap)
		number("memory", "memory.soft_limit_in_bytes", m.Reservation)
		number("memory", "memory.kmem.tcp.limit_in_bytes", m.KernelTCP)
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			add("memory", "memory.oom_control", "1")
		}
		if m.Swappiness != nil {
			add("memory", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
		}
	}
	if c := r.CPU; c != nil {
		unsigned("cpu", "cpu.shares", c.Shares)
		// A period below the quota's old one is refused where the parent has a limit; the specification has no order.
		unsigned("cpu", "cpu.cfs_period_us", c.Period)
		number("cpu", "cpu.cfs_quota_us", c.Quota)
		unsigned("cpu", "cpu.cfs_burst_us", c.Burst)
		unsigned("cpu", "cpu.rt_period_us", c.RealtimePeriod)
		number("cpu", "cpu.rt_runtime_us", c.RealtimeRuntime)
		number("cpu", "cpu.idle", c.Idle)
		if c.Cpus != "" {
			add("cpuset", "cpuset.cpus", c.Cpus)
		}
		if c.Mems != "" {
			add("cpuset", "cpuset.mems", c.Mems)
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil && *p.Limit != 0 {
		n := "max"
		if *p.Limit > 0 {
			n = strconv.FormatInt(*p.Limit, 10)
		}
		add("pids", "pids.max", n)
	}
	if b := r.BlockIO; b != nil {
		blockIO(b, add)
	}
	for _, h := range r.HugepageLimits {
		if strings.ContainsAny(h.Pagesize, "/\x00") {
			return nil, fmt.Errorf("huge page size %q: not a size", h.Pagesize)
		}
		add("hugetlb", "hugetlb."+h.Pagesize+".limit_in_bytes", strconv.FormatUint(h.Limit, 10))
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil && *n.ClassID != 0 {
			add("net_cls", "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10))
		}
		for _, p := range n.Priorities {
			add("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
		}
	}
	if len(r.Unified) > 0 {
		return nil, errors.New("unified resources: this host has control groups of version 1")
	}
	return out, nil
}

func blockIO(b *specs.LinuxBlockIO, add func(controller, name, value string)) {
	if b.Weight != nil && *b.Weight != 0 {
		add("blkio", "blkio.weight", strconv.Itoa(int(*b.Weight)))
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		add("blkio", "blkio.leaf_weight", strconv.Itoa(int(*b.LeafWeight)))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil && *d.Weight != 0 {
			add("blkio", "blkio.weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
	}
	for _, t := range []struct {
		name string
		list []specs.LinuxThrottleDevice
	}{{"read_bps", b.ThrottleReadBpsDevice}, {"write_bps", b.ThrottleWriteBpsDevice},
		{"read_iops", b.ThrottleReadIOPSDevice}, {"write_iops", b.ThrottleWriteIOPSDevice}} {
		for _, d := range t.list {
			add("blkio", "blkio.throttle."+t.name+"_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
}

// SetDevices says which devices the processes may use, in the place of earlier rules; the last rule that matches wins.
func (g *Groups) SetDevices(rules []cgroup.Rule) error {
	if g.v2 != nil {
		var p cgroup.Programs
		defer p.Forget()
		return g.v2.SetDevices(&p, rules)
	}
	dir := g.dirs["devices"]
	if dir == "" {
		return nil // no other controller can refuse a device, and none was asked to
	}
	if err := write(dir, "devices.deny", "a"); err != nil {
		return err
	}
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		if err := write(dir, file, entry(r)); err != nil {
			return err
		}
	}
	return nil
}

// entry is a rule in the words of devices.rst.
func entry(r cgroup.Rule) string {
	if r.Type == 'a' && r.Major < 0 && r.Minor < 0 {
		return "a *:* " + r.Access
	}
	n := func(v int64) string {
		if v < 0 {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprintf("%c %s:%s %s", r.Type, n(r.Major), n(r.Minor), r.Access)
}
