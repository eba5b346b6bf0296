package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestThePodsGroupIsBesideItsContainers(t *testing.T) {
	for path, want := range map[string]string{
		"/default/c1":      "/default",
		"kubepods/pod1/c1": "/kubepods/pod1",
		"":                 "/",
		"/":                "/",
		"/../../x/c":       "/x",
		"kubepods-burstable-pod1.slice:cri-containerd:abc": "/kubepods.slice/kubepods-burstable.slice/" +
			"kubepods-burstable-pod1.slice",
		"system.slice:docker:abc": "/system.slice",
		"-.slice:docker:abc":      "/",
		":docker:abc":             "/",
	} {
		if got := Parent(path); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
}

// hierarchies makes folders that stand for mounted hierarchies, and the files of proc that describe them. Entering is
// writing a file there.
func hierarchies(t *testing.T, self string, mounts map[string]string) (dir, mountinfo, selfFile string) {
	t.Helper()
	dir = t.TempDir()
	var info strings.Builder
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range mounts {
			if !yield(k) {
				return
			}
		}
	}) {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&info, "32 31 0:29 / %s/%s rw,relatime shared:4 - %s\n", dir, name, mounts[name])
	}
	mountinfo, selfFile = filepath.Join(dir, "mountinfo"), filepath.Join(dir, "self")
	for f, s := range map[string]string{mountinfo: info.String(), selfFile: self} {
		if err := os.WriteFile(f, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, mountinfo, selfFile
}

func TestEveryHierarchyOfVersion1IsJoinedAndLeft(t *testing.T) {
	dir, info, self := hierarchies(t, "3:cpuset:/\n2:cpu,cpuacct:/me\n1:name=systemd:/\n0::/\n", map[string]string{
		"cpuset": "cgroup cgroup rw,cpuset", "cpu": "cgroup cgroup rw,cpu,cpuacct",
		"systemd": "cgroup cgroup rw,xattr,name=systemd",
		"unified": "cgroup2 cgroup2 rw", "tmp": "tmpfs tmpfs rw",
	})
	for name, s := range map[string]string{"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n"} {
		if err := os.WriteFile(filepath.Join(dir, "cpuset", name), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		// A real folder has them, empty.
		if err := os.MkdirAll(filepath.Join(dir, "cpuset", "pods"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before, err := groups(info, self, "/pods", "p1")
	if err != nil {
		t.Fatal(err)
	}
	g, err := join(info, self, "/pods", "p1")
	if err != nil {
		t.Fatal(err)
	}
	if all := []string{filepath.Join(dir, "cpu/pods/kata_p1"), filepath.Join(dir, "cpuset/pods/kata_p1"),
		filepath.Join(dir, "systemd/pods/kata_p1")}; !slices.Equal(before, all) {
		t.Errorf("known before: %q, want %q", before, all)
	}
	for _, h := range []string{"cpuset", "cpu", "systemd"} {
		if b, err := os.ReadFile(filepath.Join(dir, h, "pods", "kata_p1", "cgroup.procs")); err != nil ||
			string(b) != fmt.Sprint(os.Getpid()) {
			t.Errorf("%s: %q, %v", h, b, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "unified", "pods")); err == nil {
		t.Error("version 2 beside version 1 is joined")
	}
	want := []string{filepath.Join(dir, "cpu/pods"), filepath.Join(dir, "cpu/pods/kata_p1"),
		filepath.Join(dir, "cpuset/pods/kata_p1"), filepath.Join(dir, "systemd/pods"),
		filepath.Join(dir, "systemd/pods/kata_p1")}
	if !slices.Equal(g.Dirs, want) {
		t.Errorf("made %q, want %q", g.Dirs, want)
	}
	// A kernel's folder is empty for rmdir; these hold the file.
	for _, h := range []string{"cpuset", "cpu", "systemd"} {
		if err := os.Remove(filepath.Join(dir, h, "pods", "kata_p1", "cgroup.procs")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "cpu", "me"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.Leave(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cpu", "me", "cgroup.procs")); err != nil {
		t.Error("this process is not back where it was:", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "systemd", "pods")); err == nil {
		t.Error("a group that was made for the pod is left")
	}
	if _, err := os.Stat(filepath.Join(dir, "cpuset", "pods")); err != nil {
		t.Error("a group that was there before is gone:", err)
	}
	if err := g.Leave(); err != nil {
		t.Error("left again:", err)
	}
}

func TestVersion2AloneIsJoined(t *testing.T) {
	dir, info, self := hierarchies(t, "0::/me\n", map[string]string{"u": "cgroup2 cgroup2 rw,nsdelegate"})
	if _, err := join(info, self, "/a/b", "p1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "u/a/b/kata_p1/cgroup.procs")); err != nil {
		t.Error(err)
	}
}

func TestAParentThatOthersUseStays(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "a/other", "a/kata_x"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Remove([]string{filepath.Join(dir, "a"), filepath.Join(dir, "a/kata_x"),
		filepath.Join(dir, "gone")}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a/other")); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a/kata_y/busy"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Remove([]string{filepath.Join(dir, "a/kata_y")}); err == nil {
		t.Error("a group of ours that cannot be removed is no error")
	}
}

func TestOOMKillsAreCounted(t *testing.T) {
	dir := t.TempDir()
	own, parent := filepath.Join(dir, "kata_a"), filepath.Join(dir, "parent")
	for d, text := range map[string]string{own: "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		parent: "oom_kill 7\n"} {
		if err := errors.Join(os.Mkdir(d, 0o755), os.WriteFile(filepath.Join(d, "memory.oom_control"), []byte(text),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
	g := Group{Dirs: []string{parent, own, filepath.Join(dir, "kata_none")}}
	if n := g.OOMKills(); n != 2 {
		t.Errorf("%d kills, want 2", n)
	}
	for text, want := range map[string]int{"": 0, "low 0\nmax 9\noom 3\noom_kill 1\noom_group_kill 4\n": 1,
		"oom_kill x\n": 0, "oom_kill": 0} {
		if n := oomKills(text); n != want {
			t.Errorf("%q: %d", text, n)
		}
	}
}
