package translate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestABlockDeviceOfTheHostIsFoundByItsNumber(t *testing.T) {
	root := t.TempDir()
	for number, uevent := range map[string]string{
		"7:3":   "MAJOR=7\nMINOR=3\nDEVNAME=loop3\nDEVTYPE=disk\n",
		"253:0": "DEVNAME=mapper/x\n",
		"8:0":   "MAJOR=8\n",
		"8:1":   "DEVNAME=../../etc/passwd\n",
	} {
		dir := filepath.Join(root, "sys/dev/block", number)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "uevent"), []byte(uevent), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		major, minor int64
		want         string
	}{{7, 3, "loop3"}, {253, 0, "mapper/x"}, {8, 0, ""}, {8, 1, ""}, {9, 9, ""}} {
		got, err := ThisHost{Root: root}.DeviceName(blockKind, c.major, c.minor)
		if (err == nil) != (c.want != "") || got != c.want {
			t.Errorf("%d:%d: %q, %v, want %q", c.major, c.minor, got, err, c.want)
		}
	}
}

func TestTheRulesSayWhatMayBeDoneWithADevice(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	d := specs.LinuxDevice{Type: "b", Major: 7, Minor: 1}
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	rule := func(kind, access string, major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: n(major), Minor: n(minor), Access: access}
	}
	for what, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  string // empty: no rule names it
	}{
		"none":     {nil, ""},
		"to read":  {[]specs.LinuxDeviceCgroup{deny, rule("b", "r", 7, 1)}, "r"},
		"to write": {[]specs.LinuxDeviceCgroup{deny, rule("b", "rwm", 7, 1)}, "rwm"},
		"the last": {[]specs.LinuxDeviceCgroup{rule("b", "rwm", 7, 1), rule("b", "rm", 7, 1)}, "rm"},
		"another's": {[]specs.LinuxDeviceCgroup{rule("b", "r", 7, 2), rule("b", "r", 8, 1),
			rule("c", "r", 7, 1)}, ""},
		"one for all": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"},
			{Allow: true, Access: "rwm"}}, ""},
		"one that takes": {[]specs.LinuxDeviceCgroup{rule("b", "rwm", 7, 1), {Type: "b", Major: n(7), Minor: n(1),
			Access: "r"}}, ""},
	} {
		if got, ok := accessTo(&specs.LinuxResources{Devices: c.rules}, d); ok != (c.want != "") || ok &&
			got != c.want {
			t.Errorf("%s: %q, %v", what, got, ok)
		}
	}
	if _, ok := accessTo(nil, d); ok {
		t.Error("no resources are a rule")
	}
}

func TestBlockDevicesOfAPrivilegedContainerStayOnTheHost(t *testing.T) {
	s := &specs.Spec{Root: &specs.Root{}, Process: &specs.Process{}, Linux: &specs.Linux{
		Devices: []specs.LinuxDevice{{Path: "/dev/vda", Type: "b", Major: 254}, {Path: "/dev/fuse", Type: "c",
			Major: 10, Minor: 229}},
		Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
	}}
	p := &Plan{Spec: guestSpec(s, false)}
	if err := p.devices(Pod{}, ThisHost{}, Container{Spec: s}); err != nil || len(p.Spec.Linux.Devices) != 1 ||
		p.Spec.Linux.Devices[0].Path != "/dev/fuse" || len(p.Devices) > 0 {
		t.Errorf("%+v, %v", p.Spec.Linux.Devices, err)
	}
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b",
		Major: new(int64(4095)), Minor: new(int64(1)), Access: "rw"})
	s.Linux.Devices[0].Major, s.Linux.Devices[0].Minor = 4095, 1
	if err := p.devices(Pod{}, ThisHost{}, Container{Spec: s}); err == nil ||
		!strings.Contains(err.Error(), "device /dev/vda: the host has no block device 4095:1") {
		t.Error(err)
	}
}
