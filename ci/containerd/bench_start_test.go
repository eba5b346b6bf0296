package containerd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/ci/bench/starts"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/metrics"
)

// The variables of TestBenchStart: the file for its figures, which turns it on; a guest like that of the other tests,
// but with an initrd in place of a disk; and how often each way is taken.
const (
	startFile   = "KATABUILD_TEST_BENCH_START"
	initrdGuest = "KATABUILD_TEST_INITRD_GUEST"
	startRuns   = "KATABUILD_TEST_BENCH_RUNS"
)

// starter is one way to have a container's program run.
type starter struct {
	starts.Way
	do   func(t *testing.T, id string)
	undo func(t *testing.T, id string)
	pool string // configuration of the pool's daemon that the guest comes from; empty: from none
}

// TestBenchStart measures how long it takes until the program of a container runs, and what processor time: of guests
// that boot, are restored, and wait in the pool; of runc's containers; and of a guest's boot alone. All ways take
// turns, so that whatever else the machine does meets all of them. `make bench-start`.
func TestBenchStart(t *testing.T) {
	testenv.Require(t, testenv.Asked(startFile, "bench-start"), testenv.Asked(asked, "bench-start"),
		testenv.File(initrdGuest))
	runs, err := strconv.Atoi(os.Getenv(startRuns))
	if err != nil || runs < 1 {
		t.Fatalf("%s is %q: want how often", startRuns, os.Getenv(startRuns))
	}
	on(t, "2", func(t *testing.T, s *setting) {
		c := newClient(t, s)
		ways := startWays(t, c)
		got := make([]starts.Series, len(ways))
		for i, w := range ways {
			got[i].Way = w.Way
			measure(t, c, w, "warm") // what is read once is read then
		}
		for n := range runs {
			for i, w := range ways {
				wall, spent := measure(t, c, w, strconv.Itoa(n))
				got[i].Wall, got[i].CPU = append(got[i].Wall, wall), append(got[i].CPU, spent)
			}
			fmt.Fprintf(os.Stderr, "%d of %d rounds\n", n+1, runs)
		}
		b, err := json.MarshalIndent(starts.Figures{Machine: hardware(t, c), Series: got}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(os.Getenv(startFile), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
		nest.RemoveCgroups() // runc's shim of containerd 2.4 leaves empty ones now and then
	})
}

// startWays are all ways, with their templates made and their pools running.
func startWays(t *testing.T, c *client) []starter {
	t.Helper()
	detached := func(c *client) func(*testing.T, string) {
		return func(t *testing.T, id string) {
			if r := c.ctr(t, nil, c.run(id, []string{"-d"}, "toolbox", "pause")...); r.code != 0 {
				t.Fatalf("ctr run -d: %s", r.err)
			}
		}
	}
	removed := func(t *testing.T, id string) {
		_ = c.ctr(t, nil, "task", "kill", "-s", "SIGKILL", id) // it may have ended
		until(t, patience, "the removal of task "+id, func() bool {
			return c.ctr(t, nil, "task", "delete", id).code == 0
		})
		if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
			t.Fatalf("ctr container delete: %s", r.err)
		}
	}
	plain := *c
	s := *c.setting
	plain.setting, s.kind, s.config = &s, "io.containerd.runc.v2", ""
	out := []starter{{Way: starts.Way{Name: "runc"}, do: detached(&plain), undo: removed}}
	for _, root := range []struct{ name, guest string }{
		{"disk", guestOf(t, c)}, {"initrd", os.Getenv(initrdGuest)},
	} {
		for _, machine := range []string{"microvm", "q35"} {
			alone := func(t *testing.T, _ string) {
				cmd := exec.CommandContext(t.Context(), filepath.Join(repository, "bin/katabuild"), "boot", root.guest,
					"--machine", machine, "--progress", "quiet")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", cmd, err, out)
				}
			}
			lines := fmt.Sprintf("guest = %q\nmachine_type = %q\n", root.guest, machine)
			out = append(out,
				starter{Way: starts.Way{Name: "boot", Machine: machine, Root: root.name}, do: alone},
				starter{Way: starts.Way{Name: "cold", Machine: machine, Root: root.name}, do: detached(c.configured(t,
					lines)), undo: removed})
			if machine == "microvm" {
				continue // which takes no devices while it runs
			}
			for _, kind := range []string{"template", "pool"} {
				// A socket's path has room for 107 bytes.
				dir, err := os.MkdirTemp("", "kbs")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				f := factory{kind, dir}
				k := c.configured(t, lines+f.section())
				f.prepare(t, k.config)
				w := starter{Way: starts.Way{Name: kind, Machine: machine, Root: root.name}, do: detached(k),
					undo: removed}
				if kind == "pool" {
					f.serve(t, k.config)
					w.pool = k.config
				}
				out = append(out, w)
			}
		}
	}
	return out
}

