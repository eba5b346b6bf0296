package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/storage/storagetest"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// kernel names the variable that holds the path of an x86_64 kernel for boot tests.
const kernel = "KATABUILD_TEST_DEFAULT_VMLINUX"

// bootTimeout is many times what a boot takes under emulation on a busy machine.
const bootTimeout = 3 * time.Minute

// The lines by which the guest tells the host. say's prefix is on each.
const (
	say      = "storage-test: "
	plugNow  = say + "plug"
	allDone  = say + "done"
	rootWord = "storage_test.root_hash="
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		bootGuest()
	}
	os.Exit(m.Run())
}

// bootGuest is the init of the guest.
func bootGuest() {
	for _, s := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/run", "tmpfs"}} {
		_ = os.MkdirAll(s[1], 0o755)
		if err := unix.Mount(s[0], s[1], s[2], 0, ""); err != nil && err != unix.EBUSY {
			fmt.Println(say+"mount", s, err)
		}
	}
	if err := guestDeeds(); err != nil {
		fmt.Println(say+"FAILED:", err)
	}
	fmt.Println(allDone)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func guestDeeds() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	var hash string
	for w := range strings.FieldsSeq(string(line)) {
		if h, ok := strings.CutPrefix(w, rootWord); ok {
			hash = h
		}
	}
	if err := os.Mkdir(runDir, 0o755); err != nil {
		return err
	}
	ctx := context.Background()
	devices := &uevent.Listener{Root: "/", Timeout: 30 * time.Second}
	heard := make(chan struct{})
	go func() {
		if err := devices.Run(ctx, func() { close(heard) }); err != nil {
			fmt.Println(say+"FAILED:", err)
		}
	}()
	<-heard
	m := New(Config{Devices: devices})
	disk := func(driver, source string) *katapb.Storage {
		return &katapb.Storage{Driver: driver, Source: source, Fstype: "ext4",
			MountPoint: runDir + "/" + strings.NewReplacer("/", "-", ":", "-").Replace(driver+source)}
	}
	check := func(s *katapb.Storage, want string) error {
		if err := m.Add(ctx, "c", []*katapb.Storage{s}); err != nil {
			return err
		}
		got, err := os.ReadFile(s.MountPoint + "/name")
		if err != nil || string(got) != want {
			return fmt.Errorf("%s %s holds %q, %v; want %s", s.Driver, s.Source, got, err, want)
		}
		fmt.Println(say + "mounted " + s.Driver + " " + s.Source)
		return nil
	}
	if err := check(disk("blk", "02/00"), "port"); err != nil {
		return err
	}
	if err := check(disk("blk", "03/01"), "bridge"); err != nil {
		return err
	}
	if line, err := os.ReadFile("/proc/cmdline"); err != nil {
		return err
	} else if slices.Contains(strings.Fields(string(line)), scsiWord) {
		if err := check(disk("scsi", "1:2"), "scsi"); err != nil {
			return err
		}
	}
	fmt.Println(plugNow)
	if err := check(disk("blk", "05/00"), "plugged"); err != nil {
		return err
	}
	// The layer of a snapshotter behind dm-verity, and a disk to write to.
	layered := func(hash string) []*katapb.Storage {
		at := runDir + "/c/rootfs"
		return []*katapb.Storage{
			{Driver: multiLayer, Source: "02/00", Fstype: "ext4", MountPoint: at, Options: []string{layerMulti,
				layerUpper, "rw", layerMkdir + "{{ mount 0 }}/upper:0755"}},
			{Driver: multiLayer, Source: "06", Fstype: "erofs", MountPoint: at, Options: []string{layerMulti,
				layerLower, "ro", layerVerity, verityOptions + "roothash=" + hash,
				verityOptions + "hashoffset=1048576"}},
		}
	}
	if err := m.Release("c"); err != nil {
		return err
	}
	if err := m.Add(ctx, "bad", layered(strings.Repeat("00", 32))); err == nil {
		return fmt.Errorf("a layer with another root hash was mounted")
	}
	for range 2 { // what was taken away can be made again
		s := layered(hash)
		if err := m.Add(ctx, "c", s); err != nil {
			return err
		}
		got, err := os.ReadFile(s[0].MountPoint + "/name")
		if err != nil || string(got) != "layer" {
			return fmt.Errorf("the layer holds %q, %v", got, err)
		}
		if err := os.WriteFile(s[0].MountPoint+"/new", nil, 0o600); err != nil {
			return err
		}
		if err := m.Release("c"); err != nil {
			return err
		}
	}
	if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(text, []byte(runDir)) {
		return fmt.Errorf("mounts are left: %s, %w", text, err)
	}
	if left, err := filepath.Glob("/sys/block/dm-*"); err != nil || len(left) > 0 {
		return fmt.Errorf("devices are left: %v, %w", left, err)
	}
	fmt.Println(say + "layers")
	return nil
}

