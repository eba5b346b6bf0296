package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/management"
)

// scratchMiB is the size of a disk, in MiB: an image and a little to write.
const scratchMiB = 40

// loops needs loop devices, which containerd mounts files with.
var loops = testenv.Func(testenv.Loops, func() error {
	_, err := os.Stat("/dev/loop-control")
	return err
})

// needSnapshotters is what the tests of this file need on top of the others'.
func needSnapshotters(t *testing.T, more ...testenv.Need) {
	testenv.Require(t, append([]testenv.Need{
		testenv.Asked(asked, "test-containerd"), root, testenv.Tool("containerd"), testenv.Tool("go"),
		testenv.Tool("ip"), testenv.Tool("iptables"),
		testenv.Tool("mkfs.ext4"), testenv.Tool("losetup"), loops,
	}, more...)...)
}

// diskChecks are the subtests with root file systems on disks, all by containerd 2.
var diskChecks = []struct {
	name string
	run  func(t *testing.T, c *client)
}{
	{"a file is a disk of the guest, and what is written stays in it", diskStays},
	{"containers of a pod have disks of their own, which go with them", diskPod},
	{"block devices of the host have their size, and are written or only read", diskVolumes},
	{"volumes are assigned directly", diskDirect},
	{"nothing need be shared: files are copied", diskUnshared},
	{"operations on files are as under runc, or as the page says", rootFiles},
}

func TestBlockSnapshotter(t *testing.T) {
	needSnapshotters(t)
	onDisks(t, "2", func(c *daemon.Config) { c.Snapshotter = "blockfile" }, func(t *testing.T, c *client) {
		for _, k := range diskChecks {
			t.Run(k.name, func(t *testing.T) { k.run(t, c) })
		}
	})
}

// layerChecks are the subtests with layers of images as disks.
var layerChecks = []struct {
	name string
	run  func(t *testing.T, c *client)
}{
	{"layers and what is written are disks of the guest", layerDisks},
	{"without places for all, layers are one disk, or the host mounts them", layerNoPlaces},
	{"a pod shares its layers", layerPod},
	{"the guest checks the hash trees of layers", layerVerity},
}

func TestErofsSnapshotter(t *testing.T) {
	needSnapshotters(t, testenv.Tool("mkfs.erofs"))
	onDisks(t, "2", func(c *daemon.Config) { c.Snapshotter, c.Writable = "erofs", "16MiB" },
		func(t *testing.T, c *client) {
			for _, k := range layerChecks {
				t.Run(k.name, func(t *testing.T) { k.run(t, c) })
			}
		})
}

func TestErofsSnapshotterWithFolders(t *testing.T) {
	needSnapshotters(t, testenv.Tool("mkfs.erofs"))
	onDisks(t, "2", func(c *daemon.Config) { c.Snapshotter = "erofs" }, func(t *testing.T, c *client) {
		t.Run("the host mounts layers whose upper is a folder", layerFolder(c))
		t.Run("without a shared folder what is written is the guest's memory", layerMemory(c))
	})
}

func TestBlockDeviceAsRoot(t *testing.T) {
	needSnapshotters(t)
	for _, release := range []string{"1.6", "2"} {
		t.Run("containerd "+release, func(t *testing.T) { onDisks(t, release, func(*daemon.Config) {}, rootDevice) })
	}
}

