package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestAProgramAdaptsItselfToTheKernelsTypes: the feature btf gives the guest types that a compiled BPF program is
// loaded by, and makes the same bytes again.
func TestAProgramAdaptsItselfToTheKernelsTypes(t *testing.T) {
	need(t, testenv.Asked("KATABUILD_TEST_KERNEL", "test-kernel"), testenv.Tool("go")) // it builds a kernel, twice
	guest := variant(t, "features: [tiny]", "features: [tiny, bpf, btf]")
	katabuild(t, nil, "boot", guest, "--probe").want(t, 0, "probe btf ", "attested")
	coreRuns(t, filepath.Join(guest, "vmlinux"))
	katabuild(t, nil, "verify", guest, "--rebuild", filepath.Dir(guest), "--lock", abs(t, "out/tiny.lock.json")).
		want(t, 0, "every byte is the same")
}

// coreRuns boots a kernel with ci/core as its init.
func coreRuns(t *testing.T, vmlinux string) {
	t.Helper()
	initrd := boottest.Initrd(t, boottest.Build(t, abs(t, "ci/core"), "build", "-trimpath", "."))
	r := finish(t, exec.CommandContext(t.Context(), "timeout", "180", "qemu-system-x86_64", "-M", "q35", "-accel",
		"tcg",
		"-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial",
		"stdio",
		"-kernel", vmlinux, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1"))
	if said := regexp.MustCompile(`core: task_struct\.pid is at [0-9]+`).FindString(r.out); said == "" {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}
