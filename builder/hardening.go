package builder

import (
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/foreign"
	"github.com/katabuild/katabuild/kernel/hardening"
)

// Hardening is how a kernel's configuration follows what the Kernel Self Protection Project recommends.
type Hardening = hardening.Result

// CheckHardening compares a configuration with the recommendations. Of which features it is does not matter for rules
// without an exception; where nobody says, those that it has whole count.
func CheckHardening(c KernelConfig) (*Hardening, error) {
	if c.Arch == "" {
		c.Arch = arch.All()[0].Name
	}
	k := foreign.KernelOf(c.Data, foreign.Kernel{Arch: c.Arch})
	a, err := arch.Parse(k.Arch)
	if err != nil {
		return nil, err
	}
	all, err := kernel.Features(a)
	if err != nil {
		return nil, err
	}
	settings, err := foreign.Read(c.Name, c.Data)
	if err != nil {
		return nil, err
	}
	final := foreign.Final(settings)
	covered, err := features.Resolve(a, foreign.Cover(k, all, final).Features)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range covered {
		names = append(names, f.Name)
	}
	return hardening.Check(k.Arch, k.Version, names, final)
}