// TestSharedVolumes has volumes that are about the same files, and one that is full.
func TestSharedVolumes(t *testing.T) {
	needSnapshotters(t)
	on(t, "2", func(t *testing.T, s *setting) {
		n := newNode(t, s)
		dir := filepath.Join(s.dir, "volumes")
		for name, text := range map[string]string{"one": "first", "sub/deep/file": "deep", "small/x": ""} {
			f := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(text),
				0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("tmpfs", dir+"/small", "tmpfs", 0, "size=256k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir+"/small", 0); err != nil {
				t.Error(err)
			}
		})
		p := n.run(t, n.podConfig("shared-volumes"))
		use := func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{
				{HostPath: dir + "/one", ContainerPath: "/a"},
				{HostPath: dir + "/one", ContainerPath: "/b", Readonly: true},
				{HostPath: dir + "/one", ContainerPath: "/etc/c"},
				{HostPath: dir, ContainerPath: "/whole"},
				{HostPath: dir + "/sub/deep", ContainerPath: "/deep", Readonly: true},
				{HostPath: dir + "/small", ContainerPath: "/small"},
			}
		}
		x := p.start(t, use, "toolbox", "pause")
		equal(t, "one file at three places", x.said(t, "cat /b; echo second >/a; cat /a /b /etc/c"),
			"firstsecond\nsecond\nsecond")
		for _, f := range []string{"/b", "/deep/file", "/deep/new"} {
			if r := x.exec(t, "sh", "-c", "echo no >"+f); r.code == 0 || !strings.Contains(r.err, "Read-only") {
				t.Errorf("a write to %s: %+v", f, r)
			}
		}
		// By another path it is another file for the guest, which believes what it knows of one for a second.
		x.said(t, "echo changed >/whole/sub/deep/file")
		until(t, 10*time.Second, "the change of a folder within another",
			func() bool { return x.said(t, "cat /deep/file") == "changed" })
		if r := x.exec(t, "toolbox", "call", "write", "/small/x"); r.out != "ok\n" {
			t.Errorf("a write to a folder with room: %+v", r)
		}
		// The page cache takes the write, and close(2) or fsync(2) tells of it.
		if r := x.exec(t, "dd", "if=/dev/zero", "of=/small/much", "bs=64k", "count=32", "conv=fsync"); r.code == 0 ||
			!strings.Contains(r.err, "No space left") {
			t.Errorf("2 MiB into a folder of 256 KiB: %+v", r)
		}
		y := p.start(t, use, "toolbox", "pause")
		equal(t, "a neighbour's view", y.said(t, "cat /b"), "second")
		x.said(t, "echo the third >/a")
		equal(t, "a neighbour's view at once", y.said(t, "cat /b /a"), "the third\nthe third")
		x.stop(t, 0)
		if _, err := p.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: x.id}); err != nil {
			t.Fatal(err)
		}
		equal(t, "the view of one that stays", y.said(t, "echo more >>/a; cat /b"), "the third\nmore")
	})
}

// onDisks runs test with a containerd that has images, and checks that no loop device is left.
func onDisks(t *testing.T, release string, change func(*daemon.Config), test func(t *testing.T, c *client)) {
	set := func(c *daemon.Config) {
		if c.Release.Two() {
			c.Scratch = filepath.Join(filepath.Dir(c.Dir), "scratch")
			makeExt4(t, c.Scratch)
		}
		change(c)
	}
	onChanged(t, release, set, func(t *testing.T, s *setting) {
		if !s.guest() {
			t.Log("nothing to test: containers run on the host")
			return
		}
		t.Cleanup(func() {
			until(t, 20*time.Second, "the end of loop devices of files in "+filepath.Dir(s.dir),
				func() bool { return len(loopsOf(filepath.Dir(s.dir))) == 0 })
		})
		c := &client{setting: s, TasksClient: tasks.NewTasksClient(s.Conn),
			namespace: nest.Name() + "-ctr-" + s.Release.Name}
		for _, i := range []string{image.Tools, image.Layered} {
			archive := filepath.Join(s.dir, "image.tar")
			if err := s.images.Save(i, archive); err != nil {
				t.Fatal(err)
			}
			if r := c.ctr(t, nil, "images", "import", "--no-unpack", archive); r.code != 0 {
				t.Fatalf("ctr images import: %s", r.err)
			}
		}
		c.configure(t, `machine_type = "q35"`) // the one with places for disks
		test(t, c)
	})
}

// makeExt4 makes a file with an empty file system.
func makeExt4(t *testing.T, file string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, scratchMiB<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", file).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
}

// loopsOf are the loop devices of files in dir. Linux: drivers/block/loop.c, backing_file.
func loopsOf(dir string) []string {
	var out []string
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir+"/") {
			out = append(out, "/dev/"+strings.Split(f, "/")[3])
		}
	}
	return out
}

// loop makes a block device of a file until the test ends.
func loop(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return device
}

// mounted shows the files of a disk or its file.
func mounted(t *testing.T, source string, look func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro,noload", source, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v: %s", source, err, out)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	look(dir)
}

