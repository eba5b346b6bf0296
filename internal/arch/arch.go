// Package arch is the one table of architectures: what each is called by Go, Debian, Linux and QEMU.
//
// A new architecture is a new row here, never a switch elsewhere.
package arch

import (
	"fmt"
	"strings"
)

// Arch is one architecture and its names.
type Arch struct {
	Name         string // as in uname -m and in recipes, e.g. "x86_64"
	Go           string // GOARCH
	Debian       string // dpkg architecture
	Linux        string // ARCH= of the kernel's make, and the folder under arch/
	CrossPrefix  string // prefix of the GNU cross tools, e.g. "aarch64-linux-gnu-"
	KernelTarget string // make target of the compressed, bootable kernel
	KernelImage  string // its path in the build folder
	QEMU         string // name of the system emulator
	Machine      string // QEMU machine used when a recipe names none
	Console      string // kernel console device on that machine
}

// All lists every architecture, in the order shown to people.
func All() []Arch {
	return []Arch{
		{
			Name: "x86_64", Go: "amd64", Debian: "amd64", Linux: "x86", CrossPrefix: "x86_64-linux-gnu-",
			KernelTarget: "bzImage", KernelImage: "arch/x86/boot/bzImage",
			QEMU: "qemu-system-x86_64", Machine: "microvm", Console: "ttyS0",
		},
	}
}

// Names lists the names of all architectures.
func Names() []string {
	var names []string
	for _, a := range All() {
		names = append(names, a.Name)
	}
	return names
}

// Parse finds an architecture by its name.
func Parse(name string) (Arch, error) {
	for _, a := range All() {
		if a.Name == name {
			return a, nil
		}
	}
	return Arch{}, fmt.Errorf("unknown architecture %q (known: %s)", name, strings.Join(Names(), ", "))
}

// FromGo finds an architecture by its GOARCH.
func FromGo(goarch string) (Arch, error) {
	for _, a := range All() {
		if a.Go == goarch {
			return a, nil
		}
	}
	return Arch{}, fmt.Errorf("no guest architecture for GOARCH %q (known: %s)", goarch, strings.Join(Names(), ", "))
}
