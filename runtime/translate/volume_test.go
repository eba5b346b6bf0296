package translate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestReadOnlyIsAboutTheTopAndRroAboutAll(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	dir := t.TempDir()
	plain, mounted, file := dir+"/plain", dir+"/plain-and-more", dir+"/file"
	for _, d := range []string{plain, mounted + "/sub"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(mounted, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		source, options string
		access          share.Access
		alone           bool
	}{
		{plain, "rbind rw", share.Writable, false}, {plain, "rbind ro", share.ReadOnly, false},
		{plain, "rbind ro rro", share.ReadOnlyAll, false},
		{mounted, "ro", share.ReadOnly, true}, {dir + "/link", "ro", share.ReadOnly, true},
		{mounted, "rro", share.ReadOnlyAll, false}, {mounted, "", share.Writable, false},
		{mounted, "rro ro", share.ReadOnlyAll, false}, {file, "ro", share.ReadOnly, false},
	} {
		f, err := ThisHost{}.Stat(c.source)
		if err != nil {
			t.Fatal(err)
		}
		access, alone, err := accessOf(ThisHost{}, specs.Mount{Source: c.source,
			Options: strings.Fields(c.options)}, f)
		if access != c.access || alone != c.alone || err != nil {
			t.Errorf("%s %q: %v %v %v", filepath.Base(c.source), c.options, access, alone, err)
		}
	}
	if err := unix.Unmount(mounted+"/sub", 0); err != nil {
		t.Error(err)
	}
}

func TestDevicesOfTheGuestAreMountedByName(t *testing.T) {
	f, err := ThisHost{}.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	m := specs.Mount{Destination: "/etc/motd", Type: "bind", Source: "/somewhere/else", Options: []string{"rbind",
		"ro"}}
	if got := ownDevice(ThisHost{Root: root}, m, f); got != nil {
		t.Error("a device without a name:", got)
	}
	uevent := filepath.Join(root, "sys/dev/char/1:3/uevent")
	for text, want := range map[string]string{"MAJOR=1\nMINOR=3\nDEVNAME=null\nDEVMODE=0666\n": "/dev/null",
		"DEVNAME=net/tun\n": "/dev/net/tun", "DEVNAME=../x\n": "", "MAJOR=1\n": ""} {
		if err := os.MkdirAll(filepath.Dir(uevent), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(uevent, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got := ownDevice(ThisHost{Root: root}, m, f)
		switch {
		case got == nil && want == "":
		case got == nil || got.Source != want || got.Destination != m.Destination || !slices.Equal(got.Options,
			[]string{"rbind", "ro", agentapi.GuestDevice}):
			t.Errorf("%q: %+v, want %s", text, got, want)
		}
	}
}

func TestWhoMayUseEveryDeviceMayUseTheGuests(t *testing.T) {
	one := int64(1)
	all := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	for what, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  int
	}{
		"nothing": {}, "all": {[]specs.LinuxDeviceCgroup{{Access: "rwm"}, all}, 1},
		"none":    {[]specs.LinuxDeviceCgroup{all, {Access: "rwm"}}, 0},
		"one":     {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &one, Minor: &one, Access: "rwm"}}, 0},
		"to read": {[]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "r"}}, 0},
	} {
		s := guestSpec(&specs.Spec{Root: &specs.Root{}, Process: &specs.Process{},
			Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: c.rules}}}, true)
		if got := s.Linux.Resources.Devices; len(got) != c.want || c.want == 1 &&
			(!got[0].Allow || got[0].Type != "a") {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestVolumesOfTheKubelet(t *testing.T) {
	for path, want := range map[string]string{
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/cfg": "kubernetes.io~configmap",
		"/x/pods/u/volumes/kubernetes.io~empty-dir/tmp/":              "kubernetes.io~empty-dir",
		"/x/pods/u/volumes/kubernetes.io~configmap":                   "",
		"/srv/data": "",
		"/":         "",
	} {
		if got := plugin(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for in, want := range map[string]string{"ro rprivate": "rbind ro rprivate", "rbind rslave rw": "rbind rslave rw",
		"rbind rshared": "rbind rslave", "bind shared": "bind slave", "bind": "bind", "": "rbind"} {
		if got := strings.Join(guestOptions(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestACopyHasANameOfItsSource(t *testing.T) {
	if a, b := copyName("/var/a/hosts"), copyName("/var/b/hosts"); a == b || a != copyName("/var//a/hosts") ||
		!strings.HasSuffix(a, "-hosts") || strings.Contains(a, "/") {
		t.Error(a, b)
	}
	if n := copyName("/"); !filepath.IsLocal(n) {
		t.Error(n)
	}
}

func TestAVolumeIsAssignedDirectly(t *testing.T) {
	h := someHost()
	path, second := kubelet+"kubernetes.io~csi/pv/mount", "/mnt/second"
	h.volumes = map[string]*directvolume.Info{
		path: {Type: directvolume.Block, Device: "/dev/sda", FSType: "ext4", Options: []string{"noatime"},
			Metadata: map[string]string{"fsGroup": "3000", "fsGroupChangePolicy": "OnRootMismatch"}},
		second:  {Type: directvolume.Block, Device: "/a", FSType: "erofs", Options: []string{"ro"}},
		"/vfio": {Type: directvolume.VFIO, Device: "/dev/sda"}, "/spdk": {Type: directvolume.SPDK, Device: "/s"},
		"/odd": {Type: "odd", Device: "/o"},
	}
	mount := func(source, at string, options ...string) specs.Mount {
		return specs.Mount{Source: source, Destination: at, Type: "bind", Options: append(options, "rbind")}
	}
	for _, pod := range []Pod{{Shared: true}, {Shared: true, GuestDevices: true}} {
		p, err := Translate(pod, h, asked(mount(path, "/data"), mount(second, "/more", "ro"),
			mount(path, "/again", "ro")))
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Disks) != 2 || len(p.Storages) != 2 || len(p.Binds) > 0 || len(p.Copies) > 0 {
			t.Fatalf("got\n%s", sketchOf(p))
		}
		// The root's disk comes before those of volumes; each finds its own storage.
		p.Rooted(Root{Path: "/root", storages: []*katapb.Storage{{MountPoint: "/root"}}}, []string{"01/00"})
		for i, d := range p.Disks {
			p.Plugged(d, []string{"02/00", "/dev/vdc"}[i])
		}
		first, other := p.Storages[1], p.Storages[2]
		want := &katapb.Storage{Driver: "blk", Source: "02/00", Fstype: "ext4", MountPoint: DirectVolumePath(path),
			Options: []string{"noatime"}, FsGroup: &katapb.FSGroup{GroupId: 3000,
				GroupChangePolicy: katapb.FSGroupChangePolicy_OnRootMismatch}}
		if !proto.Equal(first, want) || other.Driver != "mmioblk" || other.Source != "/dev/vdc" ||
			other.FsGroup != nil {
			t.Errorf("got %v and %v", first, other)
		}
		if d := p.Disks[0]; d.File != "/dev/sda" || d.ReadOnly || !d.Exclusive || d.Volume != path {
			t.Errorf("got %+v", d)
		}
		if d := p.Disks[1]; d.File != "/a" || !d.ReadOnly || d.Exclusive || d.Volume != second {
			t.Errorf("got %+v", d)
		}
		for i, at := range []string{DirectVolumePath(path), DirectVolumePath(second), DirectVolumePath(path)} {
			if m := p.Spec.Mounts[i]; m.Source != at || m.Type != "bind" {
				t.Errorf("got %+v", m)
			}
		}
	}
	for source, want := range map[string]string{"/vfio": "the type vfio-blk: disks are not passed through",
		"/spdk": "the type spdkvol: the runtime speaks to no SPDK", "/odd": `the type "odd"`} {
		if _, err := Translate(Pod{Shared: true}, h, asked(mount(source, "/data"))); err == nil ||
			!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "mount at /data") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// TestAWatchedVolumeFindsItsStorage: the storages of a root come before those of volumes.
func TestAWatchedVolumeFindsItsStorage(t *testing.T) {
	words := kubelet + "kubernetes.io~configmap/words"
	p, err := Translate(Pod{Shared: true}, someHost(), asked(specs.Mount{Source: words, Destination: "/words",
		Type: "bind"}))
	if err != nil {
		t.Fatal(err)
	}
	root := &katapb.Storage{MountPoint: "/root"}
	p.Rooted(Root{Path: "/root", storages: []*katapb.Storage{root}}, []string{"01/00"})
	p.Bound(p.Binds[0], "name", false)
	if root.Source != "01/00" || p.Storages[1].Source != share.GuestPath("name") ||
		!strings.HasSuffix(p.Storages[1].MountPoint, "/watchable/name") {
		t.Errorf("got %v", p.Storages)
	}
}
