package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

// write makes a file with its folders.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, path, content string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != content {
		t.Errorf("%s: %q, %v, want %q", path, b, err, content)
	}
}

// ready has mounts of this process go nowhere else, as a shim's do.
func ready(t *testing.T) {
	t.Helper()
	for _, f := range []uintptr{unix.MS_SLAVE | unix.MS_REC, unix.MS_SHARED | unix.MS_REC} {
		if err := unix.Mount("", "/", "", f, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsMountedIsSeenByTheGuestAndGoesAgain(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	ready(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "shares")
	s, err := New(root, "pod-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(root, "pod-1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second of that name: %v", err)
	}

	// A root file system of two layers, written to through the shared folder.
	for _, d := range []string{"low", "up", "work"} {
		write(t, filepath.Join(dir, d, "made"), "")
	}
	write(t, filepath.Join(dir, "low", "a"), "from below")
	options := []string{"lowerdir=" + filepath.Join(dir, "low"), "upperdir=" + filepath.Join(dir, "up"),
		"workdir=" + filepath.Join(dir, "work"), "userxattr"}
	if err := s.Mount("c1", "c1/rootfs", []Mount{{Type: "overlay", Source: "overlay", Options: options}}); err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(s.Dir(), "c1", "rootfs")
	want(t, filepath.Join(seen, "a"), "from below")
	write(t, filepath.Join(seen, "b"), "new")
	want(t, filepath.Join(dir, "up", "b"), "new")

	// A file, and a folder read-only.
	write(t, filepath.Join(dir, "hosts"), "127.0.0.1")
	write(t, filepath.Join(dir, "volume", "x"), "1")
	if err := s.Bind("c1", "c1-hosts", filepath.Join(dir, "hosts"), Writable, Owners{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Bind("c2", "c2-volume", filepath.Join(dir, "volume"), ReadOnlyAll, Owners{}); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(s.Dir(), "c1-hosts"), "127.0.0.1")
	volume := filepath.Join(s.Dir(), "c2-volume")
	want(t, filepath.Join(volume, "x"), "1")
	if err := os.WriteFile(filepath.Join(volume, "y"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write into a read-only volume: %v", err)
	}
	if err := os.Mkdir(filepath.Join(s.Dir(), "guest-made"), 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("make a folder at the top: %v", err)
	}

	// What is mounted below a volume can be written to where the volume itself cannot, unless that is asked for.
	below := filepath.Join(dir, "volume", "below")
	write(t, filepath.Join(below, "empty"), "")
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for name, access := range map[string]Access{"c2-top": ReadOnly, "c2-all": ReadOnlyAll} {
		if err := s.Bind("c2-ro", name, filepath.Join(dir, "volume"), access, Owners{}); err != nil {
			t.Fatal(err)
		}
		seen := filepath.Join(s.Dir(), name)
		if err := os.WriteFile(filepath.Join(seen, "y"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: write at the top: %v", name, err)
		}
		err := os.WriteFile(filepath.Join(seen, "below", "y"), nil, 0o644)
		if all := access == ReadOnlyAll; errors.Is(err, unix.EROFS) != all || err != nil && !all {
			t.Errorf("%s: write below: %v", name, err)
		}
	}
	if err := errors.Join(s.Release("c2-ro"), unix.Unmount(below, 0)); err != nil {
		t.Fatal(err)
	}

	// A mount that comes later below a volume is seen too.
	write(t, filepath.Join(dir, "volume", "later", "empty"), "")
	if err := unix.Mount("tmpfs", filepath.Join(dir, "volume", "later"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "volume", "later", "z"), "3")
	want(t, filepath.Join(volume, "later", "z"), "3")
	if err := unix.Unmount(filepath.Join(dir, "volume", "later"), 0); err != nil {
		t.Fatal(err)
	}

	if err := s.Release("c1"); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(s.Dir()); err != nil || len(list) != 1 {
		t.Errorf("after the release of c1: %v, %v", list, err)
	}
	if err := s.Release("c1"); err != nil {
		t.Error("released again:", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(root); err != nil || len(list) != 0 {
		t.Errorf("after the end: %v, %v", list, err)
	}
	want(t, filepath.Join(dir, "volume", "x"), "1")
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), root) {
		t.Errorf("still mounted: %s, %v", b, err)
	}
}

func TestCleanTakesWhatAKilledOneLeftAndNothingElse(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	root := t.TempDir()
	if err := Clean(root, "never-was"); err != nil {
		t.Error(err)
	}
	// The mounts went with their namespace: places are left.
	write(t, filepath.Join(root, "p1", "mounts", "c1", "rootfs", "keep"), "")
	write(t, filepath.Join(root, "p1", "mounts", "c1-hosts"), "")
	if err := os.MkdirAll(filepath.Join(root, "p1", "shared"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Clean(root, "p1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "p1")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// What is still mounted, and what has content, stays.
	write(t, filepath.Join(root, "p2", "mounts", "vol", "keep"), "")
	if err := unix.Mount("tmpfs", filepath.Join(root, "p2", "mounts", "vol"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "p2", "mounts", "vol", "data"), "precious")
	if err := Clean(root, "p2"); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Error(err)
	}
	want(t, filepath.Join(root, "p2", "mounts", "vol", "data"), "precious")
	if err := unix.Unmount(filepath.Join(root, "p2", "mounts", "vol"), 0); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(root, "p3", "mounts", "data"), "precious")
	if err := Clean(root, "p3"); err == nil || !strings.Contains(err.Error(), "has content") {
		t.Error(err)
	}
	want(t, filepath.Join(root, "p3", "mounts", "data"), "precious")
}

func TestAnOverlayOfManyLayersFits(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	ready(t)
	dir := t.TempDir()
	var lower []string
	for i := range 100 {
		d := filepath.Join(dir, "snapshots", fmt.Sprintf("with-quite-a-long-name-%d", i), "fs")
		write(t, filepath.Join(d, fmt.Sprintf("file-%d", i)), "x")
		lower = append(lower, d)
	}
	data := "lowerdir=" + strings.Join(lower, ":")
	if len(data) < maxData {
		t.Fatal("the test is too small")
	}
	s, err := New(filepath.Join(dir, "shares"), "p1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Mount("c", "c/rootfs", []Mount{{Type: "overlay", Source: "overlay",
		Options: []string{data}}}); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 50, 99} {
		want(t, filepath.Join(s.Dir(), "c", "rootfs", fmt.Sprintf("file-%d", i)), "x")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestMountOptions(t *testing.T) {
	for _, c := range []struct {
		m     Mount
		flags uintptr
		data  string
	}{
		{Mount{Type: "bind", Options: []string{"rbind", "ro"}}, unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY, ""},
		{Mount{Type: "bind"}, unix.MS_BIND, ""},
		{Mount{Type: "ext4", Options: []string{"ro", "rw", "nosuid", "X-a=b", "data=ordered", "noload"}},
			unix.MS_NOSUID, "data=ordered,noload"},
		{Mount{Type: "overlay", Options: []string{"index=off", "lowerdir=/a:/b"}}, 0, "index=off,lowerdir=/a:/b"},
	} {
		if flags, data := c.m.flags(); flags != c.flags || data != c.data {
			t.Errorf("%+v: %#x %q, want %#x %q", c.m, flags, data, c.flags, c.data)
		}
	}
}

func TestEachVirtiofsdGetsItsOwnOptions(t *testing.T) {
	for _, tc := range []struct {
		p    Program
		want string
	}{
		{Program{"/v", true, "1.13.2", true, true},
			"/v --fd=3 --shared-dir=/d --cache=never --announce-submounts --xattr --posix-acl --killpriv-v2 --x"},
		{Program{"/v", true, "1.0", false, false},
			"/v --fd=3 --shared-dir=/d --cache=never --announce-submounts --xattr --x"},
		{Program{"/v", false, "7.2", true, false},
			"/v --fd=3 -f -o source=/d -o cache=none -o announce_submounts -o xattr -o posix_acl --x"},
		{Program{"/v", false, "5.2", false, false},
			"/v --fd=3 -f -o source=/d -o cache=none -o announce_submounts -o xattr --x"},
	} {
		c := DaemonConfig{Program: tc.p, Dir: "/d", Cache: "never", Extra: []string{"--x"}}
		if got := strings.Join(c.argv(), " "); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.p, got, tc.want)
		}
	}
}

func TestProgramsSayWhatTheyAre(t *testing.T) {
	for _, tc := range []struct {
		help, version, want string
		limits              int
	}{
		{"--shared-dir <SHARED_DIR>\n --posix-acl\n", "virtiofsd 1.13.2\n", "/v (in Rust, 1.13.2)", 0},
		{"--shared-dir <SHARED_DIR>\n --posix-acl\n", "virtiofsd backend 1.4.0\n", "/v (in Rust, 1.4.0)", 1},
		{"--shared-dir <SHARED_DIR>", "", "/v (in Rust)", 1},
		{"-o posix_acl/no_posix_acl", "virtiofsd version 7.2.22 (Debian 1:7.2)\nCopyright",
			"/v (QEMU's own in C, 7.2.22)", 3},
		{"", "", "/v (QEMU's own in C)", 4},
	} {
		p := Identify("/v", []byte(tc.help), []byte(tc.version))
		if p.String() != tc.want || len(p.Limits()) != tc.limits {
			t.Errorf("%q: %v, %q; want %s and %d limits", tc.version, p, p.Limits(), tc.want, tc.limits)
		}
	}
}

// The one in Rust is taken, wherever it lies, and is not asked for where another one is named.
func TestTheProgramInRustIsPreferred(t *testing.T) {
	dir := t.TempDir()
	script := func(name, help string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho 'virtiofsd "+help+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c, rust := script("c", "version 7.2"), script("rust", "1.13.2 --shared-dir")
	missing := filepath.Join(dir, "missing")
	for _, tc := range []struct {
		list []string
		want string
	}{{[]string{missing, c, rust}, rust}, {[]string{rust, c}, rust}, {[]string{missing, c}, c},
		{[]string{missing}, ""}} {
		p, err := firstOf(t.Context(), tc.list)
		if p.Path != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%q: %v, %v", tc.list, p, err)
		}
	}
}
