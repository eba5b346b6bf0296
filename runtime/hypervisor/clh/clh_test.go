package clh

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/clh/clhtest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// spec is a machine with a disk, an extension and room.
func spec(t *testing.T) machine.Spec {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return machine.Spec{Name: "test", Arch: a, DefaultKind: "q35", Accel: accel.KVM,
		Size: machine.Size{CPUs: 1, MemoryMiB: 256}, Max: machine.Size{CPUs: 4, MemoryMiB: 1000}, MemorySlots: 2,
		Kernel: "/out/vmlinux", CommandLine: "console=ttyS0 quiet", RNG: true,
		Disks:    []machine.Disk{{Path: "/out/image.img"}, {Path: "/out/tools.img", Serial: "extension-tools"}},
		DiskRate: machine.Rate{Bytes: 1 << 20, BytesBurst: 5, Ops: 100}, RxRate: machine.Rate{Bytes: 125000}}
}

func TestRequestsAreThoseOfTheSpec(t *testing.T) {
	for name, change := range map[string]func(*machine.Spec){
		"disks": func(*machine.Spec) {},
		"initrd": func(s *machine.Spec) {
			s.Disks, s.Initrd, s.Max, s.RNG, s.DiskRate = nil, "/out/initrd.img", machine.Size{}, false, machine.Rate{}
		},
		"shares": func(s *machine.Spec) {
			s.Shares = []machine.Share{{Tag: "kataShared", Socket: "/run/fs.sock"}}
			s.Disks[0].NVDIMM = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t)
			change(&s)
			p, err := Hypervisor{}.Plan(s)
			if err != nil {
				t.Fatal(err)
			}
			body := rest.Encode(p.(*clhPlan).Config)
			var b bytes.Buffer
			if err := json.Indent(&b, body, "", " "); err != nil {
				t.Fatal(err)
			}
			b.WriteString("\n" + p.Command() + "\n")
			golden.Check(t, name, b.Bytes())
		})
	}
}

func TestWhatCloudHypervisorCannotDoIsRefused(t *testing.T) {
	for want, change := range map[string]func(*machine.Spec){
		"needs KVM, and guests would be emulated here (kata-runtime check says why); use [hypervisor.qemu]": func(
			s *machine.Spec) {
			s.Accel = accel.TCG
		},
		"the guest is for s390x, and Cloud Hypervisor has machines for x86_64 and aarch64": func(s *machine.Spec) {
			s.Arch.Name = "s390x"
		},
		"Cloud Hypervisor has no machine q35": func(s *machine.Spec) { s.Kind = "q35" },
		"does not count instructions":         func(s *machine.Spec) { s.VirtualTime = true },
		"the interface 02:00:00:00:00:01 has a vhost-user back end, which the runtime gives QEMU's": func(
			s *machine.Spec) {
			s.NICs = []machine.NIC{{MAC: "02:00:00:00:00:01", Socket: "/x"}}
		},
		`the folder /x by 9p, which Cloud Hypervisor does not have; set shared_fs = "virtio-fs"`: func(
			s *machine.Spec) {
			s.Shares = []machine.Share{{Path: "/x"}}
		},
		"a machine with 0 CPUs":               func(s *machine.Spec) { s.Size.CPUs = 0 },
		"/jailer is not for Cloud Hypervisor": func(s *machine.Spec) { s.Jailer = "/jailer" },
	} {
		s := spec(t)
		change(&s)
		if _, err := (Hypervisor{}).Plan(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// started is a machine that the strict server alone judges.
func started(t *testing.T, change func(*machine.Spec)) (*clhVM, string) {
	t.Helper()
	dir := t.TempDir()
	s := spec(t)
	s.Program = resttest.Program(t, dir, clhtest.Alone)
	s.Disks = s.Disks[:1]
	if change != nil {
		change(&s)
	}
	h := Hypervisor{StandIn: true}
	p, err := h.Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hybrid := filepath.Join(dir, "vsock.sock")
	vm, err := h.Start(t.Context(), p, machine.Start{Kernel: file, Hybrid: hybrid, Log: slog.New(slog.DiscardHandler),
		Disks: []machine.OpenDisk{{File: file}}, Linked: func(l machine.Links) error {
			t.Cleanup(func() { l.Console.Close() })
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Stop(); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Errorf("left over: %v, %v", left, err)
		}
	})
	return vm.(*clhVM), dir
}

func TestAMachineIsPluggedIntoAndGrows(t *testing.T) {
	v, dir := started(t, nil)
	<-v.Answers()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(disk)
	p, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk})
	if err != nil || p.PCIPath != "01.0" {
		t.Fatalf("%+v, %v", p, err)
	}
	tap, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if at, err := v.PlugNIC(t.Context(), machine.NIC{MAC: "52:54:00:00:00:01", Tap: tap}); err != nil || at != "02.0" {
		t.Errorf("%s, %v", at, err)
	}
	if err := v.UnplugDisk(t.Context(), p); err != nil {
		t.Error(err)
	}
	if err := v.UnplugDisk(t.Context(), p); err == nil || !strings.Contains(err.Error(), "Cloud Hypervisor refuses "+
		"PUT /api/v1/vm.remove-device: 404 Not Found: Error from API: Unknown device id plugged-1") {
		t.Error("a disk that is not there:", err)
	}
	if _, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk, Parts: []machine.Part{{}}}); !errors.Is(err,
		machine.ErrNoPlace) {
		t.Error("a disk in parts:", err)
	}
	for _, c := range []struct {
		want, get machine.Size
		err       string
	}{
		{machine.Size{CPUs: 1, MemoryMiB: 10}, machine.Size{CPUs: 1, MemoryMiB: 256}, ""},
		{machine.Size{CPUs: 2, MemoryMiB: 300}, machine.Size{CPUs: 2, MemoryMiB: 384}, ""},
		{machine.Size{CPUs: 9, MemoryMiB: 4096}, machine.Size{CPUs: 4, MemoryMiB: 896},
			"9 processors are wanted, and the machine can have 4\n4096 MiB of memory are wanted, and the machine can " +
				"have 896"},
		{machine.Size{MemoryMiB: 1024}, machine.Size{CPUs: 4, MemoryMiB: 896}, "all 2 slots are taken"},
	} {
		got, err := v.Grow(t.Context(), c.want)
		if got != c.get || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %+v, %v", c.want, got, err)
		}
	}
	for range slots {
		if _, err = v.PlugDisk(t.Context(), machine.Disk{Path: disk}); err != nil {
			break
		}
	}
	if !errors.Is(err, machine.ErrNoPlace) {
		t.Error("more disks than there are places:", err)
	}
}

