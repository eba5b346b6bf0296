package metrics

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode"
)

// item is a sample with one label.
func item(name string, value float64) sample { return sample{[]label{{"item", name}}, value} }

// number reads a number of proc's, which has no sign and no exponent.
func number(s string) (float64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return float64(n), nil
}

// statusItems are the lines of status that are numbers worth it. proc_pid_status(5); those in kB become bytes.
var statusItems = []string{"VmPeak", "VmSize", "VmLck", "VmPin", "VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem",
	"VmData", "VmStk", "VmExe", "VmLib", "VmPTE", "VmSwap",
	"HugetlbPages", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}

func (*Collector) status(text string) ([]family, error) {
	values, err := keyed(text, ":")
	if err != nil {
		return nil, err
	}
	f := family{name: "kata_agent_proc_status", help: "The agent's /proc/self/status; memory in bytes."}
	for _, i := range statusItems {
		v, ok := values[i]
		if !ok {
			continue
		}
		n, err := amount(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i, err)
		}
		f.samples = append(f.samples, item(strings.ToLower(i), n))
	}
	threads, err := number(values["Threads"])
	if err != nil {
		return nil, fmt.Errorf("line Threads: %w", err)
	}
	return []family{f, {name: "kata_agent_threads", help: "Threads of the agent.",
		samples: []sample{{value: threads}}}}, nil
}

// keyed reads lines of a key, a sign and a value.
func keyed(text, sign string) (map[string]string, error) {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, sign)
		if !ok {
			return nil, fmt.Errorf("line %q: want KEY%sVALUE", strings.TrimSpace(line), sign)
		}
		values[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return values, nil
}

// amount reads a number, in kB perhaps.
func amount(s string) (float64, error) {
	digits, isKB := strings.CutSuffix(s, " kB")
	n, err := number(digits)
	if isKB {
		n *= 1024
	}
	return n, err
}

// The fields of /proc/PID/stat behind the name of the program, whose first is number 3. proc_pid_stat(5).
const (
	firstField = 3
	utimeField = 14
	rssField   = 24
)

func (*Collector) stat(text string) ([]family, error) {
	// The name is in brackets and may have any character, brackets too.
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return nil, errors.New("no name of a program in brackets")
	}
	words := strings.Fields(text[end+1:])
	if len(words) <= rssField-firstField {
		return nil, fmt.Errorf("%d fields: want at least %d", len(words)+firstField-1, rssField)
	}
	var values []float64
	for _, n := range []int{utimeField, utimeField + 1, utimeField + 2, utimeField + 3, rssField - 1, rssField} {
		v, err := number(words[n-firstField])
		if err != nil {
			return nil, fmt.Errorf("field %d: %w", n, err)
		}
		values = append(values, v)
	}
	f := family{name: "kata_agent_proc_stat", help: "The agent's times of /proc/self/stat, in ticks of 10 ms."}
	for i, name := range []string{"utime", "stime", "cutime", "cstime"} {
		f.samples = append(f.samples, item(name, values[i]))
	}
	return []family{f,
		{name: "kata_agent_total_time", help: "Processor time of the agent in seconds.",
			samples: []sample{{value: (values[0] + values[1]) / ticks}}},
		{name: "kata_agent_total_vm", help: "Address space of the agent in bytes.",
			samples: []sample{{value: values[4]}}},
		{name: "kata_agent_total_rss", help: "Memory of the agent in bytes.",
			samples: []sample{{value: values[5] * float64(os.Getpagesize())}}},
	}, nil
}

func (*Collector) io(text string) ([]family, error) {
	f := family{name: "kata_agent_io_stat", help: "The agent's /proc/self/io."}
	return f.lines(text, ":")
}

