package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/internal/wake"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/katabuild/katabuild/runtime/template"
)

// templateConfig is the guest that the environment names, to be saved.
func templateConfig(t testing.TB) Config {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"))
	g, err := guest.ReadFolder(os.Getenv("KATABUILD_TEST_GUEST"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Guest: g, Hypervisor: qemu.Hypervisor{}, Machine: string(qemu.Q35), RNG: true, Places: 2,
		Timeout: 5 * time.Minute, Template: true, Attest: true}
}

// restored starts a guest from copies of what was saved.
func restored(t testing.TB, cfg Config, saved *template.Copies) *Sandbox {
	t.Helper()
	one, err := saved.Duplicate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = one.Close() })
	cfg.Saved = &Saved{Copies: *one}
	return boot(t, cfg)
}

func TestAGuestIsRestoredAndAttestedAsOftenAsOneLikes(t *testing.T) {
	cfg := templateConfig(t)
	cfg.Words = []string{"loglevel=6"}
	saved, err := boot(t, cfg).Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	for range 2 {
		s := restored(t, cfg, saved)
		var seen []string
		for _, m := range s.Timeline() {
			seen = append(seen, m.Name)
		}
		if got := strings.Join(seen, " "); !strings.Contains(got, "restored") || !strings.Contains(got, "woken") {
			t.Error(got)
		}
		a, err := s.Attest(t.Context(), s.Plan().Words)
		if err != nil {
			t.Fatal(err)
		}
		if a.Verdict.Result != verdict.Attested {
			t.Error(a.Verdict.Table())
		}
		if m := a.Report.Timeline; len(m) < 2 || m[1].Name != "woken" {
			t.Errorf("the guest's timeline: %v", m)
		}
		if _, err := s.Save(t.Context()); !errors.Is(err, machine.ErrNoTemplate) {
			t.Errorf("a guest that serves is saved: %v", err)
		}
		waitConsole(t, s, "random: crng reseeded due to virtual machine fork") // VMGENID
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// saving is machinetest's hypervisor, which says that it could restore machines.
type saving struct{ *machinetest.Hypervisor }

func (saving) Traits(machine.Plan) (*machine.Traits, error) { return &machine.Traits{}, nil }

// waiting is a guest that takes one request to wake up, answers with refuse, and serves where that is nil.
func waiting(refuse error, got chan<- *wake.Request) func(*machinetest.Inside) {
	return func(i *machinetest.Inside) {
		i.Say(agentapi.WaitLine)
		l, err := i.Listen(agentapi.WakePort)
		if err != nil {
			i.Crash(err)
			return
		}
		c, err := l.Accept()
		if err != nil {
			return
		}
		r, err := wake.Receive(c)
		if err != nil {
			i.Crash(err)
			return
		}
		got <- r
		if err := errors.Join(wake.Answer(c, refuse), c.Close(), l.Close()); err != nil {
			i.Crash(err)
			return
		}
		if refuse != nil {
			<-i.Over()
			return
		}
		serving(func(r *report.Report) { r.Kernel.CommandLine += " " + agentapi.WaitWord })(i)
	}
}

// saved is what a template's guest is restored from in machinetest, which looks at none of it.
func saved(t *testing.T) *Saved {
	t.Helper()
	var files []*os.File
	for range 2 {
		f, err := template.NewMemory(4096)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		files = append(files, f)
	}
	return &Saved{Copies: template.Copies{Memory: files[0], State: files[1]},
		Template: verdict.Template{Digest: digest.Of([]byte("template")), Made: 1, Attested: digest.Of(nil)}}
}

func TestARestoredGuestIsWokenBeforeItServes(t *testing.T) {
	got := make(chan *wake.Request, 1)
	cfg := sample(t, nil)
	cfg.Hypervisor = saving{&machinetest.Hypervisor{Guest: waiting(nil, got)}}
	cfg.Template, cfg.Saved, cfg.Attest, cfg.Hostname, cfg.Accel = true, saved(t), true, "pod-1", accel.OnlyTCG
	s := boot(t, cfg)
	if r := <-got; r.Hostname != "pod-1" || time.Since(time.Unix(0, r.TimeNS)) > time.Minute {
		t.Errorf("the request: %+v", r)
	}
	a, err := s.Attest(t.Context(), s.Plan().Words)
	if err != nil {
		t.Fatal(err)
	}
	if tmpl := a.Verdict.Template; tmpl == nil || *tmpl != cfg.Saved.Template {
		t.Errorf("the verdict's template: %+v", tmpl)
	}
	if !strings.Contains(a.Verdict.Table(), "restored from the template") {
		t.Error(a.Verdict.Table())
	}
}

func TestAGuestThatDoesNotWakeUpSaysWhy(t *testing.T) {
	got := make(chan *wake.Request, 1)
	cfg := sample(t, nil)
	cfg.Hypervisor = saving{&machinetest.Hypervisor{Guest: waiting(errors.New("no clock"), got)}}
	cfg.Template, cfg.Saved = true, saved(t)
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no clock") {
		t.Errorf("%v", err)
	}
}

func TestAGuestThatServesInsteadOfWaitingIsNoTemplate(t *testing.T) {
	cfg := sample(t, nil)
	cfg.Hypervisor, cfg.Template = saving{&machinetest.Hypervisor{Guest: serving(nil)}}, true
	if _, err := Start(t.Context(), cfg); !errors.Is(err, errServes) {
		t.Error(err)
	}
	cfg.Hypervisor = saving{&machinetest.Hypervisor{Guest: waiting(nil, make(chan *wake.Request, 1))}}
	s := boot(t, cfg)
	if _, err := s.Save(t.Context()); !errors.Is(err, machine.ErrNoTemplate) {
		t.Errorf("a machine that cannot be saved: %v", err)
	}
}

func TestWhatCannotBeATemplateIsRefused(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"its hypervisor saves none": func(c *Config) { c.Hypervisor = &machinetest.Hypervisor{} },
		"has no manifest":           func(c *Config) { c.Guest.Manifest = nil },
		"init is systemd":           func(c *Config) { c.Guest.Manifest.Agent.Init = manifest.InitSystemd },
		`set machine_type to "q35"`: func(c *Config) { c.Machine = string(qemu.MicroVM) },
		"counts instructions":       func(c *Config) { c.VirtualTime, c.Accel = true, accel.OnlyTCG },
		"is an NVDIMM": func(c *Config) {
			c.Guest.Image, c.Guest.ImageSize, c.Guest.Boot.Disk = "/i", 1<<20, manifest.NVDIMM
		},
	} {
		cfg := sample(t, nil)
		cfg.Hypervisor, cfg.Machine, cfg.Template = qemu.Hypervisor{}, string(qemu.Q35), true
		spoil(&cfg)
		if _, err := NewPlan(cfg); !errors.Is(err, machine.ErrNoTemplate) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
