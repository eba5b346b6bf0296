package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/mirror"
	"github.com/katabuild/katabuild/agent/storage/mount"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/internal/testenv"
)

// manager has a run folder of its own, on a tmpfs, whose mounts end with the process.
func manager(t *testing.T) (*Manager, string) {
	t.Helper()
	run := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("run", run, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(run, unix.MNT_DETACH) })
	return New(Config{Run: run, WatchEvery: 10 * time.Millisecond}), run
}

// mounts lists what is mounted below dir.
func mounts(t *testing.T, dir string) []string {
	t.Helper()
	all, err := mountinfo.Self()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range all {
		if strings.HasPrefix(m.Point, dir+"/") {
			out = append(out, m.Point)
		}
	}
	return out
}

func tmpfs(at string, options ...string) *katapb.Storage {
	return &katapb.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: at, Options: options}
}

func TestAMountLivesAsLongAsItsUsers(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	shm, own := tmpfs(run+"/sandbox/shm", "size=1m", "mode=1777", "noexec"), tmpfs(run+"/sandbox/ephemeral/own",
		"size=64k")
	for _, id := range []string{"one", "two"} {
		if err := m.Add(t.Context(), id, []*katapb.Storage{shm}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Add(t.Context(), "one", []*katapb.Storage{own, own}); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 2 {
		t.Fatalf("mounted: %v", got)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(shm.MountPoint, &st); err != nil || int64(st.Blocks)*st.Bsize != 1<<20 ||
		st.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("shm has %d blocks, flags %x, %v", st.Blocks, st.Flags, err)
	}
	if fi, err := os.Stat(shm.MountPoint); err != nil || fi.Mode().Perm() != 0o777 || fi.Mode()&fs.ModeSticky == 0 {
		t.Errorf("shm is %v, %v", fi.Mode(), err)
	}
	if err := m.Release("one"); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 1 || got[0] != shm.MountPoint {
		t.Errorf("mounted after the first went: %v", got)
	}
	if err := errors.Join(m.Release("two"), m.Release("two"), m.Release("nobody")); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 0 {
		t.Errorf("mounted after both went: %v", got)
	}
	shm.Shared = true
	if err := errors.Join(m.Add(t.Context(), "sandbox", []*katapb.Storage{shm}), m.Release("sandbox")); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 1 {
		t.Errorf("a shared mount went with its container: %v", got)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 0 {
		t.Errorf("mounted after the sandbox: %v", got)
	}
}

func TestAFailureTakesBackWhatTheCallMounted(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	kept := tmpfs(run + "/kept")
	if err := m.Add(t.Context(), "one", []*katapb.Storage{kept}); err != nil {
		t.Fatal(err)
	}
	err := m.Add(t.Context(), "one", []*katapb.Storage{kept, tmpfs(run + "/new"),
		tmpfs(run+"/bad", "no-such-option=1")})
	if err == nil || !strings.Contains(err.Error(), run+"/bad") || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v", err)
	}
	if got := mounts(t, run); len(got) != 1 || got[0] != kept.MountPoint {
		t.Errorf("mounted: %v", got)
	}
	// The mode is looked at after the mount, which must not stay.
	if err := m.Add(t.Context(), "one", []*katapb.Storage{tmpfs(run+"/bad", "mode=9")}); err == nil {
		t.Error("mode=9 was taken")
	}
	if got := mounts(t, run); len(got) != 1 {
		t.Errorf("mounted: %v", got)
	}
}

func TestManyMayMountAndReleaseAtOnce(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	s := tmpfs(run + "/same")
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			id := fmt.Sprintf("c%d", i)
			for range 20 {
				if err := m.Add(t.Context(), id, []*katapb.Storage{s}); err != nil {
					t.Error(err)
				}
				if got := len(mounts(t, run)); got != 1 {
					t.Errorf("%d mounts", got)
				}
				if err := m.Release(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if got := mounts(t, run); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestNoMountLeavesItsFolder(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	outside := t.TempDir()
	if err := errors.Join(os.Symlink(outside, run+"/link"), os.Mkdir(run+"/folder", 0o755),
		os.Symlink("folder", run+"/within")); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]string{
		"another folder":           outside + "/x",
		"the folder itself":        run,
		"a way up":                 run + "/../x",
		"a way up and back":        run + "/../" + filepath.Base(run) + "/x",
		"nothing":                  "",
		"a relative path":          "x",
		"a link out":               run + "/link/x",
		"a link at the end":        run + "/link",
		"a link that stays inside": run + "/within/x",
		"a folder that looks so":   run + "-other/x",
	} {
		if err := m.Add(t.Context(), "c", []*katapb.Storage{tmpfs(at)}); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, err := os.ReadDir(outside); err != nil || len(e) != 0 {
		t.Errorf("made outside: %v, %v", e, err)
	}
	for name, s := range map[string]*katapb.Storage{
		"bind": {Driver: "bind", Source: run + "/link", MountPoint: run + "/b"},
		"overlay": {Driver: "overlayfs", Fstype: "overlay", MountPoint: run + "/b",
			Options: []string{"lowerdir=" + outside}},
		"watched": {Driver: "watchable-bind", Source: outside, MountPoint: run + "/b"},
		"create": {Driver: "overlayfs", MountPoint: run + "/b",
			DriverOptions: []string{overlayFolder + outside + "/y"}, Options: []string{"lowerdir=" + run + "/folder"}},
		"up there": {Driver: "bind", Source: run + "/../../etc", MountPoint: run + "/b"},
	} {
		if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); !errors.Is(err, ErrOutside) {
			t.Errorf("source of %s: %v", name, err)
		}
	}
	if err := m.Add(t.Context(), "../c", []*katapb.Storage{tmpfs(run + "/c")}); err == nil {
		t.Error("a container named ../c was taken")
	}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{{Driver: "nfs", MountPoint: run + "/c"}}); err == nil ||
		!strings.Contains(err.Error(), `"nfs"`) {
		t.Errorf("an unknown driver: %v", err)
	}
}

func TestBindsAndOverlaysShowTheirSources(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	storagetest.Write(t, run+"/shared/a/file", "a")
	storagetest.Write(t, run+"/shared/b/file", "b")
	storagetest.Write(t, run+"/shared/b/other", "o")
	add := func(s *katapb.Storage) {
		t.Helper()
		if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err != nil {
			t.Fatal(err)
		}
	}
	add(&katapb.Storage{Driver: "bind", Source: run + "/shared/a", MountPoint: run + "/bound",
		Options: []string{"ro", "rprivate"}})
	add(&katapb.Storage{Driver: "bind", Source: run + "/shared/a/file", MountPoint: run + "/one/file"})
	if got := storagetest.Read(run+"/bound/file") + storagetest.Read(run+"/one/file"); got != "aa" {
		t.Errorf("bound: %q", got)
	}
	if err := os.WriteFile(run+"/bound/file", nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind: %v", err)
	}
	add(&katapb.Storage{Driver: "overlayfs", Fstype: "overlay", MountPoint: run + "/c/rootfs",
		Options: []string{"lowerdir=" + run + "/shared/a:" + run + "/shared/b", overlayRW}})
	if got := storagetest.Read(run+"/c/rootfs/file") + storagetest.Read(run+"/c/rootfs/other"); got != "ao" {
		t.Errorf("overlay: %q", got)
	}
	storagetest.Write(t, run+"/c/rootfs/file", "new")
	if got := storagetest.Read(run+"/shared/a/file") + storagetest.Read(run+"/c/upper/file"); got != "anew" {
		t.Errorf("after a write: %q", got)
	}
	// More folders than the options of mount(2) have room for.
	var lower []string
	for i := range 60 {
		dir := fmt.Sprintf("%s/shared/layer-with-a-name-as-long-as-the-name-of-a-container-usually-is-%03d", run, i)
		storagetest.Write(t, fmt.Sprintf("%s/%d", dir, i), "x")
		storagetest.Write(t, dir+"/same", fmt.Sprint(i))
		lower = append(lower, dir)
	}
	add(&katapb.Storage{Driver: "overlayfs", MountPoint: run + "/many",
		Options: []string{"lowerdir=" + strings.Join(lower, ":"), "nodev"}})
	if got := storagetest.Read(run+"/many/59") + storagetest.Read(run+"/many/same"); got != "x0" {
		t.Errorf("an overlay of 60 folders: %q", got)
	}
	if err := m.Release("c"); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if _, err := os.Stat(run + "/c/upper"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the container wrote is still there: %v", err)
	}
	if storagetest.Read(run+"/shared/a/file") != "a" {
		t.Error("a source went with its mount")
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}

func TestAWatchedFolderFollowsItsSource(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	src, at := run+"/shared/config", run+"/watched/config"
	storagetest.Write(t, src+"/..1/key", "old")
	storagetest.Write(t, src+"/..1/gone", "x")
	if err := errors.Join(os.Symlink("..1", src+"/..data"), os.Symlink("..data/key", src+"/key")); err != nil {
		t.Fatal(err)
	}
	s := &katapb.Storage{Driver: "watchable-bind", Fstype: "bind", Source: src, MountPoint: at,
		Options: []string{"bind", "ro"}}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err != nil {
		t.Fatal(err)
	}
	if got := storagetest.Read(at+"/key") + storagetest.Read(at+"/..1/gone"); got != "oldx" {
		t.Fatalf("copied: %q", got)
	}
	// As Kubernetes publishes a change: a new folder, then a link that swaps.
	storagetest.Write(t, src+"/..2/key", "new")
	if err := errors.Join(os.Symlink("..2", src+"/..tmp"), os.Rename(src+"/..tmp", src+"/..data"),
		os.RemoveAll(src+"/..1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new key", func() bool { return storagetest.Read(at+"/key") == "new" })
	eventually(t, "the end of the old folder", func() bool {
		_, err := os.Stat(at + "/..1")
		return errors.Is(err,
			fs.ErrNotExist)
	})
	// What was a folder becomes a file.
	if err := os.RemoveAll(src + "/..2"); err != nil {
		t.Fatal(err)
	}
	storagetest.Write(t, src+"/..2", "file")
	eventually(t, "a file where a folder was", func() bool { return storagetest.Read(at+"/..2") == "file" })
	file := &katapb.Storage{Driver: "watchable-bind", Source: src + "/..2", MountPoint: run + "/watched/one"}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{file}); err != nil {
		t.Fatal(err)
	}
	storagetest.Write(t, src+"/..2", "changed")
	eventually(t, "a change of a bound file", func() bool { return storagetest.Read(run+"/watched/one") == "changed" })
	if err := m.Release("c"); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, run); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestABigFolderIsBoundInstead(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	for i := range mirror.MaxFiles + 1 {
		storagetest.Write(t, fmt.Sprintf("%s/shared/many/%d", run, i), "x")
	}
	storagetest.Write(t, run+"/shared/big/file", strings.Repeat("x", mirror.MaxBytes+1))
	for _, name := range []string{"many", "big"} {
		if err := m.Add(t.Context(), "c", []*katapb.Storage{{Driver: "watchable-bind",
			Source: run + "/shared/" + name, MountPoint: run + "/w/" + name}}); err != nil {
			t.Fatal(err)
		}
		storagetest.Write(t, run+"/shared/"+name+"/late", "y")
		if got := storagetest.Read(run + "/w/" + name + "/late"); got != "y" {
			t.Errorf("%s is a copy: %q", name, got)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestAGroupGetsItsVolume(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	storagetest.Write(t, run+"/shared/v/dir/file", "x")
	if err := errors.Join(os.Symlink("/etc/passwd", run+"/shared/v/link"), os.Chmod(run+"/shared/v/dir/file", 0o700),
		os.Chmod(run+"/shared/v", 0o700)); err != nil {
		t.Fatal(err)
	}
	s := &katapb.Storage{Driver: "bind", Source: run + "/shared/v", MountPoint: run + "/v",
		FsGroup: &katapb.FSGroup{GroupId: 0, GroupChangePolicy: katapb.FSGroupChangePolicy_OnRootMismatch}}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"": fs.ModeDir | fs.ModeSetgid | 0o770,
		"/dir": fs.ModeDir | fs.ModeSetgid | 0o775, "/dir/file": 0o760} {
		if fi, err := os.Stat(run + "/v" + path); err != nil || fi.Mode() != want {
			t.Errorf("%q is %v, want %v (%v)", path, fi.Mode(), want, err)
		}
	}
	// With the folder right, what is below it is left alone.
	if err := errors.Join(m.Release("c"), os.Chmod(run+"/shared/v/dir/file", 0o600)); err != nil {
		t.Fatal(err)
	}
	for policy, want := range map[katapb.FSGroupChangePolicy]fs.FileMode{
		katapb.FSGroupChangePolicy_OnRootMismatch: 0o600} {
		s.FsGroup.GroupChangePolicy = policy
		if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(run + "/v/dir/file"); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, want %v (%v)", policy, fi.Mode(), want, err)
		}
		if err := m.Release("c"); err != nil {
			t.Fatal(err)
		}
	}
	s.FsGroup.GroupChangePolicy = katapb.FSGroupChangePolicy_Always
	if err := m.Add(t.Context(), "c", []*katapb.Storage{s}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(run + "/v/dir/file"); err != nil || fi.Mode() != 0o660 {
		t.Errorf("always: %v (%v)", fi.Mode(), err)
	}
}

func TestALocalFolderHasItsModeAndMemoryItsNewSize(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	m, run := manager(t)
	local := &katapb.Storage{Driver: "local", MountPoint: run + "/shared/containers/s/rootfs/local/x",
		Options: []string{"mode=0777", "fsgid=0"}}
	if err := m.Add(t.Context(), "c", []*katapb.Storage{local, tmpfs(run+"/e", "size=1m", "nodev",
		"nosuid")}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(local.MountPoint); err != nil || fi.Mode() != fs.ModeDir|fs.ModeSetgid|0o777 {
		t.Errorf("local is %v, %v", fi.Mode(), err)
	}
	if err := m.UpdateEphemeral([]*katapb.Storage{tmpfs(run+"/e", "size=2097152")}); err != nil {
		t.Fatal(err)
	}
	got, err := m.VolumeStats(run + "/e")
	if err != nil || got.Usage[0].Total != 2<<20 || got.Usage[0].Unit != katapb.VolumeUsage_BYTES ||
		got.Usage[1].Unit != katapb.VolumeUsage_INODES || got.VolumeCondition.Abnormal {
		t.Errorf("after the resize: %v, %v", got, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(run+"/e", &st); err != nil || st.Flags&(unix.ST_NODEV|unix.ST_NOSUID) != unix.ST_NODEV|
		unix.ST_NOSUID {
		t.Errorf("a resize changed the flags to %x, %v", st.Flags, err)
	}
	for name, s := range map[string]*katapb.Storage{"no size": tmpfs(run + "/e"), "not mounted": tmpfs(run+"/none",
		"size=1"), "a size that is none": tmpfs(run+"/e", "size=x"), "outside": tmpfs("/tmp", "size=1m"),
		"another driver": {Driver: "local", MountPoint: run + "/e"}} {
		if err := m.UpdateEphemeral([]*katapb.Storage{s}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := m.VolumeStats(run + "/none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stats of nothing: %v", err)
	}
	if _, err := m.VolumeStats("/etc"); !errors.Is(err, ErrOutside) {
		t.Errorf("stats of /etc: %v", err)
	}
	if err := m.StaleMounts(); err != nil {
		t.Error(err)
	}
}

func TestFilesAreCopiedBelowTheSharedFolderAlone(t *testing.T) {
	run := t.TempDir()
	m := New(Config{Run: run})
	shared := run + "/shared/containers"
	outside := t.TempDir()
	storagetest.Write(t, shared+"/real/file", "x")
	if err := errors.Join(os.Symlink(outside, shared+"/out"), os.Symlink("real", shared+"/in")); err != nil {
		t.Fatal(err)
	}
	request := func(path string, size int64) *katapb.CopyFileRequest {
		return &katapb.CopyFileRequest{Path: path, FileSize: size, FileMode: unix.S_IFREG | 0o640,
			Uid: int32(os.Getuid()), Gid: int32(os.Getgid()), Data: []byte("x")}
	}
	for name, path := range map[string]string{
		"elsewhere": outside + "/x", "another shared folder": run + "/shared/foo", "up": shared + "/../x",
		"a link out": shared + "/out/x", "a link that stays in": shared + "/in/x",
		"the folder itself": shared, "relative": "x", "a NUL": shared + "/a\x00b", "a neighbour": shared + "-2/x",
	} {
		if err := m.CopyFile(request(path, 1)); !errors.Is(err, ErrOutside) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, _ := os.ReadDir(outside); len(e) != 0 {
		t.Errorf("written outside: %v", e)
	}
	if err := m.CopyFile(request(shared+"/a/whole", 1)); err != nil || storagetest.Read(shared+"/a/whole") != "x" {
		t.Errorf("%q, %v", storagetest.Read(shared+"/a/whole"), err)
	}
	if err := m.CopyFile(request(shared+"/a/half", 2)); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if e, err := os.ReadDir(shared + "/a"); err != nil || len(e) != 1 {
		t.Errorf("left: %v, %v", e, err)
	}
}

func TestASpecGetsTheNumbersOfThisGuest(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	spec := &specs.Spec{Linux: &specs.Linux{
		Devices: []specs.LinuxDevice{{Path: "/dev/a", Type: "b", Major: 8, Minor: 0}, {Path: "/dev/b", Type: "b",
			Major: 8, Minor: 16}, {Path: "/dev/c", Type: "c", Major: 8, Minor: 0}},
		Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"}, {Allow: true, Type: "b", Major: n(8), Minor: n(0)},
			{Allow: true, Type: "b", Major: n(8), Minor: n(16)}, {Allow: true, Type: "c", Major: n(8), Minor: n(0)},
			{Type: "b", Major: n(8)},
		}},
	}}
	// The first device gets the number that the second had on the host.
	err := rewrite(spec, []change{{path: "/dev/a", to: devmapper.Device{Major: 8, Minor: 16}},
		{path: "/dev/b", to: devmapper.Device{Major: 8, Minor: 32}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range spec.Linux.Devices {
		got = append(got, fmt.Sprintf("%s %d:%d", d.Path, d.Major, d.Minor))
	}
	for _, r := range spec.Linux.Resources.Devices {
		if r.Major != nil && r.Minor != nil {
			got = append(got, fmt.Sprintf("%s %d:%d", r.Type, *r.Major, *r.Minor))
		}
	}
	want := "/dev/a 8:16, /dev/b 8:32, /dev/c 8:0, b 8:16, b 8:32, c 8:0"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	if err := rewrite(spec, []change{{path: "/dev/none"}}); err == nil {
		t.Error("a device that the specification lacks is no error")
	}
}

func TestADeviceIsFoundByItsPlaceAndNotByAName(t *testing.T) {
	for _, c := range []struct{ kind, id, path, want string }{
		{"blk", "02/01", "/dev/vda", "02/01"}, {"blk", "02/01", "", "02/01"}, {"blk", "", "/dev/vdb", "/dev/vdb"},
		{"scsi", "0:1", "/dev/sda", "0:1"}, {"scsi", "0:1", "", "0:1"},
		{"blk-ccw", "0.0.0005", "/dev/vda", "0.0.0005"}, {"mmioblk", "drive-1", "/dev/vdb", "/dev/vdb"},
		{"nvdimm", "nv0", "/dev/pmem1", "/dev/pmem1"}, {"mmioblk", "/dev/vdc", "", "/dev/vdc"},
	} {
		if got := sourceOf(&katapb.Device{Type: c.kind, Id: c.id, VmPath: c.path}); got != c.want {
			t.Errorf("%s, id %q, vm_path %q: %q, want %q", c.kind, c.id, c.path, got, c.want)
		}
	}
}

func TestDevicesAreCheckedAndWaitedFor(t *testing.T) {
	m := New(Config{Root: storagetest.Disks(t), Run: t.TempDir(), Devices: &uevent.Listener{Root: t.TempDir(),
		Timeout: time.Millisecond}})
	for name, d := range map[string]*katapb.Device{
		"no type": {Id: "02/01"}, "no name": {Type: "blk"}, "an unknown type": {Type: "vfio-ap", Id: "1"},
		"VFIO without options":     {Type: "vfio-pci-gk", Id: "x"},
		"VFIO that is no PCI path": {Type: "vfio-pci-gk", Id: "x", Options: []string{"0000:00:01.0=zz"}},
		"VFIO that is not there":   {Type: "vfio-pci-gk", Id: "x", Options: []string{"0000:00:01.0=05"}},
	} {
		if err := m.Devices(t.Context(), []*katapb.Device{d}, &specs.Spec{Linux: &specs.Linux{}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	there := &katapb.Device{Type: "vfio-pci-gk", Id: "x", Options: []string{"0000:00:01.0=02/01"}}
	if err := m.Devices(t.Context(), []*katapb.Device{there}, nil); err != nil {
		t.Error(err)
	}
}

func TestLayersSayWhatTheyAre(t *testing.T) {
	root := strings.Repeat("ab", 32)
	l, err := readLayer(&katapb.Storage{Driver: multiLayer, Source: "02", Fstype: "erofs",
		Options: []string{"ro", "loop", layerMulti, layerLower, layerGPT, layerNumber + "3", layerVerity + "=true",
			verityOptions + "roothash=" + root, verityOptions + "hashoffset=8192",
			verityOptions + "no-superblock=true", verityOptions + "salt=00ff"}})
	if err != nil {
		t.Fatal(err)
	}
	if l.driver != "blk" || l.verity == nil || l.partition != 3 || l.upper ||
		l.how.Flags&unix.MS_RDONLY == 0 || len(l.how.Data) != 0 {
		t.Errorf("got %+v", l)
	}
	good := []string{layerMulti, layerLower, layerVerity, verityOptions + "roothash=" + root,
		verityOptions + "hashoffset=4096"}
	if _, err := readLayer(&katapb.Storage{Fstype: "erofs", Options: good}); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]string{
		"neither upper nor lower": {layerMulti}, "both": {layerUpper, layerLower}, "an unknown word": {layerLower,
			"X-kata.new"}, "a partition without GPT": {layerLower, layerNumber + "1"},
		"GPT without a partition": {layerLower, layerGPT}, "verity on what is written": {layerUpper, layerVerity},
		"verity that is off":       {layerLower, verityOptions + "roothash=" + root},
		"verity without a hash":    {layerLower, layerVerity, verityOptions + "hashoffset=4096"},
		"verity without an offset": {layerLower, layerVerity, verityOptions + "roothash=" + root},
		"an offset between blocks": append(good[:len(good):len(good)], verityOptions+"hashoffset=4095"),
		"another hash":             append(good[:len(good):len(good)], verityOptions+"algorithm=md5"),
		"words in the salt":        append(good[:len(good):len(good)], verityOptions+"salt=00 1 ignore_corruption"),
	} {
		if l, err := readLayer(&katapb.Storage{Source: "02", Fstype: "erofs", Options: options}); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	up := place.Root("/run/x/upper")
	for in, want := range map[string]string{"{{ mount 0 }}/upper:0755": "/run/x/upper/upper",
		"/work": "/run/x/upper/work", "/run/x/upper/deep/er": "/run/x/upper/deep/er", "{{ mount 0 }}/../../etc": "",
		"{{ mount": ""} {
		if got, err := folderOf(up, in); (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func TestSizesAreRead(t *testing.T) {
	for in, want := range map[string]int64{"2M": 2 << 20, "2MB": 2 << 20, "1G": 1 << 30, "4096": 4096, "8k": 8 << 10,
		"1gb": 1 << 30, "x": -1, "": -1, "-1": -1, "99999999999G": -1, "M": -1, "1MM": -1} {
		got, err := parseSize(in)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

func TestHugePagesAreReservedAndGivenBack(t *testing.T) {
	file := "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	root := storagetest.Files(t, map[string]string{file: "3\n"})
	m := New(Config{Root: root, Run: t.TempDir()})
	var u undo
	if err := m.reserve(mount.Parse([]string{"pagesize=2M", "size=8388608"}), &u); err != nil ||
		storagetest.Read(filepath.Join(root, file)) != "7" {
		t.Fatalf("%s pages, %v", storagetest.Read(filepath.Join(root, file)), err)
	}
	if err := u.run(); err != nil || storagetest.Read(filepath.Join(root, file)) != "3" {
		t.Errorf("%s pages afterwards, %v", storagetest.Read(filepath.Join(root, file)), err)
	}
	for _, o := range []string{"pagesize=2M", "size=1G", "pagesize=1G,size=1G", "pagesize=2M,size=1M"} {
		if err := m.reserve(mount.Parse([]string{o}), &u); err == nil {
			t.Errorf("%s: no error", o)
		}
	}
}

func TestAFileSystemIsMadeOnlyWithItsProgram(t *testing.T) {
	m := New(Config{Run: t.TempDir()})
	if err := m.makeFileSystem(t.Context(), disk.Disk{Node: "/dev/x"}, []string{"encryption_key=ephemeral",
		createFileSystem}); err == nil || !strings.Contains(err.Error(), "encrypt") {
		t.Errorf("got %v", err)
	}
	if err := m.makeFileSystem(t.Context(), disk.Disk{Node: "/dev/x"}, []string{createFileSystem}); err == nil {
		t.Error("a file system was made by nothing")
	}
	if err := m.makeFileSystem(t.Context(), disk.Disk{Node: "/dev/x"}, nil); err != nil {
		t.Error(err)
	}
}
