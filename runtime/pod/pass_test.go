package pod

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// madeHost is a host's root with two groups of VFIO's: 7 with two devices, 8 with a part of one; and 9, which a driver
// of the host has. A vendor describes 7.
func madeHost(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, to string) {
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(to, p)); err != nil {
			t.Fatal(err)
		}
	}
	const bus = "sys/devices/pci0000:00/0000:00:01.0/"
	for name, of := range map[string][2]string{"0000:01:00.0": {"7", "vfio-pci"}, "0000:01:00.1": {"7", "vfio-pci"},
		"0000:02:00.0": {"9", "nvme"}} {
		write(bus+name+"/class", "0x010802\n")
		link(bus+name+"/subsystem", "../../../../bus/pci")
		link(bus+name+"/driver", "../../../../bus/pci/drivers/"+of[1])
		link("sys/kernel/iommu_groups/"+of[0]+"/devices/"+name, "../../../../devices/pci0000:00/0000:00:01.0/"+name)
	}
	const part = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
	write(bus+part+"/mdev_type/device_api", "vfio-pci\n")
	link(bus+part+"/subsystem", "../../../../bus/mdev")
	link("sys/kernel/iommu_groups/8/devices/"+part, "../../../../devices/pci0000:00/0000:00:01.0/"+part)
	for number, name := range map[string]string{"10:196": "vfio/vfio", "240:7": "vfio/7", "240:8": "vfio/8",
		"240:9": "vfio/9", "1:3": "null"} {
		write("sys/dev/char/"+number+"/uevent", "DEVNAME="+name+"\n")
	}
	write("etc/cdi/nic.json", `{"cdiVersion": "0.6.0", "kind": "example.com/nic", "devices": [{"name": "0",
 "containerEdits": {"env": ["NIC=0"], "deviceNodes": [
  {"path": "/dev/vfio/vfio", "type": "c", "major": 10, "minor": 196},
  {"path": "/dev/vfio/7", "type": "c", "major": 240, "minor": 7}]}}]}`)
	return root
}

// withVFIO is a container that has groups of VFIO's of its host.
func withVFIO(t *testing.T, id string, groups ...int64) Container {
	t.Helper()
	c := withDisk(t, id)
	c.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/vfio/vfio", Type: "c", Major: 10, Minor: 196}}
	for _, g := range groups {
		c.Spec.Linux.Devices = append(c.Spec.Linux.Devices, specs.LinuxDevice{Type: "c", Major: 240, Minor: g,
			Path: "/dev/vfio/" + string(rune('0'+g))})
	}
	return c
}

// askedFor is what the agent was told of a container's devices and which files it has, in words.
func askedFor(a *agenttest.Agent, id string) string {
	var words []string
	for _, d := range a.Request(id).Devices {
		if d.ContainerPath != "" {
			words = append(words, strings.Join(append([]string{d.Type, d.Id}, d.Options...), " "))
		}
	}
	for _, d := range a.Request(id).OCI.Linux.Devices {
		words = append(words, d.Path)
	}
	return strings.Join(words, "; ")
}

