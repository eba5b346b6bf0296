package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	g, err := guest.FromManifest(&manifest.Manifest{
		Version: manifest.Version, Name: "clone", Arch: "x86_64",
		Kernel: manifest.Kernel{Vmlinux: file("vmlinux", os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX")),
			Image: file("bzImage", ""), Config: file("config", ""), SystemMap: file("System.map", "")},
		Initrd: &manifest.Initrd{File: file("initrd", initrd), Compression: "none"},
		Agent:  manifest.Agent{Init: manifest.InitAgent},
		Boot: manifest.Boot{Machine: "q35", CPUs: 1, MemoryMiB: 128,
			CommandLine: "console=ttyS0 quiet panic=-1", TCGCommandLine: "tsc_early_khz={tsc_khz}"},
	}, "", dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Config{Guest: g, Hypervisor: hypervisor.Default(), RNG: true, Timeout: 5 * time.Minute,
		Template: true}
}

// TestGuestsOfOneTemplateDrawNothingAlike: whatever is random in a guest differs between those of a template.
// KATABUILD_TEST_CLONES asks for more of them.
func TestGuestsOfOneTemplateDrawNothingAlike(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"), testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	n := clones
	if s := os.Getenv("KATABUILD_TEST_CLONES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
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
	seen := map[string]map[string]int{} // what, by its kind: who drew it
	for i := range n {
		copies, err := saved.Duplicate()
		if err != nil {
			t.Fatal(err)
		}
		cfg := cfg
		cfg.Saved = &sandbox.Saved{Copies: *copies}
		s := start(cfg)
		c, err := s.Dial(t.Context(), agentapi.Port)
		if err != nil {
			t.Fatal(err)
		}
		var drawn map[string]string
		if err := json.NewDecoder(c).Decode(&drawn); err != nil {
			t.Fatal(err)
		}
		woken, err := time.Parse(time.RFC3339Nano, drawn["Time"])
		if late := time.Since(woken); err != nil || late < 0 || late > time.Minute {
			t.Errorf("guest %d has the time %s, %v", i, drawn["Time"], err)
		}
		for kind, value := range drawn {
			if seen[kind] == nil {
				seen[kind] = map[string]int{}
			}
			if who, twice := seen[kind][value]; twice || value == "" {
				t.Errorf("guests %d and %d drew the same %s: %.80s", who, i, kind, value)
			}
			seen[kind][value] = i
		}
		if err := errors.Join(c.Close(), s.Stop(), copies.Close()); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d kinds were drawn, want 10", len(seen))
	}
}
