package sandbox

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

func TestCommandLine(t *testing.T) {
	b := manifest.Boot{CommandLine: "console=ttyS0 quiet", TCGCommandLine: "tsc_early_khz={tsc_khz} x=y"}
	for name, tc := range map[string]struct {
		boot  manifest.Boot
		accel accel.Accel
		khz   int
		want  string
	}{
		"KVM has the manifest's":     {b, accel.KVM, 2600000, "console=ttyS0 quiet"},
		"TCG has the clock rate":     {b, accel.TCG, 2600000, "console=ttyS0 quiet tsc_early_khz=2600000 x=y"},
		"without a rate, without it": {b, accel.TCG, 0, "console=ttyS0 quiet x=y"},
		"without a rate and else": {manifest.Boot{CommandLine: "quiet", TCGCommandLine: "a={tsc_khz}"},
			accel.TCG, 0, "quiet"},
		"TCG with nothing of its own":   {manifest.Boot{CommandLine: "quiet"}, accel.TCG, 1, "quiet"},
		"the manifest's stays as it is": {manifest.Boot{CommandLine: "a  b"}, accel.KVM, 1, "a  b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := CommandLine(tc.boot, tc.accel, tc.khz); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func plain(t *testing.T) Config {
	t.Helper()
	return Config{Hypervisor: qemu.Hypervisor{}, Guest: described(t, &manifest.Manifest{
		Name: "tiny", Arch: "x86_64",
		Kernel: manifest.Kernel{Image: manifest.File{Path: "bzImage"}, Vmlinux: manifest.File{Path: "sub/vmlinux"}},
		Initrd: &manifest.Initrd{File: manifest.File{Path: "initrd"}},
		Boot: manifest.Boot{Machine: "microvm", CPUs: 2, MemoryMiB: 256, CommandLine: "quiet",
			TCGCommandLine: "tsc_early_khz={tsc_khz}"},
	}, "/out", "")}
}

// described is the guest of a manifest.
func described(t testing.TB, m *manifest.Manifest, dir string, form guest.KernelForm) *guest.Guest {
	t.Helper()
	g, err := guest.FromManifest(m, digest.Of([]byte("manifest")), dir, form)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestPlan(t *testing.T) {
	tcg := accel.Choice{Accel: accel.TCG, Reason: "because"}
	plan := func(cfg Config) (*Plan, error) { return newPlan(cfg, tcg, vsock.Choice{}, 2600000) }

	t.Run("the manifest says what nobody else does", func(t *testing.T) {
		p, err := plan(plain(t))
		if err != nil {
			t.Fatal(err)
		}
		q := argvOf(p)
		if q.Machine != qemu.MicroVM || q.CPUs != 2 || q.MemoryMiB != 256 || q.Kernel != "/out/sub/vmlinux" ||
			q.Binary != "qemu-system-x86_64" ||
			p.CommandLine != "quiet tsc_early_khz=2600000" {
			t.Errorf("%+v", p)
		}
		if c := p.Command(); !strings.HasPrefix(c, "qemu-system-x86_64 -name katabuild-tiny ") ||
			!strings.Contains(c, "-chardev stdio,") || strings.Contains(c, "vsock") {
			t.Errorf("command %s", c)
		}
	})
	t.Run("the config goes before it", func(t *testing.T) {
		cfg := plain(t)
		cfg.Guest = described(t, cfg.Guest.Manifest, cfg.Guest.Dir, guest.Image)
		cfg.Machine, cfg.Size, cfg.Words, cfg.Program = "q35", machine.Size{CPUs: 1, MemoryMiB: 512},
			[]string{"debug", "x"}, "/opt/qemu"
		cfg.VirtualTime = true
		p, err := plan(cfg)
		if err != nil {
			t.Fatal(err)
		}
		q := argvOf(p)
		if q.Machine != qemu.Q35 || q.CPUs != 1 || q.MemoryMiB != 512 || q.Kernel != "/out/bzImage" ||
			q.Binary != "/opt/qemu" ||
			p.CommandLine != "quiet tsc_early_khz=1000000 debug x" {
			t.Errorf("%+v", p)
		}
	})
	for name, change := range map[string]func(*Config){
		"an unknown machine":        func(c *Config) { c.Guest.Boot.Machine = "toaster" },
		"counting with two CPUs":    func(c *Config) { c.VirtualTime = true },
		"less than no memory":       func(c *Config) { c.Size.MemoryMiB = -1 },
		"a negative number of CPUs": func(c *Config) { c.Size.CPUs = -1 },
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			cfg := plain(t)
			change(&cfg)
			if p, err := plan(cfg); err == nil {
				t.Errorf("%+v", p)
			}
		})
	}
	if _, err := NewPlan(Config{}); err == nil {
		t.Error("a plan without a manifest")
	}
}

func TestFirstMissingStageIsTheOne(t *testing.T) {
	for name, tc := range map[string]struct {
		reached []Stage
		want    Stage
		foreign bool
	}{
		"nothing":                        {nil, stageVMM, false},
		"QEMU alone":                     {[]Stage{stageVMM}, stageKernel, false},
		"a driver that came before init": {[]Stage{stageVMM, stageTransport}, stageInit, false},
		"init without a driver":          {[]Stage{stageVMM, stageKernel, stageInit}, stageTransport, false},
		"all but the agent": {[]Stage{stageVMM, stageKernel, stageInit, stageTransport},
			stageAgent, false},
		"an agent that printed nothing":       {[]Stage{stageVMM, stageAgent}, stageInit, false},
		"another's agent without a driver":    {[]Stage{stageVMM, stageKernel}, stageInit, true},
		"another's agent that does not serve": {[]Stage{stageVMM, stageKernel, stageTransport}, stageAgent, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &progress{start: time.Now(), foreign: tc.foreign}
			for _, s := range tc.reached {
				p.reach(s)
				p.reach(s)
			}
			if got := p.failed(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			for i, m := range p.moments {
				if slices.ContainsFunc(p.moments[i+1:], func(o Moment) bool { return o.Name == m.Name }) {
					t.Errorf("%s twice", m.Name)
				}
			}
		})
	}
}

func TestMerge(t *testing.T) {
	host := []Moment{{Name: "vmm", After: 100}, {Name: "agent", After: 1000}}
	guest := []report.Moment{{Name: "kernel", AtNS: 0}, {Name: "init", AtNS: 500}, {Name: "ready", AtNS: 700}}
	var got []string
	for _, m := range Merge(host, guest) {
		got = append(got, m.Name)
	}
	if !slices.Equal(got, []string{"vmm", "kernel", "init", "agent", "ready"}) {
		t.Errorf("%v", got)
	}
	if m := Merge(host, guest[:2]); len(m) != 2 {
		t.Errorf("without ready: %v", m)
	}
}

func TestAPanicHasItsReason(t *testing.T) {
	for _, x := range []struct {
		lines []string
		want  string
	}{
		{[]string{"[    2.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700"},
			"Attempted to kill init! exitcode=0x00000700"},
		{[]string{"[    2.1] Run /init as init process"}, ""},
		{[]string{
			"[   31.8] Oops: general protection fault, probably for non-canonical address 0xdead000000000145: 0000 " +
				"[#1] SMP NOPTI",
			"[   31.8] Workqueue: events virtio_fs_requests_done_work",
			"[   31.9] Kernel panic - not syncing: Fatal exception",
		}, "Fatal exception: Oops: general protection fault, probably for non-canonical address 0xdead000000000145: " +
			"0000 [#1] SMP NOPTI"},
		{[]string{
			"[    1.0] DEBUG: of somebody else",
			"[    3.0] BUG: kernel NULL pointer dereference, address: 0000000000000010",
			"[    3.0] Oops: 0002 [#1] SMP NOPTI",
			"[    3.0] Kernel panic - not syncing: Fatal exception in interrupt",
		}, "Fatal exception in interrupt: BUG: kernel NULL pointer dereference, address: 0000000000000010"},
		{[]string{"[    1.0] DEBUG: of somebody else", "Kernel panic - not syncing: Fatal exception"},
			"Fatal exception"},
	} {
		var r panicReason
		got := ""
		for _, l := range x.lines {
			got += r.read(l)
		}
		if got != x.want {
			t.Errorf("%q: %q, want %q", x.lines, got, x.want)
		}
	}
}
