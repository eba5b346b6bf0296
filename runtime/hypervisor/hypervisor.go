// Package hypervisor is the list of the hypervisors that guests can run in. Each is a package below this one; another
// one is its folder and a line here.
package hypervisor

import (
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Named is a hypervisor with its name in configurations.
type Named struct {
	Name       string
	Hypervisor machine.Hypervisor
}

// All lists them, the one that is taken where nobody names one first.
func All() []Named {
	return []Named{
		{"qemu", qemu.Hypervisor{}},
	}
}

// Default is the one that is taken where nobody names one.
func Default() machine.Hypervisor { return All()[0].Hypervisor }
