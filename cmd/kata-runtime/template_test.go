package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// clones is how many guests are restored from one template, unless the environment says another number.
const clones = 3

// cloneGuest is a guest of default's kernel whose init is testdata/clone.
func cloneGuest(t *testing.T) sandbox.Config {
	t.Helper()
	dir := t.TempDir()
	file := func(name, from string) manifest.File {
		var b []byte
		if from != "" {
			var err error
			if b, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return manifest.File{Path: name, Digest: digest.Of(b), Size: int64(len(b))}
	}
	initrd := boottest.Initrd(t, boottest.Build(t, "", "build", "-trimpath", "-ldflags=-s -w", "./testdata/clone"))
	m := &manifest.Manifest{
		Version: manifest.Version, Name: "clone", Arch: "x86_64",
		Kernel: manifest.Kernel{Vmlinux: file("vmlinux", os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX")),
			Image: file("bzImage", ""), Config: file("config", ""), SystemMap: file("System.map", "")},
		Initrd: &manifest.Initrd{File: file("initrd", initrd), Compression: "none"},
		Agent:  manifest.Agent{Init: manifest.InitAgent, Digest: digest.Of(nil)},
		Root:   manifest.Root{Kind: manifest.RootInitrd},
		Boot: manifest.Boot{Machine: "q35", CPUs: 1, MemoryMiB: 128,
			CommandLine: "console=ttyS0 quiet panic=-1", TCGCommandLine: "tsc_early_khz={tsc_khz}"},
	}
	b, err := m.Encode()
	if err == nil {
		err = manifest.Write(dir, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	g, err := guest.ReadFolder(dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Config{Guest: g, Hypervisor: hypervisor.Default(), RNG: true, Timeout: 5 * time.Minute,
		Template: true}
}

// asked is a number that the environment says, or the usual one.
func asked(t *testing.T, variable string, usual int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// drawn is what was drawn, by its kind and who drew it. Its methods may be called from several goroutines.
type drawn struct {
	mu   sync.Mutex
	seen map[string]map[string]int // guarded by mu
}

// by asks a guest what it has drawn, which nobody before has.
func (d *drawn) by(t *testing.T, who int, s *sandbox.Sandbox) {
	t.Helper()
	c, err := s.Dial(t.Context(), agentapi.Port)
	if err != nil {
		t.Error(err)
		return
	}
	var own map[string]string
	if err := errors.Join(json.NewDecoder(c).Decode(&own), c.Close()); err != nil {
		t.Error(err)
		return
	}
	woken, err := time.Parse(time.RFC3339Nano, own["Time"])
	if late := time.Since(woken); err != nil || late < 0 || late > time.Minute {
		t.Errorf("guest %d has the time %s, %v", who, own["Time"], err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen = map[string]map[string]int{}
	}
	for kind, value := range own {
		if d.seen[kind] == nil {
			d.seen[kind] = map[string]int{}
		}
		if other, twice := d.seen[kind][value]; twice || value == "" {
			t.Errorf("guests %d and %d drew the same %s: %.80s", other, who, kind, value)
		}
		d.seen[kind][value] = who
	}
}

// kinds is how many things must have been drawn.
const kinds = 10

// TestGuestsOfOneTemplateDrawNothingAlike: whatever is random in a guest differs between those of a template.
// KATABUILD_TEST_CLONES asks for more of them.
func TestGuestsOfOneTemplateDrawNothingAlike(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"), testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	n := asked(t, "KATABUILD_TEST_CLONES", clones)
	cfg := cloneGuest(t)
	start := func(cfg sandbox.Config) *sandbox.Sandbox {
		t.Helper()
		s, err := sandbox.Start(t.Context(), cfg)
		if err != nil {
			stage, _ := errors.AsType[*sandbox.StageError](err)
			if stage != nil {
				t.Log(strings.Join(stage.Console, "\n"))
			}
			t.Fatal(err)
		}
		return s
	}
	saved, err := start(cfg).Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	var all drawn
	for i := range n {
		copies, err := saved.Duplicate()
		if err != nil {
			t.Fatal(err)
		}
		cfg := cfg
		cfg.Saved = &sandbox.Saved{Copies: *copies}
		s := start(cfg)
		all.by(t, i, s)
		if err := errors.Join(s.Stop(), copies.Close()); err != nil {
			t.Error(err)
		}
	}
	if len(all.seen) != kinds {
		t.Errorf("%d kinds were drawn, want %d", len(all.seen), kinds)
	}
}
