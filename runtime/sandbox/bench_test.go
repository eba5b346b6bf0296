package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// BenchmarkBoot measures a boot until the agent is ready, as medians. With KATABUILD_TEST_INITRD it boots that initrd
// instead of this package's own init:
//
//	go test ./runtime/sandbox -run xxx -bench Boot -benchtime 11x
func BenchmarkBoot(b *testing.B) {
	for _, machine := range []qemu.Machine{qemu.MicroVM, qemu.Q35} {
		for _, form := range []guest.KernelForm{guest.Vmlinux, guest.Image} {
			b.Run(fmt.Sprintf("%s/%s", machine, form), func(b *testing.B) {
				cfg := testConfig(b, "serve")
				cfg.Machine = string(machine)
				cfg.Guest = described(b, cfg.Guest.Manifest, cfg.Guest.Dir, form)
				useInitrd(b, &cfg)
				times := map[string][]time.Duration{}
				for b.Loop() {
					s, err := Start(b.Context(), cfg)
					if err != nil {
						fail(b, err)
					}
					for _, m := range s.Timeline() {
						times[m.Name] = append(times[m.Name], m.After)
					}
					began := time.Now()
					if err := s.Stop(); err != nil {
						b.Fatal(err)
					}
					times["stop"] = append(times["stop"], time.Since(began))
				}
				for name, ds := range times {
					slices.Sort(ds)
					b.ReportMetric(float64(ds[len(ds)/2].Microseconds())/1000, name+"-ms")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// useInitrd puts the initrd that the environment names in the place of the test's own.
func useInitrd(t testing.TB, cfg *Config) {
	path := os.Getenv("KATABUILD_TEST_INITRD")
	if path == "" {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &cfg.Guest.Manifest.Initrd.File
	f.Digest, f.Size = digest.Of(data), int64(len(data))
	if err := os.WriteFile(filepath.Join(cfg.Guest.Dir, f.Path), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkTemplate measures a boot, and a restore from a template, until the agent is ready, side by side and as
// medians: seconds of the hypervisor's processor, and of the clock without and with the copy of the memory.
//
//	KATABUILD_TEST_BOOT=1 KATABUILD_TEST_GUEST=$PWD/out/default go test ./runtime/sandbox -run xxx \
//		-bench Template -benchtime 5x
func BenchmarkTemplate(b *testing.B) {
	cfg := templateConfig(b)
	first, err := Start(b.Context(), cfg)
	if err != nil {
		fail(b, err)
	}
	saved, err := first.Save(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer saved.Close()
	found := map[string][]float64{}
	measure := func(name string, cfg Config) {
		began := time.Now()
		if cfg.Template {
			one, err := saved.Duplicate()
			if err != nil {
				b.Fatal(err)
			}
			defer one.Close()
			found[name+"-copy-s"] = append(found[name+"-copy-s"], time.Since(began).Seconds())
			cfg.Saved = &Saved{Copies: *one}
		}
		s, err := Start(b.Context(), cfg)
		if err != nil {
			fail(b, err)
		}
		found[name+"-wall-s"] = append(found[name+"-wall-s"], time.Since(began).Seconds())
		found[name+"-cpu-s"] = append(found[name+"-cpu-s"], cpuSeconds(b, s.PID()))
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
	cold := cfg
	cold.Template = false
	for b.Loop() {
		measure("cold", cold)
		measure("template", cfg)
	}
	for name, all := range found {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], name)
	}
	b.ReportMetric(0, "ns/op")
}

// cpuSeconds is what a process has had of processors. proc(5), /proc/pid/stat, utime and stime in ticks of 10 ms.
func cpuSeconds(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system float64
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return (user + system) / 100
}
