package pool_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/pod"
	"github.com/katabuild/katabuild/runtime/pool"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// What this program is when a test runs it again.
const (
	keeperWord = "keeper"
	makerWord  = "maker"
	daemonWord = "daemon" // with the folder of a host
	shimWord   = "shim"   // likewise
)

// orderName is the file of a host's folder that says what its pool makes.
const orderName = "order.json"

func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == keeperWord:
		err = pool.Keep(context.Background())
	case len(os.Args) == 2 && os.Args[1] == makerWord:
		err = factory.Serve(context.Background())
	case len(os.Args) == 2 && os.Args[1] == pool.FakeWord:
		err = pool.FakeKeep()
	case len(os.Args) == 3 && os.Args[1] == daemonWord:
		err = daemon(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == shimWord:
		err = shim(os.Args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func endpoint(dir string) string { return filepath.Join(dir, "pool", "cache.sock") }

func load(dir string) (factory.Order, string, error) {
	var o factory.Order
	b, err := os.ReadFile(filepath.Join(dir, orderName))
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	return o, string(digest.Of(b)), err
}

// daemon serves the pool of a host, until its input ends at the latest.
func daemon(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test has ended
		stop()
	}()
	return pool.Serve(ctx, pool.Options{Endpoint: endpoint(dir), Keeper: []string{"/proc/self/exe", keeperWord},
		Maker: []string{"/proc/self/exe", makerWord},
		Load:  func() (factory.Order, string, error) { return load(dir) },
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil))})
}

// handed is a guest that was handed over.
func handed(ctx context.Context, dir string) (*sandbox.Sandbox, error) {
	o, _, err := load(dir)
	if err != nil {
		return nil, err
	}
	cfg, err := o.Machine()
	if err != nil {
		return nil, err
	}
	cfg, key, err := factory.Of(&o.Config, o.Version).Fit(cfg, machine.Size{})
	if err != nil {
		return nil, err
	}
	taken, err := pool.Take(ctx, endpoint(dir), key)
	if err != nil {
		return nil, err
	}
	defer taken.Close() //nolint:errcheck // the machine has its own
	cfg.Held, cfg.Timeout, cfg.Attest = taken.Held, 5*time.Minute, true
	return sandbox.Start(ctx, cfg)
}

// dirs are a host's folders of pods.
func dirs(dir string) record.Dirs { return record.Dirs{State: dir + "/s", Share: dir + "/share"} }

// podID is that of a host's pod.
const podID = "pod"

