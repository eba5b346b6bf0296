package pod

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// These tests run a pod's whole life in machinetest's machines, with an agent that keeps containers in memory.

// options are those of a pod without shared folders and network, in a machine with some places.
func options(t *testing.T, h *machinetest.Hypervisor, a *agenttest.Agent) Options {
	t.Helper()
	dir := t.TempDir()
	if err := documenttest.WriteGuest(dir + "/guest"); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.VM.Guest, c.VM.SharedFS, c.VM.PCIeRootPorts = dir+"/guest", config.SharedNone, 4
	c.VM.Acceleration = accel.OnlyTCG
	c.VM.DefaultMaxMemoryMiB, c.VM.MemorySlots = 4096, 2
	c.Runtime.InternetworkingModel = config.NetworkNone
	h.Guest = machinetest.WithAgent(a)
	return Options{ID: "pod-1", Config: &c, Hypervisor: h, Log: slog.New(slog.DiscardHandler),
		Dirs: record.Dirs{State: dir + "/state", Share: dir + "/share"}}
}

// started is a pod on a machine of pipes, with what it was started by.
func started(t *testing.T) (*Pod, Options, *machinetest.Hypervisor, *agenttest.Agent) {
	t.Helper()
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p, o, h, a
}

// withDisk is a container whose root is a disk, which is a file.
func withDisk(t *testing.T, id string) Container {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return Container{ID: id, Bundle: filepath.Dir(file),
		Rootfs: []share.Mount{{Type: "ext4", Source: file, Options: []string{"loop"}}},
		Spec: &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "rootfs"}, Linux: &specs.Linux{},
			Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}}}
}

// gone says what of a pod is left on the host.
func gone(t *testing.T, o Options, h *machinetest.Hypervisor) {
	t.Helper()
	if ids, err := record.List(o.Dirs); err != nil || len(ids) > 0 {
		t.Errorf("left over: %v, %v", ids, err)
	}
	for _, vm := range h.VMs() {
		select {
		case <-vm.Done():
		case <-time.After(5 * time.Second):
			t.Error("a machine goes on")
		}
	}
}