// opened are the files below dir that QEMUs have open.
func opened(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for _, pid := range processes("qemu-system-") {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir+"/") && !slices.Contains(out, to) {
				out = append(out, to)
			}
		}
	}
	slices.Sort(out)
	return out
}

// snapshots is where a snapshotter has its files.
func (c *client) snapshots(snapshotter string) string {
	return filepath.Join(filepath.Dir(c.dir), "c", "root", "io.containerd.snapshotter.v1."+snapshotter, "snapshots")
}

// configure adds lines to the section of QEMU in the runtime's configuration until the test ends. They replace earlier
// ones of the same key.
func (s *setting) configure(t *testing.T, lines ...string) {
	t.Helper()
	b, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, l := range lines {
		key, _, _ := strings.Cut(l, " = ")
		kept := slices.DeleteFunc(strings.SplitAfter(text, "\n"),
			func(old string) bool { return strings.HasPrefix(old, key+" = ") })
		text = strings.Replace(strings.Join(kept, ""), "[hypervisor.qemu]\n", "[hypervisor.qemu]\n"+l+"\n", 1)
	}
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(s.config, b, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// of replaces the image in the arguments of ctr run.
func of(ref string, args []string) []string {
	args[slices.Index(args, image.Tools)] = ref
	return args
}

// launch starts a task of an image and a snapshotter. end must be called, and leaves the container with its snapshot.
func (c *client) launch(t *testing.T, ref, snapshotter string, args ...string) (id string, end func()) {
	t.Helper()
	id = c.id()
	if r := c.ctr(t, nil, of(ref, c.run(id, []string{"-d", "--snapshotter", snapshotter}, args...))...); r.code != 0 {
		t.Fatalf("ctr run: %s", r.err)
	}
	t.Cleanup(func() {
		if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
			t.Errorf("ctr container delete: %s", r.err)
		}
	})
	done := false
	end = func() {
		if done {
			return
		}
		done = true
		_ = c.ctr(t, nil, "task", "kill", "-s", "SIGKILL", id)
		until(t, patience, "the removal of task "+id, func() bool {
			_ = c.ctr(t, nil, "task", "delete", id)
			return !slices.Contains(strings.Fields(c.ctr(t, nil, "task", "list", "-q").out), id)
		})
	}
	t.Cleanup(end)
	return id, end
}

// say is what a shell line in a task says; it must end with 0.
func (c *client) say(t *testing.T, id, line string) string {
	t.Helper()
	r := c.exec(t, id, "sh", "-c", line)
	if r.code != 0 {
		t.Fatalf("%q ended with %d: %s%s", line, r.code, r.out, r.err)
	}
	return strings.TrimSpace(r.out)
}

const rootType = `awk '$2 == "/" {t = $1 " " $3} END {print t}' /proc/mounts`

func diskStays(t *testing.T, c *client) {
	id, end := c.launch(t, image.Tools, "blockfile", "toolbox", "pause")
	if got := c.say(t, id, rootType); !strings.HasPrefix(got, "/dev/vd") || !strings.HasSuffix(got, " ext4") {
		t.Errorf("the root is %q, want a virtio disk with ext4", got)
	}
	c.say(t, id, "echo written >/data/mine")
	equal(t, "what another process reads", c.say(t, id, "cat /data/mine"), "written")
	files := opened(t, c.snapshots("blockfile"))
	if len(files) != 1 {
		t.Fatalf("QEMU has %q open, want one snapshot", files)
	}
	end()
	equal(t, "QEMUs", len(opened(t, c.snapshots("blockfile"))), 0)
	mounted(t, files[0], func(dir string) {
		if b, err := os.ReadFile(dir + "/data/mine"); string(b) != "written\n" {
			t.Errorf("the snapshot has %q, %v", b, err)
		}
	})
}

func diskPod(t *testing.T, c *client) {
	n := newNode(t, c.setting)
	p := n.run(t, n.podConfig("disks"))
	a, b := p.start(t, nil, "toolbox", "pause"), p.start(t, nil, "toolbox", "pause")
	for _, x := range []*container{a, b} {
		if got := x.said(t, rootType); !strings.HasPrefix(got, "/dev/vd") {
			t.Errorf("the root is %q, want a virtio disk", got)
		}
	}
	a.said(t, "echo a >/data/whose")
	b.said(t, "echo b >/data/whose")
	equal(t, "a file of each", a.said(t, "cat /data/whose")+b.said(t, "cat /data/whose"), "ab")
	equal(t, "disks of the pod and two containers", len(opened(t, c.snapshots("blockfile"))), 3)
	a.stop(t, 0)
	if _, err := p.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: a.id}); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the removal of one disk",
		func() bool { return len(opened(t, c.snapshots("blockfile"))) == 2 })
	equal(t, "the other's file", b.said(t, "cat /data/whose"), "b")
	equal(t, "a third container's file", p.start(t, nil, "toolbox", "pause").said(t, "cat /data/of-image"),
		"of the image")
}

