package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// These tests run in namespaces of their own, where they may mount and make interfaces.

// sharing are the options of a pod that shares files, of which the machine itself serves them.
func sharing(t *testing.T, h *machinetest.Hypervisor, a *agenttest.Agent) Options {
	t.Helper()
	o := options(t, h, a)
	o.Config.VM.SharedFS = config.Shared9P
	return o
}

// alone makes mounts of this test seen by nobody else.
func alone(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

// folder makes a folder with a file "name" in it.
func folder(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	file(t, filepath.Join(dir, name))
	return dir
}

// withFolder is a container whose root is a folder of its bundle.
func withFolder(t *testing.T, id string, mounts ...specs.Mount) Container {
	t.Helper()
	bundle := t.TempDir()
	if err := os.Mkdir(bundle+"/rootfs", 0o755); err != nil {
		t.Fatal(err)
	}
	file(t, bundle+"/rootfs/init")
	return Container{ID: id, Bundle: bundle, Spec: &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{}, Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}, Mounts: mounts}}
}

func TestFilesOfAContainerAreInTheSharedFolderWhileItIsThere(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	alone(t)
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{Features: []string{agentapi.ForeignLocksFeature}}
	o := sharing(t, h, a)
	forAll, volume := folder(t, "all"), folder(t, "data")
	o.Config.Runtime.SandboxBindMounts = []string{forAll, volume + ":rw"}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s := h.VMs()[0].Spec.Shares; len(s) != 1 || s[0].Path != p.share.Dir() || s[0].Tag != share.Tag {
		t.Errorf("the machine shares %+v", s)
	}
	seen := func(name string) bool {
		_, err := os.Stat(filepath.Join(p.share.Dir(), name))
		return err == nil
	}
	if !seen("sandbox-mounts/" + filepath.Base(forAll) + "/all") {
		t.Error("what is for all is not there")
	}
	v := specs.Mount{Destination: "/v", Type: "bind", Source: volume}
	c := withFolder(t, "c1", v, specs.Mount{Destination: "/r", Type: "bind", Source: volume, Options: []string{"ro"}})
	q, err := p.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if !seen("c1/rootfs/init") {
		t.Error("the root is not there")
	}
	wire := a.Request("c1").GetOCI()
	if wire.GetRoot().GetPath() != share.GuestPath("c1/rootfs") || len(wire.GetMounts()) != 2 {
		t.Fatalf("%+v", wire)
	}
	for _, m := range wire.GetMounts() {
		name := strings.TrimPrefix(m.GetSource(), share.GuestDir+"/")
		if !seen(name+"/data") || slices.Contains(m.GetOptions(), agentapi.ForeignLocks) {
			t.Errorf("mount %+v", m)
		}
	}

	// Another pod of the host has the volume too: its programs are refused their locks.
	b := &agenttest.Agent{Features: []string{agentapi.ForeignLocksFeature}}
	o2 := o
	o2.ID, o2.Hypervisor = "pod-2", &machinetest.Hypervisor{Guest: machinetest.WithAgent(b)}
	p2, err := Start(t.Context(), o2)
	if err != nil {
		t.Fatal(err)
	}
	q2, err := p2.Create(t.Context(), withFolder(t, "c2", v))
	if err != nil {
		t.Fatal(err)
	}
	if m := b.Request("c2").GetOCI().GetMounts()[0]; !slices.Contains(m.GetOptions(), agentapi.ForeignLocks) {
		t.Errorf("mount %+v", m)
	}
	// What is not there takes all of its container with it.
	bad := withFolder(t, "c3", v, specs.Mount{Destination: "/n", Type: "bind", Source: volume + "/none"})
	if _, err := p2.Create(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "mount at /n") {
		t.Error(err)
	}
	b.Fail("CreateContainer", errors.New("no"))
	if _, err := p2.Create(t.Context(), withFolder(t, "c4", v)); err == nil {
		t.Error("it is made")
	}
	if list, err := filepath.Glob(p2.share.Dir() + "/c[34]*"); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}

	if err := errors.Join(q.Close(), q2.Close(), p.Remove(t.Context(), "c1")); err != nil {
		t.Error(err)
	}
	if seen("c1/rootfs/init") {
		t.Error("the root stays")
	}
	if err := errors.Join(p.Stop(), p2.Stop()); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
	if _, err := os.Stat(filepath.Join(o.Dirs.Share, o.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// program is a virtiofsd that serves nothing, until a file is there.
func program(t *testing.T, until string) string {
	t.Helper()
	testenv.Require(t, testenv.Tool("sh"))
	path := filepath.Join(t.TempDir(), "virtiofsd")
	text := "#!/bin/sh\ncase $1 in\n--version) echo virtiofsd 1.0 ;;\n--help) echo --shared-dir ;;\n" +
		"*) until [ -e " + until + " ]; do sleep 0.02; done; echo the last words >&2; exit 3 ;;\nesac\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPodWhoseFilesAreGoneIsGivenUp(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	alone(t)
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	until := t.TempDir() + "/now"
	o.Config.VM.SharedFS, o.Config.VM.VirtioFSDaemon = config.SharedVirtioFS, program(t, until)
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.Create(t.Context(), withFolder(t, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	file(t, until)
	<-p.Sick()
	if err := p.Why(); err == nil || !strings.Contains(err.Error(), "the last words") {
		t.Errorf("why: %v", err)
	}
	if _, err := p.Exec(t.Context(), "c1", "e1", &specs.Process{}, agentlink.Streams{}); err == nil ||
		!strings.Contains(err.Error(), "files is gone") {
		t.Errorf("a process is added: %v", err)
	}
	if err := errors.Join(q.Close(), p.Stop()); err != nil {
		t.Error(err)
	}
	gone(t, o, h)

	// Nothing is left of a pod whose files nobody serves, either.
	o.Config.VM.VirtioFSDaemon = "/no/such/program"
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Error(err)
	}
	o.Config.VM.SharedFS, o.Config.Runtime.SandboxBindMounts = config.SharedNone, []string{"/x"}
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "sandbox_bind_mounts") {
		t.Error(err)
	}
	gone(t, o, h)
}

// networked are the options of a pod with a network namespace of its own. inside is its path once the hook has run,
// which does more then.
func networked(t *testing.T, h *machinetest.Hypervisor, a *agenttest.Agent, more func() error) (o Options,
	inside *string) {
	t.Helper()
	o, inside = options(t, h, a), new(string)
	o.Config.Runtime.InternetworkingModel = config.NetworkTC
	o.Hooks = func(_ context.Context, pid int) error {
		*inside = fmt.Sprintf("/proc/%d/ns/net", pid)
		return in(*inside, more)
	}
	return o, inside
}

func TestAPodHasANetworkNamespaceOfItsOwn(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return
	}
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{Features: []string{agentapi.ForwardFeature}}
	o, inside := networked(t, h, a, func() error { return nil })
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(a.Calls(), "UpdateRoutes") {
		t.Errorf("the guest knows no routes: %v", a.Calls())
	}
	stand, err := p.StandIn()
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink(*inside)
	if x, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", stand.TID)); errors.Join(err, err2) != nil || x != own {
		t.Errorf("what stands for a container is in %s, %v, %v", x, err, err2)
	}
	stand.End()
	if home, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || home == own {
		t.Errorf("it is this one: %v", err)
	}
	if c, err := p.dialLoopback(t.Context(), 80); err == nil {
		t.Errorf("%v answers, and nobody listens", c)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
	for says, change := range map[string]func(){
		"routes in the guest": func() { a.Fail("UpdateRoutes", errors.New("no")) },
		"the hook fails": func() {
			o.Hooks = func(context.Context, int) error { return errors.New("the hook fails") }
		},
		"/no/such/namespace": func() { o.Netns = "/no/such/namespace" },
	} {
		before := o
		change()
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		o = before
		a.Fail("UpdateRoutes", nil)
		gone(t, o, h)
	}
}

func TestAGuestGetsTheInterfacesOfItsPodAlsoLaterOnes(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o, inside := networked(t, h, a, func() error { return veth("eth0", "10.88.0.5/16") })
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if nics := h.VMs()[0].Spec.NICs; len(nics) != 1 || !slices.Contains(a.Calls(), "UpdateInterface") {
		t.Errorf("interfaces %+v, calls %v", nics, a.Calls())
	}
	if err := in(*inside, func() error { return veth("eth1", "10.99.0.5/16") }); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); len(h.VMs()[0].NICs()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the later interface does not reach the guest")
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestAGuestGetsADirectlyAttachableNetworkAlone(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap7"},
		Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		t.Fatal(err)
	}
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o, _ := networked(t, h, a, func() error { return veth("eth0", "10.88.0.5/16") })
	o.Config.Runtime.DANConf = t.TempDir()
	file := filepath.Join(o.Config.Runtime.DANConf, o.ID+".json")
	const text = `{"netns": null, "devices": [{"name": "eth7", "guest_mac": "02:00:00:00:00:07",
 "device": {"type": "host-tap", "tap_name": "tap7"},
 "network_info": {"interface": {"ip_addresses": ["192.0.2.7/24"], "mtu": 1450}, "routes": [{"gateway": "192.0.2.1"}],
 "neighbors": [{"ip_address": "192.0.2.1", "hardware_addr": "02:00:00:00:00:01"}]}}]}`
	for _, model := range []string{config.NetworkTC, config.NetworkNone} {
		o.Config.Runtime.InternetworkingModel = model
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		vms := h.VMs()
		nics := vms[len(vms)-1].Spec.NICs
		if len(nics) != 1 || nics[0].MAC != "02:00:00:00:00:07" || nics[0].MTU != 1450 || nics[0].Tap == nil {
			t.Errorf("interfaces %+v", nics)
		}
		for _, call := range []string{"UpdateInterface", "UpdateRoutes", "AddARPNeighbors"} {
			if !slices.Contains(a.Calls(), call) {
				t.Errorf("%s: no %s in %v", model, call, a.Calls())
			}
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		gone(t, o, h)
		if _, err := netlink.LinkByName("tap7"); err != nil {
			t.Error(err)
		}
	}
	for says, text := range map[string]string{
		"directly attachable network: " + file: `{"devices": 1}`,
		"tap8: Link not found":                 strings.Replace(text, `"tap7"`, `"tap8"`, 1),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		gone(t, o, h)
	}
}

// in runs f in a network namespace.
func in(path string, f func() error) error {
	stand, err := thread.Stand(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd), f())
	})
	if err == nil {
		stand.End()
	}
	return err
}

// veth makes an interface as a CNI plug-in does.
func veth(name, address string) error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
}
