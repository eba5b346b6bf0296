package qemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

// spec is a machine of q35 that devices of the host are passed to.
func spec(t *testing.T, change func(*machine.Spec)) (*Plan, error) {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	s := machine.Spec{Arch: a, Kind: string(Q35), Size: machine.Size{CPUs: 1, MemoryMiB: 64}, Kernel: "/vmlinux",
		Accel: accel.TCG, Places: 8}
	change(&s)
	return Hypervisor{}.plan(s)
}

func TestDevicesOfTheHostHaveTheirPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		change       func(*machine.Spec)
		ports, of    int // root ports, and places of the switch
		paths, fails string
	}{
		"none": {func(*machine.Spec) {}, 8, 0, "", ""},
		"in root ports": {func(s *machine.Spec) {
			s.Passed, s.Passing = passed(), machine.Passing{Port: machine.RootPort}
		}, 11, 0, "10.0/00 10.1/00 10.2/00", ""},
		"on a switch": {func(s *machine.Spec) {
			s.Passed, s.Passing = passed(), machine.Passing{Port: machine.SwitchPort, SwitchPorts: 4}
		}, 8, 4, "11.0/00/00/00 11.0/00/01/00 11.0/00/02/00", ""},
		"more than the switch was to have": {func(s *machine.Spec) {
			s.Passed, s.Passing = passed(), machine.Passing{Port: machine.SwitchPort, SwitchPorts: 1}
		}, 8, 3, "11.0/00/00/00 11.0/00/01/00 11.0/00/02/00", ""},
		"later": {func(s *machine.Spec) {
			s.Passing = machine.Passing{Port: machine.SwitchPort, SwitchPorts: 2, Later: true}
		}, 8, 2, "", ""},
		"the last root port is the switch's": {func(s *machine.Spec) {
			s.Places, s.Passing = 500, machine.Passing{Port: machine.SwitchPort, SwitchPorts: 1}
		}, MaxRootPorts - 1, 1, "", ""},
		"a switch without places": {func(s *machine.Spec) {
			s.Passing = machine.Passing{Port: machine.SwitchPort, Later: true}
		}, 0, 0, "", "set pcie_switch_port"},
		"too many for a switch": {func(s *machine.Spec) {
			s.Passing = machine.Passing{Port: machine.SwitchPort, SwitchPorts: 17}
		}, 0, 0, "", "at most 16 places"},
		"too many for the root bus": {func(s *machine.Spec) {
			s.Places, s.Passed, s.Passing = 118, passed(), machine.Passing{Port: machine.RootPort}
		}, 0, 0, "", "at most 120"},
		"no port": {func(s *machine.Spec) { s.Passed = passed() }, 0, 0, "", "says no place for them"},
		"a machine without ports": {func(s *machine.Spec) {
			s.Kind, s.Passing = string(MicroVM), machine.Passing{Port: machine.RootPort, Later: true}
		}, 0, 0, "", `the machine microvm has no places for devices of the host; set machine_type to "q35"`},
		"a machine without an IOMMU": {func(s *machine.Spec) {
			s.Kind, s.Passing = string(MicroVM), machine.Passing{IOMMU: true}
		}, 0, 0, "", "enable_iommu: the machine microvm has no IOMMU"},
		"a template": {func(s *machine.Spec) {
			s.Passed, s.Passing, s.Template = passed(), machine.Passing{Port: machine.RootPort}, true
		}, 0, 0, "", "it has devices of the host from the start"},
		"no device": {func(s *machine.Spec) {
			s.Passed = []machine.HostDevice{{Group: "/dev/vfio/7", Name: "x,y", Path: "/sys/z"}}
			s.Passing = machine.Passing{Port: machine.RootPort}
		}, 0, 0, "", "is no device of the host"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := spec(t, c.change)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v := &VM{plan: p}
			if got := strings.Join(v.Passed(), " "); got != c.paths || p.Config.RootPorts != c.ports ||
				p.Config.SwitchPorts != c.of {
				t.Errorf("%s with %d and %d, want %s with %d and %d", got, p.Config.RootPorts, p.Config.SwitchPorts,
					c.paths, c.ports, c.of)
			}
			taken, err := v.takePort()
			if want := len(p.Config.Passed); p.Config.Switch && taken != 0 || !p.Config.Switch && taken != want ||
				err != nil {
				t.Errorf("the next root port is %d, %v", taken, err)
			}
		})
	}
}

func TestAMachineThatWasNotStartedForItTakesNoDevices(t *testing.T) {
	p, err := spec(t, func(s *machine.Spec) { s.Passing = machine.Passing{Port: machine.RootPort} })
	if err != nil {
		t.Fatal(err)
	}
	v := &VM{plan: p}
	if _, err := v.Pass(t.Context(), passed()[0]); err == nil || !strings.Contains(err.Error(), "hot_plug_vfio") {
		t.Error(err)
	}
	v.plan.Config.Switch, v.plan.Config.SwitchPorts = true, 1
	i, err := v.takeSwitch()
	if _, full := v.takeSwitch(); i != 0 || err != nil || !errors.Is(full, machine.ErrNoPlace) {
		t.Errorf("%d, %v; then %v", i, err, full)
	}
	v.freeSwitch(0)
	if i, err := v.takeSwitch(); i != 0 || err != nil {
		t.Errorf("%d, %v", i, err)
	}
}

