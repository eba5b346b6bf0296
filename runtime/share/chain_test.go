package share

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

func TestReferencesLeadToTheMountsBefore(t *testing.T) {
	points, before := []string{"/p/0", "/p/1", "/p/2"}, []Mount{{Source: "a"}, {Source: "b"}, {Source: "c"}}
	for what, c := range map[string]struct{ in, want string }{
		"a mount point":         {"{{ mount 1 }}/upper", "/p/1/upper"},
		"several":               {"{{overlay 0 2}}", "/p/0:/p/1:/p/2"},
		"from behind":           {"{{ overlay 2 1 }}", "/p/2:/p/1"},
		"a source":              {"{{- source 2 -}}", "c"},
		"two in one":            {"{{ mount 0 }}:{{ mount 2 }}", "/p/0:/p/2"},
		"none":                  {"lowerdir=/x", "lowerdir=/x"},
		"one too far":           {"{{ mount 3 }}", ""},
		"a range too far":       {"{{ overlay 1 3 }}", ""},
		"no number":             {"{{ mount }}", ""},
		"a range of one kind":   {"{{ mount 0 1 }}", ""},
		"an overlay of one":     {"{{ overlay 0 }}", ""},
		"an unknown word":       {"{{ target 0 }}", ""},
		"a number of no mount":  {"{{ mount 9999 }}", ""},
		"a number that is long": {"{{ mount 99999999999999999999 }}", ""},
	} {
		m, err := Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{"index=off",
			c.in}}.Resolve(points, before)
		if (err == nil) != (c.want != "") {
			t.Errorf("%s: %+v, %v", what, m, err)
		}
		if err == nil && (m.Options[1] != c.want || m.Type != "overlay" || m.Options[0] != "index=off") {
			t.Errorf("%s: %+v, want %s", what, m, c.want)
		}
	}
	if m, err := (Mount{Type: "erofs", Source: "{{ mount 0 }}"}).Resolve(points, before); err != nil ||
		m.Source != "{{ mount 0 }}" {
		t.Errorf("a mount that is not formatted: %+v, %v", m, err)
	}
	if _, err := (Mount{Type: "mkfs/ext4"}).Resolve(points, before); err == nil || !strings.Contains(err.Error(),
		"mkfs is for containerd") {
		t.Error(err)
	}
	for _, c := range []struct {
		list []Mount
		want bool
	}{{[]Mount{{Type: "ext4"}}, false}, {[]Mount{{Type: "erofs"}, {Type: "format/bind"}}, true},
		{[]Mount{{Type: "overlay"}, {Type: "mkdir/overlay"}}, false}} {
		if IsChain(c.list) != c.want {
			t.Errorf("%+v", c.list)
		}
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("lowerdir={{ overlay 0 1 }}")
	f.Add("{{ mount 0 }}{{")
	f.Fuzz(func(t *testing.T, s string) {
		out, err := resolve(s, []string{"/0", "/1"}, []Mount{{Source: "a"}, {Source: "b"}})
		if err != nil && out != "" {
			t.Errorf("%q, %v", out, err)
		}
		if err == nil && strings.Contains(reference.ReplaceAllString(s, ""), "{{") {
			t.Errorf("%q became %q", s, out)
		}
	})
}

func TestAChainIsMountedAndLeavesOnlyItsLast(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	ready(t)
	dir := t.TempDir()
	write(t, dir+"/base/a", "base")
	write(t, dir+"/base/b", "base")
	write(t, dir+"/top/b", "top")
	s, err := New(filepath.Join(dir, "shares"), "p1")
	if err != nil {
		t.Fatal(err)
	}
	// As containerd's erofs snapshotter writes it, with folders and memory in the place of disks, which only the
	// machine's own root may mount.
	chain := []Mount{
		{Type: "tmpfs", Source: "tmpfs", Options: []string{"rw"}},
		{Type: "bind", Source: dir + "/top", Options: []string{"ro"}},
		{Type: "bind", Source: dir + "/base", Options: []string{"ro"}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			MkdirOption + "{{ mount 0 }}/upper:0755", MkdirOption + "{{ mount 0 }}/work:0755",
			"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper",
			"lowerdir={{ overlay 1 2 }}", "userxattr",
		}},
	}
	if err := s.Mount("c", "c/rootfs", chain); err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(s.Dir(), "c", "rootfs")
	want(t, seen+"/a", "base")
	want(t, seen+"/b", "top")
	write(t, seen+"/c", "new")
	want(t, seen+"/c", "new")
	// Ones that fail leave nothing.
	broken := slices.Clone(chain)
	broken[2].Source = dir + "/none"
	if err := s.Mount("d", "d/rootfs", broken); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for option, says := range map[string]string{VerityOption + "/x": "hash trees", "uidmap=0:1:1": "only go together"} {
		m := []Mount{{Type: "overlay", Source: "overlay",
			Options: []string{"lowerdir=" + dir + "/top:" + dir + "/base", option}}}
		if err := s.Mount("d", "d/rootfs", m); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", option, err)
		}
	}
	if list, err := filepath.Glob(s.dir + "/chain-*"); err != nil || len(list) > 0 {
		t.Errorf("left: %q, %v", list, err)
	}
	m, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(m)) {
		point := strings.Fields(l)[4] // proc(5)
		if strings.Contains(point, "/chain-") || strings.HasPrefix(point, s.mounts()+"/d/") {
			t.Errorf("still mounted: %s", point)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFolderIsMadeOnTheDiskAndNowhereElse(t *testing.T) {
	dir := t.TempDir()
	point, outside := filepath.Join(dir, "0"), filepath.Join(dir, "outside")
	if err := errors.Join(os.Mkdir(point, 0o755), os.Mkdir(outside, 0o755), os.Symlink(outside, point+"/link"),
		os.WriteFile(point+"/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	// The owner is that of the test, which cannot give files away.
	id := ":" + "0755" + ":" + strconv.Itoa(os.Getuid()) + ":" + strconv.Itoa(os.Getgid())
	if err := makeFolder(point+"/upper"+id, []string{point}); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(point + "/upper"); err != nil || st.Mode() != os.ModeDir|0o755 {
		t.Error(st, err)
	}
	if err := makeFolder(point+"/upper", []string{point}); err != nil {
		t.Error("one that is there:", err)
	}
	for what, option := range map[string]string{
		"beside it": outside + "/x", "above it": point + "/../x", "itself": point, "by a link": point + "/link/x",
		"a file": point + "/file",
		"a link": point + "/link", "a mode": point + "/y:0999", "a user alone": point + "/y:0755:0",
		"no number": point + "/y:0755:a:0",
	} {
		if err := makeFolder(option, []string{point}); err == nil {
			t.Errorf("%s: %s was made", what, option)
		}
	}
	if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

func TestAFullHostIsNamed(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	ready(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k,nr_inodes=6"); err != nil {
		t.Fatal(err)
	}
	s, err := New(root, "p1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "hosts")
	write(t, file, "x")
	err = s.Bind("c1", "c1-hosts", file, Writable, Owners{})
	for i := 0; err == nil && i < 10; i++ {
		err = s.Bind("c1", "c1-hosts-"+strconv.Itoa(i), file, Writable, Owners{})
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), root) {
		t.Errorf("a full folder: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(root, 0); err != nil {
		t.Error(err)
	}
}