func diskVolumes(t *testing.T, c *client) {
	n := newNode(t, c.setting)
	p := n.run(t, n.podConfig("volumes"))
	var device [3]string
	for i := range device {
		file := filepath.Join(c.dir, "volume"+strconv.Itoa(i))
		if err := os.WriteFile(file, []byte("disk "+strconv.Itoa(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, int64(i+1)<<20); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			makeExt4(t, file)
		}
		device[i] = loop(t, file)
	}
	with := func(devices ...*cri.Device) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Devices = devices
			c.Mounts = []*cri.Mount{{HostPath: device[0], ContainerPath: "/dev/bound", Readonly: true}}
		}
	}
	x := p.start(t, with(
		&cri.Device{HostPath: device[0], ContainerPath: "/dev/data", Permissions: "rwm"},
		&cri.Device{HostPath: device[1], ContainerPath: "/dev/xvdb", Permissions: "r"},
	), "toolbox", "pause")
	equal(t, "sizes", x.said(t, "blockdev --getsize64 /dev/data; blockdev --getsize64 /dev/xvdb"), "1048576\n2097152")
	equal(t, "contents", x.said(t, "head -c 6 /dev/data; head -c 6 /dev/xvdb; head -c 6 /dev/bound"),
		"disk 0disk 1disk 0")
	x.said(t, "printf written | dd of=/dev/data conv=notrunc,fsync 2>/dev/null")
	if b, err := os.ReadFile(filepath.Join(c.dir, "volume0")); err != nil || !strings.HasPrefix(string(b), "written") {
		t.Errorf("the host reads %.10q, %v", b, err)
	}
	for _, d := range []string{"/dev/xvdb", "/dev/bound"} {
		if r := x.exec(t, "sh", "-c", "printf no | dd conv=notrunc,fsync of="+d); r.code == 0 {
			t.Errorf("%s could be written", d)
		}
	}
	dir := t.TempDir()
	if err := unix.Mount(device[2], dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	_, err := p.try(t, with(&cri.Device{HostPath: device[2], ContainerPath: "/dev/host", Permissions: "rwm"}), "true")
	if err == nil || !strings.Contains(err.Error(), device[2]+" is in use on the host") {
		t.Errorf("a mounted device: %v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// diskDirect is a volume as a CSI driver leaves it: a description, and an empty folder where the mount would be.
func diskDirect(t *testing.T, c *client) {
	n := newNode(t, c.setting)
	file, at := filepath.Join(c.dir, "direct.img"), filepath.Join(c.dir, "direct")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(at, 0o755)); err != nil {
		t.Fatal(err)
	}
	makeExt4(t, file)
	if err := directvolume.Add(directvolume.Root, at, &directvolume.Info{Type: directvolume.Block, Device: file,
		FSType: "ext4", Options: []string{"noatime"}, Metadata: map[string]string{"fsGroup": "3000"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := directvolume.Remove(directvolume.Root, at); err != nil {
			t.Error(err)
		}
	})
	with := func(readOnly bool) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: at, ContainerPath: "/data", Readonly: readOnly}}
		}
	}
	p := n.run(t, n.podConfig("direct"))
	a := p.start(t, with(false), "toolbox", "pause")
	b := p.start(t, with(true), "toolbox", "pause")
	a.said(t, "echo written >/data/file; sync")
	equal(t, "what the other container reads", b.said(t, "cat /data/file"), "written")
	if r := b.exec(t, "sh", "-c", "echo no >/data/file"); r.code == 0 {
		t.Error("a container that only reads has written")
	}
	equal(t, "the group", a.said(t, "stat -c %g /data"), "3000")
	m := a.said(t, "grep ' /data ' /proc/mounts")
	if !strings.Contains(m, " ext4 ") || !strings.Contains(m, "noatime") {
		t.Errorf("it is mounted as %s", m)
	}
	volumes := management.Volumes{Root: directvolume.Root}
	total := func(least, most uint64) {
		t.Helper()
		said, err := volumes.Stats(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		var stats struct {
			Usage []struct{ Available, Total, Used, Unit uint64 }
		}
		if err := json.Unmarshal(said, &stats); err != nil || len(stats.Usage) != 2 || stats.Usage[0].Unit != 1 ||
			stats.Usage[0].Total < least || stats.Usage[0].Total > most || stats.Usage[0].Used == 0 {
			t.Errorf("it is as full as %s, %v", said, err)
		}
	}
	total(8<<20, 64<<20)
	// It grows while it is mounted, and to no more than its file has.
	const larger = 256 << 20
	err := volumes.Resize(t.Context(), at, larger)
	if err == nil || !strings.Contains(err.Error(), "larger on the host") {
		t.Errorf("more than the file has: %v", err)
	}
	if err := os.Truncate(file, larger); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := volumes.Resize(t.Context(), at, larger); err != nil {
			t.Error(err)
		}
	}
	total(200<<20, larger)
	a.said(t, "dd if=/dev/zero of=/data/much bs=1M count=100 2>/dev/null; rm /data/much; sync")
	other := n.run(t, n.podConfig("other"))
	if _, err := other.try(t, with(false), "true"); err == nil ||
		!strings.Contains(err.Error(), "is that of pod "+p.id) {
		t.Errorf("a second pod: %v", err)
	}
	a.stop(t, 0)
	b.stop(t, 0)
	// It is taken from the guest with its last container, and whole.
	if out, err := exec.Command("e2fsck", "-fn", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(loop(t, file), dir, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "file"))
	if err := errors.Join(err, unix.Unmount(dir, 0)); err != nil || string(text) != "written\n" {
		t.Errorf("the host reads %q, %v", text, err)
	}
}

