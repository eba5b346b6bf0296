package sandbox

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/attest"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
)

// These tests run a sandbox's whole life in machinetest's machines: no hypervisor is needed.

// sample is the guest of documenttest's manifest, in a machine whose guest is a function.
func sample(t *testing.T, h *machinetest.Hypervisor) Config {
	t.Helper()
	dir := t.TempDir()
	if err := documenttest.WriteGuest(dir); err != nil {
		t.Fatal(err)
	}
	g, err := guest.ReadFolder(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Guest: g, Hypervisor: h, Timeout: 10 * time.Second}
}

// serving is a guest whose agent is ready and reports what change makes of documenttest's report.
func serving(change func(*report.Report)) func(*machinetest.Inside) {
	return machinetest.WithAgent(&agenttest.Agent{Report: change})
}

func TestAGuestComesUpIsAttestedAndEnds(t *testing.T) {
	h := &machinetest.Hypervisor{Guest: serving(nil)}
	cfg := sample(t, h)
	cfg.Attest = true
	var console bytes.Buffer
	cfg.Console = &console
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Attest(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	v := a.Verdict
	if v.Result != verdict.Attested || v.Report != digest.Of(a.Raw) || v.Manifest != cfg.Guest.Digest {
		t.Errorf("%s", v.Table())
	}
	// One writer: what verify makes of the same documents is the same, claim for claim.
	files, err := attest.Files(cfg.Guest.Manifest, cfg.Guest.Dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString(a.Report.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	again := attest.Verdict(cfg.Guest.Manifest, cfg.Guest.Digest, files, &attest.Reported{Report: a.Report, Raw: a.Raw,
		Boot: attest.Boot{Nonce: nonce}})
	one, err1 := v.Encode()
	two, err2 := again.Encode()
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
		t.Errorf("%v: the sandbox says\n%s\nand verify\n%s", err, one, two)
	}
	if s.Why() != nil {
		t.Errorf("it runs, and ended because %v", s.Why())
	}
	if err := errors.Join(s.Stop(), s.Stop()); err != nil {
		t.Error(err)
	}
	<-s.Done()
	var stages []string
	for _, m := range s.Timeline() {
		stages = append(stages, m.Name)
	}
	for _, want := range []string{"checked", "vmm", "kernel", "init", "transport", "agent"} {
		if !slices.Contains(stages, want) {
			t.Errorf("no stage %s among %v", want, stages)
		}
	}
	if got := strings.Join(s.Console(5), "|"); got != agentapi.InitLine {
		t.Errorf("console %q", got)
	}
}

func TestNothingIsReadTwiceAndWhatIsNotBootedIsComparedToo(t *testing.T) {
	for name, tc := range map[string]struct {
		file   string // is changed once the guest runs
		result string
		unmet  string
	}{
		"a file that was booted was compared when it was opened": {"initrd", verdict.Attested, ""},
		"a file that is not booted is compared":                  {"System.map", verdict.Failed, "file System.map"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := sample(t, &machinetest.Hypervisor{Guest: serving(nil)})
			s, err := Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Stop() //nolint:errcheck // the guest is thrown away
			if err := os.WriteFile(filepath.Join(cfg.Guest.Dir, tc.file), []byte("else"), 0o600); err != nil {
				t.Fatal(err)
			}
			a, err := s.Attest(t.Context(), nil)
			if err != nil || a.Verdict.Result != tc.result || strings.Join(a.Verdict.Unmet(), ",") != tc.unmet {
				t.Fatalf("%v\n%s", err, a.Verdict.Table())
			}
		})
	}
}

func TestAGuestThatIsAnotherIsNamedByItsClaim(t *testing.T) {
	cfg := sample(t, &machinetest.Hypervisor{Guest: serving(func(r *report.Report) { r.Agent.Go = "go1.0" })})
	cfg.Words = []string{"debug"}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop() //nolint:errcheck // the guest is thrown away
	a, err := s.Attest(t.Context(), s.Plan().Words)
	if err != nil || strings.Join(a.Verdict.Unmet(), ",") != "agent.go" {
		t.Fatalf("with the host's words excused: %v, %v", err, a.Verdict.Unmet())
	}
	if a, err = s.Attest(t.Context(), nil); err != nil ||
		strings.Join(a.Verdict.Unmet(), ",") != "kernel.command_line,agent.go" {
		t.Errorf("without: %v, %v", err, a.Verdict.Unmet())
	}
}

func TestAGuestWithoutAManifestIsNotAsked(t *testing.T) {
	dir := t.TempDir()
	for name, b := range map[string][]byte{"k": arm64Kernel, "i": []byte("initrd")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan struct{})
	cfg := Config{Guest: readPlain(t, guest.Plain{Kernel: dir + "/k", Initrd: dir + "/i"}),
		Hypervisor: &machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			l, err := i.Listen(agentapi.Port)
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := l.Accept(); err == nil {
				_, _ = io.WriteString(c, "yes")
			}
			close(asked)
			<-i.Over()
		}},
		Serves: func(_ context.Context, c net.Conn) error {
			_, err := io.ReadFull(c, make([]byte, 3))
			return err
		}}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop() //nolint:errcheck // the guest is thrown away
	<-asked
	a, err := s.Attest(t.Context(), nil)
	if err != nil || a.Verdict.Result != verdict.Unchecked || a.Report != nil || a.Verdict.Guest != "i" {
		t.Errorf("%+v, %v", a, err)
	}
	if got := s.Files(); len(got) != 2 || got[0].Path != dir+"/k" {
		t.Errorf("files %v", got)
	}
}

