package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stats is what a group has used. Times are in nanoseconds, sizes in bytes; a limit of MaxUint64 is none.
type Stats struct {
	CPU     CPUStats
	Memory  MemoryStats
	Pids    PidsStats
	IO      []IOStats // sorted by device
	Hugetlb map[string]HugetlbStats
}

// CPUStats is cpu.stat.
type CPUStats struct {
	Usage, User, System                 uint64
	Periods, Throttled, ThrottledPeriod uint64 // number, time, number
}

// MemoryStats is memory.* without pressure. Swap is swap alone.
type MemoryStats struct {
	Usage, MaxUsage, Limit        uint64 // MaxUsage is 0 where the kernel does not tell
	Swap, SwapLimit               uint64
	FailCount, OOMCount, OOMKills uint64 // max, oom, oom_kill of memory.events
	Stat                          map[string]uint64
}

// PidsStats is pids.*.
type PidsStats struct{ Current, Limit uint64 }

// IOStats is a line of io.stat.
type IOStats struct {
	Major, Minor                                       uint64
	ReadBytes, WriteBytes, Reads, Writes, DiscardBytes uint64
	Discards                                           uint64
}

// HugetlbStats is hugetlb.<size>.*.
type HugetlbStats struct{ Usage, Limit, Failures uint64 }

// Stats reads all counters. Those of a controller that is not there are zero.
func (g *Group) Stats() (Stats, error) {
	var s Stats
	var errs []error
	at := func(name string) string { return filepath.Join(g.Path, name) }
	one := func(name string) uint64 {
		n, err := single(at(name))
		errs = append(errs, err)
		return n
	}
	many := func(name string) map[string]uint64 {
		m, err := keyed(at(name))
		errs = append(errs, err)
		return m
	}
	if _, err := os.Stat(g.Path); err != nil {
		return s, fmt.Errorf("statistics of cgroup %s: %w", g.Path, err)
	}
	cpu := many("cpu.stat")
	const micro = 1000 // nanoseconds
	s.CPU = CPUStats{
		Usage: cpu["usage_usec"] * micro, User: cpu["user_usec"] * micro, System: cpu["system_usec"] * micro,
		Periods: cpu["nr_periods"], ThrottledPeriod: cpu["nr_throttled"], Throttled: cpu["throttled_usec"] * micro,
	}
	events := many(EventsFile)
	s.Memory = MemoryStats{
		Usage: one("memory.current"), MaxUsage: one("memory.peak"), Limit: one("memory.max"),
		Swap: one("memory.swap.current"), SwapLimit: one("memory.swap.max"),
		FailCount: events["max"], OOMCount: events["oom"], OOMKills: events["oom_kill"], Stat: many("memory.stat"),
	}
	s.Pids = PidsStats{one("pids.current"), one("pids.max")}
	b, err := os.ReadFile(at("io.stat"))
	errs = append(errs, err)
	s.IO = parseIO(string(b))
	entries, err := os.ReadDir(g.Path)
	errs = append(errs, err)
	for _, e := range entries {
		size, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		if size, ok2 := strings.CutSuffix(size, ".current"); ok && ok2 && !strings.HasSuffix(size, ".rsvd") {
			if s.Hugetlb == nil {
				s.Hugetlb = map[string]HugetlbStats{}
			}
			p := "hugetlb." + size
			s.Hugetlb[size] = HugetlbStats{one(p + ".current"), one(p + ".max"), many(p + ".events")["max"]}
		}
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
			return s, fmt.Errorf("statistics of cgroup %s: %w", g.Path, err)
		}
	}
	return s, nil
}

// single reads a file of one number, or "max".
func single(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	w := strings.TrimSpace(string(b))
	if w == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// keyed reads a file of lines with a name and a number.
func keyed(file string) (map[string]uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseKeyed(string(b)), nil
}

// parseKeyed leaves out lines of another form: kernels may add some.
func parseKeyed(s string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = n
		}
	}
	return out
}

// parseIO reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func parseIO(s string) []IOStats {
	var out []IOStats
	for line := range strings.Lines(s) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		major, minor, _ := strings.Cut(w[0], ":")
		var i IOStats
		var err1, err2 error
		i.Major, err1 = strconv.ParseUint(major, 10, 32)
		i.Minor, err2 = strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		to := map[string]*uint64{
			"rbytes": &i.ReadBytes, "wbytes": &i.WriteBytes, "rios": &i.Reads, "wios": &i.Writes,
			"dbytes": &i.DiscardBytes, "dios": &i.Discards,
		}
		for _, kv := range w[1:] {
			k, v, _ := strings.Cut(kv, "=")
			if p := to[k]; p != nil {
				if n, err := strconv.ParseUint(v, 10, 64); err == nil {
					*p = n
				}
			}
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b IOStats) int {
		if a.Major != b.Major {
			return int(a.Major) - int(b.Major)
		}
		return int(a.Minor) - int(b.Minor)
	})
	return out
}