func diskUnshared(t *testing.T, c *client) {
	c.configure(t, `shared_fs = "none"`)
	n := newNode(t, c.setting)
	cfg := n.podConfig("alone")
	cfg.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}}
	p := n.run(t, cfg)
	equal(t, "virtiofsds", len(processes("virtiofsd")), 0)

	// The folders are what the kubelet makes of volumes.
	volumes := filepath.Join(c.dir, "pods/uid/volumes")
	configMap := filepath.Join(volumes, "kubernetes.io~configmap/cfg")
	for name, text := range map[string]string{
		configMap + "/..2026/key":                      "value",
		volumes + "/kubernetes.io~empty-dir/tmp/x":     "",
		filepath.Join(c.dir, "sockets", "file"):        "beside a socket",
		filepath.Join(c.dir, "sockets", "deep/er/one"): "deeper",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text),
			0o640)); err != nil {
			t.Fatal(err)
		}
	}
	socket, err := net.Listen("unix", filepath.Join(c.dir, "sockets", "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	err = errors.Join(os.Remove(volumes+"/kubernetes.io~empty-dir/tmp/x"), os.Symlink("..2026", configMap+"/..data"),
		os.Symlink("..data/key", configMap+"/key"))
	if err != nil {
		t.Fatal(err)
	}
	use := func(x *cri.ContainerConfig) {
		x.Mounts = []*cri.Mount{
			{HostPath: configMap, ContainerPath: "/etc/cfg", Readonly: true},
			{HostPath: volumes + "/kubernetes.io~empty-dir/tmp", ContainerPath: "/scratch"},
			{HostPath: filepath.Join(c.dir, "sockets"), ContainerPath: "/sockets"},
		}
	}
	a := p.start(t, use, "toolbox", "pause")
	equal(t, "a ConfigMap's key", a.said(t, "cat /etc/cfg/key"), "value")
	equal(t, "a copied folder", a.said(t, "ls /sockets; cat /sockets/file /sockets/deep/er/one"),
		"deep\nfile\nbeside a socketdeeper")
	equal(t, "name servers", a.said(t, "grep nameserver /etc/resolv.conf"), "nameserver 192.0.2.53")
	equal(t, "the hostname", a.said(t, "cat /etc/hostname"), "alone")
	if r := a.exec(t, "sh", "-c", "echo no >/etc/cfg/key"); r.code == 0 || !strings.Contains(r.err, "Read-only") {
		t.Errorf("a write to a read-only volume: %+v", r)
	}
	a.said(t, "echo for both >/scratch/file")
	equal(t, "an emptyDir in another container", p.start(t, use, "toolbox", "pause").said(t, "cat /scratch/file"),
		"for both")

	// What is too much to copy says so.
	big := filepath.Join(c.dir, "big")
	if err := errors.Join(os.Mkdir(big, 0o755), os.WriteFile(big+"/file", nil, 0o644), os.Truncate(big+"/file",
		100<<20)); err != nil {
		t.Fatal(err)
	}
	_, err = p.try(t, func(x *cri.ContainerConfig) {
		x.Mounts = []*cri.Mount{{HostPath: big,
			ContainerPath: "/big"}}
	}, "true")
	if err == nil || !strings.Contains(err.Error(), "more than 64 MiB") {
		t.Errorf("100 MiB to copy: %v", err)
	}
	// So does a root that is a folder.
	r := c.ctr(t, nil, c.run("unshared", []string{"--rm", "--snapshotter", "native"}, "true")...)
	if r.code == 0 || !strings.Contains(r.err, "shared_fs is none") {
		t.Errorf("a folder as root: %+v", r)
	}
	_ = c.ctr(t, nil, "container", "delete", "unshared") // ctr may have
}

