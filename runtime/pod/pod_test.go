package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/paper"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func record() *Record {
	return &Record{
		Version: RecordVersion, ID: "p1", State: Running, Created: "2026-11-24T12:00:00Z", Guest: "/srv/guest",
		Shim: HostProcess{10, 100}, QEMU: HostProcess{11, 101}, Command: []string{"qemu-system-x86_64", "-S"},
		Netns: "/var/run/netns/x",
		Links: []string{"eth0 kbtap0"}, Share: true, Cgroup: []string{"/sys/fs/cgroup/kata_p1"},
		Containers: []string{"p1"},
		Verdict: &verdict.Verdict{Version: 1, Guest: "g", Manifest: digest.Of([]byte("m")),
			Result: verdict.Attested, Claims: []verdict.Claim{{Name: "init", Want: "a", Got: "a", Met: true}}},
		Annotations: map[string]string{"a": "b"},
	}
}

func TestTheRecordIsCanonical(t *testing.T) {
	b, err := paper.Encode(record())
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "state.json", b)
	got, err := DecodeRecord(b)
	if err != nil || !reflect.DeepEqual(got, record()) {
		t.Errorf("%+v, %v", got, err)
	}
	for what, change := range map[string][2]string{
		"another version": {`"version": 1`, `"version": 2`}, "an unknown field": {`"netns"`, `"nets"`},
		"cut": {"}\n", ""},
	} {
		if _, err := DecodeRecord([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	b, err := paper.Encode(record())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		if again, err := paper.Encode(r); err != nil || string(again) != string(b) {
			t.Errorf("%q, %v", again, err)
		}
	})
}

func TestIdsThatWouldLeadElsewhereAreRefused(t *testing.T) {
	for _, id := range []string{"", ".", "..", "../x", "a/b", "-x", "a b", strings.Repeat("a", maxID+1)} {
		if checkID(id) == nil {
			t.Errorf("%q is an id", id)
		}
		if err := Clean(Dirs{State: t.TempDir()}, id); err == nil {
			t.Errorf("%q is cleaned up after", id)
		}
	}
	for _, id := range []string{"a", strings.Repeat("0123456789abcdef", 4)} {
		if err := checkID(id); err != nil {
			t.Error(err)
		}
	}
	// The longest socket of the longest id has a path that fits: sun_path of <linux/un.h> has 108 bytes, one of them a
	// NUL.
	if n := len(VsockSocket(Dirs{}, strings.Repeat("a", maxID))); n > 107 {
		t.Errorf("a path of %d bytes", n)
	}
}

func TestCleanEndsExactlyTheProcessesOfTheRecord(t *testing.T) {
	testenv.Require(t, testenv.Tool("sleep"))
	start := func() *exec.Cmd {
		c := exec.Command("sleep", "600")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		return c
	}
	ours, other := start(), start()
	ended := make(chan error, 1)
	go func() { ended <- ours.Wait() }()
	d := Dirs{State: t.TempDir(), Share: t.TempDir()}
	r := record()
	r.QEMU = processOf(ours.Process.Pid)
	r.VirtioFSD = HostProcess{other.Process.Pid, 1} // its number was another's once
	r.Netns, r.Cgroup = "", []string{filepath.Join(t.TempDir(), "kata_p1")}
	b, err := paper.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.State, "p1")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, recordFile), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if ids, err := List(d); err != nil || !slices.Equal(ids, []string{"p1"}) {
		t.Error(ids, err)
	}
	if err := Clean(d, "p1"); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the record's process still runs")
	}
	if !processOf(other.Process.Pid).Alive() {
		t.Error("a process that only has the number was killed")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := Clean(d, "p1"); err != nil {
		t.Error("again:", err)
	}
	// One that cannot be read is left for a person.
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, recordFile), []byte("{"),
		0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Clean(d, "p1"); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}

func TestAMachineHasRoomForWhatItsContainersMayUse(t *testing.T) {
	for _, c := range []struct {
		size     Size
		cpus, mb int
	}{{Size{}, 1, 256}, {Size{MilliCPUs: 1, MemoryMiB: 100}, 2, 356}, {Size{MilliCPUs: 2000}, 3, 256},
		{Size{MilliCPUs: 64000}, 4, 256}} {
		m := machine.Size{CPUs: 1, MemoryMiB: 256}
		c.size.add(&m, 4)
		if m.CPUs != c.cpus || m.MemoryMiB != c.mb {
			t.Errorf("%+v: %d CPUs, %d MiB", c.size, m.CPUs, m.MemoryMiB)
		}
	}
	huge := int64(9223372036854771712) // what version 1 of control groups says for none
	if s := SizeOf(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &huge}}); s.MemoryMiB != 0 {
		t.Errorf("no limit is %d MiB", s.MemoryMiB)
	}
}

func TestAPodWithoutAGuestSaysWhatToSet(t *testing.T) {
	c := config.Default()
	d := Dirs{State: t.TempDir(), Share: t.TempDir()}
	if _, err := Start(t.Context(), Options{ID: "p1", Config: &c, Dirs: d}); err == nil ||
		!strings.Contains(err.Error(), `set "guest"`) {
		t.Error(err)
	}
	c.QEMU.Guest = "/no/such/guest"
	if _, err := Start(t.Context(), Options{ID: "p1", Config: &c, Dirs: d}); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "/no/such/guest") {
		t.Error(err)
	}
	if list, err := os.ReadDir(d.State); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