func TestAGuestThatDoesNotComeUpNamesItsStage(t *testing.T) {
	wait := func(i *machinetest.Inside) { <-i.Over() }
	for name, tc := range map[string]struct {
		h     *machinetest.Hypervisor
		stage Stage
		says  string
	}{
		"a hypervisor that does not start": {&machinetest.Hypervisor{StartError: errors.New("no such program")},
			stageVMM, "no such program"},
		"one that does not answer": {&machinetest.Hypervisor{Mute: true, Guest: wait}, stageVMM, "not ready within"},
		"a kernel without a sign":  {&machinetest.Hypervisor{Guest: wait}, stageKernel, "not ready within"},
		"no init": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Say("[    1.0] Linux")
			wait(i)
		}}, stageInit, "not ready within"},
		"no driver": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Say(agentapi.InitLine)
			wait(i)
		}}, stageTransport, "not ready within"},
		"an agent that lies": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Say(agentapi.InitLine)
			if c, err := i.Dial(agentapi.ReadyPort); err == nil {
				_, _ = io.WriteString(c, "reedy\n")
				defer c.Close()
			}
			wait(i)
		}}, stageAgent, "not ready within"},
		"a guest that shuts down": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Say(agentapi.InitLine)
		}}, stageTransport, "the guest ended"},
		"a kernel that panics": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Say("[    1.0] Kernel panic - not syncing: VFS: no root")
			wait(i)
		}}, stageInit, "kernel panic: VFS: no root"},
		"a hypervisor that fails": {&machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
			i.Crash(errors.New("it fell over"))
			wait(i)
		}}, stageKernel, "it fell over"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := sample(t, tc.h)
			cfg.Timeout = 300 * time.Millisecond
			s, err := Start(t.Context(), cfg)
			var e *StageError
			if !errors.As(err, &e) || e.Stage != tc.stage || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, %v; want stage %s, %q", s, err, tc.stage, tc.says)
			}
			for _, vm := range tc.h.VMs() {
				<-vm.Done() // nothing of it is left
			}
		})
	}
}

func TestAChangedFileStartsNothing(t *testing.T) {
	h := &machinetest.Hypervisor{}
	cfg := sample(t, h)
	path := filepath.Join(cfg.Guest.Dir, "vmlinux")
	if err := os.WriteFile(path, []byte("vmlinuz"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), cfg)
	var m *digest.Mismatch
	if !errors.As(err, &m) || m.Name != path || len(h.VMs()) > 0 {
		t.Errorf("%v, %d machines", err, len(h.VMs()))
	}
}

func TestWhatAMachineCannotDoIsAnErrorOfItsKind(t *testing.T) {
	for name, fixed := range map[string]bool{"a machine that can": false, "one that cannot": true} {
		t.Run(name, func(t *testing.T) {
			cfg := sample(t, &machinetest.Hypervisor{Guest: serving(nil), Fixed: fixed})
			cfg.Places, cfg.Max = 1, machine.Size{CPUs: 2, MemoryMiB: 512}
			s, err := Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Stop() //nolint:errcheck // the guest is thrown away
			file := filepath.Join(cfg.Guest.Dir, "initrd")
			d, err := s.PlugDisk(t.Context(), machine.Disk{Path: file})
			if errors.Is(err, machine.ErrNoPlace) != fixed || (err == nil) == fixed {
				t.Errorf("a disk: %v", err)
			}
			if !fixed {
				if _, err := s.PlugNIC(t.Context(), machine.NIC{MAC: "x"}); !errors.Is(err, machine.ErrNoPlace) {
					t.Errorf("a second device in one place: %v", err)
				}
				if err := s.UnplugDisk(t.Context(), d); err != nil {
					t.Error(err)
				}
			} else if err := s.UnplugDisk(t.Context(), &machine.Plugged{}); !errors.Is(err, machine.ErrNoPlace) {
				t.Error(err)
			}
			if _, err := s.PlugNIC(t.Context(), machine.NIC{MAC: "x"}); (err == nil) == fixed {
				t.Errorf("an interface: %v", err)
			}
			if s.Size() != (machine.Size{CPUs: 1, MemoryMiB: 256}) {
				t.Errorf("size %+v", s.Size())
			}
			if _, err := s.Grow(t.Context(), machine.Size{CPUs: 1}); err != nil {
				t.Errorf("no growth at all: %v", err)
			}
			now, err := s.Grow(t.Context(), machine.Size{CPUs: 2, MemoryMiB: 300})
			if errors.Is(err, machine.ErrNoGrowth) != fixed || (now == machine.Size{CPUs: 2, MemoryMiB: 300}) == fixed {
				t.Errorf("growth: %+v, %v", now, err)
			}
		})
	}
}

func TestACancelledStartLeavesNoMachine(t *testing.T) {
	h := &machinetest.Hypervisor{Guest: func(i *machinetest.Inside) {
		i.Say(agentapi.InitLine)
		<-i.Over()
	}}
	cfg := sample(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.OnStage = func(m Moment) {
		if m.Name == stageInit.String() {
			cancel()
		}
	}
	_, err := Start(ctx, cfg)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-h.VMs()[0].Done()
	if _, err := Start(t.Context(), Config{Guest: cfg.Guest}); err == nil || !strings.Contains(fmt.Sprint(err),
		"a guest and a hypervisor") {
		t.Error("a sandbox without a hypervisor:", err)
	}
}
