package sandbox

import (
	"os"
	"testing"

	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
)

// TestTheDefaultGuestProvesWhatItsKernelPromises: twice, since nothing that a probe makes may stay.
func TestTheDefaultGuestProvesWhatItsKernelPromises(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"))
	m, _, err := manifest.Read(os.Getenv("KATABUILD_TEST_GUEST"), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Kernel.Probes) == 0 {
		t.Fatal("the manifest names no probes")
	}
	s := defaultGuest(t, func(c *Config) { c.Words, c.Probes = nil, append(m.Kernel.Probes, "of-no-feature") })
	for range 2 {
		a, err := s.Attest(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Report.Probes) != len(m.Kernel.Probes)+1 || a.Verdict.Result != verdict.Failed {
			t.Errorf("%d probes of %d are answered; %s", len(a.Report.Probes), len(m.Kernel.Probes)+1, a.Verdict.Result)
		}
		if u := a.Verdict.Unmet(); len(u) != 1 || u[0] != "probe of-no-feature" {
			t.Errorf("not met: %v\n%s", u, a.Verdict.Table())
		}
	}
}
