// Package arch is the one table of architectures: what each is called by Go, Debian, Linux and QEMU.
//
// A new architecture is a new row here; what packages still know of one by its name, they keep in a table with a row
// for each. Guests of every row can be built and run.
package arch

import (
	"fmt"
	"path"
	"slices"
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
	KernelName   string // its name among a guest's files, where the base of KernelImage is not one of its own
	QEMU         string // name of the system emulator
	QEMUPackage  string // Debian package that has it
	Machine      string // QEMU machine used when neither a recipe nor a person names one
	Console      string // kernel console device on that machine
	// OpenFlags names the numbers that the kernel has for the flags of open(2), and its byte order. FUSE hands them on
	// as they are, so that a kernel can only be served by one of the same word. Linux: arch/*/include/uapi/asm/fcntl.h.
	OpenFlags string
	// CommandLine is how many bytes the kernel keeps of its command line, with the NUL behind it: COMMAND_LINE_SIZE.
	// Linux 6.12: arch/x86/include/asm/setup.h, arch/arm64, powerpc and riscv/include/uapi/asm/setup.h; for s390 the
	// default of CONFIG_COMMAND_LINE_SIZE, arch/s390/Kconfig.
	CommandLine int
	// BootForm is which of a kernel's two files machines take best, as runtime/guest names them: "vmlinux", the ELF, or
	// "image", the architecture's own form. QEMU boots an ELF of x86_64 by its PVH entry, and those of ppc64le, s390x
	// and riscv64; not one of aarch64.
	BootForm string
	// BootWords are what its kernels are told beside what all are told; internal/bootwords makes command lines of them.
	BootWords string
	// TCGWords are what they are told besides where TCG emulates the processor. ClockWord in them stands for the rate
	// of the host's time-stamp counter in kHz.
	TCGWords string
	// PlainWords are what those are told besides that were not built here.
	PlainWords string
	// Machines are those that a recipe may name, the first for a recipe that names none.
	Machines []Machine
}

// Machine is what there is to know of one of QEMU's machines before a guest is built for it.
type Machine struct {
	Name     string
	TCGWords string // more of Arch.TCGWords, on this machine alone
	NVDIMM   bool   // a guest's disk can be one
	// MemoryStep is what its memory is a multiple of, in MiB; 0 is any. QEMU: docs/system/ppc/pseries.rst; a block of
	// memory that can be plugged has 256 MiB there.
	MemoryStep int
}

// ClockWord stands for the rate of the host's time-stamp counter in kHz.
const ClockWord = "{tsc_khz}"

// ImageName is what the compressed, bootable kernel is called among a guest's files, which have a vmlinux too.
func (a Arch) ImageName() string {
	if a.KernelName != "" {
		return a.KernelName
	}
	return path.Base(a.KernelImage)
}

// FindMachine finds one of a's by its name.
func (a Arch) FindMachine(name string) (Machine, bool) {
	for _, m := range a.Machines {
		if m.Name == name {
			return m, true
		}
	}
	return Machine{}, false
}

// MachineNames lists the machines that a recipe may name.
func (a Arch) MachineNames() []string {
	var names []string
	for _, m := range a.Machines {
		names = append(names, m.Name)
	}
	return names
}

