package firecracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/firecracker/firecrackertest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
	"github.com/katabuild/katabuild/runtime/machine"
)

// spec is a machine with a disk and an interface.
func spec(t *testing.T) machine.Spec {
	t.Helper()
	a, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return machine.Spec{Name: "test", Arch: a, DefaultKind: "q35", Accel: accel.KVM,
		Size: machine.Size{CPUs: 2, MemoryMiB: 256}, Kernel: "/out/vmlinux", CommandLine: "console=ttyS0 quiet",
		RNG:      true,
		Disks:    []machine.Disk{{Path: "/out/image.img"}},
		DiskRate: machine.Rate{Bytes: 1 << 20, BytesBurst: 5, Ops: 100}, RxRate: machine.Rate{Bytes: 125000}}
}

func TestRequestsAreThoseOfTheSpec(t *testing.T) {
	for name, change := range map[string]func(*machine.Spec){
		"disk": func(*machine.Spec) {},
		"initrd": func(s *machine.Spec) {
			s.Disks, s.Initrd, s.RNG, s.DiskRate = nil, "/out/initrd.img", false, machine.Rate{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t)
			change(&s)
			made, err := Hypervisor{}.Plan(s)
			if err != nil {
				t.Fatal(err)
			}
			p := made.(*fcPlan)
			nics := []networkInterface{{ID: "net0", MAC: "52:54:00:00:00:01", Tap: "tap0", Rx: limiter(s.RxRate)}}
			var b bytes.Buffer
			for _, r := range requests(p, p.source(), p.drives(), nics, "/v") {
				fmt.Fprintf(&b, "%s %s\n", r.Method, r.Path)
				if err := json.Indent(&b, r.Body, "", " "); err != nil {
					t.Fatal(err)
				}
				b.WriteByte('\n')
			}
			b.WriteString(p.Command() + "\n")
			golden.Check(t, name, b.Bytes())
		})
	}
}

func TestWhatFirecrackerCannotDoIsRefused(t *testing.T) {
	for want, change := range map[string]func(*machine.Spec){
		"needs KVM, and guests would be emulated here (kata-runtime check says why); use [hypervisor.qemu]": func(
			s *machine.Spec) {
			s.Accel = accel.TCG
		},
		"the guest is for s390x, and Firecracker has machines for x86_64 and aarch64": func(s *machine.Spec) {
			s.Arch.Name = "s390x"
		},
		"has no machine q35":          func(s *machine.Spec) { s.Kind = "q35" },
		"does not count instructions": func(s *machine.Spec) { s.VirtualTime = true },
		"a machine with 0 CPUs":       func(s *machine.Spec) { s.Size.CPUs = 0 },
		"33 CPUs, and Firecracker has at most 32; lower default_vcpus": func(s *machine.Spec) { s.Size.CPUs = 33 },
		`Firecracker shares none; set shared_fs = "none", with a snapshotter that gives block devices`: func(
			s *machine.Spec) {
			s.Shares = []machine.Share{{Tag: "kataShared", Socket: "/s"}}
		},
		"an NVDIMM, which Firecracker does not have": func(s *machine.Spec) { s.Disks[0].NVDIMM = true },
		"the disk /out/image.img is found by its serial x, which Firecracker does not tell guests": func(
			s *machine.Spec) {
			s.Disks[0].Serial = "x"
		},
		"1 disks and 17 interfaces, and Firecracker has 19 devices": func(s *machine.Spec) {
			s.NICs = make([]machine.NIC, 17)
		},
	} {
		s := spec(t)
		change(&s)
		if _, err := (Hypervisor{}).Plan(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// started is a machine that the strict server alone judges.
func started(t *testing.T, change func(s *machine.Spec, dir string)) (*fcVM, string) {
	t.Helper()
	dir := t.TempDir()
	s := spec(t)
	s.Program = resttest.Program(t, dir, firecrackertest.Alone)
	if change != nil {
		change(&s, dir)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
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
	vm, err := h.Start(t.Context(), p, machine.Start{Kernel: file, Hybrid: filepath.Join(dir, "vsock.sock"),
		Log: slog.New(slog.DiscardHandler), Disks: []machine.OpenDisk{{File: file}},
		Linked: func(l machine.Links) error {
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
		if left, err := os.ReadDir(dir); err != nil || len(left) != len(before) {
			t.Errorf("left over: %v, %v", left, err)
		}
	})
	return vm.(*fcVM), dir
}

func TestPlacesTakeDisksAndLetGoOfThem(t *testing.T) {
	v, dir := started(t, nil)
	<-v.Answers()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(disk)
	p, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk})
	if err != nil || p.PCIPath != "/dev/vdb" {
		t.Fatalf("%+v, %v", p, err)
	}
	r, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk, ReadOnly: true})
	if err != nil || r.PCIPath != "/dev/vdf" {
		t.Errorf("a disk to read: %+v, %v", r, err)
	}
	if err := v.UnplugDisk(t.Context(), p); err != nil {
		t.Error(err)
	}
	for i := range writableDrives + 1 {
		q, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk})
		if i == 0 && (err != nil || q.PCIPath != "/dev/vdb") {
			t.Errorf("a place that was let go of: %+v, %v", q, err)
		}
		if i == writableDrives && !errors.Is(err, machine.ErrNoPlace) {
			t.Error("more disks than there are places:", err)
		}
	}
	if _, err := v.PlugDisk(t.Context(), machine.Disk{Path: disk, Parts: []machine.Part{{}}}); !errors.Is(err,
		machine.ErrNoPlace) {
		t.Error("a disk in parts:", err)
	}
	if _, err := v.PlugDisk(t.Context(), machine.Disk{Path: dir + "/none", ReadOnly: true}); err == nil ||
		!strings.Contains(err.Error(), "Firecracker refuses PATCH /drives/place5: 400 Bad Request: Unable to open the "+
			"backing file") {
		t.Error("a file that is not there:", err)
	}
	if _, err := v.PlugNIC(t.Context(), machine.NIC{}); !errors.Is(err, machine.ErrNoPlace) {
		t.Error("an interface:", err)
	}
}

