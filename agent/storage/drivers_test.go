package storage

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

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/agent/storage/program"
	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestTheHostIsToldOfEveryDriver(t *testing.T) {
	m := New(Config{Run: t.TempDir()})
	if got, want := strings.Join(m.Handlers(), " "), "9p bind blk blk-ccw ephemeral local mmioblk nvdimm overlayfs "+
		"scsi virtio-fs watchable-bind"; got != want {
		t.Errorf("storages: %s\nwant      %s", got, want)
	}
	const devices = "blk blk-ccw mmioblk nvdimm scsi vfio-pci vfio-pci-gk"
	if got, want := strings.Join(m.DeviceHandlers(), " "), devices; got != want {
		t.Errorf("devices: %s\nwant     %s", got, want)
	}
}

func TestSharedFileSystemsAreMountedByTheirTag(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	add := func(s *katapb.Storage) error {
		s.MountPoint = run + "/shared/containers"
		return m.Add(t.Context(), "sandbox", []*katapb.Storage{s})
	}
	for name, s := range map[string]*katapb.Storage{
		"no source": {Driver: "virtio-fs", Fstype: "virtiofs"}, "no type": {Driver: "9p", Source: "kataShared"},
		"another type":        {Driver: "virtio-fs", Source: "kataShared", Fstype: "9p"},
		"a type that is none": {Driver: "virtio-fs", Source: "kataShared", Fstype: "nosuchfs"},
		"the guest's root, by its options": {Driver: "virtio-fs", Source: "kataShared", Fstype: "overlay",
			Options: []string{"lowerdir=/:/run"}},
		"the guest's root, by bind": {Driver: "virtio-fs", Source: "/", Fstype: "virtiofs", Options: []string{"bind"}},
	} {
		if err := add(s); err == nil || len(mounts(t, run)) != 0 {
			t.Errorf("%s: %v, mounted %v", name, err, mounts(t, run))
		}
	}
	// There is no device here to share by, so that another type stands for the right one.
	at, err := place.In(m.c.Below, run+"/shared/containers")
	if err != nil {
		t.Fatal(err)
	}
	s := &katapb.Storage{Driver: "virtio-fs", Source: "kataShared", Fstype: "tmpfs", Options: []string{"nodev"}}
	err = mountShared("tmpfs")(t.Context(), m, request{driver: driver{name: s.Driver}, s: s, at: at}, &undo{})
	if err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 1 || got[0] != run+"/shared/containers" {
		t.Errorf("mounted: %v", got)
	}
	if err := m.StaleMounts(); err != nil {
		t.Error(err)
	}
}

func TestADriverRefusesWhatItCannotDo(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	m.c.Root = storagetest.Disks(t)
	storagetest.Write(t, run+"/shared/file", "x")
	if err := os.MkdirAll(m.c.Root+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	at := run + "/at"
	for name, c := range map[string]struct {
		s    *katapb.Storage
		want string
	}{
		"memory of another kind": {&katapb.Storage{Driver: ephemeral, Fstype: "ext4"}, "want tmpfs or hugetlbfs"},
		"huge pages of no size":  {&katapb.Storage{Driver: ephemeral, Fstype: "hugetlbfs"}, "no pagesize"},
		"a mode that is none":    {&katapb.Storage{Driver: "local", Options: []string{"mode=8"}}, "octal"},
		"a group that is none":   {&katapb.Storage{Driver: "local", Options: []string{"fsgid=-1"}}, "group"},
		"another group than ours": {&katapb.Storage{Driver: "local", Options: []string{"fsgid=4711"}},
			"group 4711"},
		"an overlay of nothing": {&katapb.Storage{Driver: "overlayfs"}, "no lowerdir"},
		"an overlay of what is none": {&katapb.Storage{Driver: "overlayfs", Options: []string{"lowerdir=" +
			run + "/no"}}, "no such file"},
		"a bind of what is not there": {&katapb.Storage{Driver: "bind", Source: run + "/no"}, "no such file"},
		"a watch of what is none":     {&katapb.Storage{Driver: "watchable-bind", Source: run + "/no"}, "no such file"},
		"a disk without a type":       {&katapb.Storage{Driver: "blk", Source: "02/01"}, "want a type"},
		"a disk that is not there":    {&katapb.Storage{Driver: "blk", Source: "02/02", Fstype: "ext4"}, "02/02"},
		"a disk that cannot be used":  {&katapb.Storage{Driver: "blk", Source: "02/01", Fstype: "ext4"}, "device file"},
		"a layer that is not there": {&katapb.Storage{Driver: multiLayer, Source: "02/02", Fstype: "erofs",
			Options: []string{layerLower}}, "02/02"},
		"a partition that is not there": {&katapb.Storage{Driver: multiLayer, Source: "02/01", Fstype: "erofs",
			Options: []string{layerLower, layerGPT, layerNumber + "7"}}, "partition 7"},
		"a layer that cannot be used": {&katapb.Storage{Driver: multiLayer, Source: "02/01", Fstype: "erofs",
			Options: []string{layerLower, layerGPT, layerNumber + "2"}}, "vdb2"},
		"a layer that says nothing": {&katapb.Storage{Driver: multiLayer, Source: "02/01", Fstype: "erofs"},
			layerLower},
	} {
		c.s.MountPoint = at
		err := m.Add(t.Context(), "c", []*katapb.Storage{c.s})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := mounts(t, run); len(got) != 0 {
			t.Errorf("%s left %v", name, got)
		}
	}
	if left, err := filepath.Glob(run + "/c/*"); err != nil || len(left) != 0 {
		t.Errorf("folders of a container that never was: %v, %v", left, err)
	}
}

func TestHugePagesOfAFailedMountAreGivenBack(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) { // where hugetlbfs may not be mounted
		return
	}
	m, run := manager(t)
	const file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	m.c.Root = storagetest.Files(t, map[string]string{file: "3\n"})
	s := &katapb.Storage{Driver: ephemeral, Fstype: "hugetlbfs", MountPoint: run + "/huge",
		Options: []string{"pagesize=2M", "size=4M"}}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err == nil || !strings.Contains(err.Error(), "hugetlbfs") {
		t.Errorf("got %v", err)
	}
	if got := storagetest.Read(m.c.Root + file); got != "3" || len(mounts(t, run)) != 0 {
		t.Errorf("%s pages are kept, mounted: %v", got, mounts(t, run))
	}
}