func TestAMachineWithoutRoomDoesNotGrow(t *testing.T) {
	v, _ := started(t, func(s *machine.Spec) { s.Max = machine.Size{} })
	if got, err := v.Grow(t.Context(), machine.Size{CPUs: 2, MemoryMiB: 512}); !errors.Is(err, machine.ErrNoGrowth) ||
		got != v.Size() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhyAMachineDidNotStartIsSaid(t *testing.T) {
	s := spec(t)
	s.Program = resttest.Program(t, t.TempDir(), clhtest.Alone)
	s.Kernel = "x"
	h := Hypervisor{StandIn: true}
	p, err := h.Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	p.(*clhPlan).Config.CPUs.Max = 0 // a mistake of ours
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := machine.Start{Kernel: file, Disks: []machine.OpenDisk{{File: file}, {File: file}},
		Linked: func(l machine.Links) error { return l.Console.Close() }}
	_, err = h.Start(t.Context(), p, start)
	if _, ok := errors.AsType[*machine.StartError](err); !ok || !strings.Contains(err.Error(), "Cloud Hypervisor "+
		"refuses PUT /api/v1/vm.create: 400 Bad Request: Error from API: Failed to deserialize JSON: "+
		"body.cpus.max_vcpus: 0 is out of range") {
		t.Error(err)
	}
	p.(*clhPlan).program = "/nowhere/cloud-hypervisor"
	if _, err := h.Start(t.Context(), p, start); err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Error(err)
	}
}

func TestPlacesAreThoseOfTheOneBus(t *testing.T) {
	for bdf, want := range map[string]string{"0000:00:05.0": "05.0", "0000:00:1f.7": "1f.7", "0000:01:05.0": "",
		"0001:00:05.0": "", "0000:00:20.0": "", "": "", "0000:00:05.0x": "", "0000:00:5.0": ""} {
		if got, err := pciPath(bdf); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", bdf, got, err)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`["Error from API","The VM is not created"]`))
	f.Add([]byte(`{"id":"plugged-1","bdf":"0000:00:05.0"}`))
	f.Add([]byte(`{"state":"Running","device_tree":{"a":{}}}`))
	f.Add([]byte("\x1b[31mred")) // an older version's text
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := rest.Clean(fault(b)); strings.ContainsAny(s, "\x1b\n") || len(s) > 2<<10 {
			t.Errorf("%q is shown", s)
		}
		if info, err := rest.Decode[pciDeviceInfo](name, b); err == nil {
			if at, err := pciPath(info.BDF); err == nil && len(at) != 4 {
				t.Errorf("a device at %q", at)
			}
		}
		_, _ = rest.Decode[vmInfo](name, b)
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("{\n \"timestamp\":{\"secs\":1,\"nanos\":2},\"source\":\"vm\",\"event\":\"booted\"}\n\n" +
		`{"source":"vm","event":"rebooting"}`))
	f.Add([]byte(`{"source":"vm","event":"shutdown","properties":null}`))
	f.Add([]byte(`{"source":`)) // cut short
	f.Fuzz(func(t *testing.T, b []byte) {
		how, err := readEvents(bytes.NewReader(b))
		if (how == "") == (err == nil) {
			t.Errorf("%q, %v", how, err)
		}
		if errors.Is(err, io.ErrShortBuffer) {
			t.Error(err)
		}
	})
}
