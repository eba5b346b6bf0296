package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestHostsWithOtherProcessorsMakeTheSameBytes runs katabuild as hosts of two other architectures would, one of them
// big-endian, each program emulated by itself: they lock the tool-chain that they would compile with, and make the
// initrd of the tiny guest and the disk of the minimal one. Kernels are left out, whose compilers would have to be
// emulated too.
func TestHostsWithOtherProcessorsMakeTheSameBytes(t *testing.T) {
	for _, name := range []string{"aarch64", "s390x"} {
		t.Run(name, func(t *testing.T) {
			emulator := "qemu-" + name + "-static"
			testenv.Require(t, testenv.Asked("KATABUILD_TEST_CROSS", "test-cross"), testenv.Tool("go"),
				testenv.Tool("apt-get"), testenv.Tool(emulator))
			a, err := arch.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			program := filepath.Join(dir, "katabuild")
			build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/katabuild")
			build.Dir = abs(t, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+a.Go)
			finish(t, build).want(t, 0)
			run := func(args ...string) {
				t.Helper()
				cmd := exec.Command(emulator, append([]string{program}, args...)...)
				cmd.Dir = abs(t, ".")
				cmd.Env = append(os.Environ(), "KATABUILD_STORE="+filepath.Join(dir, "store"))
				finish(t, cmd).want(t, 0)
			}
			for _, c := range []struct {
				recipe, word string
				files        []string
			}{
				{"tiny", "initrd", []string{"initrd.img"}},
				{"minimal", "image", []string{"image.img", "root_hash.txt", "sbom.spdx.json"}},
			} {
				// What this host's lock pins stays pinned; the tool-chain of the other is added.
				lock := filepath.Join(dir, c.recipe+".lock.json")
				data, err := os.ReadFile(abs(t, "out/"+c.recipe+".lock.json"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(lock, data, 0o644); err != nil {
					t.Fatal(err)
				}
				out := filepath.Join(dir, c.recipe)
				run("lock", "recipes/"+c.recipe, "--lock", lock)
				run(c.word, "recipes/"+c.recipe, "--lock", lock, "--agent", abs(t, "bin/kata-agent-x86_64"), "-o", out)
				for _, f := range c.files {
					want, _, err := digest.File(abs(t, filepath.Join("out", c.recipe, f)))
					if err != nil {
						t.Fatal(err)
					}
					if err := digest.Check(filepath.Join(out, f), want); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}
