package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vfio"
	"golang.org/x/sys/unix"
)

// MaxSwitchPorts is how many places the switch has, as Kata Containers has it.
const MaxSwitchPorts = 16

// switchPort is the id by which a device is plugged into the i-th place of the switch, which is in the root port at,
// and the guest's PCI path of such a device.
func switchPort(at, i int) (id, path string) {
	_, upstream := rootPort(at)
	return fmt.Sprintf("switch%d", i), fmt.Sprintf("%s/%02x/00", upstream, i)
}

// passing decides how a machine gets devices of the host.
func (c *Config) passing(s machine.Spec, has Abilities) error {
	p := s.Passing
	switch {
	case p.IOMMU && find(c.arch(), c.Machine).iommu == "":
		return fmt.Errorf("enable_iommu: the machine %s has no IOMMU for its guest; set machine_type to %q", c.Machine,
			Q35)
	case p.Port == machine.NoPort && len(s.Passed) > 0:
		return errors.New("devices of the host are passed to a machine that says no place for them")
	}
	c.IOMMU, c.IOMMUPlatform = p.IOMMU, p.IOMMUPlatform
	if p.Port == machine.NoPort {
		return nil
	}
	if !has.RootPorts {
		return fmt.Errorf("the machine %s has no places for devices of the host; set machine_type to %q", c.Machine,
			Q35)
	}
	c.Passed, c.PassLater, c.Switch = s.Passed, p.Later, p.Port == machine.SwitchPort
	if c.Switch {
		c.SwitchPorts = max(p.SwitchPorts, len(c.Passed))
		c.RootPorts = min(c.RootPorts, MaxRootPorts-1)
		switch n := c.SwitchPorts; {
		case n == 0:
			return errors.New("the switch for devices of the host has no places: set pcie_switch_port")
		case n > MaxSwitchPorts:
			return fmt.Errorf("%d devices of the host: the switch has at most %d places", n, MaxSwitchPorts)
		}
		return nil
	}
	if c.RootPorts += len(c.Passed); c.RootPorts > MaxRootPorts {
		return fmt.Errorf("%d places for devices, those of the host among them: at most %d are possible", c.RootPorts,
			MaxRootPorts)
	}
	return nil
}

// place is where the i-th device of those from the start is.
func (c Config) place(i int) (id, path string) {
	if c.Switch {
		return switchPort(c.RootPorts, i)
	}
	return rootPort(i)
}

// switchArgs are the switch: a port up, in a root port of its own, and the places. QEMU: docs/pcie.txt, 2.2.2.
func (c Config) switchArgs() []string {
	if !c.Switch {
		return nil
	}
	const up = "switch"
	at, _ := rootPort(c.RootPorts)
	out := []string{"-device", fmt.Sprintf("x3130-upstream,id=%s,bus=%s", up, at)}
	for i := range c.SwitchPorts {
		id, _ := switchPort(c.RootPorts, i)
		out = append(out, "-device", fmt.Sprintf("xio3130-downstream,id=%s,bus=%s,chassis=%d,slot=%d,addr=%#x", id, up,
			MaxRootPorts+1+i, i, i))
	}
	return out
}

// passedArgs are the devices of the host that the guest has from the start.
func (c Config) passedArgs() []string {
	var out []string
	for i, d := range c.Passed {
		bus, _ := c.place(i)
		key, value := hostDevice(d)
		out = append(out, "-device", fmt.Sprintf("vfio-pci,id=passed%d,bus=%s,%s=%s", i, bus, key, escape(value)))
	}
	return out
}

// hostDevice is how QEMU is told of a device.
func hostDevice(d machine.HostDevice) (key, value string) {
	if d.Mediated {
		return "sysfsdev", d.Path
	}
	return "host", d.Name
}

// iommuArgs are the guest's IOMMU, which comes before all devices, and iommuWord is what it wants of -machine.
func (c Config) iommuArgs(m model) []string {
	if c.IOMMU && m.machine == Q35 {
		return []string{"-device", m.iommu}
	}
	return nil
}

func (c Config) iommuWord(m model) string {
	switch {
	case !c.IOMMU:
		return ""
	case m.machine != Q35:
		return "," + m.iommu
	case c.Accel == accel.KVM: // interrupts are remapped by QEMU. QEMU: hw/i386/intel_iommu.c, vtd_decide_config
		return ",kernel-irqchip=split"
	}
	return ""
}