// All lists every architecture, in the order shown to people. The console of each is the first serial port of its
// machine; Linux: Documentation/admin-guide/serial-console.rst and each driver's name for it (8250, amba-pl011,
// hvc_vio, sclp_tty).
func All() []Arch {
	return []Arch{
		{
			Name: "x86_64", Go: "amd64", Debian: "amd64", Linux: "x86", CrossPrefix: "x86_64-linux-gnu-",
			KernelTarget: "bzImage", KernelImage: "arch/x86/boot/bzImage", BootForm: "vmlinux",
			QEMU: "qemu-system-x86_64", QEMUPackage: "qemu-system-x86", Machine: "microvm", Console: "ttyS0",
			OpenFlags: "generic", CommandLine: 2048,
			BootWords: "reboot=t", // by triple fault, which every VMM sees; the other ways are tried for seconds
			// The rate, since measuring it fails under load, and microvm then hangs. The counter is the host's; the
			// watchdog that doubts it compares emulated clocks under load. KVM guests do not check the timer either:
			// ten ticks of waiting for an interrupt that surely comes.
			TCGWords: "tsc_early_khz=" + ClockWord + " tsc=reliable no_timer_check",
			Machines: []Machine{
				{Name: "microvm"},
				// The local timer's rate is measured for 0.1 s and verified for 0.1 s more; the HPET serves as well.
				// KVM's timer needs neither, and microvm has no HPET.
				{Name: "q35", TCGWords: "nolapic_timer", NVDIMM: true},
			},
		},
		{
			Name: "aarch64", Go: "arm64", Debian: "arm64", Linux: "arm64", CrossPrefix: "aarch64-linux-gnu-",
			KernelTarget: "Image", KernelImage: "arch/arm64/boot/Image", BootForm: "image",
			QEMU: "qemu-system-aarch64", QEMUPackage: "qemu-system-arm", Machine: "virt", Console: "ttyAMA0",
			OpenFlags: "arm64", CommandLine: 2048,
			Machines: []Machine{{Name: "virt"}},
		},
		{
			Name: "ppc64le", Go: "ppc64le", Debian: "ppc64el", Linux: "powerpc", CrossPrefix: "powerpc64le-linux-gnu-",
			// The kernel as make leaves it boots, and so does the one without symbols, which is called vmlinux.
			KernelTarget: "vmlinux", KernelImage: "vmlinux", KernelName: "vmlinux.full", BootForm: "vmlinux",
			QEMU: "qemu-system-ppc64", QEMUPackage: "qemu-system-ppc", Machine: "pseries", Console: "hvc0",
			OpenFlags: "powerpc", CommandLine: 2048,
			Machines: []Machine{{Name: "pseries", MemoryStep: 256}},
		},
		{
			Name: "s390x", Go: "s390x", Debian: "s390x", Linux: "s390", CrossPrefix: "s390x-linux-gnu-",
			KernelTarget: "bzImage", KernelImage: "arch/s390/boot/bzImage", BootForm: "image",
			QEMU: "qemu-system-s390x", QEMUPackage: "qemu-system-misc", Machine: "s390-ccw-virtio",
			Console: "ttysclp0", OpenFlags: "generic, big-endian", CommandLine: 4096,
			Machines: []Machine{{Name: "s390-ccw-virtio"}},
		},
		{
			Name: "riscv64", Go: "riscv64", Debian: "riscv64", Linux: "riscv", CrossPrefix: "riscv64-linux-gnu-",
			KernelTarget: "Image", KernelImage: "arch/riscv/boot/Image", BootForm: "image",
			QEMU: "qemu-system-riscv64", QEMUPackage: "qemu-system-misc", Machine: "virt", Console: "ttyS0",
			OpenFlags: "generic", CommandLine: 1024,
			Machines:   []Machine{{Name: "virt"}},
			PlainWords: "numa=off", // as Kata's: QEMU describes no nodes
		},
	}
}

// Names lists the names of architectures.
func Names(list []Arch) []string {
	var names []string
	for _, a := range list {
		names = append(names, a.Name)
	}
	return names
}

// Parse finds an architecture by its name.
func Parse(name string) (Arch, error) {
	all := All()
	if i := slices.IndexFunc(all, func(a Arch) bool { return a.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Arch{}, fmt.Errorf("unknown architecture %q (known: %s)", name, strings.Join(Names(all), ", "))
}

// FromGo finds an architecture by its GOARCH.
func FromGo(goarch string) (Arch, error) {
	for _, a := range All() {
		if a.Go == goarch {
			return a, nil
		}
	}
	return Arch{}, fmt.Errorf("no guest architecture for GOARCH %q (known: %s)", goarch, strings.Join(Names(All()),
		", "))
}
