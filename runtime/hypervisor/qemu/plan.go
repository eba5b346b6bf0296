package qemu

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Hypervisor is QEMU. The zero value is right.
type Hypervisor struct {
	// For tests: a guest that finds no vsock device, and processors that are plugged in where TCG emulates them, which
	// the guest does not take.
	NoVsock, CPUsUnderTCG bool
}

var _ machine.Hypervisor = Hypervisor{}

// Plan is a virtual machine of QEMU's, with the kernel and the initrd where they lie, its console on standard input and
// output, and without monitor and vsock, whose other ends are in the process that starts it.
type Plan struct {
	Config Config
	spec   machine.Spec
}

var _ machine.Plan = (*Plan)(nil)

// Command is QEMU's command line, ready to paste.
func (p *Plan) Command() string { return machine.Quote(p.Config.argv()) }

// Size is what the machine starts with.
func (p *Plan) Size() machine.Size {
	return machine.Size{CPUs: p.Config.CPUs, MemoryMiB: p.Config.MemoryMiB}
}

// Kind is the name of QEMU's machine.
func (p *Plan) Kind() string { return string(p.Config.Machine) }

// Plan decides what a Spec becomes.
func (h Hypervisor) Plan(s machine.Spec) (machine.Plan, error) {
	return h.plan(s)
}

func (h Hypervisor) plan(s machine.Spec) (*Plan, error) {
	kind, err := kindFor(s)
	if err != nil {
		return nil, err
	}
	has := Has(s.Arch.Name, kind)
	c := Config{
		Binary: s.Program, Name: s.Name, Arch: s.Arch.Name, Machine: kind, Accel: s.Accel, CPUs: s.Size.CPUs,
		MemoryMiB: (s.Size.MemoryMiB + has.MemoryMiB - 1) / has.MemoryMiB * has.MemoryMiB,
		Kernel:    s.Kernel, Initrd: s.Initrd, CommandLine: s.CommandLine, ICount: s.VirtualTime,
		NoSeccomp: s.NoSeccomp, Console: stdio(), RNG: s.RNG,
	}
	if c.Binary == "" {
		c.Binary = s.Arch.QEMU
	}
	if has.RootPorts {
		c.RootPorts = min(s.Places, MaxRootPorts)
	}
	if s.Template {
		if err := canBeTemplate(s, kind); err != nil {
			return nil, err
		}
		c.Template, c.RootPorts = true, min(s.Places+templatePorts, MaxRootPorts)
	}
	if err := errors.Join(checkPassed(s.Passed), c.passing(s, has)); err != nil {
		return nil, err
	}
	for _, d := range s.Disks {
		if d.NVDIMM && !has.NVDIMM {
			return nil, fmt.Errorf("the guest's root is an NVDIMM, which the machine %s does not have; boot it on %s",
				kind, Q35)
		}
		c.Disks = append(c.Disks, Disk{Path: d.Path, Size: d.Size, NVDIMM: d.NVDIMM, Serial: d.Serial})
	}
	for _, f := range s.Shares {
		fs := FileSystem{Tag: f.Tag, Path: f.Path}
		if f.Socket != "" {
			fs.VirtioFS = socket(f.Socket)
		}
		c.FileSystems = append(c.FileSystems, fs)
	}
	for _, n := range s.NICs {
		nic := NIC{MAC: n.MAC, MTU: n.MTU, Queues: n.Queues, QueueSize: n.QueueSize}
		if n.Socket != "" {
			nic.VhostUser = socket(n.Socket)
		} else {
			nic.TapFD = int(n.Tap.Fd())
		}
		c.NICs = append(c.NICs, nic)
	}
	if c.CPUs < 1 || c.MemoryMiB < 1 {
		return nil, fmt.Errorf("a machine with %d CPUs and %d MiB of memory", c.CPUs, c.MemoryMiB)
	}
	if s.VirtualTime && (s.Accel != accel.TCG || c.CPUs != 1) {
		return nil, errors.New("counting instructions needs TCG and one CPU")
	}
	if has.Grows && !s.VirtualTime {
		h.leaveRoom(&c, s)
	}
	return &Plan{c, s}, nil
}

// templatePorts are the root ports that a machine of a template has beside Places: for vsock, a shared folder and two
// interfaces, which others have from the start.
const templatePorts = 4

// canBeTemplate says why a machine cannot be saved and restored. What was tried is q35 alone; microvm has no place for
// what has to be plugged in after that, and an NVDIMM would be a part of what is saved.
func canBeTemplate(s machine.Spec, kind Machine) error {
	switch {
	case kind != Q35:
		return fmt.Errorf("%w: it is a %s, and a %s alone takes devices once it was restored: set machine_type to %q",
			machine.ErrNoTemplate, kind, Q35, Q35)
	case s.VirtualTime:
		return fmt.Errorf("%w: it counts instructions", machine.ErrNoTemplate)
	case s.Passing.IOMMU:
		return fmt.Errorf("%w: its guest has an IOMMU", machine.ErrNoTemplate)
	case len(s.Passed) > 0:
		return fmt.Errorf("%w: it has devices of the host from the start", machine.ErrNoTemplate)
	case len(s.Shares)+len(s.NICs) > 0:
		return fmt.Errorf("%w: it has shared folders or interfaces from the start", machine.ErrNoTemplate)
	}
	for _, d := range s.Disks {
		if d.NVDIMM {
			return fmt.Errorf("%w: the guest's root is an NVDIMM", machine.ErrNoTemplate)
		}
	}
	return nil
}

// leaveRoom is for what may be plugged in later.
func (h Hypervisor) leaveRoom(c *Config, s machine.Spec) {
	// Linux takes a processor that was not there at its start only under a hypervisor that it knows, and TCG is none:
	// Linux 6.12.117, arch/x86/kernel/acpi/boot.c, acpi_is_processor_usable.
	if s.Max.CPUs > c.CPUs && (c.Accel == accel.KVM || h.CPUsUnderTCG) {
		c.MaxCPUs = s.Max.CPUs
	}
	if s.Max.MemoryMiB > c.MemoryMiB && s.MemorySlots > 0 {
		c.MaxMemoryMiB, c.MemorySlots = s.Max.MemoryMiB, s.MemorySlots
	}
}

// kindFor is the machine that a Spec wants.
func kindFor(s machine.Spec) (Machine, error) {
	a := s.Arch.Name
	if s.Kind == "" {
		return DefaultKind(s.Arch, s.DefaultKind)
	}
	m, err := ParseMachine(s.Kind)
	if err != nil {
		return Machine(s.Kind), nil //nolint:nilerr // QEMU refuses it
	}
	return m, has(a, m)
}

// DefaultKind is the machine of a name for guests of an architecture; an empty name is the one for guests about which
// nobody says more.
func DefaultKind(a arch.Arch, name string) (Machine, error) {
	if machines := Machines(a.Name); name == "" && len(machines) > 0 {
		return machines[0], nil
	}
	m, err := ParseMachine(name)
	if err != nil {
		return "", err
	}
	return m, has(a.Name, m)
}

// has says that an architecture has not a machine.
func has(arch string, m Machine) error {
	machines := Machines(arch)
	if slices.Contains(machines, m) {
		return nil
	}
	var names []string
	for _, m := range machines {
		names = append(names, string(m))
	}
	return fmt.Errorf("the kernel is for %s, which has no machine %s (but %s)", arch, m, strings.Join(names, ", "))
}
