package metrics

import (
	"os"
	"runtime"
	rtmetrics "runtime/metrics"

	"github.com/katabuild/katabuild/internal/promtext"
)

// The numbers of Go's own runtime that Self tells, by their names there.
const (
	goroutines = "/sched/goroutines:goroutines"
	heapBytes  = "/memory/classes/heap/objects:bytes"
	allBytes   = "/memory/classes/total:bytes"
	cycles     = "/gc/cycles/total:gc-cycles"
)

// Self is what this process says of itself, under the names that programs in Go give it, behind prefix.
func Self(prefix string) []promtext.Family {
	one := func(name, help string, kind promtext.Kind, value string) promtext.Family {
		return promtext.Family{Name: prefix + name, Help: help, Kind: kind, Samples: []promtext.Sample{{Value: value}}}
	}
	s := []rtmetrics.Sample{{Name: goroutines}, {Name: heapBytes}, {Name: allBytes}, {Name: cycles}}
	rtmetrics.Read(s)
	number := func(i int) string {
		if s[i].Value.Kind() != rtmetrics.KindUint64 {
			return "0"
		}
		return promtext.Int(int64(s[i].Value.Uint64()))
	}
	out := []promtext.Family{
		one("go_gc_cycles_total", "Runs of the garbage collector.", promtext.Counter, number(3)),
		one("go_goroutines", "Goroutines that exist.", promtext.Gauge, number(0)),
		{Name: prefix + "go_info", Help: "The version of Go; the value is always 1.", Kind: promtext.Gauge,
			Samples: []promtext.Sample{{Labels: promtext.Labels("version", runtime.Version()), Value: "1"}}},
		one("go_memstats_heap_alloc_bytes", "Bytes of the heap in use.", promtext.Gauge, number(1)),
		one("go_memstats_sys_bytes", "Bytes that Go has of the system.", promtext.Gauge, number(2)),
	}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		out = append(out, one("process_open_fds", "Open files.", promtext.Gauge, promtext.Int(int64(len(list)))))
	}
	if st, err := ReadStat(os.Getpid()); err == nil {
		out = append(out,
			one("process_cpu_seconds_total", "Processor time.", promtext.Counter, promtext.Value(st.CPU().Seconds())),
			one("process_resident_memory_bytes", "Resident memory.", promtext.Gauge, promtext.Int(st.ResidentBytes)),
			one("process_virtual_memory_bytes", "Virtual memory.", promtext.Gauge, promtext.Int(st.VirtualBytes)))
	}
	return out
}
