package vfio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host is a made sysfs.
type host struct {
	t    *testing.T
	root string
}

func (h host) write(name, text string) {
	h.t.Helper()
	p := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h host) link(name, to string) {
	h.t.Helper()
	p := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(to, p); err != nil {
		h.t.Fatal(err)
	}
}

// pci makes a device of a group.
func (h host) pci(group, name, class, driver string) {
	dir := "sys/devices/pci0000:00/0000:00:01.0/" + name
	h.write(dir+"/class", class+"\n")
	h.link(dir+"/subsystem", "../../../../bus/pci")
	if driver != "" {
		h.link(dir+"/driver", "../../../../bus/pci/drivers/"+driver)
	}
	h.link("sys/kernel/iommu_groups/"+group+"/devices/"+name, "../../../../devices/pci0000:00/0000:00:01.0/"+name)
}

func (h host) mediated(group, name, api string) {
	dir := "sys/devices/pci0000:00/0000:00:02.0/" + name
	h.write(dir+"/mdev_type/device_api", api+"\n")
	h.link(dir+"/subsystem", "../../../../bus/mdev")
	h.link("sys/kernel/iommu_groups/"+group+"/devices/"+name, "../../../../devices/pci0000:00/0000:00:02.0/"+name)
}

func TestAGroupIsItsDevicesWithoutBridges(t *testing.T) {
	h := host{t, t.TempDir()}
	h.pci("7", "0000:01:00.1", "0x040300", "vfio-pci")
	h.pci("7", "0000:01:00.0", "0x030000", "nvgrace_gpu_vfio_pci")
	h.pci("7", "0000:00:01.0", "0x060400", "pcieport")
	h.pci("8", "0000:02:00.0", "0x020000", "mlx5_core")
	h.pci("9", "0000:03:00.0", "0x020000", "")
	h.pci("10", "0000:00:00.0", "0x060000", "")
	const uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
	h.mediated("11", uuid, "vfio-pci")
	h.mediated("12", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", "vfio-ap")
	h.link("sys/kernel/iommu_groups/13/devices/platform0", "../../../../devices/platform0")
	h.write("sys/devices/platform0/uevent", "")
	h.link("sys/kernel/iommu_groups/14/devices/gone", "../nowhere")

	got, err := Group(h.root, "/dev/vfio/7")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "0000:01:00.0" || got[1].Name != "0000:01:00.1" || got[0].Mediated ||
		got[0].Path != filepath.Join(h.root, "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0") {
		t.Errorf("%+v", got)
	}
	if got, err = Group(h.root, "/dev/vfio/11"); err != nil || len(got) != 1 || got[0].Name != uuid ||
		!got[0].Mediated {
		t.Errorf("%+v, %v", got, err)
	}
	for path, says := range map[string]string{
		"/dev/vfio/8":             "0000:02:00.0 of IOMMU group 8: the host's driver mlx5_core has it: bind it",
		"/dev/vfio/9":             "no driver of the host has it: bind it",
		"/dev/vfio/10":            "has no device that could be passed",
		"/dev/vfio/12":            "a mediated device of type vfio-ap",
		"/dev/vfio/13":            `a device of the bus ""`,
		"/dev/vfio/14":            "gone of IOMMU group 14",
		"/dev/vfio/15":            "the host has no IOMMU group 15",
		"/dev/vfio/07":            "is no group of VFIO's",
		"/dev/vfio/vfio":          "is no group of VFIO's",
		"/dev/vfio/7/../8":        "is no group of VFIO's",
		"/dev/vfio/noiommu-0":     "has no IOMMU",
		"/dev/vfio/devices/vfio0": "is a device for iommufd",
		"/dev/null":               "is no file of VFIO's",
	} {
		if got, err := Group(h.root, path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %v; want %q", path, got, err, says)
		}
	}
	h.link("sys/bus/pci/devices/0000:01:00.0/iommu_group", "../../../../kernel/iommu_groups/7")
	if file, err := Of(h.root, "0000:01:00.0"); file != "/dev/vfio/7" || err != nil {
		t.Errorf("%s, %v", file, err)
	}
	for _, name := range []string{"0000:02:00.0", "../x"} {
		if file, err := Of(h.root, name); err == nil {
			t.Errorf("%s: %s", name, file)
		}
	}
	for path, want := range map[string]bool{"/dev/vfio": true, Container: true, "/dev/vfio/7": true,
		"/dev/vfio7": false, "/dev/null": false} {
		if Is(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}