func TestLayersAreOrderedAndCounted(t *testing.T) {
	lower := func(source string) *katapb.Storage {
		return &katapb.Storage{Driver: multiLayer, Source: source, Fstype: "erofs", Options: []string{layerLower}}
	}
	upper := &katapb.Storage{Driver: multiLayer, Source: "09", Fstype: "ext4", Options: []string{layerUpper,
		layerMkdir + "/upper"}}
	lowers, up, err := readLayers([]*katapb.Storage{lower("01"), upper, lower("02")})
	if err != nil || len(lowers) != 2 || lowers[0].source != "01" || lowers[1].source != "02" || up.source != "09" ||
		!slices.Equal(up.folders, []string{"/upper"}) {
		t.Errorf("%+v, %+v, %v", lowers, up, err)
	}
	if _, up, err = readLayers([]*katapb.Storage{lower("01")}); up != nil || err != nil {
		t.Errorf("without one to write to: %+v, %v", up, err)
	}
	most := slices.Repeat([]*katapb.Storage{lower("01")}, maxLayers)
	if _, _, err := readLayers(most); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]*katapb.Storage{"two to write to": {upper, lower("01"), upper},
		"only one to write to": {upper}, "too many": append(most, lower("02")),
		"one that is none": {lower("01"), {Source: "x"}}} {
		if _, _, err := readLayers(list); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLayersAreAnOverlay(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	storagetest.Write(t, run+"/one/file", "one")
	storagetest.Write(t, run+"/two/file", "two")
	storagetest.Write(t, run+"/two/other", "two")
	top := place.Root(run).Join("up")
	for name, c := range map[string]struct {
		upper *layer
		want  string
	}{
		"memory": {nil, "upper work"},
		"memory as asked": {&layer{fstype: "tmpfs", upper: true, how: mount.Parse([]string{"size=1m"}),
			folders: []string{"{{ mount 0 }}/more/deep:0755"}}, "more upper work"},
	} {
		var u undo
		at := place.Root(run).Join("rootfs")
		if err := m.mountUpper(t.Context(), c.upper, top, &u); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := overlayLayers([]string{run + "/one", run + "/two"}, c.upper, top, at, &u); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := storagetest.Read(run+"/rootfs/file") + storagetest.Read(run+"/rootfs/other"); got != "onetwo" {
			t.Errorf("%s: %q", name, got)
		}
		storagetest.Write(t, run+"/rootfs/file", "new")
		if got := storagetest.Read(top.String() + "/upper/file"); got != "new" {
			t.Errorf("%s: what is written went elsewhere: %q", name, got)
		}
		entries, err := os.ReadDir(top.String())
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != c.want || err != nil {
			t.Errorf("%s: folders %s, want %s, %v", name, got, c.want, err)
		}
		if err := u.run(); err != nil || len(mounts(t, run)) != 0 {
			t.Errorf("%s: %v, left %v", name, err, mounts(t, run))
		}
	}
	var u undo
	if err := overlayLayers([]string{run + "/one"}, &layer{folders: []string{"{{ mount 0 }}/../../x"}}, top,
		place.Root(run).Join("rootfs"), &u); !errors.Is(err, ErrOutside) || len(mounts(t, run)) != 0 {
		t.Errorf("a folder outside: %v", err)
	}
}

func TestAFileSystemIsMadeByItsProgram(t *testing.T) {
	testenv.Require(t, testenv.Func("mkfs.ext4", func() error { // where program.Runner looks, not on our $PATH
		_, err := os.Stat("/sbin/mkfs.ext4")
		return err
	}))
	r, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	go r.Run(t.Context())
	m := New(Config{Run: t.TempDir(), Programs: program.Runner{Reaper: r}})
	image := filepath.Join(t.TempDir(), "disk")
	storagetest.Write(t, image, "")
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also over one that is there
		if err := m.makeFileSystem(t.Context(), disk.Disk{Node: image}, []string{createFileSystem}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	magic := make([]byte, 2) // s_magic at 56 of the superblock at 1024. Linux: fs/ext4/ext4.h
	if _, err := f.ReadAt(magic, 1024+56); err != nil || magic[0] != 0x53 || magic[1] != 0xef {
		t.Errorf("magic %x, %v", magic, err)
	}
	none := disk.Disk{Node: image + "-none/x"}
	if err := m.makeFileSystem(t.Context(), none, []string{createFileSystem}); err == nil {
		t.Error("a file system on nothing")
	}
}

func TestSwapIsOnWhatTheRequestMayName(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) { // where nobody may swap
		return
	}
	m, run := manager(t)
	m.c.Root = storagetest.Disks(t)
	storagetest.Write(t, run+"/swap", "not for swapping")
	if err := m.AddSwapPath(run + "/swap"); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), run+"/swap") {
		t.Errorf("a file of ours: %v", err)
	}
	if err := m.AddSwapPath("/etc/passwd"); !errors.Is(err, ErrOutside) {
		t.Errorf("a file elsewhere: %v", err)
	}
	if err := m.AddSwapPath(m.c.Root + "/dev/vdz"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
	if err := m.AddSwap(t.Context(), []uint32{2, 2}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a disk that is not there: %v", err)
	}
	if err := m.AddSwap(t.Context(), nil); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no place: %v", err)
	}
	if err := os.MkdirAll(m.c.Root+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.AddSwap(t.Context(), []uint32{2, 1}); !errors.Is(err, unix.EPERM) ||
		!strings.Contains(err.Error(), "device file") {
		t.Errorf("a disk without a device file: %v", err)
	}
}