func TestSilenceEndsRequestsAndIsForgiven(t *testing.T) {
	p := newPulse()
	ctx, cancel := p.context(t.Context())
	defer cancel()
	p.set(false)
	p.set(false)
	<-ctx.Done()
	if ctx2, cancel := p.context(t.Context()); true {
		defer cancel()
		select {
		case <-ctx2.Done():
		case <-time.After(5 * time.Second):
			t.Error("a request begins while the agent is silent")
		}
	}
	p.set(true)
	ctx3, cancel3 := p.context(t.Context())
	if ctx3.Err() != nil {
		t.Error(ctx3.Err())
	}
	cancel3()
	cancel3()
	if s := fmt.Sprint(ErrSilent); !strings.Contains(s, "does not answer") {
		t.Error(s)
	}
}

func TestAGuestWithoutAManifestIsNotEnforced(t *testing.T) {
	c := config.Default()
	dir := t.TempDir()
	image, kernel := make([]byte, 4096), make([]byte, 64)
	copy(image[510:], "\x55\xaa")
	copy(kernel[56:], "ARM\x64")
	for name, b := range map[string][]byte{"k": kernel, "i": image} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.QEMU.Kernel, c.QEMU.Image, c.QEMU.RootfsType = dir+"/k", dir+"/i", "erofs"
	c.QEMU.KernelVerityParams = "root_hash=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,salt=-," +
		"data_blocks=3,data_block_size=4096,hash_block_size=4096"
	if _, err := readGuest(&c); !errors.Is(err, errNothingToCompare) || !strings.Contains(err.Error(), `set "guest"`) {
		t.Errorf("enforce: %v", err)
	}
	state := t.TempDir()
	if _, err := Start(t.Context(), Options{ID: "pp", Config: &c, Dirs: Dirs{State: state}}); !errors.Is(err,
		errNothingToCompare) {
		t.Errorf("start: %v", err)
	}
	if ids, err := List(Dirs{State: state}); err != nil || len(ids) > 0 {
		t.Errorf("left over: %v, %v", ids, err)
	}
	for _, a := range []config.Attestation{config.Warn, config.Off} {
		c.Runtime.Attestation = a
		g, err := readGuest(&c)
		if err != nil {
			t.Fatal(err)
		}
		if g.Kernel != dir+"/k" || g.Image != dir+"/i" || g.Described() || g.Boot.CPUs != 1 ||
			g.Boot.MemoryMiB != 2048 ||
			!strings.Contains(g.Boot.CommandLine, "rootfstype=erofs") ||
			!strings.Contains(g.Boot.CommandLine, " 4096 4096 3 0 sha256 aaaa") {
			t.Errorf("%+v", g)
		}
	}
}

func TestTheRecordOfAGuestWithoutAManifestHasItsFiles(t *testing.T) {
	r := record()
	r.Guest, r.Verdict, r.Files = "", verdict.Nothing("kata.img"),
		[]guest.Booted{{Path: "/k", Digest: digest.Of([]byte("k"))}, {Path: "/i", Digest: digest.Of([]byte("i"))}}
	b, err := paper.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "plain.json", b)
	if got, err := DecodeRecord(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v, %v", got, err)
	}
}

// health is an agent's health service.
type health struct {
	katapb.HealthService
	status katapb.HealthCheckResponse_ServingStatus
}

func (h health) Check(context.Context, *katapb.CheckRequest) (*katapb.HealthCheckResponse, error) {
	return &katapb.HealthCheckResponse{Status: h.status}, nil
}

func TestAnAgentServesWhenItsHealthSaysSo(t *testing.T) {
	for status, want := range map[katapb.HealthCheckResponse_ServingStatus]bool{
		katapb.HealthCheckResponse_SERVING: true, katapb.HealthCheckResponse_NOT_SERVING: false} {
		s, err := ttrpc.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		katapb.RegisterHealthService(s, health{status: status})
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(t.Context(), l) // it ends by Close
		t.Cleanup(func() { s.Close() })
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := serves(t.Context(), c); (err == nil) != want {
			t.Errorf("%s: %v", status, err)
		}
	}
	// Who closes the connection does not serve.
	a, b := net.Pipe()
	b.Close()
	if serves(t.Context(), a) == nil {
		t.Error("a closed connection serves")
	}
}

func TestTheHostsNetworkIsRefusedAndNeverTouched(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET) { // which plays the host
		return
	}
	p := &Pod{log: slog.New(slog.DiscardHandler)}
	tc, none := &config.Config{}, &config.Config{}
	tc.Runtime.InternetworkingModel, none.Runtime.InternetworkingModel = config.NetworkTC, config.NetworkNone
	for what, o := range map[string]Options{
		"absent": {HostNetwork: true}, "by path": {Netns: "/proc/self/ns/net"},
		"by number": {Netns: fmt.Sprintf("/proc/%d/ns/net", os.Getpid())},
	} {
		o.Config = tc
		if ns, err := p.ownNetns(o); !errors.Is(err, errHostNetwork) || ns != "" {
			t.Errorf("%s: %q, %v", what, ns, err)
		}
		o.Config = none
		if ns, err := p.ownNetns(o); err != nil || ns != "" {
			t.Errorf("%s, without a network: %q, %v", what, ns, err)
		}
	}
	if ns, err := p.ownNetns(Options{Config: tc}); ns != "" || err != nil {
		t.Errorf("a new namespace: %q, %v", ns, err)
	}
	if _, err := p.ownNetns(Options{Config: tc, Netns: t.TempDir() + "/none"}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
