package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
)

const (
	guestDone = "guest: ended with "
	childWord = "sleep" // the argument of a process that only is there
)

// TestMain is PID 1 of a guest too, whose kernel has control groups of version 2, as most hosts have and not every one
// that runs these tests.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == childWord:
		time.Sleep(time.Hour)
	case os.Getpid() == 1 && os.Getenv("cgroup_test") == "1":
		for _, d := range []string{"/proc", "/sys", "/dev"} {
			_ = os.MkdirAll(d, 0o755) // mounting says why not
		}
		for _, mount := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
			{"cgroup2", "/sys/fs/cgroup"}} {
			if err := unix.Mount(mount.kind, mount.at, mount.kind, 0, ""); err != nil {
				fmt.Println("guest: mount", mount.at, err)
			}
		}
		os.Args = append(os.Args[:1], "-test.v", "-test.run=^TestInGuest")
		fmt.Printf("%s%d\n", guestDone, m.Run())
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // or the kernel panics, which ends the guest as well
	}
	os.Exit(m.Run())
}

func TestVersion2InAGuest(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"), testenv.Tool("qemu-system-x86_64"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX"),
		"-initrd", boottest.Initrd(t, self),
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/init cgroup_test=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), guestDone+"0") || !strings.Contains(string(out),
		"--- PASS: TestInGuest") {
		t.Fatalf("%s\n%v\n%s", cmd, err, out)
	}
}

// groupOf is the group of a process, as it is written in proc.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestInGuest(t *testing.T) {
	if os.Getpid() != 1 {
		return // TestVersion2InAGuest runs it
	}
	const mount, slice = "/sys/fs/cgroup", "/kubepods.slice/kubepods-pod1.slice"
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(mount, file), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	// As the kubelet with systemd: the pod's slice has the limits, and hands its controllers on.
	if err := os.MkdirAll(mount+slice, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "/kubepods.slice", slice} {
		write(dir+"/cgroup.subtree_control", "+pids +memory")
	}
	write(slice+"/pids.max", "50")
	parent := Parent("kubepods-pod1.slice:cri-containerd:abc")
	if parent != slice {
		t.Fatalf("parent %s, want %s", parent, slice)
	}
	g, err := Join(parent, "p1")
	if err != nil {
		t.Fatal(err)
	}
	want := "0::" + slice + "/kata_p1"
	if got := groupOf(t, os.Getpid()); got != want {
		t.Errorf("this process is in %s, want %s", got, want)
	}
	if !slices.Equal(g.Dirs, []string{mount + slice + "/kata_p1"}) {
		t.Errorf("made %q", g.Dirs)
	}
	child := exec.Command("/init", childWord)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if got := groupOf(t, child.Process.Pid); got != want {
		t.Errorf("a child is in %s, want %s", got, want)
	}
	// What the pod's slice allows holds for all of it.
	b, err := os.ReadFile(mount + slice + "/pids.current")
	if n, e := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || e != nil || n < 2 {
		t.Errorf("the slice counts %q: %v", b, err)
	}
	// One that Join was killed in is cleaned up by what Dirs says, and what has processes is not.
	if dirs, err := Dirs(parent, "p1"); err != nil || !slices.Equal(dirs, g.Dirs) {
		t.Errorf("Dirs: %q, %v", dirs, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	for range 2 {
		if err := g.Leave(); err != nil {
			t.Error(err)
		}
	}
	if got := groupOf(t, os.Getpid()); got != "0::/" {
		t.Errorf("this process is in %s, want where it was", got)
	}
	if _, err := os.Stat(mount + slice + "/kata_p1"); err == nil {
		t.Error("the pod's group is still there")
	}
	if _, err := os.Stat(mount + slice); err != nil {
		t.Errorf("its parent, which was there before: %v", err)
	}
}
