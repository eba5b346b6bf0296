package qemu

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

func base() Config {
	return Config{
		Binary: "qemu-system-x86_64", Name: "tiny", Machine: MicroVM, Accel: accel.TCG, CPUs: 1, MemoryMiB: 256,
		Kernel: "/out/vmlinux", Initrd: "/out/initrd.cpio.zst",
		CommandLine: "console=ttyS0 quiet tsc_early_khz=2600000",
		Console:     inherited(4), Monitor: inherited(3), Vsock: Vsock{VhostUser: inherited(5)},
	}
}

func TestArgv(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"microvm-tcg":              func(*Config) {},
		"microvm-kvm":              func(c *Config) { c.Accel = accel.KVM },
		"microvm-tcg-no-vsock":     func(c *Config) { c.Vsock = Vsock{} },
		"microvm-kvm-kernel-vsock": func(c *Config) { c.Accel = accel.KVM; c.Vsock = Vsock{KernelFD: 5, CID: 77} },
		"q35-tcg":                  func(c *Config) { c.Machine = Q35 },
		"q35-kvm":                  func(c *Config) { c.Machine, c.Accel, c.CPUs = Q35, accel.KVM, 4 },
		"q35-tcg-no-vsock":         func(c *Config) { c.Machine, c.Vsock = Q35, Vsock{} },
		"q35-kvm-kernel-vsock": func(c *Config) {
			c.Machine, c.Accel, c.Vsock = Q35, accel.KVM,
				Vsock{KernelFD: 5, CID: 77}
		},
		"console-stdio":  func(c *Config) { c.Console = stdio() },
		"console-socket": func(c *Config) { c.Console = socket("/run/console.sock") },
		"icount":         func(c *Config) { c.ICount = true },
		"microvm-disk":   func(c *Config) { c.Initrd, c.Disks = "", []Disk{{Path: "/tmp/a,b.img", Serial: "root"}} },
		"q35-disks": func(c *Config) {
			c.Machine, c.Disks = Q35, []Disk{{Path: "/tmp/a"}, {Path: "/tmp/b", Serial: "extension-x"}}
		},
		"microvm-disk-extension": func(c *Config) {
			c.Initrd, c.Disks = "", []Disk{{Path: "/proc/self/fd/4"}, {Path: "/proc/self/fd/5",
				Serial: "extension-tools"}}
			c.CommandLine += " kata.extension.tools.verity_params=root_hash=ab,salt=-,data_blocks=3," +
				"data_block_size=4096,hash_block_size=4096"
		},
		"q35-grows": func(c *Config) {
			c.Machine, c.MaxCPUs, c.MaxMemoryMiB, c.MemorySlots = Q35, 4, 4096, 10
		},
		"q35-nvdimm-grows": func(c *Config) {
			c.Machine, c.Disks, c.MaxMemoryMiB, c.MemorySlots = Q35,
				[]Disk{{Path: "/tmp/a", Size: 5 << 20, NVDIMM: true}}, 4096, 10
		},
		"q35-nvdimm": func(c *Config) {
			c.Machine, c.Disks = Q35,
				[]Disk{{Path: "/tmp/a", Size: 5 << 20, NVDIMM: true}}
		},
		"q35-shares": func(c *Config) {
			c.Machine, c.FileSystems = Q35, []FileSystem{{Tag: "kataShared", VirtioFS: socket("/run/a,b.sock")},
				{Tag: "nine", Path: "/srv/a,b"}}
		},
		"microvm-shares-no-vsock": func(c *Config) {
			c.Vsock, c.FileSystems = Vsock{}, []FileSystem{{Tag: "kataShared", VirtioFS: inherited(7)}}
		},
		"q35-nics-ports": func(c *Config) {
			c.Machine, c.RNG, c.RootPorts = Q35, true, 9
			c.NICs = []NIC{{MAC: "52:54:00:12:34:56", TapFD: 6, MTU: 1450}, {MAC: "52:54:00:12:34:57", TapFD: 7}}
		},
		"q35-vhost-user-nics": func(c *Config) {
			c.Machine, c.Vsock = Q35, Vsock{}
			c.NICs = []NIC{{MAC: "52:54:00:12:34:56", VhostUser: socket("/run/a,b.sock"), MTU: 1450, Queues: 4,
				QueueSize: 1024}, {MAC: "52:54:00:12:34:57", VhostUser: inherited(7)},
				{MAC: "52:54:00:12:34:58", TapFD: 8, MTU: 1450, QueueSize: 512}}
		},
		"q35-passed": func(c *Config) {
			c.Machine, c.RootPorts, c.Passed = Q35, 3, passed()
		},
		"q35-passed-on-a-switch": func(c *Config) {
			c.Machine, c.RootPorts, c.Passed, c.Switch, c.SwitchPorts = Q35, 8, passed(), true, 4
		},
		"q35-pass-later-on-a-switch": func(c *Config) {
			c.Machine, c.PassLater, c.Switch, c.SwitchPorts = Q35, true, true, 2
		},
		"q35-kvm-iommu": func(c *Config) {
			c.Machine, c.Accel, c.RootPorts, c.Passed, c.IOMMU = Q35, accel.KVM, 1, passed()[:1], true
		},
		"q35-tcg-iommu-for-all": func(c *Config) {
			c.Machine, c.IOMMU, c.IOMMUPlatform = Q35, true, true
			c.everything(1)
			c.NICs = append(c.NICs, NIC{MAC: "52:54:00:12:34:57", VhostUser: inherited(7)})
		},
		"virt-aarch64-passed-iommu": func(c *Config) {
			c.foreign("aarch64", Virt)
			c.RootPorts, c.Passed, c.IOMMU = 2, passed()[:2], true
		},
		"microvm-vhost-user-nic": func(c *Config) {
			c.NICs = []NIC{{MAC: "52:54:00:12:34:56", VhostUser: inherited(7), Queues: 2}}
		},
		"microvm-nic": func(c *Config) {
			c.Vsock, c.NICs = Vsock{},
				[]NIC{{MAC: "52:54:00:12:34:56", TapFD: 6}}
		},
		"virt-aarch64-tcg": func(c *Config) { c.foreign("aarch64", Virt) },
		"virt-aarch64-kvm-everything": func(c *Config) {
			c.foreign("aarch64",
				Virt)
			c.Accel = accel.KVM
			c.everything(2)
		},
		"virt-riscv64-tcg":        func(c *Config) { c.foreign("riscv64", Virt) },
		"virt-riscv64-everything": func(c *Config) { c.foreign("riscv64", Virt); c.everything(2) },
		"pseries-tcg":             func(c *Config) { c.foreign("ppc64le", PSeries) },
		"pseries-kvm-everything": func(c *Config) {
			c.foreign("ppc64le",
				PSeries)
			c.Accel = accel.KVM
			c.everything(0)
		},
		"s390-ccw-virtio-tcg":        func(c *Config) { c.foreign("s390x", S390CCW) },
		"s390-ccw-virtio-everything": func(c *Config) { c.foreign("s390x", S390CCW); c.everything(0) },
		"s390-ccw-virtio-kvm-kernel-vsock": func(c *Config) {
			c.foreign("s390x", S390CCW)
			c.Accel, c.Vsock = accel.KVM, Vsock{KernelFD: 5, CID: 77}
		},
		"bare": func(c *Config) {
			c.Console, c.Monitor, c.Vsock, c.Initrd, c.Name, c.NoSeccomp = Channel{}, Channel{}, Vsock{}, "", "", true
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := base()
			change(&c)
			// One word a line shows what differs; what is pasted has them on one.
			var b bytes.Buffer
			for _, w := range c.argv() {
				b.WriteString(machine.Quote([]string{w}) + "\n")
			}
			golden.Check(t, "argv/"+name, b.Bytes())
		})
	}
}