// platform has a device that QEMU itself emulates use the guest's IOMMU. One with a back end in another process cannot:
// it reads the guest's memory without translation. On the root bus devices have an older form too, which has no IOMMU.
// Virtio 1.2, 6.1: VIRTIO_F_ACCESS_PLATFORM.
func (c Config) platform(suffix string) string {
	if c.IOMMUPlatform {
		return suffix + ",disable-legacy=on,iommu_platform=on"
	}
	return suffix
}

// pciNames is where sysfs has all PCI devices by their addresses.
const pciNames = "/sys/bus/pci/devices"

// passedFiles are the files and folders of the host that QEMU opens by their names for the devices that it passes.
// Those that are plugged in later are not known yet.
func (c Config) passedFiles() (devices, folders []string) {
	switch {
	case c.PassLater:
		if _, err := os.Stat(vfio.Folder); err != nil { // the host has no VFIO, and nothing can be passed
			return nil, nil
		}
		return []string{vfio.Folder}, []string{pciNames, "/sys/devices"}
	case len(c.Passed) == 0:
		return nil, nil
	}
	devices, folders = []string{vfio.Container}, []string{pciNames}
	for _, d := range c.Passed {
		if !slices.Contains(devices, d.Group) {
			devices = append(devices, d.Group)
		}
		folders = append(folders, d.Path)
	}
	return devices, folders
}

// lockMemory lets a process lock memory without a bound, and 0 this one: all of a guest's memory is, since devices of
// the host write to it. Linux: drivers/vfio/vfio_iommu_type1.c, vfio_pin_pages_remote. It returns the bound of before.
func lockMemory(pid int, to unix.Rlimit) (before unix.Rlimit, err error) {
	if err := unix.Prlimit(pid, unix.RLIMIT_MEMLOCK, &to, &before); err != nil {
		return before, fmt.Errorf("let QEMU lock the guest's memory, which devices of the host write to: %w", err)
	}
	return before, nil
}

// unlimited is no bound.
var unlimited = unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}

var _ machine.Passer = (*VM)(nil)

// Passed says where the guest finds the devices of the host that it has from the start.
func (v *VM) Passed() []string {
	var out []string
	for i := range v.plan.Config.Passed {
		_, path := v.plan.Config.place(i)
		out = append(out, path)
	}
	return out
}

// Pass gives a running guest a device of the host, which stays until the machine ends.
func (v *VM) Pass(ctx context.Context, d machine.HostDevice) (pciPath string, err error) {
	wrap := func(err error) (string, error) { return "", fmt.Errorf("pass the host's device %s: %w", d.Name, err) }
	if !v.plan.Config.PassLater {
		return wrap(errors.New("the machine was not started for that (hot_plug_vfio)"))
	}
	if _, err := os.Stat(d.Group); err != nil {
		return wrap(err)
	}
	if _, err := lockMemory(v.process.PID(), unlimited); err != nil {
		return wrap(err)
	}
	take, free := v.takePort, v.freePort
	where := rootPort
	if v.plan.Config.Switch {
		take, free = v.takeSwitch, v.freeSwitch
		where = func(i int) (string, string) { return switchPort(v.plan.Config.RootPorts, i) }
	}
	port, err := take()
	if err != nil {
		return wrap(err)
	}
	bus, pciPath := where(port)
	key, value := hostDevice(d)
	if err := v.qmp(ctx, "device_add", map[string]any{"driver": "vfio-pci", "id": "passed-" + bus, "bus": bus,
		key: value}); err != nil {
		free(port)
		return wrap(err)
	}
	return pciPath, nil
}

func (v *VM) takeSwitch() (int, error) {
	v.ports.Lock()
	defer v.ports.Unlock()
	if v.switched == nil {
		v.switched = make([]bool, v.plan.Config.SwitchPorts)
	}
	i := slices.Index(v.switched, false)
	if i < 0 {
		return 0, fmt.Errorf("%w: all %d of the switch are taken; pcie_switch_port has their number",
			machine.ErrNoPlace, len(v.switched))
	}
	v.switched[i] = true
	return i, nil
}

func (v *VM) freeSwitch(i int) {
	v.ports.Lock()
	v.switched[i] = false
	v.ports.Unlock()
}

// checkPassed refuses what would become other words of a command line.
func checkPassed(list []machine.HostDevice) error {
	for _, d := range list {
		if !filepath.IsAbs(d.Path) || !filepath.IsAbs(d.Group) || d.Name != filepath.Base(d.Path) {
			return fmt.Errorf("%q (%s, %s) is no device of the host", d.Name, d.Path, d.Group)
		}
	}
	return nil
}
