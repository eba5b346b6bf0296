package storage

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// bus is a guest's sysfs with two devices behind root ports, in one IOMMU group.
func bus(t *testing.T) string {
	t.Helper()
	root := storagetest.Files(t, map[string]string{
		"sys/devices/pci0000:00/0000:00:10.0/pci_bus/0000:01/x":            "",
		"sys/devices/pci0000:00/0000:00:10.0/0000:01:00.0/driver_override": "(null)\n",
		"sys/devices/pci0000:00/0000:00:10.1/pci_bus/0000:02/x":            "",
		"sys/devices/pci0000:00/0000:00:10.1/0000:02:00.0/driver_override": "(null)\n",
		"sys/bus/pci/drivers/vfio-pci/bind":                                "",
		"sys/bus/pci/drivers/mlx5_core/unbind":                             "",
		"sys/bus/pci/drivers_probe":                                        "",
		"sys/class/vfio/3/dev":                                             "511:0\n",
	})
	link(t, "../../../../bus/pci/drivers/mlx5_core", first(root), "driver")
	link(t, "../../../../kernel/iommu_groups/3", first(root), "iommu_group")
	link(t, "../../../../bus/pci/drivers/vfio-pci", second(root), "driver")
	link(t, "../../../../kernel/iommu_groups/3", second(root), "iommu_group")
	return root
}

func first(root string) string {
	return filepath.Join(root, "sys/devices/pci0000:00/0000:00:10.0/0000:01:00.0")
}

func second(root string) string {
	return filepath.Join(root, "sys/devices/pci0000:00/0000:00:10.1/0000:02:00.0")
}

