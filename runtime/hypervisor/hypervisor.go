// Package hypervisor is the list of the hypervisors that guests can run in. Each is a package below this one; another
// one is its folder and a line here.
package hypervisor

import (
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
)

// named is a hypervisor with its name in configurations.
type named struct {
	Name       string
	Hypervisor machine.Hypervisor
}

// all lists them, the one that is taken where nobody names one first.
func all() []named {
	return []named{
		{"qemu", qemu.Hypervisor{}},
	}
}

// Default is the one that is taken where nobody names one.
func Default() machine.Hypervisor { return all()[0].Hypervisor }
