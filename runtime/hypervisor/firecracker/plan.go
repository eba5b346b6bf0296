// Package firecracker starts virtual machines in Firecracker.
//
// In comes a machine.Spec, out go the requests that make it, a pure value, and a process, alone or in its jailer's
// jail, that is sent them over its UNIX socket. It does not know what the guest is for, and waits for nothing in it.
// The requests are those of Firecracker 1.12.1, which Kata Containers 4.1 uses; docs/hypervisors.md says what was never
// run on hardware.
//
// A machine has no PCI and takes no devices while it runs. It is started with drives that hold nothing, whose files are
// changed later: that is how disks are plugged in.
package firecracker

import (
	"errors"
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Program is what is looked for in $PATH.
const Program = "firecracker"

// name is the hypervisor's, for people.
const name = "Firecracker"

// Hypervisor is Firecracker. The zero value is right.
type Hypervisor struct {
	// StandIn is for tests: the program only stands for Firecracker, needs no KVM, and gets no walls around it.
	StandIn bool
}

var _ machine.Hypervisor = Hypervisor{}

// What a machine has. Each device of x86_64 has an interrupt of its own, of 19 (src/vmm/src/arch/x86_64/layout.rs: 5 to
// 23); a drive is writable or not from the start.
const (
	interrupts     = 19
	writableDrives = 4
	readOnlyDrives = 8
	maxCPUs        = 32
	guestCID       = 3
	refillTime     = 1000
	firstDriveName = 'a'
)

// appended are the words that Firecracker itself puts behind the kernel command line on x86_64, for its devices.
const appended = `( pci=off)?( virtio_mmio\.device=4K@0x[0-9a-f]{1,16}:[0-9]{1,3})*`

// fcPlan is a virtual machine of Firecracker's, with its files where they lie.
type fcPlan struct {
	spec    machine.Spec
	program string
	places  []place // for disks that are plugged in
}

// place is a drive that holds nothing until a disk is plugged in.
type place struct {
	id       string
	device   string // in the guest
	readOnly bool
}

var (
	_ machine.Plan     = (*fcPlan)(nil)
	_ machine.Appender = (*fcPlan)(nil)
)

// Appends are the words that Firecracker itself puts behind the kernel command line.
func (p *fcPlan) Appends() string { return appended }

// Size is what the machine starts with, and stays with.
func (p *fcPlan) Size() machine.Size { return p.spec.Size }

// Kind is the one kind of machine.
func (p *fcPlan) Kind() string { return "firecracker" }

// Command is a command line that makes the machine of a configuration in place of requests. Firecracker takes it as a
// file, for which the shell makes one.
func (p *fcPlan) Command() string {
	s := &p.spec
	drives := p.drives()
	var list []string
	for _, d := range drives[:len(s.Disks)] {
		list = append(list, string(rest.Encode(d)))
	}
	config := fmt.Sprintf(`{"machine-config":%s,"boot-source":%s,"drives":[%s]}`, rest.Encode(p.size()),
		rest.Encode(p.source()), strings.Join(list, ","))
	return machine.Quote([]string{"echo", config}) + " | " + machine.Quote([]string{p.program, "--no-api",
		"--config-file", "/dev/stdin"})
}

func (p *fcPlan) size() machineConfiguration {
	return machineConfiguration{VCPUs: p.spec.Size.CPUs, MemoryMiB: p.spec.Size.MemoryMiB}
}

func (p *fcPlan) source() bootSource {
	return bootSource{Kernel: p.spec.Kernel, Initrd: p.spec.Initrd, Args: p.spec.CommandLine}
}

// drives are those of the guest, and then the places, whose files are not said.
func (p *fcPlan) drives() []drive {
	var out []drive
	rate := limiter(p.spec.DiskRate)
	for i, d := range p.spec.Disks {
		out = append(out, drive{ID: fmt.Sprintf("disk%d", i), Path: d.Path, ReadOnly: true, Rate: rate})
	}
	for _, at := range p.places {
		out = append(out, drive{ID: at.id, ReadOnly: at.readOnly, Rate: rate})
	}
	return out
}

// Plan decides what a Spec becomes.
func (h Hypervisor) Plan(s machine.Spec) (machine.Plan, error) {
	if err := h.refuse(s); err != nil {
		return nil, err
	}
	p := &fcPlan{spec: s, program: s.Program}
	if p.program == "" {
		p.program = Program
	}
	// A vsock, and perhaps an entropy device.
	free := interrupts - len(s.Disks) - len(s.NICs) - 2
	for i := range min(free, writableDrives+readOnlyDrives) {
		letter := firstDriveName + len(s.Disks) + i
		p.places = append(p.places, place{id: fmt.Sprintf("place%d", i), readOnly: i >= writableDrives,
			device: "/dev/vd" + string(rune(letter))})
	}
	return p, nil
}

// refuse says what cannot be had of a Spec, and what to do about it.
func (h Hypervisor) refuse(s machine.Spec) error {
	wayOut := "; use [hypervisor.qemu]"
	switch a := s.Arch.Name; {
	case s.Size.CPUs < 1 || s.Size.MemoryMiB < 1 || s.Kernel == "":
		return fmt.Errorf("a machine with %d CPUs, %d MiB of memory and the kernel %q", s.Size.CPUs, s.Size.MemoryMiB,
			s.Kernel)
	case a != "x86_64" && a != "aarch64":
		return fmt.Errorf("the guest is for %s, and Firecracker has machines for x86_64 and aarch64%s", a, wayOut)
	case s.Size.CPUs > maxCPUs:
		return fmt.Errorf("%d CPUs, and Firecracker has at most %d; lower default_vcpus or the pod's limits",
			s.Size.CPUs, maxCPUs)
	case s.Kind != "":
		return fmt.Errorf("%s has no machine %s%s", name, s.Kind, wayOut)
	case s.Passing != (machine.Passing{}) || len(s.Passed) > 0:
		return fmt.Errorf("devices of the host, which the runtime does not pass to %s%s", name, wayOut)
	case s.VirtualTime:
		return fmt.Errorf("%s does not count instructions%s", name, wayOut)
	case s.Accel != accel.KVM && !h.StandIn:
		return fmt.Errorf("%s needs KVM, and guests would be emulated here (kata-runtime check says why)%s", name,
			wayOut)
	case len(s.Disks)+len(s.NICs)+2 > interrupts:
		return fmt.Errorf("%d disks and %d interfaces, and Firecracker has %d devices, of which the vsock and the "+
			"entropy device are two%s", len(s.Disks), len(s.NICs), interrupts, wayOut)
	}
	for _, f := range s.Shares {
		return fmt.Errorf("the folder %s for the guest, and Firecracker shares none; set shared_fs = \"none\", with a "+
			"snapshotter that gives block devices, or use [hypervisor.qemu] or [hypervisor.clh]", f.Tag)
	}
	for _, d := range s.Disks {
		if d.NVDIMM {
			return errors.New("the guest's root is an NVDIMM, which Firecracker does not have; build it with disk: " +
				"virtio-blk, or use [hypervisor.qemu] or [hypervisor.clh]")
		}
		if d.Serial != "" {
			return fmt.Errorf("the disk %s is found by its serial %s, which Firecracker does not tell guests "+
				"(extensions of a guest); use [hypervisor.qemu] or [hypervisor.clh]", d.Path, d.Serial)
		}
	}
	return nil
}

// limiter is a Rate as Firecracker wants it, nil for none.
func limiter(r machine.Rate) *rateLimiter {
	bucket := func(size, burst int64) *tokenBucket {
		if size == 0 {
			return nil
		}
		return &tokenBucket{Size: size, OneTimeBurst: burst, RefillTime: refillTime}
	}
	l := rateLimiter{Bandwidth: bucket(r.Bytes, r.BytesBurst), Ops: bucket(r.Ops, r.OpsBurst)}
	if l.Bandwidth == nil && l.Ops == nil {
		return nil
	}
	return &l
}