// layered checks that the layers of the image are seen through each other.
func layered(t *testing.T, say func(line string) string) {
	t.Helper()
	equal(t, "files of three layers", say("cd /data; ls; cat of-image of-layer-2"), "of-image\nof-layer-2\nchanged\n2")
}

func layerDisks(t *testing.T, c *client) {
	id, end := c.launch(t, image.Layered, "erofs", "toolbox", "pause")
	layered(t, func(line string) string { return c.say(t, id, line) })
	equal(t, "the root", c.say(t, id, rootType), "overlay overlay")
	c.say(t, id, "echo written >/data/mine; rm /data/of-layer-2; sync")
	// When the disk to write to is full the container hears so.
	if r := c.exec(t, id, "dd", "if=/dev/zero", "of=/data/much", "bs=1M", "count=16"); r.code == 0 ||
		!strings.Contains(r.err, "No space left") {
		t.Errorf("16 MiB on a disk of 16 with a file system: %+v", r)
	}
	files := opened(t, c.snapshots("erofs"))
	if len(files) != 4 || !slices.ContainsFunc(files,
		func(f string) bool { return filepath.Base(f) == "rwlayer.img" }) {
		t.Fatalf("QEMU has %q open, want three layers and rwlayer.img", files)
	}
	end()
	if b, err := os.ReadFile(c.LogFile()); err != nil || strings.Contains(string(b), "runtime-allow-mounts") {
		t.Errorf("containerd heard of our mounts in the old way, or not at all: %v", err)
	}
	i := slices.IndexFunc(files, func(f string) bool { return filepath.Base(f) == "rwlayer.img" })
	mounted(t, files[i], func(dir string) {
		if b, err := os.ReadFile(dir + "/upper/data/mine"); string(b) != "written\n" {
			t.Errorf("the snapshot has %q, %v", b, err)
		}
		// Linux: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
		if st, err := os.Lstat(dir + "/upper/data/of-layer-2"); err != nil || st.Mode()&fs.ModeCharDevice == 0 {
			t.Errorf("the snapshot's whiteout: %v, %v", st, err)
		}
	})
}

