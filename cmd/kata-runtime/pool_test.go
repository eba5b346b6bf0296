package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/pool"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// handovers is how many guests are handed over, unless KATABUILD_TEST_HANDOVERS says another number, and atOnce how
// many pods ask for one at a time.
const (
	handovers = 6
	atOnce    = 10
)

// TestGuestsOfThePoolDrawNothingAlike: guests that waited in the pool, all of one template, are handed to pods that
// start side by side.
func TestGuestsOfThePoolDrawNothingAlike(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"), testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	n := asked(t, "KATABUILD_TEST_HANDOVERS", handovers)
	dir := t.TempDir()
	o := factory.Order{Config: config.Default(), Version: "test"}
	c := &o.Config
	c.VM.Guest, c.VM.MachineType, c.VM.PCIeRootPorts = cloneGuest(t).Guest.Dir, qemu.Q35, 2
	c.Agent.DialTimeout, c.Runtime.Attestation = 5*time.Minute, config.Off
	c.Factory.EnableTemplate, c.Factory.TemplatePath = true, filepath.Join(dir, "templates")
	c.Factory.VMCacheNumber = min(n, 4)
	cfg, err := o.Machine()
	if err != nil {
		t.Fatal(err)
	}
	cfg, key, err := factory.Of(c, o.Version).Fit(cfg, machine.Size{})
	if err != nil {
		t.Fatal(err)
	}
	keep(t, cfg, key, template.Folder(c.Factory.TemplatePath))

	endpoint := filepath.Join(dir, "pool", "s")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- pool.Serve(ctx, pool.Options{Endpoint: endpoint, Keeper: []string{"kata-runtime", "factory", keepName},
			Load: func() (factory.Order, string, error) { return o, "the same", nil },
			Log:  slog.New(slog.NewTextHandler(t.Output(), nil))})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var all drawn
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range atOnce {
		wg.Go(func() {
			for who := int(next.Add(1)); who <= n && !t.Failed(); who = int(next.Add(1)) {
				handOver(t, cfg, key, endpoint, who, &all)
			}
		})
	}
	wg.Wait()
	t.Logf("%d guests were handed over, %d at a time, in %v", n, atOnce, time.Since(began).Round(time.Second))
	if len(all.seen) != kinds {
		t.Errorf("%d kinds were drawn, want %d", len(all.seen), kinds)
	}
}

// keep makes the template of a guest that cannot be attested.
func keep(t *testing.T, cfg sandbox.Config, key template.Key, folder template.Folder) {
	t.Helper()
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := s.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	if _, err := folder.Put(t.Context(), template.Document{Guest: cfg.Guest.Name, Key: key, Made: 1,
		Attested: digest.Of(nil)}, *saved); err != nil {
		t.Fatal(err)
	}
}

// handOver has a pod's guest from the pool, and asks it what it has drawn.
func handOver(t *testing.T, cfg sandbox.Config, key template.Key, endpoint string, who int, all *drawn) {
	t.Helper()
	taken, err := pool.Take(t.Context(), endpoint, key)
	for end := time.Now().Add(10 * time.Minute); err != nil; taken, err = pool.Take(t.Context(), endpoint, key) {
		if time.Now().After(end) {
			t.Errorf("guest %d: %v", who, err)
			return
		}
		time.Sleep(200 * time.Millisecond) // the pool is refilled behind the pods
	}
	cfg.Held = taken.Held
	s, err := sandbox.Start(t.Context(), cfg)
	if err := errors.Join(err, taken.Close()); err != nil {
		t.Errorf("guest %d: %v", who, err)
		return
	}
	all.by(t, who, s)
	if err := s.Stop(); err != nil {
		t.Errorf("guest %d: %v", who, err)
	}
}
