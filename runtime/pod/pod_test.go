package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/opencontainers/runtime-spec/specs-go"
)

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
	d := record.Dirs{State: t.TempDir(), Share: t.TempDir()}
	if _, err := Start(t.Context(), Options{ID: "p1", Config: &c, Dirs: d}); err == nil ||
		!strings.Contains(err.Error(), `set "guest"`) {
		t.Error(err)
	}
	c.VM.Guest = "/no/such/guest"
	if _, err := Start(t.Context(), Options{ID: "p1", Config: &c, Dirs: d}); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "/no/such/guest") {
		t.Error(err)
	}
	if list, err := os.ReadDir(d.State); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
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
	c.VM.Kernel, c.VM.Image, c.VM.RootfsType = dir+"/k", dir+"/i", "erofs"
	c.VM.KernelVerityParams = "root_hash=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,salt=-," +
		"data_blocks=3,data_block_size=4096,hash_block_size=4096"
	if _, err := readGuest(&c); !errors.Is(err, errNothingToCompare) || !strings.Contains(err.Error(), `set "guest"`) {
		t.Errorf("enforce: %v", err)
	}
	state := t.TempDir()
	if _, err := Start(t.Context(), Options{ID: "pp", Config: &c, Dirs: record.Dirs{State: state}}); !errors.Is(err,
		errNothingToCompare) {
		t.Errorf("start: %v", err)
	}
	if ids, err := record.List(record.Dirs{State: state}); err != nil || len(ids) > 0 {
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