// waitingFor returns once a mount point has so many users, of which the first makes the mount.
func waitingFor(t *testing.T, m *Manager, point string, users int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d users of %s", users, point), func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		p := m.points[point]
		return p != nil && len(p.users) == users
	})
}

func TestWhoeverWaitsForAMountMayLeaveOrTakeOver(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	m.c.Root = storagetest.Disks(t)
	m.c.Devices = &uevent.Listener{Root: t.TempDir(), Timeout: time.Minute}
	at := run + "/at"
	never := &katapb.Storage{Driver: "blk", Source: "02/02", Fstype: "ext4", MountPoint: at}
	add := func(id string, s *katapb.Storage) (cancel func(), ended chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		ended = make(chan error, 1)
		go func() { ended <- m.Add(ctx, id, []*katapb.Storage{s}) }()
		return cancel, ended
	}
	first, firstEnded := add("first", never)
	waitingFor(t, m, at, 1)
	leaves, leavesEnded := add("leaves", never)
	waitingFor(t, m, at, 2)
	leaves()
	if err := <-leavesEnded; !errors.Is(err, context.Canceled) {
		t.Errorf("whoever left: %v", err)
	}
	_, staysEnded := add("stays", tmpfs(at))
	waitingFor(t, m, at, 2)
	first()
	if err := <-firstEnded; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	if err := <-staysEnded; err != nil {
		t.Errorf("whoever took over: %v", err)
	}
	if got := mounts(t, run); len(got) != 1 || got[0] != at {
		t.Errorf("mounted: %v", got)
	}
	if err := m.Release("stays"); err != nil || len(mounts(t, run)) != 0 {
		t.Errorf("%v, left %v", err, mounts(t, run))
	}
}

func TestDevicesThatCannotBeUsedAreRefused(t *testing.T) {
	if !testenv.Inside(t, 0) { // as root of a user namespace, which may make no device
		return
	}
	m := New(Config{Root: storagetest.Disks(t), Run: t.TempDir()})
	if err := os.MkdirAll(m.c.Root+"/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/x", Type: "b"}}}}
	for name, c := range map[string]struct {
		d    *katapb.Device
		want string
	}{
		"no device file":  {&katapb.Device{Type: "blk", Id: "02/01", ContainerPath: "/dev/x"}, "device file"},
		"not there":       {&katapb.Device{Type: "scsi", Id: "0:9", ContainerPath: "/dev/x"}, "0:9"},
		"VFIO, not there": {&katapb.Device{Type: vfioKernel, Id: "x", Options: []string{"0000:00:01.0=05"}}, "05"},
		"VFIO, no path":   {&katapb.Device{Type: vfioKernel, Id: "x", Options: []string{"0000:00:01.0"}}, "HOST=PATH"},
	} {
		if err := m.Devices(t.Context(), []*katapb.Device{c.d}, spec); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	there := &katapb.Device{Type: vfioKernel, Id: "x", Options: []string{"0000:00:01.0=02/01"}}
	if err := m.Devices(t.Context(), []*katapb.Device{there}, nil); err != nil {
		t.Error(err)
	}
}
