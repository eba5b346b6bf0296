package arch_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/share"
)

// deviceTime bounds what a guest does with one device.
const deviceTime = 30 * time.Second

// virtioFS serves a folder by virtiofsd; nil where that cannot run.
func virtioFS(t *testing.T, a arch.Arch, dir string) *machine.Share {
	t.Helper()
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 || sandbox.ServesFiles(host, a) != nil {
		return nil
	}
	socket := filepath.Join(t.TempDir(), "fs.sock")
	program, err := share.FindProgram(t.Context())
	if err != nil {
		t.Logf("no virtio-fs: %v", err)
		return nil
	}
	d, err := share.StartDaemon(share.DaemonConfig{Program: program, Dir: dir, Socket: socket})
	if err != nil {
		t.Logf("no virtio-fs: %v", err)
		return nil
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deviceTime)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return &machine.Share{Tag: "virtiofs", Socket: socket}
}

// mac is that of the guest's interface.
const mac = "52:54:00:12:34:56"

// tap is an interface for a guest, in a network namespace of its own, whose other end nobody is at; none where that
// cannot be made.
func tap(t *testing.T) []machine.NIC {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	type made struct {
		fd  int
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread with the namespace ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: err}
			return
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			var r *unix.Ifreq
			if r, err = unix.NewIfreq("tap0"); err == nil {
				r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
				err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
			}
		}
		done <- made{fd, err}
	}()
	m := <-done
	if m.err != nil {
		t.Logf("no interface: %v", m.err)
		return nil
	}
	f := os.NewFile(uintptr(m.fd), "tap0")
	t.Cleanup(func() { f.Close() })
	return []machine.NIC{{MAC: mac, Tap: f, MTU: 1400}}
}

// useNIC has the agent name and address the guest's interface.
func useNIC(t *testing.T, service katapb.AgentServiceService) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deviceTime)
	defer cancel()
	if _, err := service.UpdateInterface(ctx, &katapb.UpdateInterfaceRequest{Interface: &katapb.Interface{
		Name: "eth7", Device: "eth7", HwAddr: mac, Mtu: 1400,
		IPAddresses: []*katapb.IPAddress{{Family: katapb.IPFamily_v4, Address: "192.0.2.7", Mask: "24"}},
	}}); err != nil {
		t.Errorf("set up the interface: %v", err)
	}
	list, err := service.ListInterfaces(ctx, &katapb.ListInterfacesRequest{})
	if err != nil || !slices.ContainsFunc(list.GetInterfaces(), func(i *katapb.Interface) bool {
		return i.GetName() == "eth7" && i.GetHwAddr() == mac && i.GetMtu() == 1400 && len(i.GetIPAddresses()) > 0
	}) {
		t.Errorf("the guest has %v, %v", list, err)
	}
}

// agentOf is the agent's service, on a connection of its own.
func agentOf(t *testing.T, s *sandbox.Sandbox) katapb.AgentServiceService {
	t.Helper()
	c, err := s.Dial(t.Context(), agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() { client.Close() })
	return katapb.NewAgentServiceClient(client)
}

// plug plugs two disks in. There are none where the machine has no places.
func plug(t *testing.T, s *sandbox.Sandbox, a arch.Arch) (list []*machine.Plugged) {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	out, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	files, err := tree.FromDir(t.TempDir(), tree.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.Write(t.Context(), out, files, erofs.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d, err := s.PlugDisk(t.Context(), machine.Disk{Path: disk, ReadOnly: true})
		if !qemu.Has(a.Name, qemu.Machine(s.Plan().Machine.Kind())).RootPorts {
			if !errors.Is(err, machine.ErrNoPlace) {
				t.Errorf("a machine without ports: %v", err)
			}
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}
