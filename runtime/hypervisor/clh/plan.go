// Package clh starts virtual machines in Cloud Hypervisor.
//
// In comes a machine.Spec, out go the requests that make it, a pure value, and a process that is sent them over its
// UNIX socket. It does not know what the guest is for, and waits for nothing in it. The requests are those of Cloud
// Hypervisor 51.1, which Kata Containers 4.1 uses; docs/hypervisors.md says what was never run on hardware.
package clh

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

// Program is what is looked for in $PATH.
const Program = "cloud-hypervisor"

// name is the hypervisor's, for people.
const name = "Cloud Hypervisor"

// Hypervisor is Cloud Hypervisor. The zero value is right.
type Hypervisor struct {
	// StandIn is for tests: the program only stands for Cloud Hypervisor, needs no KVM, and gets no walls around it.
	StandIn bool
}

var _ machine.Hypervisor = Hypervisor{}

// What a machine has. Cloud Hypervisor: docs/device_model.md, docs/hotplug.md and docs/memory.md.
const (
	slots         = 32  // of its one PCI bus; the first is the host bridge
	memorySlots   = 8   // for pieces of memory that are plugged in
	memoryMiB     = 128 // what they are multiples of
	refillTime    = 1000
	virtioFSQueue = 1024
)

// clhPlan is a virtual machine of Cloud Hypervisor's, with its files where they lie.
type clhPlan struct {
	Config  vmConfig
	program string
	spec    machine.Spec
}

var _ machine.Plan = (*clhPlan)(nil)

// Size is what the machine starts with.
func (p *clhPlan) Size() machine.Size { return p.spec.Size }

// Kind is the one kind of machine.
func (p *clhPlan) Kind() string { return "clh" }

// Command is a command line that makes the machine without requests, for its console on standard input and output.
func (p *clhPlan) Command() string {
	c := &p.Config
	a := []string{p.program, "--kernel", c.Payload.Kernel, "--cmdline", c.Payload.Cmdline,
		"--cpus", fmt.Sprintf("boot=%d,max=%d", c.CPUs.Boot, c.CPUs.Max),
		"--memory", fmt.Sprintf("size=%d", c.Memory.Size), "--serial", "tty", "--console", "off"}
	if c.Payload.Initramfs != "" {
		a = append(a, "--initramfs", c.Payload.Initramfs)
	}
	for i, d := range c.Disks {
		if i == 0 {
			a = append(a, "--disk")
		}
		word := "path=" + d.Path + ",readonly=on"
		if d.Serial != "" {
			word += ",serial=" + d.Serial
		}
		a = append(a, word)
	}
	for _, m := range c.Pmem {
		a = append(a, "--pmem", "file="+m.File+",discard_writes=on")
	}
	return machine.Quote(a)
}

// Plan decides what a Spec becomes.
func (h Hypervisor) Plan(s machine.Spec) (machine.Plan, error) {
	if err := h.refuse(s); err != nil {
		return nil, err
	}
	c := vmConfig{
		CPUs: cpusConfig{Boot: s.Size.CPUs, Max: max(s.Size.CPUs, s.Max.CPUs)},
		// Back ends in other processes map it where it is shared.
		Memory:  memoryConfig{Size: int64(s.Size.MemoryMiB) << 20, Shared: len(s.Shares) > 0},
		Payload: payloadConfig{Kernel: s.Kernel, Cmdline: s.CommandLine, Initramfs: s.Initrd},
		Serial:  consoleConfig{Mode: "Tty"}, Console: consoleConfig{Mode: "Off"},
		Vsock: vsockConfig{CID: guestCID},
	}
	if more := (s.Max.MemoryMiB - s.Size.MemoryMiB) / memoryMiB * memoryMiB; more > 0 && s.MemorySlots > 0 {
		c.Memory.HotplugSize, c.Memory.HotplugMethod = int64(more)<<20, "Acpi"
	}
	for i, d := range s.Disks {
		if d.NVDIMM {
			c.Pmem = append(c.Pmem, pmemConfig{ID: fmt.Sprintf("pmem%d", i), File: d.Path, DiscardWrites: true})
			continue
		}
		c.Disks = append(c.Disks, diskConfig{ID: fmt.Sprintf("disk%d", i), Path: d.Path, Readonly: true,
			ImageType: "Raw", Serial: d.Serial, Rate: limiter(s.DiskRate)})
	}
	if s.RNG {
		c.RNG = &rngConfig{Src: "/dev/urandom"}
	}
	for _, f := range s.Shares {
		c.FS = append(c.FS, fsConfig{Tag: f.Tag, Socket: f.Socket, NumQueues: 1, QueueSize: virtioFSQueue})
	}
	p := &clhPlan{Config: c, program: s.Program, spec: s}
	if p.program == "" {
		p.program = Program
	}
	return p, nil
}

// guestCID is the guest's, in a vsock of its own.
const guestCID = 3

// refuse says what cannot be had of a Spec, and what to do about it.
func (h Hypervisor) refuse(s machine.Spec) error {
	wayOut := "; use [hypervisor.qemu]"
	switch a := s.Arch.Name; {
	case s.Size.CPUs < 1 || s.Size.MemoryMiB < 1 || s.Kernel == "":
		return fmt.Errorf("a machine with %d CPUs, %d MiB of memory and the kernel %q", s.Size.CPUs, s.Size.MemoryMiB,
			s.Kernel)
	case a != "x86_64" && a != "aarch64":
		return fmt.Errorf("the guest is for %s, and Cloud Hypervisor has machines for x86_64 and aarch64%s", a, wayOut)
	case s.Kind != "":
		return fmt.Errorf("%s has no machine %s%s", name, s.Kind, wayOut)
	case s.Passing != (machine.Passing{}) || len(s.Passed) > 0:
		return fmt.Errorf("devices of the host, which the runtime does not pass to %s%s", name, wayOut)
	case s.VirtualTime:
		return fmt.Errorf("%s does not count instructions%s", name, wayOut)
	case s.Accel != accel.KVM && !h.StandIn:
		return fmt.Errorf("%s needs KVM, and guests would be emulated here (kata-runtime check says why)%s", name,
			wayOut)
	case s.Jailer != "":
		return fmt.Errorf("%s is not for Cloud Hypervisor", s.Jailer)
	}
	for _, n := range s.NICs {
		if n.Socket != "" {
			return fmt.Errorf("the interface %s has a vhost-user back end, which the runtime gives QEMU's machines "+
				"alone%s", n.MAC, wayOut)
		}
	}
	for _, f := range s.Shares {
		if f.Socket == "" {
			return fmt.Errorf("the folder %s by 9p, which %s does not have; set shared_fs = \"virtio-fs\"", f.Path,
				name)
		}
	}
	return nil
}

// limiter is a Rate as Cloud Hypervisor wants it, nil for none.
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

// pciPath is where a guest finds a device, as the guest API wants it, by its address "0000:00:05.0" on the one bus.
func pciPath(bdf string) (string, error) {
	var segment, bus, device, function uint
	n, err := fmt.Sscanf(bdf, "%04x:%02x:%02x.%x", &segment, &bus, &device, &function)
	if err != nil || n != 4 || segment != 0 || bus != 0 || device >= slots || function > 7 ||
		fmt.Sprintf("0000:00:%02x.%x", device, function) != strings.ToLower(bdf) {
		return "", fmt.Errorf("%s plugged a device in at %q: want one of bus 0000:00", name, bdf)
	}
	return fmt.Sprintf("%02x.%x", device, function), nil
}