func TestQEMUSeesFilesOfItsDevicesAlone(t *testing.T) {
	with := func(change func(*machine.Spec)) (devices, folders []string) {
		p, err := spec(t, change)
		if err != nil {
			t.Fatal(err)
		}
		w := Isolation(p.Config)
		return w.Devices, w.ReadOnly
	}
	devices, folders := with(func(s *machine.Spec) {
		s.Passed, s.Passing = passed(), machine.Passing{Port: machine.RootPort}
	})
	if !slices.Equal(devices, []string{"/dev/vfio/vfio", "/dev/vfio/7", "/dev/vfio/8"}) || len(folders) != 4 ||
		folders[0] != "/sys/bus/pci/devices" || folders[1] != passed()[0].Path {
		t.Errorf("%q, %q", devices, folders)
	}
	if devices, folders = with(func(*machine.Spec) {}); len(devices)+len(folders) != 0 {
		t.Errorf("%q, %q", devices, folders)
	}
}

// bus is what query-pci says.
type bus struct {
	Devices []struct {
		Slot, Function int
		ID             string `json:"qdev_id"`
		Bridge         *struct {
			Devices json.RawMessage
		} `json:"pci_bridge"`
	}
}

// find is the path of a device in QEMU's own words.
func (b bus) find(t *testing.T, id string) string {
	for _, d := range b.Devices {
		step := fmt.Sprintf("%02x", d.Slot)
		if d.Function != 0 {
			step += fmt.Sprintf(".%x", d.Function)
		}
		if d.ID == id {
			return step
		}
		if d.Bridge == nil || d.Bridge.Devices == nil {
			continue
		}
		var below bus
		if err := json.Unmarshal(d.Bridge.Devices, &below.Devices); err != nil {
			t.Fatal(err)
		}
		if rest := below.find(t, id); rest != "" {
			return step + "/" + rest
		}
	}
	return ""
}

// TestQEMUHasDevicesWhereTheGuestLooksForThem puts devices that QEMU emulates in the place of those of a host, from the
// start and later: a firmware gives buses their numbers, and QEMU says where the devices are.
func TestQEMUHasDevicesWhereTheGuestLooksForThem(t *testing.T) {
	testenv.Require(t, testenv.Tool("qemu-system-x86_64"))
	for name, change := range map[string]func(*machine.Spec){
		"root ports": func(s *machine.Spec) {
			s.Passed = passed()
			s.Passing = machine.Passing{Port: machine.RootPort, Later: true, IOMMU: true, IOMMUPlatform: true}
		},
		"a switch": func(s *machine.Spec) {
			s.Passed = passed()
			s.Passing = machine.Passing{Port: machine.SwitchPort, Later: true, SwitchPorts: 16, IOMMU: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := spec(t, change)
			if err != nil {
				t.Fatal(err)
			}
			c := p.Config
			c.Console, c.NoSeccomp, c.RNG = Channel{}, true, true
			argv := c.argv()
			argv = append(argv[:slices.Index(argv, "-kernel")], "-qmp", "stdio")
			for i, w := range argv {
				if rest, ok := strings.CutPrefix(w, "vfio-pci,"); ok {
					argv[i] = "virtio-rng-pci," + strings.Join(strings.Split(rest, ",")[:2], ",")
				}
			}
			cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
			var said strings.Builder
			cmd.Stderr = &said
			in, err := cmd.StdinPipe()
			out, err2 := cmd.StdoutPipe()
			if err := errors.Join(err, err2, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
			answers := bufio.NewScanner(out)
			ask := func(command string) json.RawMessage {
				if _, err := io.WriteString(in, command+"\n"); err != nil {
					t.Fatalf("%v: %s", err, said.String())
				}
				for answers.Scan() {
					var a struct{ Return, Error json.RawMessage }
					if err := json.Unmarshal(answers.Bytes(), &a); err != nil || a.Error != nil {
						t.Fatalf("%s: %v: %s", command, err, answers.Text())
					}
					if a.Return != nil {
						return a.Return
					}
				}
				t.Fatalf("%s: QEMU has ended: %s", command, said.String())
				return nil
			}
			ask(`{"execute": "qmp_capabilities"}`)
			v := &VM{plan: p}
			want := map[string]string{}
			for i, path := range v.Passed() {
				want[fmt.Sprintf("passed%d", i)] = path
			}
			next, path := rootPort(len(c.Passed))
			if c.Switch {
				next, path = switchPort(c.RootPorts, 15)
			}
			ask(fmt.Sprintf(`{"execute": "device_add", "arguments": {"driver": "virtio-rng-pci", "id": "later", `+
				`"bus": %q}}`, next))
			want["later"] = path
			for id, path := range want { // a function 0 may be said or not
				want[id] = strings.ReplaceAll(path, ".0/", "/")
			}
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				var buses []bus
				if err := json.Unmarshal(ask(`{"execute": "query-pci"}`), &buses); err != nil || len(buses) == 0 {
					t.Fatal(err)
				}
				got := map[string]string{}
				for id := range want {
					got[id] = buses[0].find(t, id)
				}
				if fmt.Sprint(got) == fmt.Sprint(want) {
					return
				}
				if time.Now().After(end) {
					t.Fatalf("QEMU has them at %v, and the guest would look at %v", got, want)
				}
			}
		})
	}
}