func TestAPodLivesWithItsContainers(t *testing.T) {
	p, o, h, a := started(t)
	r, err := record.Read(o.Dirs, o.ID)
	if err != nil || r.State != record.Running || r.Verdict == nil || r.Verdict.Result != verdict.Attested {
		t.Fatalf("record %+v, %v", r, err)
	}
	isFile := func(c verdict.Claim) bool { return c.Name == "file System.map" }
	if !slices.ContainsFunc(r.Verdict.Claims, isFile) {
		t.Errorf("a pod's verdict has no claims about files: %v", r.Verdict.Claims)
	}
	c := withDisk(t, "c1")
	c.Streams = agentlink.Streams{Stdin: true, Stdout: true, Stderr: true}
	q, err := p.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Error("the same container twice:", err)
	}
	vm := h.VMs()[0]
	if d := vm.Disks(); len(d) != 1 || d[0].Path != c.Rootfs[0].Source {
		t.Errorf("disks %+v", d)
	}
	if err := p.Start(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	e, err := p.Exec(t.Context(), "c1", "e1", &specs.Process{Args: []string{"sh"}, Cwd: "/"},
		agentlink.Streams{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := q.Stdin.Write([]byte("hello")); n != 5 || err != nil {
		t.Errorf("input: %d, %v", n, err)
	}
	if p.PID() != os.Getpid() {
		t.Error("the pod is nobody")
	}
	stand, err := p.StandIn()
	if err != nil || stand.TID == 0 {
		t.Errorf("no thread stands for a container: %v", err)
	} else {
		stand.End()
	}
	if err := errors.Join(e.Resize(t.Context(), 24, 80), e.Signal(t.Context(), 9, false), q.CloseStdin(),
		a.Exit("c1", "", 3)); err != nil {
		t.Error(err)
	}
	for want, q := range map[int]*agentlink.Process{137: e, 3: q} {
		if code, err := q.Wait(t.Context()); code != want || err != nil {
			t.Errorf("code %d, %v; want %d", code, err, want)
		}
		if n, err := q.Stdout.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("output %d, %v", n, err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(p.Remove(t.Context(), "c1"), p.Remove(t.Context(), "c1")); err != nil {
		t.Error(err)
	}
	if len(vm.Disks()) > 0 || len(a.Containers()) > 0 {
		t.Errorf("disks %v, containers %v stay", vm.Disks(), a.Containers())
	}
	if p.Why() != nil {
		t.Error(p.Why())
	}
	if err := errors.Join(p.Stop(), p.Stop()); err != nil {
		t.Error(err)
	}
	if calls := a.Calls(); !slices.Contains(calls, "DestroySandbox") {
		t.Errorf("the guest was not told to end: %v", calls)
	}
	gone(t, o, h)
}

func TestAContainerThatCannotBeMadeLeavesNothing(t *testing.T) {
	no := errors.New("no")
	for name, tc := range map[string]struct {
		call   string
		change func(*Container)
		says   string
	}{
		"the agent refuses it":            {"CreateContainer", nil, "create the container in the guest"},
		"an id that is none":              {"", func(c *Container) { c.ID = "../x" }, "../x"},
		"processes that cannot be shared": {"", func(c *Container) { c.PIDOf = "c0" }, "the guest's agent cannot do"},
		"a root that is a folder": {"", func(c *Container) { c.Rootfs = []share.Mount{{Type: "bind", Source: "/"}} },
			"shared_fs is none"},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
			o := options(t, h, a)
			p, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if tc.call != "" {
				a.Fail(tc.call, no)
			}
			c := withDisk(t, "c1")
			if tc.change != nil {
				tc.change(&c)
			}
			if q, err := p.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%+v, %v; want %q", q, err, tc.says)
			}
			if d := h.VMs()[0].Disks(); len(d) > 0 || len(a.Containers()) > 0 || len(p.containers) > 0 ||
				len(p.growth.sizes) > 0 {
				t.Errorf("left: disks %v, containers %v", d, a.Containers())
			}
			if r, err := record.Read(o.Dirs, o.ID); err != nil || len(r.Containers) > 0 {
				t.Errorf("record: %v, %v", r.Containers, err)
			}
			// What failed once may succeed.
			a.Fail("CreateContainer", nil)
			if q, err := p.Create(t.Context(), withDisk(t, "c1")); err != nil {
				t.Error(err)
			} else if err := q.Close(); err != nil {
				t.Error(err)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			gone(t, o, h)
		})
	}
}

func TestAttestationDoesWhatTheConfigurationSays(t *testing.T) {
	other := func(r *report.Report) { r.Agent.Go = "go1.0" }
	for name, tc := range map[string]struct {
		mode   config.Attestation
		report func(*report.Report)
		fail   error
		starts bool
		result string // in the record
	}{
		"enforce, and it is the guest":    {config.Enforce, nil, nil, true, verdict.Attested},
		"enforce, and it is another":      {config.Enforce, other, nil, false, ""},
		"enforce, and it does not answer": {config.Enforce, nil, errors.New("mute"), false, ""},
		"warn, and it is another":         {config.Warn, other, nil, true, verdict.Failed},
		"warn, and it does not answer":    {config.Warn, nil, errors.New("mute"), true, ""},
		"off, and it is another":          {config.Off, other, nil, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, a := &machinetest.Hypervisor{}, &agenttest.Agent{Report: tc.report}
			a.Fail("Report", tc.fail)
			o := options(t, h, a)
			o.Config.Runtime.Attestation = tc.mode
			p, err := Start(t.Context(), o)
			if (err == nil) != tc.starts {
				t.Fatal(err)
			}
			if !tc.starts {
				if m, is := errors.AsType[*mismatchError](err); is != (tc.report != nil) {
					t.Errorf("%v, %+v", err, m)
				}
				gone(t, o, h)
				return
			}
			r, err := record.Read(o.Dirs, o.ID)
			if err != nil || (r.Verdict == nil) != (tc.result == "") ||
				r.Verdict != nil && r.Verdict.Result != tc.result {
				t.Errorf("record %+v, %v", r.Verdict, err)
			}
			if asked := slices.Contains(a.Calls(), "Report"); asked != (tc.mode != config.Off) {
				t.Errorf("asked: %v", asked)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			gone(t, o, h)
		})
	}
}

func TestAPodThatDoesNotComeUpLeavesNothing(t *testing.T) {
	for call, says := range map[string]string{"GetGuestDetails": "details of the guest",
		"CreateSandbox": "make the sandbox in the guest"} {
		t.Run(call, func(t *testing.T) {
			h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
			o := options(t, h, a)
			a.Fail(call, errors.New("no"))
			if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want %q", err, says)
			}
			gone(t, o, h)
		})
	}
	h, a := &machinetest.Hypervisor{StartError: errors.New("no such program")}, &agenttest.Agent{}
	o := options(t, h, a)
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestTheGuestLoadsWhatTheConfigurationSays(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Config.Agent.KernelModules = []string{`hello whom="a pod" n=1`, "nfs-v4"}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range a.Sandbox().GetKernelModules() {
		got = append(got, fmt.Sprintf("%s %q", m.GetName(), m.GetParameters()))
	}
	if want := []string{"hello [\"whom=\\\"a pod\\\"\" \"n=1\"]", "nfs-v4 []"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestTheMachineGrowsWithItsContainersWhereItCan(t *testing.T) {
	limit := int64(512 << 20)
	resources := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	for name, fixed := range map[string]bool{"a machine that grows": false, "one that cannot": true} {
		t.Run(name, func(t *testing.T) {
			h, a := &machinetest.Hypervisor{Fixed: fixed}, &agenttest.Agent{}
			o := options(t, h, a)
			p, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			before := p.vm.Size()
			if err := p.resize(t.Context(), "c1", SizeOf(resources)); err != nil {
				t.Error("a machine that stays as it is is no error:", err)
			}
			if err := p.Update(t.Context(), "c1", resources); err != nil {
				t.Error(err)
			}
			now := p.vm.Size()
			if grew := now.MemoryMiB == before.MemoryMiB+512; grew == fixed || fixed && now != before {
				t.Errorf("from %+v to %+v", before, now)
			}
			if told := slices.Contains(a.Calls(), "OnlineCPUMem"); told == fixed {
				t.Errorf("the guest was told: %v", told)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			gone(t, o, h)
		})
	}
}

func TestAGuestThatEndsIsToldAsTheCause(t *testing.T) {
	p, o, h, _ := started(t)
	q, err := p.Create(t.Context(), withDisk(t, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.VMs()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, err := q.Wait(t.Context()); err == nil {
		t.Error("a process of a guest that has ended goes on")
	}
	if p.Why() == nil {
		t.Error("nobody knows why")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestAGuestThatIsGivenUpIsToldWithTheReasonForThat(t *testing.T) {
	p, o, h, _ := started(t)
	if err := p.betterReason(ErrStuck); err != nil {
		t.Errorf("a guest that is well: %v", err)
	}
	p.GiveUp(ErrStuck)
	<-p.Sick()
	if err := h.VMs()[0].Stop(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	// QEMU's end follows from that, and so does the end of its connections.
	if err := p.betterReason(&net.OpError{Op: "dial", Err: os.ErrClosed}); !errors.Is(err, ErrStuck) {
		t.Errorf("the reason is %v", err)
	}
	if _, err := p.Exec(t.Context(), "c1", "e1", &specs.Process{}, agentlink.Streams{}); !errors.Is(err, ErrStuck) {
		t.Errorf("the reason is %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestVolumesOfAPodThatSharesNothingAreCopied(t *testing.T) {
	p, o, h, a := started(t)
	dir := t.TempDir()
	big := strings.Repeat("x", copyChunk+1)
	if err := errors.Join(os.Mkdir(dir+"/folder", 0o755),
		os.WriteFile(dir+"/folder/big", []byte(big), 0o644), os.Symlink("big", dir+"/folder/link"),
		os.WriteFile(dir+"/file", []byte("text"), 0o600), unix.Mkfifo(dir+"/folder/pipe", 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		source string
		copied map[string]string
	}{
		"a file":   {dir + "/file", map[string]string{"": "text"}},
		"a folder": {dir + "/folder", map[string]string{"": "", "/big": big, "/link": "big"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := withDisk(t, "c-"+filepath.Base(tc.source))
			c.Spec.Mounts = []specs.Mount{{Destination: "/v", Type: "bind", Source: tc.source}}
			q, err := p.Create(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			mounts := a.Request(c.ID).GetOCI().GetMounts()
			if len(mounts) != 1 || !strings.HasPrefix(mounts[0].GetSource(), share.GuestPath("copied-")) {
				t.Fatalf("mounts %+v", mounts)
			}
			copied := a.Copied()
			for path, want := range tc.copied {
				if got, there := copied[mounts[0].GetSource()+path]; !there || got != want {
					t.Errorf("%s has %d bytes in the guest, want %d", path, len(got), len(want))
				}
			}
			if _, there := copied[mounts[0].GetSource()+"/pipe"]; there {
				t.Error("a pipe was copied")
			}
			if err := p.Remove(t.Context(), c.ID); err != nil {
				t.Error(err)
			}
		})
	}
	a.Fail("CopyFile", errors.New("no room"))
	c := withDisk(t, "c1")
	c.Spec.Mounts = []specs.Mount{{Destination: "/f", Type: "bind", Source: dir + "/file"}}
	if _, err := p.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "mount at /f: copy") {
		t.Errorf("a volume that cannot be copied: %v", err)
	}
	if d := h.VMs()[0].Disks(); len(d) > 0 {
		t.Errorf("disks stay: %v", d)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

// layers are a root of n layers and a disk to write to, as containerd's erofs snapshotter gives them.
func layers(t *testing.T, n int) []share.Mount {
	t.Helper()
	dir := t.TempDir()
	image := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := []share.Mount{{Type: "ext4", Source: image("rw"), Options: []string{"rw", "loop"}}}
	for i := range n {
		list = append(list, share.Mount{Type: "erofs", Source: image(fmt.Sprint("layer", i)),
			Options: []string{"ro", "loop"}})
	}
	return append(list, share.Mount{Type: "format/overlay", Source: "overlay", Options: []string{
		"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", fmt.Sprintf("lowerdir={{ overlay 1 %d }}", n)}})
}

func TestLayersTakeAsManyPlacesAsThereAre(t *testing.T) {
	for name, tc := range map[string]struct {
		places int
		disks  int // 0 is an error
	}{"one each": {4, 4}, "two": {2, 2}, "too few": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
			o := options(t, h, a)
			o.Config.VM.PCIeRootPorts = tc.places
			p, err := Start(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			c := withDisk(t, "c1")
			c.Rootfs = layers(t, 3)
			q, err := p.Create(t.Context(), c)
			if tc.disks == 0 {
				if err == nil || !strings.Contains(err.Error(), "pcie_root_port") {
					t.Errorf("%v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if err := q.Close(); err != nil {
				t.Error(err)
			}
			disks := h.VMs()[0].Disks()
			if len(disks) != tc.disks {
				t.Errorf("disks %+v", disks)
			}
			packed := slices.ContainsFunc(disks, func(d machine.Disk) bool { return len(d.Parts) == 3+2 })
			if packed != (tc.disks == 2) {
				t.Errorf("disks %+v", disks)
			}
			if s := a.Request("c1").GetStorages(); tc.disks > 0 && len(s) != 4 {
				t.Errorf("storages %v", s)
			}
			if tc.disks == 2 { // another container of the image has the same
				d := withDisk(t, "c2")
				d.Rootfs = c.Rootfs
				if q, err := p.Create(t.Context(), d); err != nil {
					t.Error(err)
				} else if err := q.Close(); err != nil {
					t.Error(err)
				}
				if n := len(h.VMs()[0].Disks()); n != 2 {
					t.Errorf("%d disks for two containers of one image", n)
				}
				if err := p.Remove(t.Context(), "c2"); err != nil {
					t.Error(err)
				}
			}
			if err := p.Remove(t.Context(), "c1"); err != nil {
				t.Error(err)
			}
			if d := h.VMs()[0].Disks(); len(d) > 0 {
				t.Errorf("disks stay: %v", d)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			gone(t, o, h)
		})
	}
}

func TestDisksOfAContainerGoWithIt(t *testing.T) {
	p, o, h, _ := started(t)
	if d := p.endTime(); d != endTime {
		t.Errorf("a guest that writes to nothing has %v", d)
	}
	root := translate.Root{Path: "/r", Disks: []translate.Disk{{File: file(t, t.TempDir()+"/root")}}}
	disk := translate.Disk{What: "device /dev/x", File: file(t, t.TempDir()+"/disk"), Exclusive: true}
	have := &container{id: "c1"}
	_, err := p.rootBy(t.Context(), have, root)
	plan := &translate.Plan{Notes: []translate.Note{{Text: "note"}}}
	if err := errors.Join(err, p.disk(t.Context(), have, plan, disk)); err != nil {
		t.Fatal(err)
	}
	if n := len(h.VMs()[0].Disks()); n != 2 {
		t.Errorf("%d disks", n)
	}
	if d := p.endTime(); d <= endTime {
		t.Errorf("a guest that writes to a disk has %v", d)
	}
	disk.File += "x"
	if err := p.disk(t.Context(), have, plan, disk); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a disk that is not there: %v", err)
	}
	if err := p.unplug(t.Context(), have, 0); err != nil || len(h.VMs()[0].Disks()) > 0 {
		t.Errorf("%v, %v", h.VMs()[0].Disks(), err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestWhatIsAskedOfAContainerReachesTheAgent(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Shm, o.Config.Agent.Policy = 4096, "cGFja2FnZSBhZ2VudF9wb2xpY3k="
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.Create(t.Context(), withDisk(t, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Stats(t.Context(), "c1")
	if err := errors.Join(err, p.Pause(t.Context(), "c1"), p.Resume(t.Context(), "c1")); err != nil {
		t.Error(err)
	}
	a.Starve("c1")
	if id, err := p.OOM(t.Context()); id != "c1" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
	for _, call := range []string{"SetPolicy", "PauseContainer", "ResumeContainer", "StatsContainer"} {
		if !slices.Contains(a.Calls(), call) {
			t.Errorf("no %s: %v", call, a.Calls())
		}
	}
	a.Fail("StartContainer", errors.New("no"))
	a.Fail("ExecProcess", errors.New("no"))
	a.Fail("UpdateContainer", errors.New("no"))
	if err := p.Start(t.Context(), "c1"); err == nil || !strings.Contains(err.Error(), "start the container") {
		t.Error(err)
	}
	if _, err := p.Exec(t.Context(), "c1", "e", &specs.Process{}, agentlink.Streams{}); err == nil ||
		!strings.Contains(err.Error(), "run a process") {
		t.Error(err)
	}
	if err := p.Update(t.Context(), "c1", &specs.LinuxResources{}); err == nil {
		t.Error("it is updated")
	}
	// A container that the agent cannot take away is told, and gone for the host all the same.
	a.Fail("RemoveContainer", errors.New("no"))
	if err := p.Remove(t.Context(), "c1"); err == nil || !strings.Contains(err.Error(), "remove the container") {
		t.Error(err)
	}
	select {
	case <-p.Stopping():
		t.Error("it stops by itself")
	default:
	}
	if err := errors.Join(q.Close(), p.Stop()); err != nil {
		t.Error(err)
	}
	<-p.Stopping()
	gone(t, o, h)
}

func TestWordsOfAGuestAreForTheLog(t *testing.T) {
	var b strings.Builder
	c := consoleLog{log: slog.New(slog.NewTextHandler(&b, nil)), now: time.Now}
	fmt.Fprintf(&c, "one\r\n\ntw")
	fmt.Fprintf(&c, "o\n%s", strings.Repeat("x", maxConsoleLine+1))
	for _, want := range []string{"line=one\n", "line=two\n", "line=" + strings.Repeat("x", maxConsoleLine) + "\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %s", want, b.String())
		}
	}
	err := fmt.Errorf("wrapped: %w", &sandbox.StageError{Cause: errors.New("why"),
		Console: []string{"0", "1", "2", "3"}})
	if e := explain(err); !errors.Is(e, err) || !strings.HasSuffix(e.Error(), "last words: 1 | 2 | 3") {
		t.Error(e)
	}
	if e := explain(ErrStuck); e != ErrStuck {
		t.Error(e)
	}
	no := &mismatchError{&verdict.Verdict{Guest: "g", Claims: []verdict.Claim{{Name: "a", Met: true}, {Name: "init",
		Want: "x", Got: "y"}}}}
	if s := no.Error(); !strings.Contains(s, `init is "y", the manifest says "x"`) || strings.Contains(s, "a is") {
		t.Error(s)
	}
}

func TestAConsoleWithoutEndDoesNotFillTheLog(t *testing.T) {
	var b strings.Builder
	now := time.Unix(1, 0)
	c := consoleLog{log: slog.New(slog.NewTextHandler(&b, nil)), now: func() time.Time { return now }}
	line := strings.Repeat("\x1b", 1023) + "\n"
	const lines = 16 << 10 // 16 MiB
	for range lines {
		_, _ = io.WriteString(&c, line)
	}
	if n := strings.Count(b.String(), "msg=console"); n != consoleBurst/1023 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("%d lines", n)
	}
	b.Reset()
	now = now.Add(time.Second)
	_, _ = io.WriteString(&c, "still here\n")
	lost := fmt.Sprintf(`"bytes left out"=%d`, (lines-consoleBurst/1023)*1023)
	if s := b.String(); !strings.Contains(s, lost) || !strings.Contains(s, `line="still here"`) {
		t.Errorf("%s; want %s", s, lost)
	}
}

func TestAPodHasNoNamespaceWhereTheConfigurationWantsNone(t *testing.T) {
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	o.Config.Runtime.DisableNewNetns = true
	var log strings.Builder
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p.netns != nil || p.stand != nil || strings.Contains(log.String(), "may not make one") {
		t.Errorf("a namespace %v; %s", p.netns, log.String())
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}