func TestAJailerGetsItsArgumentsAndTheFilesAreInItsJail(t *testing.T) {
	v, dir := started(t, func(s *machine.Spec, dir string) {
		s.Jailer = resttest.Program(t, dir, firecrackertest.Jailer)
	})
	root := filepath.Join(dir, "vm", firecrackertest.Alone, "vm", "root")
	want := strings.Join([]string{filepath.Join(dir, "jailer"), "--id", "vm", "--exec-file",
		filepath.Join(dir, firecrackertest.Alone), "--uid", "0", "--gid", "0", "--chroot-base-dir",
		filepath.Join(dir, "vm"), "--cgroup-version", "2", "--", "--api-sock", "/api",
		"--log-path", "/log", "--level", "Warning"}, " ")
	if got := strings.Join(v.Process().Argv, " "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, name := range []string{"kernel", "disk0", "empty", "log", "api"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	// The link is relative, so that it leads there in whatever folder the pods' are.
	to, err := os.Readlink(filepath.Join(dir, "vsock.sock"))
	if err != nil || filepath.IsAbs(to) || filepath.Join(dir, to) != filepath.Join(root, "v") {
		t.Errorf("%s, %v", to, err)
	}
}

func TestWhyAMachineDidNotStartIsSaid(t *testing.T) {
	s := spec(t)
	s.Program = resttest.Program(t, t.TempDir(), firecrackertest.Alone)
	h := Hypervisor{StandIn: true}
	p, err := h.Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	p.(*fcPlan).spec.Size.CPUs = 99 // a mistake of ours
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := machine.Start{Kernel: file, Disks: []machine.OpenDisk{{File: file}},
		Linked: func(l machine.Links) error { return l.Console.Close() }}
	_, err = h.Start(t.Context(), p, start)
	if _, ok := errors.AsType[*machine.StartError](err); !ok || !strings.Contains(err.Error(), "Firecracker refuses "+
		"PUT /machine-config: 400 Bad Request: An error occurred when deserializing the json body of a request: "+
		"body.vcpu_count: 99 is out of range") {
		t.Error(err)
	}
	p.(*fcPlan).program = "/nowhere/firecracker"
	if _, err := h.Start(t.Context(), p, start); err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Error(err)
	}
	p.(*fcPlan).program = "/bin/false"
	if _, err := h.Start(t.Context(), p, start); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Error(err)
	}
}

func TestWordsThatFirecrackerAppendsAreItsOwn(t *testing.T) {
	is := regexp.MustCompile("^(?:" + appended + ")$")
	for words, want := range map[string]bool{
		"":         true,
		" pci=off": true,
		" pci=off virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6": true,
		" virtio_mmio.device=4K@0xd0000000:5":                                            true,
		" init=/bin/sh":                                                                  false,
		" pci=off init=/bin/sh":                                                          false,
		"pci=off":                                                                        false,
	} {
		if is.MatchString(words) != want {
			t.Errorf("%q", words)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"fault_message":"Invalid block device ID: place0"}`))
	f.Add([]byte(`{"firecracker_version":"1.12.1"}`))
	f.Add([]byte("\x1b[31mred")) // no JSON
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := rest.Clean(fault(b)); strings.ContainsAny(s, "\x1b\n") || len(s) > 2<<10 {
			t.Errorf("%q is shown", s)
		}
		_, _ = rest.Decode[versionAnswer](name, b)
	})
}
