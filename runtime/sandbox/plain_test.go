package sandbox

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/guest/guesttest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

var (
	arm64Kernel = guesttest.At(64, map[int]string{0: "MZ", 56: "ARM\x64"})
	riscvKernel = guesttest.At(64, map[int]string{0: "MZ", 56: "RSC\x05"})
	s390Kernel  = guesttest.At(0x10010, map[int]string{0x10008: "S390EP"})
)

// readPlain reads a guest of plain files.
func readPlain(t *testing.T, p guest.Plain) *guest.Guest {
	t.Helper()
	g, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// argvOf is what QEMU's command line is made of.
func argvOf(p *Plan) qemu.Config { return p.Machine.(*qemu.Plan).Config }

// plainFiles writes a kernel, an initrd, and disks with and without a partition table.
func plainFiles(t *testing.T, kernel []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, b := range map[string][]byte{
		"kernel": kernel, "initrd": []byte("initrd"), "bare.img": make([]byte, 4096),
		"parts.img": guesttest.At(4096, map[int]string{510: "\x55\xaa"}), "tiny.img": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const kataImageWords = " systemd.show_status=false systemd.unit=kata-containers.target " +
	"systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket systemd.unified_cgroup_hierarchy=1"

func TestPlanOfPlainFiles(t *testing.T) {
	verity := &dmverity.Params{RootHash: "abc", Salt: "def", DataBlocks: 100, DataBlockSize: 4096, HashBlockSize: 4096}
	for name, tc := range map[string]struct {
		kernel  []byte
		plain   guest.Plain // names in the folder
		change  func(*Config)
		machine qemu.Machine
		binary  string
		line    string
		fails   string
	}{
		"an initrd": {guesttest.BzImage(0x20f, 1), guest.Plain{Initrd: "initrd"}, nil, qemu.Q35, "qemu-system-x86_64",
			"console=ttyS0 quiet panic=-1 reboot=t net.ifnames=0 cgroup_no_v1=all tsc_early_khz=2600000 " +
				"tsc=reliable no_timer_check", ""},
		"an image with partitions": {guesttest.BzImage(0x20f, 1), guest.Plain{Image: "parts.img"},
			func(c *Config) { c.Words = []string{"agent.log=debug"} }, qemu.Q35, "qemu-system-x86_64",
			"console=ttyS0 quiet panic=-1 reboot=t net.ifnames=0 cgroup_no_v1=all root=/dev/vda1 " +
				"rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4" + kataImageWords +
				" tsc_early_khz=2600000 tsc=reliable no_timer_check agent.log=debug", ""},
		"an image without": {arm64Kernel, guest.Plain{Image: "bare.img", FileSystem: "erofs"}, nil, qemu.Virt,
			"qemu-system-aarch64",
			"console=ttyAMA0 quiet panic=-1 net.ifnames=0 cgroup_no_v1=all root=/dev/vda ro rootfstype=erofs" +
				kataImageWords, ""},
		"an image behind dm-verity": {s390Kernel, guest.Plain{Image: "parts.img", FileSystem: "xfs", Verity: verity},
			nil, qemu.S390CCW, "qemu-system-s390x",
			`console=ttysclp0 quiet panic=-1 net.ifnames=0 cgroup_no_v1=all dm-mod.create="dm-verity,,,ro,0 800 verity 1 /dev/vda1 /dev/vda2 4096 4096 100 0 sha256 abc def" root=/dev/dm-0 ro rootfstype=xfs` + kataImageWords, ""},
		"a kernel for riscv": {riscvKernel, guest.Plain{Initrd: "initrd"}, nil, qemu.Virt, "qemu-system-riscv64",
			"console=ttyS0 quiet panic=-1 numa=off net.ifnames=0 cgroup_no_v1=all", ""},
		"another machine": {guesttest.BzImage(0x20f, 1), guest.Plain{Initrd: "initrd"},
			func(c *Config) { c.Machine = string(qemu.MicroVM) },
			qemu.MicroVM, "qemu-system-x86_64",
			"console=ttyS0 quiet panic=-1 reboot=t net.ifnames=0 cgroup_no_v1=all tsc_early_khz=2600000 " +
				"tsc=reliable no_timer_check", ""},
		"a machine of another architecture": {arm64Kernel, guest.Plain{Initrd: "initrd"},
			func(c *Config) { c.Machine = string(qemu.Q35) }, "", "", "",
			"is for aarch64, which has no machine q35 (but virt)"},
		"both initrd and image": {arm64Kernel, guest.Plain{Initrd: "initrd", Image: "bare.img"}, nil, "", "", "",
			"one of initrd and image"},
		"neither": {arm64Kernel, guest.Plain{}, nil, "", "", "", "one of initrd and image"},
		"another file system": {arm64Kernel, guest.Plain{Image: "bare.img", FileSystem: "ntfs"}, nil, "", "", "",
			"known: ext4, erofs, xfs"},
		"dm-verity of an initrd": {arm64Kernel, guest.Plain{Initrd: "initrd", Verity: verity}, nil, "", "", "",
			"initrd is not checked by dm-verity"},
		"dm-verity without partitions": {arm64Kernel, guest.Plain{Image: "bare.img", Verity: verity}, nil, "", "", "",
			"no partition table"},
		"an image that is too small": {arm64Kernel, guest.Plain{Image: "tiny.img"}, nil, "", "", "", "first sector of"},
		"an image that is not there": {arm64Kernel, guest.Plain{Image: "none.img"}, nil, "", "", "", "no such file"},
		"a folder":                   {arm64Kernel, guest.Plain{Initrd: "."}, nil, "", "", "", "not a regular file"},
		"a kernel that is none":      {[]byte("x"), guest.Plain{Initrd: "initrd"}, nil, "", "", "", "not a kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := plainFiles(t, tc.kernel)
			p := tc.plain
			p.Kernel = filepath.Join(dir, "kernel")
			for _, f := range []*string{&p.Initrd, &p.Image} {
				if *f != "" {
					*f = filepath.Join(dir, *f)
				}
			}
			cfg := Config{Hypervisor: qemu.Hypervisor{}}
			if tc.change != nil {
				tc.change(&cfg)
			}
			g, err := p.Read()
			var plan *Plan
			if err == nil {
				cfg.Guest = g
				plan, err = newPlan(cfg, accel.Choice{Accel: accel.TCG}, vsock.Choice{}, 2600000)
			}
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			q := argvOf(plan)
			if q.Machine != tc.machine || q.Binary != tc.binary || q.CPUs != 1 || q.MemoryMiB != 2048 ||
				plan.CommandLine != tc.line {
				t.Errorf("%s %s, %d CPUs, %d MiB\n%s\nwant\n%s", q.Binary, q.Machine, q.CPUs, q.MemoryMiB,
					plan.CommandLine, tc.line)
			}
		})
	}
}

func TestVirtioFSIsForKernelsOfTheSameNumbers(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"x86_64", "x86_64"}: true, {"aarch64", "aarch64"}: true, {"s390x", "s390x"}: true, {"x86_64", "riscv64"}: true,
		{"x86_64", "s390x"}: false, {"x86_64", "ppc64le"}: false, {"x86_64", "aarch64"}: false,
		{"aarch64", "x86_64"}: false,
	} {
		host, err := arch.Parse(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		target, err := arch.Parse(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := ServesFiles(host, target); (err == nil) != want || err != nil && !strings.Contains(err.Error(),
			"virtio-9p") {
			t.Errorf("%v: %v", pair, err)
		}
	}
	kernel := s390Kernel
	if runtime.GOARCH == "s390x" {
		kernel = arm64Kernel
	}
	dir := plainFiles(t, kernel)
	_, err := NewPlan(Config{Guest: readPlain(t, guest.Plain{Kernel: filepath.Join(dir, "kernel"),
		Initrd: filepath.Join(dir, "initrd")}), Hypervisor: qemu.Hypervisor{},
		Shares: []machine.Share{{Tag: "x", Socket: "/s"}}})
	if err == nil || !strings.Contains(err.Error(), "virtio-fs cannot serve") {
		t.Errorf("%v", err)
	}
}

func TestPagesAreClearedWhereTCGDoesNotSeeWhoWrites(t *testing.T) {
	kernel := guesttest.BzImage(0x20f, 1)
	if runtime.GOARCH == "arm64" { // the host's numbers are the guest's
		kernel = arm64Kernel
	}
	dir := plainFiles(t, kernel)
	p := &guest.Plain{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd")}
	virtio, ninep := machine.Share{Tag: "x", Socket: "/s"}, machine.Share{Tag: "x", Path: "/shared"}
	for name, tc := range map[string]struct {
		accel accel.Accel
		fs    machine.Share
		words []string
	}{
		"virtio-fs and TCG": {accel.TCG, virtio, []string{"init_on_alloc=1", "agent.log=debug"}},
		"virtio-fs and KVM": {accel.KVM, virtio, []string{"agent.log=debug"}},
		"virtio-9p and TCG": {accel.TCG, ninep, []string{"agent.log=debug"}},
	} {
		g, err := p.Read()
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Guest: g, Hypervisor: qemu.Hypervisor{}, Words: []string{"agent.log=debug"},
			Shares: []machine.Share{tc.fs}}
		plan, err := newPlan(cfg, accel.Choice{Accel: tc.accel}, vsock.Choice{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if line := strings.Join(tc.words, " "); !slices.Equal(plan.Words, tc.words) ||
			!strings.HasSuffix(plan.CommandLine, " "+line) ||
			strings.Count(plan.CommandLine, "init_on_alloc") != strings.Count(line, "init_on_alloc") {
			t.Errorf("%s: %q, %s", name, plan.Words, plan.CommandLine)
		}
	}
}

func TestMemoryIsWhatTheMachineTakes(t *testing.T) {
	dir := plainFiles(t, guesttest.ELF(elf.EM_PPC64, binary.LittleEndian, ""))
	p := &guest.Plain{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd")}
	g, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Guest: g, Hypervisor: qemu.Hypervisor{}, Size: machine.Size{MemoryMiB: 300}}
	plan, err := newPlan(cfg, accel.Choice{Accel: accel.TCG}, vsock.Choice{}, 0)
	if err != nil || plan.Machine.Size().MemoryMiB != 512 {
		t.Errorf("%d MiB, %v; want 512", plan.Machine.Size().MemoryMiB, err)
	}
}

func TestAForeignGuestCannotHaveKVM(t *testing.T) {
	kernel := arm64Kernel
	if runtime.GOARCH == "arm64" {
		kernel = riscvKernel
	}
	dir := plainFiles(t, kernel)
	_, err := NewPlan(Config{Guest: readPlain(t, guest.Plain{Kernel: filepath.Join(dir, "kernel"),
		Initrd: filepath.Join(dir, "initrd")}), Hypervisor: qemu.Hypervisor{}, Accel: accel.OnlyKVM})
	if err == nil || !strings.Contains(err.Error(), "KVM was asked for, but the guest is ") {
		t.Errorf("%v", err)
	}
}

// plainConfig is testConfig without the manifest.
func plainConfig(t *testing.T, mode string) Config {
	t.Helper()
	cfg := testConfig(t, mode)
	dir := cfg.Guest.Dir
	cfg.Guest = readPlain(t, guest.Plain{Kernel: filepath.Join(dir, "vmlinux"),
		Initrd: filepath.Join(dir, "initrd.cpio")})
	cfg.Size.MemoryMiB = 256
	return cfg
}

func TestBootOfPlainFiles(t *testing.T) {
	t.Run("an agent that says it is ready", func(t *testing.T) {
		cfg := plainConfig(t, "serve")
		cfg.Serves = func(context.Context, net.Conn) error { return errors.New("not asked in vain") }
		s := boot(t, cfg)
		if n := len(s.Files()); n != 2 {
			t.Errorf("%d files are noted", n)
		}
	})
	t.Run("an agent that must be asked", func(t *testing.T) {
		cfg := plainConfig(t, "never-ready")
		asked := 0
		cfg.Serves = func(_ context.Context, c net.Conn) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			if _, err := io.WriteString(c, "serving?"); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, 8))
			return err
		}
		boot(t, cfg)
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}
	})
	t.Run("an agent that never serves", func(t *testing.T) {
		cfg := plainConfig(t, "never-ready")
		short(t, &cfg)
		cfg.Serves = func(context.Context, net.Conn) error { return errors.New("no") }
		_, err := Start(t.Context(), cfg)
		var e *StageError
		if !errors.As(err, &e) || e.Stage != stageAgent {
			t.Errorf("%v", err)
		}
	})
}

