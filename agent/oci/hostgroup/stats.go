package hostgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/cgroup"
)

// tick is the unit of cpuacct.stat: USER_HZ is 100 on all machines that this project builds for. time(7).
const tick = 1e9 / 100

// noLimit is what version 1 says where memory has no limit: the largest number of pages, in bytes.
const noLimit = math.MaxInt64 &^ 0xfff

// Stats reads all counters, in the units of package cgroup. Those of a controller that is not there are zero.
func (g *Groups) Stats() (cgroup.Stats, error) {
	if g.v2 != nil {
		return g.v2.Stats()
	}
	r := reader{dirs: g.dirs}
	var s cgroup.Stats
	cpu, throttling := r.keyed("cpuacct", "cpuacct.stat"), r.keyed("cpu", "cpu.stat")
	s.CPU = cgroup.CPUStats{Usage: r.one("cpuacct", "cpuacct.usage"), User: cpu["user"] * tick,
		System: cpu["system"] * tick, Periods: throttling["nr_periods"], ThrottledPeriod: throttling["nr_throttled"],
		Throttled: throttling["throttled_time"]}
	s.Memory = cgroup.MemoryStats{Usage: r.one("memory", "memory.usage_in_bytes"),
		MaxUsage:  r.one("memory", "memory.max_usage_in_bytes"),
		Limit:     limit(r.one("memory", memoryLimit)),
		FailCount: r.one("memory", "memory.failcnt"), Stat: r.keyed("memory", "memory.stat"),
		OOMKills: r.keyed("memory", "memory.oom_control")["oom_kill"]}
	// Version 1 counts memory and swap together.
	s.Memory.SwapLimit = limit(r.one("memory", memorySwap))
	if both := r.one("memory", "memory.memsw.usage_in_bytes"); both > s.Memory.Usage {
		s.Memory.Swap = both - s.Memory.Usage
	}
	s.Pids = cgroup.PidsStats{Current: r.one("pids", "pids.current"), Limit: r.one("pids", "pids.max")}
	if r.err != nil {
		return s, fmt.Errorf("statistics of control groups: %w", r.err)
	}
	return s, nil
}

func limit(n uint64) uint64 {
	if n >= noLimit {
		return math.MaxUint64
	}
	return n
}

// reader reads files of version 1. What is not there is zero.
type reader struct {
	dirs map[string]string
	err  error // the first one
}

func (r *reader) text(controller, name string) string {
	if r.dirs[controller] == "" {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(r.dirs[controller], name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) && r.err == nil {
		r.err = err
	}
	return strings.TrimSpace(string(b))
}

// one reads a file of one number, or "max".
func (r *reader) one(controller, name string) uint64 {
	w := r.text(controller, name)
	if w == "" {
		return 0
	}
	if w == "max" {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
	return n
}

// keyed reads a file of lines with a name and a number. Lines of another form are left out: kernels may add some.
func (r *reader) keyed(controller, name string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(r.text(controller, name)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = n
		}
	}
	return out
}
