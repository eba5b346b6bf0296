// Package metrics is what can be counted of a pod: its processes on the host, its calls, and what its guest says of
// itself, under the names that Kata Containers gives these numbers.
//
// In come numbers of processes, durations and the text of a guest, which is hostile; out come families of package
// promtext. It does not know who asks.
package metrics

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
)

// clockTick is the unit of times in /proc/PID/stat: sysconf(_SC_CLK_TCK), which is 100 on every architecture that Linux
// has today.
const clockTick = time.Second / 100

// Stat is what is told of a process.
type Stat struct {
	User, System                 time.Duration
	ChildrenUser, ChildrenSystem time.Duration // of those that it has waited for
	Threads                      int64
	ResidentBytes, VirtualBytes  int64
}

// CPU is the time of the process itself.
func (s Stat) CPU() time.Duration { return s.User + s.System }

// ReadStat reads it from /proc/PID/stat.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(string(b), int64(os.Getpagesize()))
}

// parseStat reads a line of /proc/PID/stat, proc_pid_stat(5). Of all fields, utime is the 14th, followed by stime,
// cutime and cstime; num_threads is the 20th, vsize the 23rd, and rss, in pages, the 24th.
func parseStat(line string, page int64) (Stat, error) {
	i := strings.LastIndex(line, ") ")
	if i < 0 {
		return Stat{}, errors.New("/proc/PID/stat: no name")
	}
	f := strings.Fields(line[i+2:])
	const before = 3 // the first field behind the name is the 3rd
	var n [7]int64
	for j, field := range []int{14, 15, 16, 17, 20, 23, 24} {
		if len(f) <= field-before {
			return Stat{}, fmt.Errorf("/proc/PID/stat: %d fields", len(f)+before-1)
		}
		v, err := strconv.ParseInt(f[field-before], 10, 64)
		if err != nil || v < 0 {
			return Stat{}, fmt.Errorf("/proc/PID/stat: field %d is %q", field, f[field-before])
		}
		n[j] = v
	}
	ticks := func(n int64) time.Duration { return time.Duration(n) * clockTick }
	return Stat{User: ticks(n[0]), System: ticks(n[1]), ChildrenUser: ticks(n[2]), ChildrenSystem: ticks(n[3]),
		Threads: n[4], VirtualBytes: n[5], ResidentBytes: n[6] * page}, nil
}

// Role is what a process is for a pod.
type Role struct{ prefix, words string }

// The roles.
var (
	Shim       = Role{"kata_shim_", "the shim"}
	Hypervisor = Role{"kata_hypervisor_", "the hypervisor"}
	VirtioFSD  = Role{"kata_virtiofsd_", "virtiofsd"}
)

// statusItems are lines of /proc/PID/status, in the kernel's unit; proc_pid_status(5).
var statusItems = []string{"VmPeak", "VmSize", "VmLck", "VmPin", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem",
	"VmData", "VmStk", "VmExe", "VmLib", "VmPTE", "VmSwap", "HugetlbPages", "voluntary_ctxt_switches",
	"nonvoluntary_ctxt_switches"}

// ioItems are lines of /proc/PID/io; proc_pid_io(5). Kata's names have no underscores.
var ioItems = []string{"rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"}

// Process is what the host knows of a process. One that is gone has no families, and a file that cannot be read costs
// the numbers in it alone.
func Process(r Role, pid int) []promtext.Family {
	var out []promtext.Family
	gauge := func(name, help string, samples ...promtext.Sample) {
		out = append(out, promtext.Family{Name: r.prefix + name, Help: help + " of " + r.words + ".",
			Kind: promtext.Gauge, Samples: samples})
	}
	if list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		gauge("fds", "Open files", promtext.Sample{Value: promtext.Int(int64(len(list)))})
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)); err == nil {
		gauge("io_stat", "/proc/PID/io", items(string(b), ioItems)...)
	}
	if st, err := ReadStat(pid); err == nil {
		sample := func(item string, d time.Duration) promtext.Sample {
			return promtext.Sample{Labels: promtext.Labels("item", item), Value: promtext.Int(int64(d / clockTick))}
		}
		gauge("proc_stat", "Processor time in ticks of 10 ms", sample("utime", st.User), sample("stime", st.System),
			sample("cutime", st.ChildrenUser), sample("cstime", st.ChildrenSystem))
		gauge("threads", "Threads", promtext.Sample{Value: promtext.Int(st.Threads)})
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		// Kata's numbers are in bytes, the kernel's in KiB.
		gauge("proc_status", "/proc/PID/status, memory in bytes,", items(string(b), statusItems)...)
	}
	return out
}

// items are those lines "name: number" of a file that names has, in that order. A number in kB becomes one in bytes.
func items(text string, names []string) []promtext.Sample {
	found := map[string]string{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			continue
		}
		if len(f) == 2 && f[1] == "kB" {
			n *= 1024
		}
		found[name] = promtext.Int(n)
	}
	var out []promtext.Sample
	for _, n := range names {
		if v, is := found[n]; is {
			item := strings.ToLower(n)
			if strings.HasSuffix(item, "_bytes") {
				item = strings.ReplaceAll(item, "_", "")
			}
			out = append(out, promtext.Sample{Labels: promtext.Labels("item", item), Value: v})
		}
	}
	return out
}

// netItems are the columns of /proc/PID/net/dev behind the interface, by Kata's names; proc_pid_net(5).
var netItems = []string{"recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame",
	"recv_compressed", "recv_multicast", "sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo",
	"sent_colls", "sent_carrier", "sent_compressed"}

// Network is the interfaces of the network namespace that the hypervisor is in, as the host sees them.
func Network(pid int) []promtext.Family {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	return []promtext.Family{{Name: Hypervisor.prefix + "netdev", Help: "Interfaces of the pod's network on the host.",
		Kind: promtext.Gauge, Samples: netDev(string(b))}}
}

func netDev(text string) []promtext.Sample {
	var out []promtext.Sample
	for line := range strings.Lines(text) {
		name, rest, is := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !is || len(f) != len(netItems) {
			continue
		}
		for i, item := range netItems {
			n, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				continue
			}
			out = append(out, promtext.Sample{Labels: promtext.Labels("interface", strings.TrimSpace(name), "item",
				item), Value: strconv.FormatUint(n, 10)})
		}
	}
	return out
}
