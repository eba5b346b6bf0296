package oci

import (
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// anyNumber is every major or minor number of a device rule, which the specification says by nil.
const anyNumber = -1

// ResourcesToWire is the mirror of r. Nil is nil. What Extra carries for a whole container has no place here.
func ResourcesToWire(r *specs.LinuxResources) *katapb.LinuxResources {
	if r == nil {
		return nil
	}
	number := func(n *int64) int64 {
		if n == nil {
			return anyNumber
		}
		return *n
	}
	w := &katapb.LinuxResources{
		Devices: each(r.Devices, func(d specs.LinuxDeviceCgroup) *katapb.LinuxDeviceCgroup {
			return &katapb.LinuxDeviceCgroup{Allow: d.Allow, Type: d.Type, Major: number(d.Major),
				Minor: number(d.Minor), Access: d.Access}
		}),
		HugepageLimits: each(r.HugepageLimits, func(h specs.LinuxHugepageLimit) *katapb.LinuxHugepageLimit {
			return &katapb.LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit}
		}),
	}
	if m := r.Memory; m != nil {
		w.Memory = &katapb.LinuxMemory{
			//lint:ignore SA1019 a field of the wire, whatever becomes of it
			Limit: value(m.Limit), Reservation: value(m.Reservation), Swap: value(m.Swap), Kernel: value(m.Kernel),
			KernelTCP:  value(m.KernelTCP),
			Swappiness: value(m.Swappiness), DisableOOMKiller: value(m.DisableOOMKiller),
		}
	}
	if c := r.CPU; c != nil {
		w.CPU = &katapb.LinuxCPU{
			Shares: value(c.Shares), Quota: value(c.Quota), Period: value(c.Period),
			RealtimeRuntime: value(c.RealtimeRuntime),
			RealtimePeriod:  value(c.RealtimePeriod), Cpus: c.Cpus, Mems: c.Mems,
		}
	}
	if p := r.Pids; p != nil {
		w.Pids = &katapb.LinuxPids{Limit: value(p.Limit)}
	}
	if b := r.BlockIO; b != nil {
		throttle := func(d specs.LinuxThrottleDevice) *katapb.LinuxThrottleDevice {
			return &katapb.LinuxThrottleDevice{Major: d.Major, Minor: d.Minor, Rate: d.Rate}
		}
		w.BlockIO = &katapb.LinuxBlockIO{
			Weight: uint32(value(b.Weight)), LeafWeight: uint32(value(b.LeafWeight)),
			WeightDevice: each(b.WeightDevice, func(d specs.LinuxWeightDevice) *katapb.LinuxWeightDevice {
				return &katapb.LinuxWeightDevice{Major: d.Major, Minor: d.Minor, Weight: uint32(value(d.Weight)),
					LeafWeight: uint32(value(d.LeafWeight))}
			}),
			ThrottleReadBpsDevice:   each(b.ThrottleReadBpsDevice, throttle),
			ThrottleWriteBpsDevice:  each(b.ThrottleWriteBpsDevice, throttle),
			ThrottleReadIOPSDevice:  each(b.ThrottleReadIOPSDevice, throttle),
			ThrottleWriteIOPSDevice: each(b.ThrottleWriteIOPSDevice, throttle),
		}
	}
	if n := r.Network; n != nil {
		w.Network = &katapb.LinuxNetwork{
			ClassID: value(n.ClassID),
			Priorities: each(n.Priorities, func(p specs.LinuxInterfacePriority) *katapb.LinuxInterfacePriority {
				return &katapb.LinuxInterfacePriority{Name: p.Name, Priority: p.Priority}
			}),
		}
	}
	return w
}

// ResourcesFromWire is the resources that w mirrors. Nil is nil.
func ResourcesFromWire(w *katapb.LinuxResources) *specs.LinuxResources {
	if w == nil {
		return nil
	}
	r := &specs.LinuxResources{
		Devices: each(w.Devices, func(d *katapb.LinuxDeviceCgroup) specs.LinuxDeviceCgroup {
			number := func(n int64) *int64 {
				if n == anyNumber {
					return nil
				}
				return &n
			}
			return specs.LinuxDeviceCgroup{Allow: d.GetAllow(), Type: d.GetType(), Major: number(d.GetMajor()),
				Minor: number(d.GetMinor()), Access: d.GetAccess()}
		}),
		HugepageLimits: each(w.HugepageLimits, func(h *katapb.LinuxHugepageLimit) specs.LinuxHugepageLimit {
			return specs.LinuxHugepageLimit{Pagesize: h.GetPagesize(), Limit: h.GetLimit()}
		}),
	}
	if m := w.Memory; m != nil {
		r.Memory = &specs.LinuxMemory{
			//lint:ignore SA1019 a field of the wire, whatever becomes of it
			Limit: set(m.Limit), Reservation: set(m.Reservation), Swap: set(m.Swap), Kernel: set(m.Kernel),
			KernelTCP:  set(m.KernelTCP),
			Swappiness: set(m.Swappiness), DisableOOMKiller: set(m.DisableOOMKiller),
		}
	}
	if c := w.CPU; c != nil {
		r.CPU = &specs.LinuxCPU{
			Shares: set(c.Shares), Quota: set(c.Quota), Period: set(c.Period), RealtimeRuntime: set(c.RealtimeRuntime),
			RealtimePeriod: set(c.RealtimePeriod), Cpus: c.Cpus, Mems: c.Mems,
		}
	}
	if p := w.Pids; p != nil {
		r.Pids = &specs.LinuxPids{Limit: set(p.Limit)}
	}
	if b := w.BlockIO; b != nil {
		throttle := func(d *katapb.LinuxThrottleDevice) specs.LinuxThrottleDevice {
			return specs.LinuxThrottleDevice{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: d.GetMajor(),
				Minor: d.GetMinor()}, Rate: d.GetRate()}
		}
		r.BlockIO = &specs.LinuxBlockIO{
			Weight: set(uint16(b.Weight)), LeafWeight: set(uint16(b.LeafWeight)),
			WeightDevice: each(b.WeightDevice, func(d *katapb.LinuxWeightDevice) specs.LinuxWeightDevice {
				return specs.LinuxWeightDevice{
					LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: d.GetMajor(), Minor: d.GetMinor()},
					Weight:             set(uint16(d.GetWeight())), LeafWeight: set(uint16(d.GetLeafWeight())),
				}
			}),
			ThrottleReadBpsDevice:   each(b.ThrottleReadBpsDevice, throttle),
			ThrottleWriteBpsDevice:  each(b.ThrottleWriteBpsDevice, throttle),
			ThrottleReadIOPSDevice:  each(b.ThrottleReadIOPSDevice, throttle),
			ThrottleWriteIOPSDevice: each(b.ThrottleWriteIOPSDevice, throttle),
		}
	}
	if n := w.Network; n != nil {
		r.Network = &specs.LinuxNetwork{
			ClassID: set(n.ClassID),
			Priorities: each(n.Priorities, func(p *katapb.LinuxInterfacePriority) specs.LinuxInterfacePriority {
				return specs.LinuxInterfacePriority{Name: p.GetName(), Priority: p.GetPriority()}
			}),
		}
	}
	return r
}