// passed are devices of the host: two of one group, and a part of one.
func passed() []machine.HostDevice {
	return []machine.HostDevice{
		{Group: "/dev/vfio/7", Name: "0000:01:00.0", Path: "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"},
		{Group: "/dev/vfio/7", Name: "0000:01:00.1", Path: "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1"},
		{Group: "/dev/vfio/8", Name: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", Mediated: true,
			Path: "/sys/devices/pci0000:00/0000:00:02.0/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"},
	}
}

// foreign makes it a machine of another architecture than x86_64.
func (c *Config) foreign(arch string, m Machine) {
	c.Arch, c.Machine, c.Binary, c.Kernel, c.CommandLine = arch, m, "qemu-system-"+arch, "/boot/vmlinuz", "quiet"
}

// everything gives it a device of each kind.
func (c *Config) everything(ports int) {
	c.Disks, c.NICs, c.RNG, c.RootPorts = []Disk{{Path: "/tmp/a", Serial: "root"}},
		[]NIC{{MAC: "52:54:00:12:34:56", TapFD: 6, MTU: 1450}}, true, ports
	c.FileSystems = []FileSystem{{Tag: "kataShared", VirtioFS: socket("/run/s.sock")}, {Tag: "nine", Path: "/srv"}}
}

func TestMachinesOfEachArchitecture(t *testing.T) {
	for _, a := range arch.All() {
		list := Machines(a.Name)
		if !slices.Contains(list, Machine(a.Machine)) {
			t.Errorf("%s: its machine %s is none of %v", a.Name, a.Machine, list)
		}
		for _, m := range list {
			if p, err := ParseMachine(string(m)); err != nil || p != m {
				t.Errorf("%s: %v, %v", m, p, err)
			}
		}
	}
	if Machines("vax") != nil {
		t.Error("there are machines for an architecture that is none")
	}
	if _, err := ParseMachine("toaster"); err == nil || !strings.Contains(err.Error(),
		"known: q35, microvm, virt, pseries, s390-ccw-virtio") {
		t.Errorf("an unknown machine: %v", err)
	}
}

func TestQEMUHasTheDevicesThatAreAskedFor(t *testing.T) {
	for _, a := range arch.All() {
		for _, m := range Machines(a.Name) {
			t.Run(a.Name+" "+string(m), func(t *testing.T) {
				testenv.Require(t, testenv.Tool(a.QEMU))
				out, err := exec.Command(a.QEMU, "-machine", string(m), "-device", "help").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				has := Has(a.Name, m)
				want := []string{has.VhostUserVsock}
				for _, d := range []string{"vhost-vsock", "vhost-user-fs", "virtio-9p", "virtio-blk", "virtio-net",
					"virtio-rng"} {
					want = append(want, d+has.Bus)
				}
				if has.RootPorts {
					want = append(want, "pcie-root-port")
				}
				for _, d := range want {
					if !strings.Contains(string(out), `"`+d+`"`) {
						t.Errorf("it has no %s", d)
					}
				}
			})
		}
	}
}

func TestRootPortsHaveThePathsOfTheirSlots(t *testing.T) {
	for i, want := range map[int]string{0: "10.0/00", 7: "10.7/00", 8: "11.0/00", MaxRootPorts - 1: "1e.7/00"} {
		if id, path := rootPort(i); path != want || id != fmt.Sprintf("port%d", i) {
			t.Errorf("port %d: %s at %s, want %s", i, id, path, want)
		}
	}
}
