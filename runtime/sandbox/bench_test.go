package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
