package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kerneltest"
)

// TestTinyBoots builds the tiny kernel and boots it wherever it should come up.
func TestTinyBoots(t *testing.T) {
	res, err := Build(t.Context(), slowRequest(t, features.Tiny))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("tiny: %d objects, %.0f CPU seconds", res.Objects, res.CPU.Seconds())
	bootAll(t, res)
}

// output finds an output by name.
func output(t *testing.T, res *Result, name string) string {
	t.Helper()
	for _, o := range res.Outputs {
		if o.Name == name {
			return o.Path
		}
	}
	t.Fatalf("no output %s", name)
	return ""
}

// initrdFile builds the test's initrd.
func initrdFile(t testing.TB) string {
	t.Helper()
	testenv.Require(t, testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"))
	data, err := kerneltest.Initrd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// virtualKHz is the rate of the time-stamp counter where one instruction takes one nanosecond.
const virtualKHz = "1000000"

// lineFor is the whole command line for emulation.
func lineFor(t testing.TB, machine, khz string) string {
	line, tcg := bootwords.Built(x86(t), machine)
	return line + " " + strings.ReplaceAll(tcg, "{tsc_khz}", khz)
}

// bootAll boots a kernel on both machines, from both files, with one processor and with two.
func bootAll(t *testing.T, res *Result) {
	initrd := initrdFile(t)
	for _, m := range []kerneltest.Machine{
		{Machine: "microvm", Kernel: output(t, res, OutputVmlinux)},
		{Machine: "q35", Kernel: output(t, res, OutputVmlinux)},
		{Machine: "q35", Kernel: output(t, res, "bzImage")},
		{Machine: "microvm", Kernel: output(t, res, OutputVmlinux), CPUs: 2},
		{Machine: "q35", Kernel: output(t, res, OutputVmlinux), CPUs: 2},
	} {
		m.Initrd, m.Virtual, m.CommandLine = initrd, true, lineFor(t, m.Machine, virtualKHz)
		t.Run(fmt.Sprintf("%s %s smp%d", m.Machine, filepath.Base(m.Kernel), max(1, m.CPUs)), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			got, err := kerneltest.Boot(ctx, m)
			if err != nil {
				t.Fatalf("%v\n%s", err, got.Console)
			}
			if got.Release != res.Release || got.Version != res.Version || got.BuildID != res.BuildID ||
				got.Config != res.ConfigDigest {
				t.Errorf("the kernel says\n%s %q\nbuild-id %s\nconfig %s\nand was built as\n%s %q\nbuild-id "+
					"%s\nconfig %s",
					got.Release, got.Version, got.BuildID, got.Config, res.Release, res.Version, res.BuildID,
					res.ConfigDigest)
			}
			if got.CPUs != max(1, m.CPUs) || !got.VSock {
				t.Errorf("%d processors, vsock %v", got.CPUs, got.VSock)
			}
			t.Logf("init after %.3f s of virtual time (the kernel believes %.3f s)", float64(got.Ticks)/1e9,
				got.BootTime.Seconds())
		})
	}
}

// TestDefaultHasWhatContainersNeed boots the default kernel that KATABUILD_TEST_DEFAULT_VMLINUX names, and has its init
// use what containers use.
func TestDefaultHasWhatContainersNeed(t *testing.T) {
	testenv.Require(t, testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"))
	line, _ := bootwords.Built(x86(t), "q35") // q35 has timers to measure the clock with
	got, err := kerneltest.Boot(t.Context(), kerneltest.Machine{
		Machine: "q35", Kernel: os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX"), Initrd: initrdFile(t), CPUs: 2,
		CommandLine: line + ` maxcpus=1 dm-mod.create="kbtest,,,ro,0 8 error of ours" ` + kerneltest.TryParts,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, got.Console)
	}
	for part, said := range got.Parts {
		if said != "<nil>" {
			t.Errorf("%s: %s", part, said)
		}
	}
	// There is no disk to make a device of; that the kernel refuses what dm-mod.create says proves that it reads it.
	if !strings.Contains(got.Console, "device-mapper: init: ") {
		t.Error("dm-mod.create was not read")
	}
	// So that an init that tries less is noticed.
	const parts = 50
	if len(got.Parts) < parts {
		t.Errorf("init tried %d parts, want at least %d", len(got.Parts), parts)
	}
	t.Logf("%d parts", len(got.Parts))
}

// TestBenchBoot prints how long the kernel named by KATABUILD_TEST_KERNEL_VMLINUX takes until init, in virtual time
// and, as a median of ten, in wall time. KATABUILD_TEST_TSC_KHZ is the rate of the machine's time-stamp counter.
func TestBenchBoot(t *testing.T) {
	testenv.Require(t, testenv.File("KATABUILD_TEST_KERNEL_VMLINUX"))
	initrd := initrdFile(t)
	khz := os.Getenv("KATABUILD_TEST_TSC_KHZ")
	for _, machine := range []string{"microvm", "q35"} {
		m := kerneltest.Machine{Machine: machine, Kernel: os.Getenv("KATABUILD_TEST_KERNEL_VMLINUX"), Initrd: initrd}
		m.Virtual, m.CommandLine = true, lineFor(t, machine, virtualKHz)
		r, err := kerneltest.Boot(t.Context(), m)
		if err != nil {
			t.Fatalf("%v\n%s", err, r.Console)
		}
		fmt.Printf("kernel boot %s: %.3f s of virtual time to init, %.3f s by the kernel's clock\n", machine,
			float64(r.Ticks)/1e9, r.BootTime.Seconds())
		if khz == "" {
			continue
		}
		m.Virtual, m.CommandLine = false, lineFor(t, machine, khz)
		var walls []time.Duration
		for range 10 {
			r, err := kerneltest.Boot(t.Context(), m)
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Console)
			}
			walls = append(walls, r.Wall)
		}
		slices.Sort(walls)
		fmt.Printf("kernel boot %s: %.0f ms from starting QEMU to init's first line (median of %d, least %.0f)\n",
			machine,
			float64(walls[len(walls)/2].Milliseconds()), len(walls), float64(walls[0].Milliseconds()))
	}
}