// lines makes an item of every line.
func (f family) lines(text, sign string) ([]family, error) {
	values, err := keyed(text, sign)
	if err != nil {
		return nil, err
	}
	for key, v := range values {
		n, err := amount(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		f.samples = append(f.samples, item(snake(key), n))
	}
	return []family{f}, nil
}

// snake writes MemTotal as mem_total and Active(anon) as active_anon.
func snake(s string) string {
	var b strings.Builder
	low := false // whether the letter before was small or a digit
	for _, r := range s {
		switch {
		case unicode.IsUpper(r):
			if low {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
			low = false
		case r == '(' || r == '_':
			b.WriteByte('_')
			low = false
		case r == ')':
		default:
			b.WriteRune(r)
			low = true
		}
	}
	return b.String()
}

// load reads /proc/loadavg: three averages, running/all tasks, and the last process. proc_loadavg(5).
func (*Collector) load(text string) ([]family, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return nil, fmt.Errorf("%q: want three averages and tasks", strings.TrimSpace(text))
	}
	load := family{name: "kata_guest_load", help: "Load of the guest."}
	for i, name := range []string{"load1", "load5", "load15"} {
		n, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not an average", words[i])
		}
		load.samples = append(load.samples, item(name, n))
	}
	tasks := family{name: "kata_guest_tasks", help: "Tasks of the guest: those that could run now, and all."}
	running, all, _ := strings.Cut(words[3], "/")
	for _, t := range []struct{ name, text string }{{"cur", running}, {"max", all}} {
		n, err := number(t.text)
		if err != nil {
			return nil, err
		}
		tasks.samples = append(tasks.samples, item(t.name, n))
	}
	return []family{load, tasks}, nil
}

// cpuItems are the columns of a processor in /proc/stat. proc_stat(5).
var cpuItems = []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"}

func (*Collector) cpu(text string) ([]family, error) {
	f := family{name: "kata_guest_cpu_time", help: "Time of the guest's processors, in ticks of 10 ms."}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "cpu") {
			continue
		}
		cpu := strings.TrimPrefix(words[0], "cpu")
		if cpu == "" {
			cpu = "total"
		}
		for i, name := range cpuItems[:min(len(cpuItems), len(words)-1)] {
			n, err := number(words[i+1])
			if err != nil {
				return nil, err
			}
			f.samples = append(f.samples, sample{[]label{{"cpu", cpu}, {"item", name}}, n})
		}
	}
	return []family{f}, nil
}

func (*Collector) vmstat(text string) ([]family, error) {
	f := family{name: "kata_guest_vm_stat", help: "The guest's /proc/vmstat."}
	return f.lines(text, " ")
}

func (*Collector) meminfo(text string) ([]family, error) {
	f := family{name: "kata_guest_meminfo", help: "The guest's /proc/meminfo; memory in bytes."}
	return f.lines(text, ":")
}

// netItems are the columns of /proc/net/dev. proc_pid_net(5).
var netItems = []string{"recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame",
	"recv_compressed", "recv_multicast",
	"sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls", "sent_carrier",
	"sent_compressed"}

func (*Collector) netdev(text string) ([]family, error) {
	f := family{name: "kata_guest_netdev_stat", help: "The guest's /proc/net/dev."}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue // the two lines of headings
		}
		words := strings.Fields(rest)
		if len(words) != len(netItems) {
			return nil, fmt.Errorf("interface %s: %d numbers: want %d", strings.TrimSpace(name), len(words),
				len(netItems))
		}
		for i, w := range words {
			n, err := number(w)
			if err != nil {
				return nil, err
			}
			f.samples = append(f.samples, sample{[]label{{"interface", strings.TrimSpace(name)},
				{"item", netItems[i]}}, n})
		}
	}
	return []family{f}, nil
}

// diskItems are the columns of /proc/diskstats behind major, minor and name; times in ms.
// Documentation/admin-guide/iostats.rst.
var diskItems = []string{"reads", "reads_merged", "sectors_read", "time_reading", "writes", "writes_merged",
	"sectors_written", "time_writing", "in_progress", "time_in_progress",
	"weighted_time_in_progress", "discards", "discards_merged", "sectors_discarded", "time_discarding", "flushes",
	"time_flushing"}

func (*Collector) disks(text string) ([]family, error) {
	f := family{name: "kata_guest_diskstat", help: "The guest's /proc/diskstats; times in milliseconds."}
	const name = 2
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) <= name {
			return nil, fmt.Errorf("line %q: want major, minor, name and numbers", strings.TrimSpace(line))
		}
		for i, item := range diskItems[:min(len(diskItems), len(words)-name-1)] {
			n, err := number(words[name+1+i])
			if err != nil {
				return nil, err
			}
			f.samples = append(f.samples, sample{[]label{{"disk", words[name]}, {"item", item}}, n})
		}
	}
	return []family{f}, nil
}
