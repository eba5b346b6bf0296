package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	kernelcost "github.com/katabuild/katabuild/kernel/cost"
)

// kernelsMain prints one line for the kernel of each architecture that a recipe was built for: what compiling its
// objects takes, its sizes, and how long it takes to boot, also in virtual time, until the agent's program starts.
func kernelsMain(args []string) error {
	fl := flag.NewFlagSet("bench kernels", flag.ContinueOnError)
	recipe := fl.String("recipe", "tiny", "the recipe's name")
	out := fl.String("out", "out", "folder of the guests")
	katabuild := fl.String("katabuild", "bin/katabuild", "the program")
	runs := fl.Int("n", 5, "boots to take the median of")
	if err := fl.Parse(args); err != nil {
		return err
	}
	fmt.Printf("%-9s %10s %8s %11s %12s %14s %14s %16s\n", *recipe, "CPU-s", "objects", "image", "vmlinux",
		"boot, CPU-s", "boot, wall s", "boot, virtual s")
	for _, a := range arch.All() {
		guest := *recipe
		if a.Name != arch.All()[0].Name {
			guest += "-" + a.Name
		}
		dir := filepath.Join(*out, guest)
		m, _, err := manifest.Read(dir, "")
		if err != nil {
			return fmt.Errorf("%w; make guests RECIPE=%s builds them all", err, *recipe)
		}
		var built kernelcost.Report
		if err := answer(&built, *katabuild, "kernel", "cost", filepath.Join("recipes", *recipe), "--arch", a.Name,
			"--lock", filepath.Join(*out, guest+".lock.json"), "--json"); err != nil {
			return err
		}
		virtual := "-"
		if at, err := virtualStart(*katabuild, dir); err != nil {
			fmt.Fprintf(os.Stderr, "%s in virtual time: %v\n", guest, err)
		} else {
			virtual = fmt.Sprintf("%.3f", at.Seconds())
		}
		c, err := race(*runs, byCPU, way{commands: [][]string{{*katabuild, "boot", dir, "--progress", "quiet"}}})
		if err != nil {
			return fmt.Errorf("%s: %w", guest, err)
		}
		fmt.Printf("%-9s %10.0f %8d %11d %12d %14.2f %14.2f %16s\n", a.Name, float64(built.Total.CPUMS)/1000,
			built.Total.Objects, m.Kernel.Image.Size, m.Kernel.Vmlinux.Size, c[0].cpu.Seconds(), c[0].wall.Seconds(),
			virtual)
	}
	return nil
}

// virtualStart is when the agent's program starts, after the kernel began, if each instruction takes a nanosecond.
func virtualStart(katabuild, dir string) (time.Duration, error) {
	var booted struct{ Report report.Report }
	if err := answer(&booted, katabuild, "boot", dir, "--icount", "--json", "--progress", "quiet"); err != nil {
		return 0, err
	}
	for _, m := range booted.Report.Timeline {
		if m.Name == "start" {
			return time.Duration(m.AtNS), nil
		}
	}
	return 0, fmt.Errorf("its report has no moment at which the agent starts: %v", booted.Report.Timeline)
}

// answer runs a command and reads the JSON that it prints.
func answer(into any, command ...string) error {
	cmd := exec.Command(command[0], command[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, tail(said.String()))
	}
	return json.Unmarshal(out, into)
}

// ownStore is the store that the environment names, or the user's.
func ownStore() (*store.Store, error) {
	dir := os.Getenv("KATABUILD_STORE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(cache, "katabuild")
	}
	return store.Open(dir, store.Options{})
}
