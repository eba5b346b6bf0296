// Command bench measures a guest: sizes, the time of its boot, and what a build costs when nothing has changed. `bench
// images` measures the making of disk images instead, beside the tools that a user would use instead, `bench releases`
// what is done with releases, `bench kernels` the kernels of all architectures, and `bench start` tells how long
// containers took to start.
//
// Figures of the tools katabuild replaces that were measured on the same Linux 6.12 source are printed beside, as a
// ratio.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/manifest"
)

// What Kata Containers 4.1's fragments give on Linux 6.12.117, with the same compiler: bytes, and CPU seconds.
const (
	kataBzImage = 8_680_448
	kataVmlinux = 29_493_824
	// User and system time of make, on two cores of the kind of machine CI has.
	kataCPUSeconds = 990
)

func main() {
	if len(os.Args) > 1 {
		parts := map[string]func([]string) error{"images": imagesMain, "kernels": kernelsMain, "start": startMain,
			"releases": releasesMain, "child": child}
		if part, ok := parts[os.Args[1]]; ok {
			if err := part(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	guest := flag.String("guest", "out/default", "the guest's folder")
	katabuild := flag.String("katabuild", "bin/katabuild", "the program")
	runs := flag.Int("n", 10, "boots to take the median of")
	flag.Parse()
	if err := run(*guest, *katabuild, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(guest, katabuild string, runs int) error {
	m, _, err := manifest.Read(guest, "")
	if err != nil {
		return err
	}
	fmt.Printf("%-44s %12d bytes  %.2f of Kata's fragments\n", "bzImage", m.Kernel.Image.Size,
		float64(m.Kernel.Image.Size)/kataBzImage)
	fmt.Printf("%-44s %12d bytes  %.2f of Kata's fragments\n", "vmlinux, stripped", m.Kernel.Vmlinux.Size,
		float64(m.Kernel.Vmlinux.Size)/kataVmlinux)
	if m.Initrd != nil {
		fmt.Printf("%-44s %12d bytes\n", "initrd", m.Initrd.Size)
	}
	if m.Image != nil {
		fmt.Printf("%-44s %12d bytes\n", "disk image", m.Image.Size)
	}
	if err := compile(m); err != nil {
		return err
	}
	for _, machine := range []string{"q35", "microvm"} {
		t, err := boot(katabuild, guest, "--machine", machine, "--icount", "--cpus", "1", "--timeout", "5m")
		if err != nil {
			return err
		}
		// From start to init the guest's clock is no measure: it stands still or jumps while QEMU skips time. kernel's
		// TestBenchBoot counts there.
		a, oka := t.guest("start")
		b, okb := t.guest("ready")
		if oka && okb {
			fmt.Printf("%-44s %12.1f ms\n", machine+", virtual time, init to agent ready", ms(b-a))
		}
		var wall []time.Duration
		for range runs {
			t, err := boot(katabuild, guest, "--machine", machine)
			if err != nil {
				return err
			}
			wall = append(wall, t.host("agent"))
		}
		slices.Sort(wall)
		fmt.Printf("%-44s %12.0f ms  median of %d, %.0f to %.0f\n", machine+", wall time to agent ready",
			ms(wall[len(wall)/2]), runs, ms(wall[0]), ms(wall[len(wall)-1]))
	}
	began := time.Now()
	cmd := exec.Command(katabuild, "plan", filepath.Join("recipes", m.Name), "--lock",
		filepath.Join("out", m.Name+".lock.json"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	fmt.Printf("%-44s %12.0f ms  (%.0f ms of CPU)\n", "plan", ms(time.Since(began)),
		ms(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()))
	return nil
}

// compile prints what the guest's kernel cost when it was built.
func compile(m *manifest.Manifest) error {
	s, err := ownStore()
	if err != nil {
		return err
	}
	a := s.Last(m.Name, "kernel")
	if a == nil || a.CPUMS == 0 {
		return fmt.Errorf("the store %s does not know what building the kernel of %s took; build it there", s.Dir(),
			m.Name)
	}
	fmt.Printf("%-44s %12.0f CPU-s  %.2f of Kata's fragments; %d files, %.0f s of wall time\n", "building the kernel",
		float64(a.CPUMS)/1000,
		float64(a.CPUMS)/1000/kataCPUSeconds, a.Units, float64(a.ElapsedMS)/1000)
	if a.Cached > 0 {
		fmt.Printf("%-44s %12d files; without them: katabuild kernel --no-object-cache, in another store\n",
			"  of them from the cache of objects", a.Cached)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type timeline []struct {
	Name  string        `json:"name"`
	At    time.Duration `json:"at_ns"`
	Guest bool          `json:"guest"`
}

func (t timeline) guest(name string) (time.Duration, bool) {
	for _, m := range t {
		if m.Guest && m.Name == name {
			return m.At, true
		}
	}
	return 0, false
}

func (t timeline) host(name string) time.Duration {
	for _, m := range t {
		if !m.Guest && m.Name == name {
			return m.At
		}
	}
	return 0
}

// boot boots once and returns the timeline. With virtual time the command line differs from the promised one only in
// what the host adds.
func boot(katabuild, guest string, args ...string) (timeline, error) {
	cmd := exec.Command(katabuild, append([]string{"boot", guest, "--json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	var o struct {
		Timeline timeline `json:"timeline"`
	}
	return o.Timeline, json.Unmarshal(out, &o)
}