func layerNoPlaces(t *testing.T, c *client) {
	c.configure(t, "pcie_root_port = 2")
	id, end := c.launch(t, image.Layered, "erofs", "toolbox", "pause")
	layered(t, func(line string) string { return c.say(t, id, line) })
	equal(t, "disks of the guest, with its own", c.say(t, id, "ls -d /sys/block/vd* | wc -l"), "3")
	equal(t, "layers that QEMU has open", len(opened(t, c.snapshots("erofs"))), 4)
	end()
	c.configure(t, "pcie_root_port = 1")
	id, end = c.launch(t, image.Layered, "erofs", "toolbox", "pause")
	layered(t, func(line string) string { return c.say(t, id, line) })
	c.say(t, id, "echo written >/data/mine; sync")
	equal(t, "layers that QEMU has open", len(opened(t, c.snapshots("erofs"))), 0)
	end()
	c.configure(t, `shared_fs = "none"`)
	r := c.ctr(t, nil, of(image.Layered, c.run("places", []string{"--rm", "--snapshotter", "erofs"}, "true"))...)
	if r.code == 0 || !strings.Contains(r.err, "disk 4 of 4") || !strings.Contains(r.err, "pcie_root_port") {
		t.Errorf("nowhere to put the layers: %+v", r)
	}
	_ = c.ctr(t, nil, "container", "delete", "places") // ctr may have
}

func layerPod(t *testing.T, c *client) {
	n := newNode(t, c.setting)
	if _, err := n.images.PullImage(
		t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image.Layered}}); err != nil {
		t.Fatal(err)
	}
	p := n.run(t, n.podConfig("layers"))
	use := func(x *cri.ContainerConfig) { x.Image.Image = image.Layered }
	a, b := p.start(t, use, "toolbox", "pause"), p.start(t, use, "toolbox", "pause")
	for _, x := range []*container{a, b} {
		layered(t, func(line string) string { return x.said(t, line) })
	}
	a.said(t, "echo a >/data/whose")
	b.said(t, "echo b >/data/whose")
	equal(t, "a file of each", a.said(t, "cat /data/whose")+b.said(t, "cat /data/whose"), "ab")
	// One layer and one disk to write to of the pod's own container, three layers of both others, and a disk for each.
	equal(t, "files that QEMU has open", len(opened(t, c.snapshots("erofs"))), 2+3+2)
	a.stop(t, 0)
	if _, err := p.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: a.id}); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the removal of one disk",
		func() bool { return len(opened(t, c.snapshots("erofs"))) == 2+3+1 })
	layered(t, func(line string) string { return b.said(t, "rm /data/whose; "+line) })
}

