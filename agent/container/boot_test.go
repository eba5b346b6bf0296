package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/katabuild/katabuild/agent/early"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
	"golang.org/x/sys/unix"
)

// inGuest is the word on the kernel command line that makes this test program an init, and pivotWord the one for a root
// to be pivoted.
const (
	inGuest   = "container_test=1"
	pivotWord = "container_root=tmpfs"
	guestDone = "guest: ended with "
)

func TestMain(m *testing.M) {
	if IsStage(os.Args) {
		Stage()
	}
	if os.Getpid() == 1 && os.Getenv("container_test") == "1" {
		guestMain(m)
	}
	os.Exit(m.Run())
}

// guestMain is the test program as PID 1.
func guestMain(m *testing.M) {
	os.Setenv("PATH", early.Path)
	if os.Getenv("container_root") == "tmpfs" && os.Getenv("container_moved") == "" {
		fmt.Println("guest: move to a tmpfs:", moveRoot())
	}
	early.Run(early.Table(), func(err error) { fmt.Println("guest:", err) })
	early.Process()
	os.MkdirAll("/tmp", 0o1777)
	early.Hostname("")
	early.LoopbackUp()
	os.Args = append(os.Args[:1], "-test.v", "-test.run=^TestInGuest", "-test.bench="+os.Getenv("container_bench"),
		"-test.timeout=4m")
	if r := os.Getenv("container_run"); r != "" {
		os.Args = append(os.Args, "-test.run=^TestInGuest/"+r)
	}
	code := m.Run()
	fmt.Printf("%s%d\n", guestDone, code)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// moveRoot puts what the initramfs has on a tmpfs, and starts again from there: a root that pivot_root(2) can replace.
func moveRoot() error {
	for _, f := range []func() error{
		func() error { return os.MkdirAll("/new", 0o755) },
		func() error { return unix.Mount("tmpfs", "/new", "tmpfs", 0, "mode=0755") },
		func() error { return unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "") },
		func() error { return os.Mkdir("/new/dev", 0o755) },
		func() error {
			return exec.Command("/rootfs/bin/busybox", "cp", "-a", "/init", "/rootfs", "/ext4.img", "/new/").Run()
		},
		func() error { return os.Chdir("/new") },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return os.Chdir("/") },
		func() error { return unix.Exec("/init", []string{"/init"}, append(os.Environ(), "container_moved=1")) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// initrd packs this test program and busybox as the only program of a root file system.
func initrd(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var more []boottest.Entry
	add := func(name string, mode cpio.FileMode, data string) {
		more = append(more, boottest.Entry{Name: name, Mode: mode, Data: []byte(data)})
	}
	for _, d := range []string{"dev", "rootfs", "rootfs/bin", "rootfs/etc", "rootfs/proc", "rootfs/sys", "rootfs/dev",
		"rootfs/secret"} {
		add(d, cpio.TypeDir|0o755, "")
	}
	add("rootfs/tmp", cpio.TypeDir|0o1777, "")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	more = append(more, boottest.File(t, "rootfs/bin/busybox", busybox))
	for _, n := range []string{"sh", "true", "cat", "sleep", "echo", "id", "ls", "mount", "stat", "dd", "tty", "stty",
		"kill", "grep", "readlink", "hostname", "mkdir", "env", "head", "tail", "ps", "wc", "chmod", "touch", "rm",
		"mknod"} {
		add("rootfs/bin/"+n, cpio.TypeSymlink|0o777, "busybox")
	}
	add("rootfs/etc/passwd", cpio.TypeReg|0o644,
		"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	add("rootfs/notexec", cpio.TypeReg|0o644, "x")
	add("rootfs/garbage", cpio.TypeReg|0o755, "\x00\x01garbage")
	add("rootfs/secret/file", cpio.TypeReg|0o644, "secret")
	disk := filepath.Join(t.TempDir(), "ext4.img")
	if out, err := exec.Command("mkfs.ext4", "-q", disk, "2m").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return boottest.Initrd(t, self, append(more, boottest.File(t, "ext4.img", disk))...)
}

// TestContainersInAGuest runs the tests called TestInGuest inside, as PID 1, once for each way to change the root.
func TestContainersInAGuest(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"),
		testenv.File("KATABUILD_TEST_DEFAULT_VMLINUX"),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("busybox"), testenv.Tool("mkfs.ext4"))
	image := initrd(t)
	for name, word := range map[string]string{"moved over an initramfs": "", "pivoted on a tmpfs": pivotWord} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m",
				"1024",
				"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
				"-kernel", os.Getenv("KATABUILD_TEST_DEFAULT_VMLINUX"), "-initrd", image,
				"-append", "console=ttyS0 quiet panic=-1 rdinit=/init "+inGuest+" "+word+" "+os.Getenv(
					"KATABUILD_TEST_GUEST_WORDS"))
			out, err := cmd.CombinedOutput()
			console := strings.ReplaceAll(string(out), "\r", "")
			if err != nil || !strings.Contains(console, guestDone+"0\n") || !strings.Contains(console,
				"--- PASS: TestInGuest ") ||
				!strings.Contains(console, fmt.Sprintf("root is changed by moving it: %v", word == "")) ||
				strings.Contains(console, "stages are started ahead") != (word == pivotWord) {
				t.Fatalf("%s\n%v\n%s", cmd, err, console)
			}
			t.Log(console)
		})
	}
}
