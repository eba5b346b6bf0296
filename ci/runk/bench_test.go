package runk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
)

// rounds is how often each runtime runs a container.
const rounds = 100

// figure is what one run took.
type figure struct {
	wall, cpu time.Duration
	memory    int // KiB, the most that one of its processes had at a time
}

// most is what busybox's time says of memory.
var most = regexp.MustCompile(`Maximum resident set size \(kbytes\): ([0-9]+)`)

// TestBench runs /bin/true in a container, by turns by each runtime, and prints what it took.
func TestBench(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BENCH", "bench-runk"))
	need(t)
	testenv.Require(t, testenv.Tool("crun"), testenv.Tool("unshare"))
	h := newHost(t, "bench", program(t))
	h.spec.Version = "1.0.2"
	h.spec.Process.Args = []string{"/bin/true"}
	h.write()
	runtimes := []struct{ name, path string }{{"runk", h.runtime}, {"runc", "runc"}, {"crun", "crun"}}
	got := map[string][]figure{}
	for i := range rounds + 1 {
		for _, r := range runtimes {
			f := h.measure(r.path)
			if i > 0 { // the first one reads the program from disk
				got[r.name] = append(got[r.name], f)
			}
		}
	}
	fmt.Printf("bench: %d times run /bin/true, by turns\n", rounds)
	for _, r := range runtimes {
		all := got[r.name]
		median := func(of func(figure) float64) float64 {
			var v []float64
			for _, f := range all {
				v = append(v, of(f))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		peak := 0
		for _, f := range all {
			peak = max(peak, f.memory)
		}
		fmt.Printf("bench: %s: wall %.1f ms, CPU %.1f ms (medians), peak RSS %.2f MB\n", r.name,
			median(func(f figure) float64 { return f.wall.Seconds() * 1e3 }),
			median(func(f figure) float64 { return f.cpu.Seconds() * 1e3 }), float64(peak)/1024)
	}
	os.Remove(filepath.Dir(filepath.Join("/sys/fs/cgroup/unified", h.group())))
}

// measure runs a container. crun refuses hosts that have both versions of control groups mounted, so that all run where
// version 2 is not seen beside version 1. What a process had before it executed a program counts as its memory, so a
// small one starts the runtime.
func (h *host) measure(runtime string) figure {
	h.Helper()
	said := filepath.Join(h.bundle, "said")
	script := `mountpoint=/sys/fs/cgroup/unified; [ ! -d $mountpoint ] || umount $mountpoint; exec "$@"`
	cmd := exec.Command("unshare", "-m", "sh", "-c", script, "sh", os.Getenv("KATABUILD_TEST_BUSYBOX"),
		"time", "-v", "-o", said, runtime, "--root", h.root, "run", h.id())
	cmd.Dir = h.bundle
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(begin)
	if err != nil {
		h.Fatalf("%s: %v\n%s", runtime, err, out)
	}
	b, err := os.ReadFile(said)
	if err != nil {
		h.Fatal(err)
	}
	m := most.FindStringSubmatch(string(b))
	if m == nil {
		h.Fatalf("time says %s", strings.TrimSpace(string(b)))
	}
	memory, err := strconv.Atoi(m[1])
	if err != nil {
		h.Fatal(err)
	}
	memory /= os.Getpagesize() >> 10 // busybox takes the kernel's KiB for pages
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return figure{wall, time.Duration(u.Utime.Nano() + u.Stime.Nano()), memory}
}