// TestBootOfBuiltGuestsAsPlainFiles boots guests of katabuild's without their manifests.
func TestBootOfBuiltGuestsAsPlainFiles(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.Tool("qemu-system-x86_64"),
		testenv.File("KATABUILD_TEST_GUEST"), testenv.File("KATABUILD_TEST_VMLINUX"),
		testenv.File("KATABUILD_TEST_INITRD"))
	inGuest := func(name string) string { return filepath.Join(os.Getenv("KATABUILD_TEST_GUEST"), name) }
	verity := func(t *testing.T) *dmverity.Params {
		line, err := os.ReadFile(inGuest("root_hash.txt"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := dmverity.ParseParams(strings.TrimSpace(string(line)))
		if err != nil {
			t.Fatal(err)
		}
		return &p
	}
	for name, tc := range map[string]struct {
		plain   guest.Plain
		verity  bool
		machine qemu.Machine // empty is the one of plain guests
		root    string       // in the guest's report
	}{
		"vmlinux and image": {guest.Plain{Kernel: inGuest("vmlinux"), Image: inGuest("image.img"),
			FileSystem: "erofs"}, false, "", "erofs"},
		"bzImage and image on microvm": {guest.Plain{Kernel: inGuest("bzImage"), Image: inGuest("image.img"),
			FileSystem: "erofs"}, false, qemu.MicroVM, "erofs"},
		"vmlinux and image with dm-verity": {guest.Plain{Kernel: inGuest("vmlinux"), Image: inGuest("image.img"),
			FileSystem: "erofs"}, true, "", "erofs"},
		"the tiny guest's initrd": {guest.Plain{Kernel: os.Getenv("KATABUILD_TEST_VMLINUX"),
			Initrd: os.Getenv("KATABUILD_TEST_INITRD")}, false, "", "rootfs"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.verity {
				tc.plain.Verity = verity(t)
			}
			cfg := Config{Guest: readPlain(t, tc.plain), Hypervisor: qemu.Hypervisor{}, Machine: string(tc.machine),
				Size: machine.Size{MemoryMiB: 256}, Timeout: 30 * time.Second, RNG: true}
			s := boot(t, cfg)
			c, err := s.Dial(t.Context(), agentapi.Port)
			if err != nil {
				t.Fatal(err)
			}
			agent := agenttest.NewClient(c)
			defer agent.Close()
			if err := agent.Check(t.Context()); err != nil {
				t.Error(err)
			}
			r, _, err := agent.Report(t.Context(), make([]byte, 32), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Root.FileSystem != tc.root || r.Kernel.CommandLine != s.Plan().CommandLine ||
				(r.Root.Verity != nil) != tc.verity {
				t.Errorf("root %+v, command line %q", r.Root, r.Kernel.CommandLine)
			}
			for _, f := range s.Files() {
				if err := digest.Check(f.Path, f.Digest); err != nil {
					t.Error(err)
				}
			}
			t.Logf("%s, %s, ready after %v", cfg.Guest.Form, s.Plan().Machine.Kind(),
				s.Timeline()[len(s.Timeline())-1].After.Round(time.Millisecond))
		})
	}
}
