package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/manifest"
)

// kernelsMain prints one line for the kernel of each architecture that a recipe was built for: what it cost, its
// sizes, and how long it takes to boot.
func kernelsMain(args []string) error {
	fl := flag.NewFlagSet("bench kernels", flag.ContinueOnError)
	recipe := fl.String("recipe", "tiny", "the recipe's name")
	out := fl.String("out", "out", "folder of the guests")
	katabuild := fl.String("katabuild", "bin/katabuild", "the program")
	runs := fl.Int("n", 5, "boots to take the median of")
	if err := fl.Parse(args); err != nil {
		return err
	}
	s, err := ownStore()
	if err != nil {
		return err
	}
	fmt.Printf("%-9s %10s %8s %11s %12s %14s %14s\n", *recipe, "CPU-s", "objects", "image", "vmlinux",
		"boot, CPU-s", "boot, wall s")
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
		built, files := "-", "-"
		if last := s.Last(guest, "kernel"); last != nil && last.CPUMS > 0 {
			built, files = fmt.Sprintf("%.0f", float64(last.CPUMS)/1000), fmt.Sprint(last.Units)
		}
		c, err := race(*runs, byCPU, way{commands: [][]string{{*katabuild, "boot", dir, "--progress", "quiet"}}})
		if err != nil {
			return fmt.Errorf("%s: %w", guest, err)
		}
		fmt.Printf("%-9s %10s %8s %11d %12d %14.2f %14.2f\n", a.Name, built, files, m.Kernel.Image.Size,
			m.Kernel.Vmlinux.Size, c[0].cpu.Seconds(), c[0].wall.Seconds())
	}
	return nil
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
