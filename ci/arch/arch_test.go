// Package arch_test boots a guest of every architecture: Debian's own kernel with an initrd of our agent, as plain
// files.
package arch_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/share"
)

// modules are what the agent and this test need. Those that a kernel has built in are not there to load.
var modules = []string{"virtio_pci", "virtio_mmio", "vmw_vsock_virtio_transport", "virtio_rng", "9p", "9pnet_virtio",
	"virtio_blk", "virtio_net", "virtiofs", "crc32c_generic", "erofs"}

// bootTime is what a guest may take: emulated, on a busy machine.
const bootTime = 4 * time.Minute

func goBuild(t *testing.T, a arch.Arch, out, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+a.Go)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, b)
	}
}

// writeInitrd packs init, the agent and the modules, and returns the initrd and the agent.
func writeInitrd(t *testing.T, a arch.Arch, k kernel) (initrd, agent string) {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	agent, initrd = filepath.Join(dir, "agent"), filepath.Join(dir, "initrd")
	goBuild(t, a, init, "./init")
	goBuild(t, a, agent, "../../cmd/kata-agent")
	out, err := os.Create(initrd)
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(out)
	add := func(h cpio.Header, b []byte) {
		h.Links, h.Size = 1, int64(len(b))
		err := w.Next(h)
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
	}
	for _, d := range []string{"dev", "modules", "sbin"} {
		add(cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755}, nil)
	}
	add(cpio.Header{Name: "dev/console", Mode: cpio.TypeChar | 0o600, DeviceMajor: 5, DeviceMinor: 1}, nil)
	for name, path := range map[string]string{"init": init, "sbin/agent": agent} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		add(cpio.Header{Name: name, Mode: cpio.TypeRegular | 0o755}, b)
	}
	loaded, err := k.load(modules...)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range loaded {
		add(cpio.Header{Name: fmt.Sprintf("modules/%02d.ko", i), Mode: cpio.TypeRegular | 0o644}, b)
	}
	if err := errors.Join(w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	return initrd, agent
}

func TestAGuestOfEveryArchitectureBoots(t *testing.T) {
	for _, a := range arch.All() {
		t.Run(a.Name, func(t *testing.T) {
			testenv.Require(t, testenv.Asked("KATABUILD_TEST_ARCH", "test-arch"), testenv.Tool(a.QEMU),
				testenv.Tool("apt-get"), testenv.Tool("dpkg-deb"), testenv.Tool("go"))
			k := debian(t, a)
			initrd, agent := writeInitrd(t, a, k)
			shared := t.TempDir()
			if err := os.Chmod(shared, 0o755); err != nil { // the container's user is somebody else
				t.Fatal(err)
			}
			rootfs(t, a, shared)
			folders := []machine.Share{{Tag: "shared", Path: shared}}
			if d := virtioFS(t, a, shared); d != nil {
				folders = append(folders, *d)
			}
			g, err := (&guest.Plain{Kernel: k.file, Initrd: initrd}).Read()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			s, err := sandbox.Start(t.Context(), sandbox.Config{
				Guest: g, Hypervisor: qemu.Hypervisor{}, Size: machine.Size{CPUs: 2, MemoryMiB: 512},
				Timeout: bootTime, RNG: true, Shares: folders, Places: 2, NICs: tap(t),
			})
			if err != nil {
				var e *sandbox.StageError
				if errors.As(err, &e) {
					t.Fatalf("after %v: %v\n%s\n%s", time.Since(began).Round(time.Second), err, machine.Quote(e.Argv),
						strings.Join(e.Console, "\n"))
				}
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(); err != nil {
					t.Errorf("stop: %v", err)
				}
				if t.Failed() {
					t.Logf("%s\n%s", machine.Quote(s.Argv()), strings.Join(s.Console(40), "\n"))
				}
			})
			var seen []string
			for _, m := range s.Timeline() {
				seen = append(seen, fmt.Sprintf("%s %.1f s", m.Name, m.After.Seconds()))
			}
			t.Log(strings.Join(seen, ", "))
			ask(t, s, a, agent, shared)
		})
	}
}

// ask asks the agent what it is, and has it use a device.
func ask(t *testing.T, s *sandbox.Sandbox, a arch.Arch, agent, shared string) {
	t.Helper()
	c, err := s.Dial(t.Context(), agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	client := agenttest.NewClient(c)
	defer client.Close()
	if err := client.Check(t.Context()); err != nil {
		t.Error(err)
	}
	d, err := client.GuestDetails(t.Context())
	if err != nil || !d.InitDaemon || d.AgentVersion == "" {
		t.Errorf("details %+v, %v", d, err)
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	r, _, err := client.Report(t.Context(), nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := digest.File(agent)
	if err != nil {
		t.Fatal(err)
	}
	if r.Kernel.Machine != a.Name || r.Agent.Digest != want || r.Init.Kind != "agent" ||
		r.Kernel.CommandLine != s.Plan().CommandLine {
		t.Errorf("report %+v, want machine %s, agent %s and command line %q", r, a.Name, want, s.Plan().CommandLine)
	}
	t.Logf("%s, Linux %s, modules %v", r.Kernel.Machine, r.Kernel.Release, r.Modules)

	service := agentOf(t, s)
	storages := []*katapb.Storage{{
		Driver: "9p", Source: "shared", Fstype: "9p", MountPoint: share.GuestDir + "/",
		Options: []string{"trans=virtio", "version=9p2000.L"},
	}}
	shares := len(s.Plan().Machine.(*qemu.Plan).Config.FileSystems)
	if shares > 1 {
		storages = append(storages, &katapb.Storage{Driver: "virtio-fs", Source: "virtiofs", Fstype: "virtiofs",
			MountPoint: share.GuestDir + "/daemon/"})
	}
	disks := plug(t, s, a)
	// Debian's kernel for it has no HOTPLUG_PCI_PCIE: the disk never comes up there
	if len(disks) > 0 && a.Name != "riscv64" {
		storages = append(storages, &katapb.Storage{Driver: "blk", Source: disks[0].PCIPath, Fstype: "erofs",
			MountPoint: "/run/kata-containers/disk", Options: []string{"ro"}})
	}
	if _, err := service.CreateSandbox(t.Context(), &katapb.CreateSandboxRequest{SandboxId: "arch", Hostname: "box",
		Storages: storages}); err != nil {
		t.Fatalf("sandbox with storages: %v", err)
	}
	for _, to := range []string{"/nine", "/daemon/virtio-fs"}[:min(2, shares)] {
		if _, err := service.CopyFile(t.Context(), &katapb.CopyFileRequest{
			Path: share.GuestDir + to, FileSize: 5, FileMode: 0o100644, DirMode: 0o755, Data: []byte("hello"),
		}); err != nil {
			t.Errorf("copy a file into the guest: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(shared, filepath.Base(to))); err != nil || string(b) != "hello" {
			t.Errorf("what the guest wrote through its device: %q, %v", b, err)
		}
	}
	if len(s.Plan().Machine.(*qemu.Plan).Config.NICs) > 0 {
		useNIC(t, service)
	}
	runContainer(t, service)
	// Without ACPI the guest takes 5 s to let a disk go, in case the operator changes his mind (PCI Express Base
	// Specification, 6.7.1.5, the attention button), and UnplugDisk waits no longer than that.
	if a.Name == "x86_64" {
		if err := s.UnplugDisk(t.Context(), disks[1]); err != nil {
			t.Errorf("unplug: %v", err)
		}
	}
	if _, err := service.DestroySandbox(t.Context(), &katapb.DestroySandboxRequest{}); err != nil {
		t.Errorf("end the sandbox: %v", err)
	}
}