// tool runs a program of this machine.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// image makes an ext4 image whose file name says what.
func image(t *testing.T, dir, what string) string {
	t.Helper()
	tree := filepath.Join(dir, what)
	storagetest.Write(t, tree+"/name", what)
	path := filepath.Join(dir, what+".img")
	tool(t, "mkfs.ext4", "-q", "-F", "-d", tree, path, "8M")
	return path
}

var rootHash = regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`)

// scsiKernel names a kernel with the feature virtio-scsi, which the set default has not; scsiWord on its command line
// has the guest look for a SCSI disk too.
const (
	scsiKernel = "KATABUILD_TEST_SCSI_VMLINUX"
	scsiWord   = "storage_test.scsi"
)

// Disks of every kind are found in a real guest: behind a port, behind a bridge, on a SCSI bus where the kernel has
// one,
// plugged in while it waits, and behind dm-verity.
func TestAGuestMountsItsDisks(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File(kernel),
		testenv.Tool("qemu-system-x86_64"), testenv.Tool("go"),
		testenv.Tool("mkfs.ext4"), testenv.Tool("mkfs.erofs"), testenv.Tool("veritysetup"))
	dir := t.TempDir()
	storagetest.Write(t, dir+"/layer/name", "layer")
	layer := dir + "/layer.img"
	tool(t, "mkfs.erofs", layer, dir+"/layer")
	if err := os.Truncate(layer, 1<<20); err != nil {
		t.Fatal(err)
	}
	m := rootHash.FindStringSubmatch(tool(t, "veritysetup", "format", "--data-blocks=256", "--hash-offset=1048576",
		layer, layer))
	if m == nil {
		t.Fatal("veritysetup says no root hash")
	}
	qmp := dir + "/qmp"
	line, vmlinux := "console=ttyS0 quiet panic=-1 "+rootWord+m[1], os.Getenv(kernel)
	wants := []string{"mounted blk 02/00", "mounted blk 03/01", "mounted blk 05/00", "layers", "done"}
	if scsi := os.Getenv(scsiKernel); scsi != "" {
		line, vmlinux, wants = line+" "+scsiWord, scsi, append(wants, "mounted scsi 1:2")
	}
	args := []string{"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "stdio",
		"-qmp", "unix:" + qmp + ",server=on,wait=off", "-kernel", vmlinux, "-initrd",
		boottest.Initrd(t, boottest.Build(t, "", "test", "-c", "-trimpath", "-ldflags=-s -w", ".")),
		"-append", line,
		"-device", "pcie-root-port,id=first,bus=pcie.0,addr=2,chassis=1,slot=1", "-device",
		"pci-bridge,id=second,bus=pcie.0,addr=3,chassis_nr=2",
		"-device", "virtio-scsi-pci,id=fourth,bus=pcie.0,addr=4", "-device",
		"pcie-root-port,id=third,bus=pcie.0,addr=5,chassis=3,slot=3"}
	for _, d := range [][2]string{{"port", "virtio-blk-pci,bus=first"},
		{"bridge", "virtio-blk-pci,bus=second,addr=1"}, {"scsi", "scsi-hd,bus=fourth.0,scsi-id=1,lun=2"},
		{"plugged", ""}, {"layer", "virtio-blk-pci,bus=pcie.0,addr=6"}} {
		file := layer
		if d[0] != "layer" {
			file = image(t, dir, d[0])
		}
		args = append(args, "-drive", "if=none,format=raw,id=drive-"+d[0]+",file="+file)
		if d[1] != "" {
			args = append(args, "-device", d[1]+",drive=drive-"+d[0])
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(out); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		lines = append(lines, line)
		if line == plugNow {
			if err := plug(qmp); err != nil {
				t.Error(err)
			}
		}
	}
	err = cmd.Wait()
	console := strings.Join(lines, "\n")
	if err != nil {
		t.Fatalf("%s\n%v\n%s\n%s", cmd, err, complaint.String(), console)
	}
	for _, want := range wants {
		if !slices.Contains(lines, say+want) {
			t.Errorf("the guest did not say %q", want)
		}
	}
	if t.Failed() || strings.Contains(console, say+"FAILED") {
		t.Errorf("%s\n%s", cmd, console)
	}
}

// plug puts a disk into the free port.
func plug(qmp string) error {
	c, err := net.Dial("unix", qmp)
	if err != nil {
		return err
	}
	defer c.Close()
	answers := json.NewDecoder(c)
	for _, command := range []string{"", `{"execute":"qmp_capabilities"}`,
		`{"execute":"device_add","arguments":{"driver":"virtio-blk-pci","bus":"third",` +
			`"drive":"drive-plugged","id":"plugged"}}`} {
		if _, err := c.Write([]byte(command)); err != nil {
			return err
		}
		for {
			var a map[string]json.RawMessage
			if err := answers.Decode(&a); err != nil {
				return err
			}
			if e, failed := a["error"]; failed {
				return fmt.Errorf("%s: %s", command, e)
			}
			if a["event"] == nil {
				break
			}
		}
	}
	return nil
}