// shim runs a pod, says so, and ends it when its input ends.
func shim(dir string) error {
	fmt.Println("asks")
	o, _, err := load(dir)
	if err != nil {
		return err
	}
	c := &o.Config
	c.Factory.VMCacheEndpoint = endpoint(dir)
	c.VM.SharedFS, c.Runtime.InternetworkingModel = config.SharedNone, config.NetworkNone
	p, err := pod.Start(context.Background(), pod.Options{ID: podID, Config: c, Dirs: dirs(dir), Version: o.Version,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, p.Stop())
}

// host is a folder with all that a pool needs.
type host struct {
	t   testing.TB
	dir string
	o   factory.Order
}

// newHost has a pool of a number of guests, from a template where that is wanted.
func newHost(t testing.TB, number int, template bool) *host {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"))
	h := &host{t: t, dir: t.TempDir(), o: factory.Order{Config: config.Default(), Version: "test"}}
	guest, err := filepath.Abs(os.Getenv("KATABUILD_TEST_GUEST"))
	if err != nil {
		t.Fatal(err)
	}
	c := &h.o.Config
	c.VM.Guest, c.VM.MachineType, c.VM.PCIeRootPorts = guest, qemu.Q35, 2
	c.Agent.DialTimeout = 5 * time.Minute
	c.Factory.TemplatePath, c.Factory.EnableTemplate = h.dir+"/templates", template
	c.Factory.VMCacheNumber = number
	h.write()
	if template {
		cfg, err := h.o.Machine()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := factory.Of(c, h.o.Version).Make(t.Context(), cfg, nil); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *host) write() {
	h.t.Helper()
	b, err := json.Marshal(h.o)
	if err == nil {
		err = os.WriteFile(h.dir+"/new", b, 0o600)
	}
	if err := errors.Join(err, os.Rename(h.dir+"/new", filepath.Join(h.dir, orderName))); err != nil {
		h.t.Fatal(err)
	}
}

// TestTheDaemonMakesTheTemplateThatItLacks has guests wait that come from a template which nobody asked for.
func TestTheDaemonMakesTheTemplateThatItLacks(t *testing.T) {
	h := newHost(t, 2, false)
	h.o.Config.Factory.EnableTemplate, h.o.Config.Factory.AutomaticTemplate = true, true
	h.write()
	h.run(daemonWord)
	var digests []string
	for _, w := range h.waiting(2) {
		digests = append(digests, w.Template)
	}
	if digests[0] == "" || digests[0] != digests[1] {
		t.Errorf("guests of the templates %q", digests)
	}
}

// run runs this program again as something of the host.
func (h *host) run(word string) (*exec.Cmd, *bufio.Reader) {
	h.t.Helper()
	cmd := exec.Command("/proc/self/exe", word, h.dir)
	cmd.Stderr = h.t.Output()
	in, err := cmd.StdinPipe()
	out, e := cmd.StdoutPipe()
	if err := errors.Join(err, e); err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

// within waits for something, some minutes on a busy host.
func (h *host) within(what string, f func() bool) {
	h.t.Helper()
	for end := time.Now().Add(5 * time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s, err := pool.Ask(context.Background(), endpoint(h.dir))
			h.t.Fatalf("%s: not so after minutes; the pool: %+v, %v", what, s, err)
		}
	}
}

// waiting waits until guests wait, and returns them.
func (h *host) waiting(n int) []pool.Waiting {
	h.t.Helper()
	var s *pool.Status
	h.within(fmt.Sprintf("%d guests wait", n), func() bool {
		var err error
		s, err = pool.Ask(h.t.Context(), endpoint(h.dir))
		return err == nil && len(s.Waiting) == n
	})
	return s.Waiting
}

// gone waits until processes have ended.
func (h *host) gone(what string, pids ...record.HostProcess) {
	h.t.Helper()
	for _, p := range pids {
		h.within(what+" has ended", func() bool { return !p.Alive() })
	}
}

// parent is a process's.
func parent(t testing.TB, pid int) record.HostProcess {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	n, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	return record.ProcessOf(n)
}

// process is one of a guest that waits, with its keeper.
func processes(t testing.TB, w pool.Waiting) []record.HostProcess {
	t.Helper()
	return []record.HostProcess{record.ProcessOf(w.PID), parent(t, w.PID)}
}

func attested(t testing.TB, s *sandbox.Sandbox) *verdict.Verdict {
	t.Helper()
	a, err := s.Attest(t.Context(), s.Plan().Words)
	if err != nil {
		t.Fatal(err)
	}
	if v := a.Verdict; v.Result != verdict.Attested || v.Pool == nil ||
		!strings.Contains(v.Table(), "waited in the pool since") {
		t.Errorf("the verdict: %s", v.Table())
	}
	return a.Verdict
}

func TestAGuestThatWaitedIsItsOwnersAlone(t *testing.T) {
	h := newHost(t, 1, true)
	d, _ := h.run(daemonWord)
	first := h.waiting(1)
	if first[0].Template == "" {
		t.Error("the guest is from no template")
	}
	if idle := cpu(t, first[0].PID); idle < 0 {
		t.Error("no processor's time")
	}
	s, err := handed(t.Context(), h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop() //nolint:errcheck // again below
	if s.PID() != first[0].PID {
		t.Errorf("QEMU %d was handed over, and %d waited", s.PID(), first[0].PID)
	}
	if v := attested(t, s); v.Template == nil || string(v.Template.Digest) != first[0].Template {
		t.Errorf("the verdict's template: %+v", v.Template)
	}
	if nice, err := unix.Getpriority(unix.PRIO_PROCESS, s.PID()); err != nil || nice < 20 {
		t.Errorf("its niceness: %d, %v", 20-nice, err)
	}

	// The pool is filled again, and ends with the daemon; the guest that was handed over does not.
	second := h.waiting(1)
	ends := processes(t, second[0])
	if err := d.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.gone("what waited in a pool that was killed", ends...)
	if _, err := s.Attest(t.Context(), s.Plan().Words); err != nil {
		t.Errorf("a guest does not outlive the pool: %v", err)
	}
	began := time.Now()
	if _, err := handed(t.Context(), h.dir); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a pool that was killed: %v", err)
	} else if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v to see that", took)
	}
	mine := []record.HostProcess{record.ProcessOf(s.PID()), parent(t, s.PID())}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	h.gone("a guest that was stopped", mine...)

	// A pod has one, too, and its record says so; it ends with the process that runs it.
	d, _ = h.run(daemonWord)
	w := h.waiting(1)
	ends = processes(t, w[0])
	podded, out := h.run(shimWord)
	if line, err := out.ReadString('\n'); err != nil || line != "asks\n" {
		t.Fatal(line, err)
	}
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatal(line, err)
	}
	r, err := record.Read(dirs(h.dir), podID)
	if err != nil || r.Verdict == nil || r.Verdict.Pool == nil || r.Verdict.Result != verdict.Attested ||
		r.QEMU.PID != w[0].PID {
		t.Errorf("the record: %+v, %v", r, err)
	}
	if err := podded.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.gone("the guest of a shim that was killed", ends...)
	if err := record.Clean(dirs(h.dir), podID); err != nil {
		t.Error(err)
	}
	h.waiting(1)
	if err := d.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.Wait()

	// A new daemon takes the place of one that was killed. Another configuration ends what waits.
	d, _ = h.run(daemonWord)
	third := h.waiting(1)
	ends = processes(t, third[0])
	h.o.Config.Factory.VMCacheNumber = 0
	h.write()
	h.gone("a guest of another configuration", ends...)
	h.waiting(0)
	h.o.Config.Factory.VMCacheNumber = 1
	h.write()
	ends = processes(t, h.waiting(1)[0])
	// A guest that ends by itself is replaced.
	if err := unix.Kill(ends[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.gone("a guest whose QEMU was killed", ends...)
	ends = processes(t, h.waiting(1)[0])
	if err := d.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(); err != nil {
		t.Errorf("a daemon that was told to end: %v", err)
	}
	h.gone("what waited in a pool that ended", ends...)
	if _, err := os.Stat(endpoint(h.dir)); err == nil {
		t.Error("its socket is left")
	}
}

// cpu is what a process has had of processors, in seconds.
func cpu(t testing.TB, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system float64
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) / 100 // ticks of 10 ms, proc(5)
}

func TestAGuestThatBootedWaitsToo(t *testing.T) {
	h := newHost(t, 1, false)
	h.run(daemonWord)
	w := h.waiting(1)
	before := cpu(t, w[0].PID)
	s, err := handed(t.Context(), h.dir)
	if err != nil {
		t.Fatal(err)
	}
	if v := attested(t, s); v.Template != nil {
		t.Errorf("the verdict's template: %+v", v.Template)
	}
	t.Logf("QEMU took %.2f s of a processor until it waited, and %.2f s since", before, cpu(t, s.PID())-before)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// kills is how often each kind of process is killed, unless KATABUILD_TEST_KILLS says another number.
const kills = 2

// TestWhateverIsKilledNothingIsLeft kills daemon, shim, keeper and QEMU at moments of a hand-over that nobody chose.
func TestWhateverIsKilledNothingIsLeft(t *testing.T) {
	h := newHost(t, 1, true)
	n := kills
	if s := os.Getenv("KATABUILD_TEST_KILLS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	d, _ := h.run(daemonWord)
	for i := range n {
		for _, victim := range []string{"shim", "daemon", "keeper", "QEMU"} {
			w := h.waiting(1)
			all := processes(t, w[0])
			s, out := h.run(shimWord)
			if _, err := out.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			delay := rand.N(3 * time.Second)
			time.Sleep(delay)
			dies := map[string]int{"shim": s.Process.Pid, "daemon": d.Process.Pid, "keeper": all[1].PID,
				"QEMU": all[0].PID}[victim]
			if err := unix.Kill(dies, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
			t.Logf("%d: %s was killed after %v", i, victim, delay)
			if victim == "daemon" {
				_ = d.Wait()
				d, _ = h.run(daemonWord)
			}
			// Whoever has the guest now, it ends with the shim at the latest; the pool gets another.
			_ = s.Process.Kill()
			_ = s.Wait()
			if err := record.Clean(dirs(h.dir), podID); err != nil {
				t.Errorf("cleaning up after %s was killed: %v", victim, err)
			}
			if victim != "daemon" || h.taken(all[0].PID) {
				h.gone("a guest after "+victim+" was killed", all...)
			}
			h.waiting(1)
		}
	}
}

// taken says whether a guest does not wait in the pool.
func (h *host) taken(pid int) bool {
	for _, w := range h.waiting(1) {
		if w.PID == pid {
			return false
		}
	}
	return true
}

// BenchmarkReady measures pods' guests until their agents are ready, side by side and as medians: one that boots, one
// that is restored from a template, its copy among it, and one that waited in the pool, asking for it among it. Of the
// processor's time QEMU's and this program's count, of the last from the asking on.
//
//	KATABUILD_TEST_BOOT=1 KATABUILD_TEST_GUEST=$PWD/out/default go test ./runtime/pool -run xxx -bench Ready \
//		-benchtime 10x
func BenchmarkReady(b *testing.B) {
	h := newHost(b, 1, true)
	h.run(daemonWord)
	cold, err := h.o.Machine()
	if err != nil {
		b.Fatal(err)
	}
	cold.Timeout, cold.Attest = 5*time.Minute, true
	found := map[string][]float64{}
	measure := func(name string, had float64, start func() (*sandbox.Sandbox, error)) {
		began, own := time.Now(), self(b)
		s, err := start()
		if err != nil {
			b.Fatal(err)
		}
		found[name+"-wall-s"] = append(found[name+"-wall-s"], time.Since(began).Seconds())
		found[name+"-cpu-s"] = append(found[name+"-cpu-s"], cpu(b, s.PID())-had+self(b)-own)
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		w := h.waiting(1) // nothing else is being started from here on
		measure("cold", 0, func() (*sandbox.Sandbox, error) { return sandbox.Start(b.Context(), cold) })
		measure("template", 0, func() (*sandbox.Sandbox, error) {
			cfg, err := factory.Of(&h.o.Config, h.o.Version).Restore(cold, machine.Size{})
			if err != nil {
				return nil, err
			}
			defer cfg.Saved.Close()
			return sandbox.Start(b.Context(), cfg)
		})
		measure("pool", cpu(b, w[0].PID), func() (*sandbox.Sandbox, error) { return handed(b.Context(), h.dir) })
	}
	for name, all := range found {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], name)
	}
	b.ReportMetric(0, "ns/op")
}

// self is what this process has had of processors, in seconds.
func self(t testing.TB) float64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