func link(t *testing.T, to, dir, name string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// made writes files of sysfs as Linux would take them.
type made struct {
	t      *testing.T
	root   string
	writes []string
	takes  bool // vfio-pci takes the device
}

func (k *made) write(path, text string) error {
	rel, err := filepath.Rel(k.root, path)
	if err != nil {
		return err
	}
	k.writes = append(k.writes, rel[strings.LastIndexByte(rel, '/')+1:]+"="+text)
	switch filepath.Base(path) {
	case "unbind":
		return os.Remove(filepath.Join(first(k.root), "driver"))
	case "drivers_probe":
		if k.takes {
			link(k.t, "../../../../bus/pci/drivers/vfio-pci", first(k.root), "driver")
		}
	}
	return nil
}

func TestADeviceIsTakenFromItsDriverForAContainer(t *testing.T) {
	k := &made{t: t, root: bus(t), takes: true}
	for range 2 { // the second time nothing is left to do
		if err := bindVFIO(k.root, first(k.root), k.write); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"driver_override=vfio-pci", "unbind=0000:01:00.0", "drivers_probe=0000:01:00.0"}; !slices.Equal(
		k.writes, want) {
		t.Errorf("%q, want %q", k.writes, want)
	}
	k = &made{t: t, root: bus(t)}
	if err := bindVFIO(k.root, first(k.root), k.write); err == nil || !strings.Contains(err.Error(), `driver is ""`) {
		t.Errorf("a driver that does not take it: %v", err)
	}
	no := errors.New("no")
	for _, fails := range []string{"driver_override", "unbind", "drivers_probe"} {
		k = &made{t: t, root: bus(t), takes: true}
		if err := bindVFIO(k.root, first(k.root), func(path, text string) error {
			if filepath.Base(path) == fails {
				return no
			}
			return k.write(path, text)
		}); !errors.Is(err, no) {
			t.Errorf("%s: %v", fails, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(k.root, "sys/bus/pci/drivers/vfio-pci")); err != nil {
		t.Fatal(err)
	}
	if err := bindVFIO(k.root, first(k.root), k.write); err == nil ||
		!strings.Contains(err.Error(), "the feature vfio has") {
		t.Errorf("a kernel without VFIO: %v", err)
	}
	if err := writeFile(filepath.Join(k.root, "none"), "x"); err == nil {
		t.Error("a file that is not there was written")
	}
}

// specFor is a container that has the host's group 7, and says so in its environment.
func specFor() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Env: []string{"PCIDEVICE_X_NIC=0000:65:00.1",
		`PCIDEVICE_X_NIC_INFO={"0000:65:00.1":{"generic":{"deviceID":"0000:65:00.1"}}}`}},
		Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/vfio/7", Type: "c", Minor: 1}}}}
}

func TestAContainerHasTheGuestsGroup(t *testing.T) {
	root := bus(t)
	m := New(Config{Root: root, Run: t.TempDir()})
	d := &katapb.Device{Type: "vfio-pci", Id: "7", ContainerPath: "/dev/vfio/7",
		Options: []string{"0000:65:00.1=10.1/00"}}
	spec := specFor()
	if err := m.Devices(t.Context(), []*katapb.Device{d}, spec); err != nil {
		t.Fatal(err)
	}
	if x := spec.Linux.Devices[0]; x.Path != "/dev/vfio/3" || x.Major != 511 || x.Minor != 0 {
		t.Errorf("%+v", x)
	}
	if want := []string{"PCIDEVICE_X_NIC=0000:02:00.0",
		`PCIDEVICE_X_NIC_INFO={"0000:02:00.0":{"generic":{"deviceID":"0000:02:00.0"}}}`}; !slices.Equal(
		spec.Process.Env, want) {
		t.Errorf("%q", spec.Process.Env)
	}
	// A group without an IOMMU has another name.
	if err := os.Rename(filepath.Join(root, "sys/class/vfio/3"),
		filepath.Join(root, "sys/class/vfio/noiommu-3")); err != nil {
		t.Fatal(err)
	}
	if spec = specFor(); m.Devices(t.Context(), []*katapb.Device{d}, spec) != nil ||
		spec.Linux.Devices[0].Path != "/dev/vfio/noiommu-3" {
		t.Errorf("%+v", spec.Linux.Devices[0])
	}
	for says, change := range map[string]func(){
		"has no path in the container": func() { d.ContainerPath = "" },
		"VFIO of the guest has no group 3": func() {
			must(t, os.RemoveAll(filepath.Join(root, "sys/class/vfio")))
		},
		"in the IOMMU group 4 of the guest, and those before it in 3": func() {
			must(t, os.Remove(filepath.Join(first(root), "driver")))
			link(t, "../../../../bus/pci/drivers/vfio-pci", first(root), "driver")
			must(t, os.Remove(filepath.Join(first(root), "iommu_group")))
			link(t, "../../../../kernel/iommu_groups/4", first(root), "iommu_group")
			d.Options = append(d.Options, "0000:65:00.2=10.0/00")
		},
		"has no IOMMU group; enable_iommu gives": func() {
			must(t, os.Remove(filepath.Join(second(root), "iommu_group")))
		},
		"the specification does not have it": func() { d.ContainerPath = "/dev/vfio/9" },
	} {
		root = bus(t)
		m = New(Config{Root: root, Run: t.TempDir()})
		d = &katapb.Device{Type: "vfio-pci", Id: "7", ContainerPath: "/dev/vfio/7",
			Options: []string{"0000:65:00.1=10.1/00"}}
		change()
		if err := m.Devices(t.Context(), []*katapb.Device{d}, specFor()); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestADeviceOfTheGuestsKernelIsKnownByItsAddressAlone(t *testing.T) {
	m := New(Config{Root: bus(t), Run: t.TempDir()})
	if env := []string{"PCIDEVICE_X=0000:65:00.1"}; !slices.Equal(m.GuestAddresses(env), env) {
		t.Error("an address is another one, and no device was passed")
	}
	d := &katapb.Device{Type: "vfio-pci-gk", Id: "7", ContainerPath: "/dev/vfio/7",
		Options: []string{"0000:65:00.1=10.0/00", "0000:65:00.2=10.1/00"}}
	if err := m.Devices(t.Context(), []*katapb.Device{d}, nil); err != nil {
		t.Fatal(err)
	}
	got := m.GuestAddresses([]string{"PCIDEVICE_A=0000:65:00.2,0000:65:00.1", "PCIDEVICE_B=0000:65:00.1,0000:66:00.0",
		"PCIDEVICE_B_INFO=0000:65:00.1", "PCIDEVICE_C=words", "PCIDEVICE_D", "OTHER=0000:65:00.1"})
	if want := []string{"PCIDEVICE_A=0000:02:00.0,0000:01:00.0", "PCIDEVICE_B=0000:65:00.1,0000:66:00.0",
		"PCIDEVICE_B_INFO=0000:65:00.1", "PCIDEVICE_C=words", "PCIDEVICE_D", "OTHER=0000:65:00.1"}; !slices.Equal(got,
		want) {
		t.Errorf("%q", got)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