func TestDevicesOfTheHostArePluggedInOnce(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Root, o.Config.VM.HotPlugVFIO, o.Config.VM.PCIeRootPorts = madeHost(t), config.PortRoot, 8
	o.Config.VM.EnableIOMMU = true
	o.Spec = withVFIO(t, "c1", 7).Spec // which says nothing where devices come later
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	vm := h.VMs()[0]
	if want := (machine.Passing{Port: machine.RootPort, Later: true, IOMMU: true}); vm.Spec.Passing != want ||
		len(vm.Spec.Passed) > 0 || !strings.Contains(vm.Spec.CommandLine, "intel_iommu=on iommu=pt") {
		t.Errorf("%+v, %q", vm.Spec.Passing, vm.Spec.CommandLine)
	}
	for _, id := range []string{"c1", "c2"} {
		if _, err := p.Create(t.Context(), withVFIO(t, id, 7)); err != nil {
			t.Fatal(err)
		}
		if got := askedFor(a, id); got != "vfio-pci-gk 7 0000:01:00.0=16.0/00 0000:01:00.1=15.0/00" &&
			got != "vfio-pci-gk 7 0000:01:00.0=17.0/00 0000:01:00.1=16.0/00" {
			t.Errorf("%s: %s", id, got)
		}
	}
	if list := vm.Later(); len(list) != 2 || list[0].Group != "/dev/vfio/7" || list[1].Name != "0000:01:00.1" {
		t.Errorf("%+v", list)
	}
	if _, err := p.Create(t.Context(), withVFIO(t, "c3", 8)); err != nil {
		t.Fatal(err)
	}
	if got := askedFor(a, "c3"); !strings.HasPrefix(got, "vfio-pci-gk 8 0000:00:01.0=") {
		t.Errorf("a part of a device: %s", got)
	}
	if _, err := p.Create(t.Context(), withVFIO(t, "c4", 9)); err == nil || !strings.Contains(err.Error(),
		"device /dev/vfio/9: 0000:02:00.0 of IOMMU group 9: the host's driver nvme has it") {
		t.Error(err)
	}
	c := withVFIO(t, "c5")
	c.Spec.Linux.Devices = append(c.Spec.Linux.Devices, specs.LinuxDevice{Path: "/dev/vfio/1", Type: "c", Major: 1,
		Minor: 3})
	if _, err := p.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "on the host it is /dev/null") {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestDevicesOfTheHostAreThereFromTheStart(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Root, o.Config.VM.ColdPlugVFIO, o.Config.Runtime.VFIOMode = madeHost(t), config.PortSwitch, config.VFIOContainer
	c := withDisk(t, "c1")
	c.Spec.Annotations = map[string]string{"cdi.k8s.io/nic": "example.com/nic=0"}
	o.Spec = c.Spec
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	vm := h.VMs()[0]
	if list := vm.Spec.Passed; len(list) != 2 || list[0].Name != "0000:01:00.0" || vm.Spec.Passing !=
		(machine.Passing{Port: machine.SwitchPort, SwitchPorts: 1}) {
		t.Errorf("%+v, %+v", list, vm.Spec.Passing)
	}
	// The one that stands for the pod has none; others have what they ask for.
	pause := withDisk(t, "pause")
	pause.Pause, pause.Spec.Annotations = true, c.Spec.Annotations
	if _, err := p.Create(t.Context(), pause); err != nil || askedFor(a, "pause") != "" {
		t.Errorf("%q, %v", askedFor(a, "pause"), err)
	}
	if _, err := p.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := askedFor(a, "c1"); got != "vfio-pci 7 0000:01:00.0=00.0/00 0000:01:00.1=01.0/00; /dev/vfio/vfio; "+
		"/dev/vfio/7" {
		t.Error(got)
	}
	if env := a.Request("c1").OCI.Process.Env; len(env) != 1 || env[0] != "NIC=0" {
		t.Errorf("%q", env)
	}
	if _, err := p.Create(t.Context(), withVFIO(t, "c2", 8)); err == nil || !strings.Contains(err.Error(),
		"/dev/vfio/8 was not there when the machine started") {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	for says, s := range map[string]*specs.Spec{
		"cold_plug_vfio: 0000:02:00.0 of IOMMU group 9: the host's driver nvme": withVFIO(t, "x", 9).Spec,
		"unresolvable CDI devices example.com/nic=1": {
			Annotations: map[string]string{"cdi.k8s.io/nic": "example.com/nic=1"}},
		"device /dev/vfio/5: the host has no char device 240:5": withVFIO(t, "x", 5).Spec,
	} {
		o.Spec = s
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		gone(t, o, h)
	}
}

func TestWithoutAPortNoDeviceIsPassed(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Root = madeHost(t)
	o.Spec = withVFIO(t, "c1", 7).Spec
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), withVFIO(t, "c1", 7)); err == nil || !strings.Contains(err.Error(),
		"device /dev/vfio/7: /dev/vfio/7 of the host is not passed to guests: set hot_plug_vfio, or cold_plug_vfio") {
		t.Error(err)
	}
	c := withDisk(t, "c2") // annotations for CDI are somebody else's business then
	c.Spec.Annotations = map[string]string{"cdi.k8s.io/nic": "example.com/nic=9"}
	if _, err := p.Create(t.Context(), c); err != nil || askedFor(a, "c2") != "" {
		t.Errorf("%q, %v", askedFor(a, "c2"), err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAnInterfaceCanBeADeviceOfTheHost(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Root, o.Config.Runtime.DANConf = madeHost(t), t.TempDir()
	devices := filepath.Join(o.Root, "sys/bus/pci/devices")
	for name, group := range map[string]string{"0000:01:00.1": "7", "0000:02:00.0": "9"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(devices, name), 0o755), os.Symlink(
			"../../../../kernel/iommu_groups/"+group, filepath.Join(devices, name, "iommu_group"))); err != nil {
			t.Fatal(err)
		}
	}
	write := func(address string) {
		if err := os.WriteFile(filepath.Join(o.Config.Runtime.DANConf, o.ID+".json"), []byte(`{"devices": [
{"name": "eth0", "guest_mac": "02:00:00:00:00:0a", "device": {"type": "vfio", "pci_device_id": "`+address+`"},
 "network_info": {"interface": {"ip_addresses": ["192.0.2.7/24"]}}}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0000:01:00.1")
	fails := func(says string) {
		t.Helper()
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		gone(t, o, h)
	}
	fails("interface eth0: 0000:01:00.1 is a device of the host, and the machine has no place for one: set cold_plug")
	o.Config.VM.ColdPlugVFIO = config.PortRoot
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	vm := h.VMs()[0]
	if len(vm.Spec.NICs) != 0 || len(vm.Spec.Passed) != 2 || vm.Spec.Passed[1].Name != "0000:01:00.1" {
		t.Errorf("%+v, %+v", vm.Spec.NICs, vm.Spec.Passed)
	}
	if i := p.net.Interfaces(); len(i) != 1 || i[0].DevicePath != "01.0/00" || i[0].HwAddr != "02:00:00:00:00:0a" {
		t.Errorf("%v", i)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
	write("0000:02:00.0")
	fails("0000:02:00.0 of IOMMU group 9: the host's driver nvme has it")
	write("0000:03:00.0")
	fails("the IOMMU group of 0000:03:00.0")
}
