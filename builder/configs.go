package builder

import (
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/foreign"
)

// KernelConfig is a whole configuration of a kernel.
type KernelConfig struct {
	Name string // for errors
	Data []byte
	Arch string // where the configuration does not say; empty stands for x86_64
}

// What two kernels have otherwise.
type (
	ConfigDifference = foreign.Difference
	ConfigChange     = foreign.Change
)

// CompareConfigs says what two configurations have otherwise, by our features for the architecture and the version of
// the first.
func CompareConfigs(a, b KernelConfig) (*ConfigDifference, error) {
	if a.Arch == "" {
		a.Arch = arch.All()[0].Name
	}
	k := foreign.KernelOf(a.Data, foreign.Kernel{Arch: a.Arch})
	of, err := arch.Parse(k.Arch)
	if err != nil {
		return nil, err
	}
	all, err := kernel.Features(of)
	if err != nil {
		return nil, err
	}
	x, err := foreign.Read(a.Name, a.Data)
	if err != nil {
		return nil, err
	}
	y, err := foreign.Read(b.Name, b.Data)
	if err != nil {
		return nil, err
	}
	return foreign.Compare(k, all, foreign.Final(x), foreign.Final(y)), nil
}