// layerVerity gives containers layers with hash trees, as the snapshotter does where its differ makes them: that needs
// a newer mkfs.erofs, and a host with device-mapper. The second layer is changed behind its tree's back.
func layerVerity(t *testing.T, c *client) {
	testenv.Require(t, testenv.Tool("veritysetup"))
	dir := t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	base := map[string][]byte{"bin/busybox": busybox, "bin/sh": busybox, "proc/x": nil, "sys/x": nil, "dev/x": nil,
		"etc/x": nil, "script": []byte("cat /checked\n")}
	layer := func(name string, tree map[string][]byte) string {
		from, file := filepath.Join(dir, name+".d"), filepath.Join(dir, name)
		for n, data := range tree {
			f := filepath.Join(from, n)
			if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, data, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("mkfs.erofs", "--quiet", "-Enoinline_data", file,
			from).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.erofs: %v: %s", err, out)
		}
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("veritysetup", "format", fmt.Sprintf("--hash-offset=%d", st.Size()),
			fmt.Sprintf("--data-blocks=%d", st.Size()/4096), file, file).CombinedOutput()
		_, hash, ok := strings.Cut(string(out), "Root hash:")
		if err != nil || !ok {
			t.Fatalf("veritysetup: %v: %s", err, out)
		}
		text := fmt.Sprintf(`{"roothash":%q,"hashoffset":%d}`, strings.TrimSpace(hash), st.Size())
		if err := os.WriteFile(file+".dmverity", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	mark := []byte("what the tree is of")
	layers := []string{layer("top", map[string][]byte{"checked": slices.Concat(mark, make([]byte, 5000))}),
		layer("base", base)}
	for _, honest := range []bool{true, false} {
		if !honest {
			b, err := os.ReadFile(layers[0])
			if err == nil {
				err = os.WriteFile(layers[0], []byte(strings.Replace(string(b), string(mark), "what the tree is if",
					1)), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		mounts := []*types.Mount{}
		for _, l := range layers {
			mounts = append(mounts, &types.Mount{Type: "erofs", Source: l, Options: []string{"ro", "loop",
				"X-containerd.dmverity=" + l + ".dmverity"}})
		}
		mounts = append(mounts, &types.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			"workdir=" + dir + "/work", "upperdir=" + dir + "/upper", "lowerdir={{ overlay 0 1 }}",
		}})
		code := c.runOn(t, mounts)
		equal(t, "whether a container on layers as they were made reads them", code == 0, honest)
	}
}

func layerFolder(c *client) func(t *testing.T) {
	return func(t *testing.T) {
		id, end := c.launch(t, image.Layered, "erofs", "toolbox", "pause")
		layered(t, func(line string) string { return c.say(t, id, line) })
		c.say(t, id, "echo written >/data/mine")
		equal(t, "layers that QEMU has open", len(opened(t, c.snapshots("erofs"))), 0)
		end()
		found, _ := filepath.Glob(c.snapshots("erofs") + "/*/fs/data/mine")
		equal(t, "files in the snapshot", len(found), 1)
	}
}

func layerMemory(c *client) func(t *testing.T) {
	return func(t *testing.T) {
		c.configure(t, `shared_fs = "none"`)
		id, end := c.launch(t, image.Layered, "erofs", "toolbox", "pause")
		layered(t, func(line string) string { return c.say(t, id, line) })
		c.say(t, id, "echo written >/data/mine; cat /data/mine")
		equal(t, "layers that QEMU has open", len(opened(t, c.snapshots("erofs"))), 3)
		end()
		found, _ := filepath.Glob(c.snapshots("erofs") + "/*/fs/data/mine")
		equal(t, "files in the snapshot", len(found), 0)
	}
}

// rootDevice gives a container a block device as root, as devmapper does.
func rootDevice(t *testing.T, c *client) {
	file := filepath.Join(c.dir, "root")
	makeExt4(t, file)
	device := loop(t, file)
	dir := t.TempDir()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = errors.Join(os.MkdirAll(dir+"/bin", 0o755), os.WriteFile(dir+"/bin/busybox", busybox, 0o755),
			os.Symlink("busybox", dir+"/bin/sh"),
			os.WriteFile(dir+"/script", []byte("echo from inside >/written\nexit 9\n"), 0o644))
	}
	if err := errors.Join(err, unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	equal(t, "exit code", c.runOn(t, []*types.Mount{{Type: "ext4", Source: device, Options: []string{"rw"}}}), 9)
	mounted(t, device, func(dir string) {
		if b, err := os.ReadFile(dir + "/written"); string(b) != "from inside\n" {
			t.Errorf("the device has %q, %v", b, err)
		}
	})
}

// runOn runs /script in a container with a root file system that is no snapshot, and returns its code.
func (c *client) runOn(t *testing.T, rootfs []*types.Mount) uint32 {
	t.Helper()
	id := c.id()
	args := c.run(id, nil, "sh", "/script") // not sh -c: ctr would take the -c for its own
	if r := c.ctr(t, nil, append([]string{"container", "create"}, args[1:]...)...); r.code != 0 {
		t.Fatalf("ctr container create: %s", r.err)
	}
	defer func() {
		if r := c.ctr(t, nil, "container", "delete", id); r.code != 0 {
			t.Errorf("ctr container delete: %s", r.err)
		}
	}()
	if _, err := c.Create(c.ctx(t), &tasks.CreateTaskRequest{ContainerID: id, Rootfs: rootfs}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(c.ctx(t), &tasks.StartRequest{ContainerID: id}); err != nil {
		t.Error(err)
	}
	code := c.ended(t, id)
	if _, err := c.Delete(c.ctx(t), &tasks.DeleteTaskRequest{ContainerID: id}); err != nil {
		t.Error(err)
	}
	return code
}