// measure takes one way once, in seconds.
func measure(t *testing.T, c *client, w starter, name string) (wall, spent float64) {
	t.Helper()
	id := strings.ReplaceAll(w.String(), ", ", "-") + "-" + name
	mine := map[int]bool{} // processes of guests that wait
	if w.pool != "" {
		until(t, patience, "a full pool", func() bool { mine = waitingGuests(t, w.pool); return len(mine) == waiting })
	}
	others := tree(daemons())
	came := cameFrom(t, c)
	before, children := spentBy(), spentByChildren(t)
	start := time.Now()
	w.do(t, id)
	wall = time.Since(start).Seconds()
	after := spentBy()
	spent = spentByChildren(t) - children
	for pid, s := range after {
		if pid == os.Getpid() || others[pid] && !mine[pid] {
			continue // of this test, or of the pool's daemon
		}
		if _, old := before[pid]; !old && w.pool != "" && below(pid, daemons()) {
			continue // a guest that is started for another pod
		}
		spent += s - before[pid]
	}
	if now := cameFrom(t, c); w.pool != "" && now.pool != came.pool+1 ||
		w.Name == "template" && now.template != came.template+1 {
		t.Fatalf("%s did not come from the %s:\n%s", id, w.Name, c.Tail(10))
	}
	if w.undo != nil {
		w.undo(t, id)
	}
	return wall, spent
}

// came is how many guests came from where.
type came struct{ template, pool int }

func cameFrom(t *testing.T, c *client) came {
	t.Helper()
	b, err := os.ReadFile(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	return came{bytes.Count(b, []byte(fromTemplate)), bytes.Count(b, []byte(fromPool))}
}

// waitingGuests are the QEMUs that wait in a pool.
func waitingGuests(t *testing.T, config string) map[int]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), runtimeProgram(t), "--config", config, "factory", "status", "--json").
		Output()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Pool struct {
			Making  bool
			Waiting []struct{ PID int }
		}
	}
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	all := map[int]bool{}
	for _, w := range s.Pool.Waiting {
		all[w.PID] = true
	}
	if s.Pool.Making {
		return nil
	}
	return all
}

// daemons are the pools'.
func daemons() []int { return processes("kata-runtime", "\x00factory\x00serve") }

// parent is a process's parent, 0 of one that has ended.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from field 3 on; proc_pid_stat(5)
	n, err := strconv.Atoi(f[4-3])
	if err != nil {
		return 0
	}
	return n
}

// below says whether a process is one of those, or descends from one.
func below(pid int, of []int) bool {
	for ; pid > 1; pid = parent(pid) {
		for _, o := range of {
			if pid == o {
				return true
			}
		}
	}
	return false
}

// tree is those processes and all that descend from them.
func tree(of []int) map[int]bool {
	out := map[int]bool{}
	for _, pid := range processes("") {
		if below(pid, of) {
			out[pid] = true
		}
	}
	return out
}

// spentBy is the processor time of each process, with that of its children that have ended, in seconds.
func spentBy() map[int]float64 {
	out := map[int]float64{}
	for _, pid := range processes("") {
		if st, err := metrics.ReadStat(pid); err == nil { // or it has ended
			out[pid] = (st.CPU() + st.ChildrenUser + st.ChildrenSystem).Seconds()
		}
	}
	return out
}

// spentByChildren is what this test's own children took that have ended, in seconds.
func spentByChildren(t *testing.T) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// hardware says what was measured on.
func hardware(t *testing.T, c *client) starts.Machine {
	t.Helper()
	m := starts.Machine{Processors: runtime.NumCPU()}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.Processor = accel.CPUInfo(f, "model name")
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		t.Fatal(err)
	}
	for _, r := range u.Release {
		if r == 0 {
			break
		}
		m.Kernel += string(rune(r))
	}
	out, err := exec.CommandContext(t.Context(), "qemu-system-x86_64", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	m.QEMU, _, _ = strings.Cut(string(out), "\n")
	m.Accelerator = "KVM"
	b, err := os.ReadFile(c.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("TCG emulation")) {
		m.Accelerator = "TCG (emulation)"
	}
	return m
}
