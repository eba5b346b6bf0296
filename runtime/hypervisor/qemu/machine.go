package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// Machine is a QEMU machine. The zero value is none.
type Machine string

// The machines. MicroVM has its devices on virtio-mmio and boots fastest; Q35 is a PC with PCI Express. The others are
// each the one machine for virtual guests of their architecture: Virt, which aarch64 and riscv64 share a name for and
// nothing else, has PCI Express, PSeries has PCI, and S390CCW has channel devices and PCI.
const (
	MicroVM Machine = "microvm"
	Q35     Machine = "q35"
	Virt    Machine = "virt"
	PSeries Machine = "pseries"
	S390CCW Machine = "s390-ccw-virtio"
)

// model is what a machine of one architecture wants of a command line. QEMU: docs/system/target-*.rst.
type model struct {
	arch    string // of internal/arch
	machine Machine
	bus     string // what the names of virtio devices end in
	options string // of -machine
	cpu     string // what TCG emulates
	granule int    // MiB that the memory is a multiple of

	tcg, kvm  string // more options of -machine, by what runs the guest
	ports     bool   // there are PCI Express root ports
	nvdimm    bool
	grows     bool   // processors and DIMMs can be plugged in
	vhostUser string // the bus of vhost-user-vsock, where that is another one
	iommu     string // the guest's: a device, or an option of -machine; empty is none
}

// x86TCG is the processor that TCG emulates. Linux copies and clears memory by "rep movsb" and "rep stosb" where a
// processor says that it has them fast (ERMS, FSRM), and TCG carries them out a byte at a time: without the claim
// streams, files and networks are 1.4 to 2.8 times as fast. Linux: arch/x86/lib/copy_user_64.S, clear_page_64.S.
const x86TCG = "max,-erms,-fsrm"

// models lists all machines of all architectures. The first of an architecture is what one is given that names none and
// was not built here.
var models = []model{
	{
		arch: "x86_64", machine: Q35, bus: "-pci", options: "usb=off,sata=off,smbus=off,vmport=off", cpu: x86TCG,
		granule: 1, ports: true, nvdimm: true, grows: true,
		iommu: "intel-iommu,intremap=on,device-iotlb=on,caching-mode=on", // as devices of the host want it
	},
	{
		// The timer and the clock stay: without them Linux polls for seconds for what is not there, and may hang in the
		// calibration of the time stamp counter. The kernel finds its devices by ACPI, and its command line is the
		// manifest's and nothing else.
		arch: "x86_64", machine: MicroVM, bus: "-device",
		options: "acpi=on,pic=on,pit=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off", cpu: x86TCG, granule: 1,
	},
	{
		// KVM can only give a guest the interrupt controller that the host has. Pointer authentication is emulated with
		// a hash that is cheap: QEMU, docs/system/arm/cpu-features.rst.
		arch: "aarch64", machine: Virt, bus: "-pci", options: "usb=off", tcg: "gic-version=3",
		kvm: "gic-version=host", cpu: "max,pauth-impdef=on", granule: 1, ports: true, iommu: "iommu=smmuv3",
	},
	{
		// The cap- options tell of mitigations, which TCG does not have, and of what not every host has; QEMU,
		// docs/system/ppc/pseries.rst and hw/ppc/spapr_caps.c. The memory comes in logical blocks of 256 MiB
		// (SPAPR_MEMORY_BLOCK_SIZE).
		arch: "ppc64le", machine: PSeries, bus: "-pci",
		options: "usb=off,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off", kvm: "cap-ail-mode-3=off",
		cpu: "power9", granule: 256,
	},
	{
		// There is no vhost-user-vsock for channels, but PCI.
		arch: "s390x", machine: S390CCW, bus: "-ccw", vhostUser: "-pci", cpu: "max", granule: 1,
	},
	{
		arch: "riscv64", machine: Virt, bus: "-pci", options: "usb=off", cpu: "rv64", granule: 1, ports: true,
	},
}

// ParseMachine reads a machine's name, of any architecture.
func ParseMachine(s string) (Machine, error) {
	var known []string
	for _, m := range models {
		if string(m.machine) == s {
			return m.machine, nil
		}
		if !slices.Contains(known, string(m.machine)) {
			known = append(known, string(m.machine))
		}
	}
	return "", fmt.Errorf("unknown machine %q (known: %s)", s, strings.Join(known, ", "))
}

// Machines lists those of an architecture, the name being internal/arch's. The first is for guests about which nobody
// says more.
func Machines(arch string) []Machine {
	var out []Machine
	for _, m := range models {
		if m.arch == arch {
			out = append(out, m.machine)
		}
	}
	return out
}

// find is the machine of an architecture. A machine that no architecture has is QEMU's to refuse.
func find(arch string, machine Machine) model {
	for _, m := range models {
		if m.arch == arch && m.machine == machine {
			return m
		}
	}
	return model{arch: arch, machine: machine, bus: "-pci", cpu: "max", granule: 1}
}

// Has says what a machine of an architecture has.
func Has(arch string, m Machine) Abilities {
	f := find(arch, m)
	a := Abilities{RootPorts: f.ports, NVDIMM: f.nvdimm, Grows: f.grows, MemoryMiB: f.granule, Bus: f.bus,
		VhostUserVsock: "vhost-user-vsock" + f.bus}
	if f.vhostUser != "" {
		a.VhostUserVsock = "vhost-user-vsock" + f.vhostUser
	}
	return a
}

// Abilities are what differs between machines for those who do not write command lines.
type Abilities struct {
	RootPorts      bool   // disks can be plugged into it while it runs
	Grows          bool   // processors and memory can be plugged into it while it runs
	NVDIMM         bool   // a disk can be mapped into its address space
	MemoryMiB      int    // its memory is a multiple of this
	Bus            string // what QEMU's names of its virtio devices end in: -pci, -device or -ccw
	VhostUserVsock string // QEMU's name of the vsock device with a back end of ours
}

// word is the value of -machine, without what memory and disks want of it.
func (m model) word(a accel.Accel) string {
	words := []string{string(m.machine)}
	if a != accel.TCG { // argv has it where it has options
		words = append(words, "accel="+string(a))
	}
	more := m.tcg
	if a == accel.KVM {
		more = m.kvm
	}
	for _, w := range []string{more, m.options} {
		if w != "" {
			words = append(words, w)
		}
	}
	return strings.Join(words, ",")
}
