package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what the processes of a group use. What cannot be read is 0.
type Usage struct {
	CPU          time.Duration
	Memory       uint64 // bytes, with page cache
	InactiveFile uint64 // bytes of it that are page cache which nobody has used lately
	Anonymous    uint64 // bytes that belong to no file
	Faults       uint64 // of pages
	MajorFaults  uint64 // of those, from a disk
	Processes    uint64
}

// Usage reads what the group uses; ok is false where this process is in no group of its own.
// Linux: Documentation/admin-guide/cgroup-v2.rst, and of version 1: cgroup-v1/memory.rst, cpuacct.rst, pids.rst.
func (g *Group) Usage() (u Usage, ok bool) {
	for _, d := range g.Dirs {
		if !strings.HasPrefix(filepath.Base(d), prefix) {
			continue
		}
		ok = true
		u.read(d)
	}
	return u, ok
}

// read adds what one hierarchy knows.
func (u *Usage) read(dir string) {
	number := func(to *uint64, file string) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			*to = n
		}
	}
	number(&u.Processes, "pids.current")
	number(&u.Memory, "memory.current")
	number(&u.Memory, "memory.usage_in_bytes")
	var ns uint64
	number(&ns, "cpuacct.usage")
	var us uint64
	table(dir, "cpu.stat", map[string]*uint64{"usage_usec": &us})
	u.CPU = max(u.CPU, time.Duration(ns), time.Duration(us)*time.Microsecond)
	// Version 1 has the group's own numbers by the names of version 2, and with "total_" those with the groups below.
	table(dir, "memory.stat", map[string]*uint64{"inactive_file": &u.InactiveFile, "anon": &u.Anonymous,
		"pgfault": &u.Faults, "pgmajfault": &u.MajorFaults})
	table(dir, "memory.stat", map[string]*uint64{"total_inactive_file": &u.InactiveFile, "total_rss": &u.Anonymous,
		"total_pgfault": &u.Faults, "total_pgmajfault": &u.MajorFaults})
}

// table reads numbers of a file of lines "name number".
func table(dir, file string, into map[string]*uint64) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return
	}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) != 2 || into[f[0]] == nil {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			*into[f[0]] = n
		}
	}
}
