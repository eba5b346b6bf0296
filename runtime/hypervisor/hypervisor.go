// Package hypervisor is the list of the hypervisors that guests can run in. Each is a package below this one; another
// one is its folder and a line here.
package hypervisor

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/hypervisor/clh"
	"github.com/katabuild/katabuild/runtime/hypervisor/firecracker"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
)

// named is a hypervisor with its name in configurations.
type named struct {
	Name       string
	Hypervisor machine.Hypervisor
	program    func(arch.Arch) string
}

// all lists them, the one that is taken where nobody names one first.
func all() []named {
	return []named{
		{"qemu", qemu.Hypervisor{}, func(a arch.Arch) string { return a.QEMU }},
		{"clh", clh.Hypervisor{}, func(arch.Arch) string { return clh.Program }},
		{"firecracker", firecracker.Hypervisor{}, func(arch.Arch) string { return firecracker.Program }},
	}
}

// Default is the one that is taken where nobody names one.
func Default() machine.Hypervisor { return all()[0].Hypervisor }

// Named is the hypervisor of a name.
func Named(name string) (machine.Hypervisor, error) {
	n, err := find(name)
	return n.Hypervisor, err
}

// Program is the hypervisor's program for guests of an architecture, to be found in $PATH.
func Program(name string, a arch.Arch) (string, error) {
	n, err := find(name)
	if err != nil {
		return "", err
	}
	return n.program(a), nil
}

func find(name string) (named, error) {
	var known []string
	for _, n := range all() {
		if n.Name == name {
			return n, nil
		}
		known = append(known, n.Name)
	}
	return named{}, fmt.Errorf("unknown hypervisor %q (known: %s)", name, strings.Join(known, ", "))
}
