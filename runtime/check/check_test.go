package check

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
)

// fake is a host that fits, until a test changes it. It fails on what it does not know.
type fake struct {
	t        *testing.T
	programs map[string]string // name: where
	outputs  map[string]string // command line: what it prints
	files    map[string]string
	devices  map[string]error
	system   System
	missing  []string // barriers
	behind   error    // of running QEMU behind them
}

func (f *fake) Find(p string) (string, error) {
	if w, ok := f.programs[p]; ok {
		return w, nil
	}
	return "", fmt.Errorf("%s: not found", p)
}

func (f *fake) Output(_ context.Context, argv ...string) ([]byte, error) {
	out, ok := f.outputs[strings.Join(argv, " ")]
	if !ok {
		f.t.Errorf("a command that no test knows: %q", argv)
	}
	return []byte(out), nil
}

func (f *fake) Read(p string) ([]byte, error) {
	if s, ok := f.files[p]; ok {
		return []byte(s), nil
	}
	return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
}

func (f *fake) Device(p string) error {
	err, ok := f.devices[p]
	if !ok {
		f.t.Errorf("a device that no test knows: %s", p)
	}
	return err
}

func (f *fake) Isolated(*child.Isolation, ...string) ([]string, error) { return f.missing, f.behind }

func (f *fake) System(a arch.Arch) System {
	s := f.system
	s.Accel.GuestArch = a.Name
	return s
}

func notExist(p string) error { return &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist} }

func fits(t *testing.T) *fake {
	return &fake{
		t:        t,
		programs: map[string]string{"qemu-system-x86_64": "/bin/q", "/usr/libexec/virtiofsd": "/usr/libexec/virtiofsd"},
		outputs: map[string]string{
			"/usr/libexec/virtiofsd --help":    "--shared-dir <SHARED_DIR>\n--posix-acl\n",
			"/usr/libexec/virtiofsd --version": "virtiofsd 1.13.2\n",
			"/bin/q --version":                 "QEMU emulator version 7.2.22 (Debian)\nCopyright\n",
			"/bin/q -machine help": "Supported machines are:\nmicrovm              microvm " +
				"(i386)\nq35                  Standard PC\n",
			"/bin/q -machine microvm -device help": "name \"vhost-user-fs-device\", bus virtio-bus\nname " +
				"\"vhost-user-vsock-device\", bus virtio-bus\nname \"virtio-net-device\"\nname " +
				"\"virtio-rng-device\"\nname \"virtio-9p-device\"\n",
		},
		files: map[string]string{
			"/proc/cpuinfo":                  "vendor_id: AuthenticAMD\nmodel name: AMD EPYC\nflags: lm sse4_1 svm\n",
			"/proc/modules":                  "cls_matchall 16384 0 - Live 0x0\nkvm_amd 1 0 - Live 0x0\n",
			"/lib/modules/6/modules.builtin": "kernel/net/sched/sch_ingress.ko\nkernel/kvm.ko\n",
			"/lib/modules/6/modules.dep": "kernel/net/sched/act_mirred.ko.xz: " +
				"kernel/net/sched/act.ko\nkernel/net/sched/cls_u32.ko:\n" +
				"drivers/vhost/vhost_vsock.ko: drivers/vhost/vhost.ko\ndrivers/vhost/vhost.ko:\n",
			"/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n",
			"/proc/meminfo":        "MemTotal: 8000000 kB\nMemAvailable:    4194304 kB\n",
		},
		devices: map[string]error{"/dev/vhost-vsock": nil, "/dev/net/tun": nil},
		system: System{UID: 0, Release: "6", VirtioFSD: "/usr/libexec/virtiofsd",
			Accel: accel.Facts{HostArch: "x86_64", CPUFlags: []string{"svm"}}},
	}
}

// guestDir writes the sample guest, and a configuration that names it.
func guestDir(t *testing.T, more string) (*config.Loaded, string) {
	t.Helper()
	dir := t.TempDir()
	if err := documenttest.WriteGuest(dir); err != nil {
		t.Fatal(err)
	}
	l, err := config.Read([]config.Text{{Name: "c.toml",
		Data: []byte("[hypervisor.qemu]\nguest = \"" + dir + "\"\n" + more)}}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	l.Files = []string{"c.toml"}
	return l, dir
}

func lines(r Result) string {
	var b strings.Builder
	for _, f := range r.Findings {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

func TestAHostThatFitsLacksNothing(t *testing.T) {
	l, dir := guestDir(t, "")
	r := Run(t.Context(), Options{Config: l, Host: fits(t)})
	if !r.Pods || r.Acceleration != accel.KVM {
		t.Errorf("%+v", r)
	}
	for _, f := range r.Findings {
		if f.State != finding.Fine || f.WayOut != "" {
			t.Error(f)
		}
	}
	if s := lines(r); !strings.Contains(s, "ok guest: sample in "+dir) ||
		!strings.Contains(s, "ok traffic control: cls_matchall is a loaded module\n") {
		t.Error(s)
	}
}

// Each row spoils one thing. A state is the line's first word.
func TestWhatIsMissingIsSaidWithTheWayOut(t *testing.T) {
	kvm := func(f func(*accel.Facts)) func(*fake) { return func(h *fake) { f(&h.system.Accel) } }
	for name, tc := range map[string]struct {
		more  string // of the configuration
		spoil func(*fake)
		want  string // a line's beginning
		also  string // anywhere
		pods  bool
	}{
		"no QEMU": {"", func(h *fake) { delete(h.programs, "qemu-system-x86_64") },
			"missing QEMU: qemu-system-x86_64: not found", "Debian: qemu-system-x86", false},
		"a QEMU that does not run isolated": {"", func(h *fake) { h.behind = errors.New("no libfoo") },
			"missing isolation of QEMU: /bin/q does not run isolated: no libfoo", "security.md", false},
		"a QEMU without a barrier": {"", func(h *fake) { h.missing = []string{"a", "b"} },
			"optional isolation of QEMU: QEMU lacks a; b", "", true},
		"an old QEMU": {"", func(h *fake) { h.outputs["/bin/q --version"] = "QEMU emulator version 4.2.1" },
			"missing QEMU: /bin/q is version 4.2.1, which is older", "", false},
		"something else": {"", func(h *fake) { h.outputs["/bin/q --version"] = "bash\x1b[2J" },
			"missing QEMU: /bin/q does not say", `bash\x1b[2J`, false},
		"a QEMU without the machine": {"", func(h *fake) { h.outputs["/bin/q -machine help"] = "pc\n" },
			"missing QEMU: /bin/q, version 7.2.22, has no machine microvm", "", false},
		"a QEMU without a device": {"", func(h *fake) { h.outputs["/bin/q -machine microvm -device help"] = "" },
			"missing QEMU: /bin/q, version 7.2.22, has no device vhost-user-vsock-device, no device", "", false},
		"a QEMU for templates without a device": {"machine_type = \"q35\"\n[factory]\nenable_template = true\n",
			func(h *fake) {
				h.outputs["/bin/q -machine q35 -device help"] = strings.ReplaceAll(
					h.outputs["/bin/q -machine microvm -device help"], "-device\"", "-pci\"")
			}, "optional templates: /bin/q has no device vmgenid, which", "ok QEMU: /bin/q", true},
		"no /dev/kvm": {"", kvm(func(f *accel.Facts) { f.Open = notExist("/dev/kvm") }),
			"optional KVM: TCG emulation, because the host has no /dev/kvm; guests run", "modprobe", true},
		"KVM that failed its trial": {"", kvm(func(f *accel.Facts) { f.Trial = errors.New("exit 17") }),
			"optional KVM: TCG", "exit 17", true},
		"no vmx": {"", kvm(func(f *accel.Facts) { f.CPUFlags = nil }), "optional KVM: TCG", "nested",
			true},
		"KVM and nothing else": {"acceleration = \"kvm\"\n",
			kvm(func(f *accel.Facts) { f.Open = notExist("/dev/kvm") }), "missing KVM: KVM was asked for, but",
			"acceleration", false},
		"TCG as asked": {"acceleration = \"tcg\"\n", func(*fake) {}, "optional KVM: not used", "", true},
		"no vhost-vsock": {"", func(h *fake) { h.devices["/dev/vhost-vsock"] = notExist("/dev/vhost-vsock") },
			"optional vhost-vsock: /dev/vhost-vsock: file does not exist; the runtime's own back end", "", true},
		"a virtiofsd in C": {"", func(h *fake) {
			h.outputs["/usr/libexec/virtiofsd --help"] = "-o posix_acl"
			h.outputs["/usr/libexec/virtiofsd --version"] = "virtiofsd version 7.2.22 (Debian)\n"
		}, "optional shared files: 4 limits by virtio-fs",
			"ok virtiofsd: /usr/libexec/virtiofsd (QEMU's own in C, 7.2.22)", true},
		"files by 9p": {"shared_fs = \"virtio-9p\"\n", func(*fake) {},
			"optional shared files: 5 limits by virtio-9p", "", true},
		"no virtiofsd": {"", func(h *fake) { h.system.VirtioFSD = "" },
			"missing virtiofsd: not found", "Debian", false},
		"no virtiofsd, and none needed": {"shared_fs = \"virtio-9p\"\n", func(h *fake) { h.system.VirtioFSD = "" },
			"optional virtiofsd: not found", "", true},
		"no tun": {"", func(h *fake) { h.devices["/dev/net/tun"] = notExist("/dev/net/tun") },
			"missing tun: /dev/net/tun: file does not exist", "modprobe tun", false},
		"no tun, and no network": {"[runtime]\ninternetworking_model = \"none\"\n",
			func(h *fake) { h.devices["/dev/net/tun"] = notExist("/dev/net/tun") }, "optional tun", "", true},
		"a tun that nobody has loaded": {
			"", func(h *fake) { h.devices["/dev/net/tun"] = errNotLoaded; h.files["/proc/modules"] += "tun 1 0\n" },
			"ok tun", "", true},
		"a tun that nobody can load": {"", func(h *fake) { h.devices["/dev/net/tun"] = errNotLoaded },
			"missing tun: /dev/net/tun: its driver is not loaded", "", false},
		"u32 where matchall is absent": {"", func(h *fake) { delete(h.files, "/proc/modules") },
			"ok traffic control: cls_u32 is a module that is loaded when needed", "", true},
		"no classifier": {"", func(h *fake) {
			delete(h.files, "/proc/modules")
			h.files["/lib/modules/6/modules.dep"] = "a/act_mirred.ko:\n"
		}, "missing traffic control: the kernel has neither", "macvtap", false},
		"a kernel of which nothing is known": {"", func(h *fake) { h.files = map[string]string{} },
			"optional traffic control: neither /proc", "", true},
		"no mirred": {"", func(h *fake) { h.files["/lib/modules/6/modules.dep"] = "" },
			"missing traffic control: the kernel lacks", "", false},
		"no control groups": {"", func(h *fake) {
			h.files["/proc/self/mountinfo"] = "1 1 0:1 / / rw - ext4 " +
				"/dev/sda rw\n"
		}, "optional cgroups: none are mounted", "mount -t cgroup2", true},
		"no sealed memory": {"", func(h *fake) { h.system.Memfd = errors.New("memfd_create: no") },
			"missing memfd: memfd_create: no", "seccomp", false},
		"little memory": {"default_memory = 5000\n", func(*fake) {},
			"optional memory: 4096 MiB are available, fewer than the 5000", "", true},
		"a plain user": {"", func(h *fake) { h.system.UID = 1000 },
			"optional user: user 1000, not root", "run it as root", true},
		"a warning of the configuration": {"enable_hugepages = true\n", func(*fake) {},
			"optional configuration: c.toml:3:1: hypervisor.qemu.enable_hugepages has no effect", "", true},
		"an extension that is not there": {"[[hypervisor.qemu.guest_extension_images]]\nname = \"gpu\"\npath = " +
			"\"/no/such\"\n", func(*fake) {}, "missing extension gpu:", "guest_extension_images", false},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := guestDir(t, tc.more)
			h := fits(t)
			tc.spoil(h)
			r := Run(t.Context(), Options{Config: l, Host: h})
			s := lines(r)
			if !strings.Contains("\n"+s, "\n"+tc.want) || !strings.Contains(s, tc.also) {
				t.Errorf("want %q and %q in\n%s", tc.want, tc.also, s)
			}
			if r.Pods != tc.pods {
				t.Errorf("pods: %v, want %v", r.Pods, tc.pods)
			}
			for _, f := range r.Findings {
				if strings.ContainsAny(f.String(), "\n\x1b") || f.Fact == "" ||
					(f.WayOut == "") != (f.State == finding.Fine) {
					t.Errorf("%+q", f)
				}
			}
		})
	}
}

func TestNothingStopsAtTheFirstProblem(t *testing.T) {
	h := &fake{t: t, devices: map[string]error{"/dev/vhost-vsock": notExist(""), "/dev/net/tun": notExist("")},
		system: System{UID: 1, Memfd: errors.New("no"), Accel: accel.Facts{HostArch: "x86_64",
			Open: notExist("/dev/kvm")}}}
	_, err := config.Read([]config.Text{{Name: "c.toml",
		Data: []byte("[hypervisor.qemu]\ngest = 1\ndefault_memory = \"x\"\n")}}, nil, false)
	r := Run(t.Context(), Options{ConfigErr: err, Host: h})
	got := r.Findings.Missing()
	want := []string{"configuration", "guest", "QEMU", "virtiofsd", "tun", "memfd"}
	if !slices.Equal(got, want) || r.Pods {
		t.Errorf("%v, want %v\n%s", got, want, lines(r))
	}
	if s := lines(r); strings.Count(s, "missing configuration: c.toml:") != 2 {
		t.Error(s)
	}
	r = Run(t.Context(), Options{ConfigErr: &config.NotFoundError{Paths: config.Paths()}, Host: h})
	if !strings.Contains(lines(r), "kata-runtime config --template > /etc/katabuild/configuration.toml") {
		t.Error(lines(r))
	}
}

func TestEverySpoiltFileOfTheGuestIsNamed(t *testing.T) {
	l, dir := guestDir(t, "")
	if err := os.WriteFile(filepath.Join(dir, "vmlinux"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "initrd")); err != nil {
		t.Fatal(err)
	}
	r := Run(t.Context(), Options{Config: l, Host: fits(t)})
	if got := r.Findings.Missing(); !slices.Equal(got, []string{"guest file vmlinux", "guest file initrd"}) {
		t.Errorf("%v\n%s", got, lines(r))
	}
	if err := os.WriteFile(filepath.Join(dir, manifest.Name), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = Run(t.Context(), Options{Config: l, Host: fits(t)})
	if got := r.Findings.Missing(); !slices.Equal(got, []string{"guest"}) {
		t.Errorf("%v\n%s", got, lines(r))
	}
}

func TestTheKernelsOwnWordsAreUnderstood(t *testing.T) {
	p := part{"cls_u32", "CONFIG_NET_CLS_U32"}
	for name, tc := range map[string]struct {
		k    kernel
		want presence
	}{
		"nothing is said":                 {kernel{}, unknown},
		"loaded":                          {kernel{loaded: []byte("a 1\ncls_u32 24 1 - Live\n")}, loaded},
		"another with the same beginning": {kernel{loaded: []byte("cls_u32x 24\n"), config: []byte("\n")}, absent},
		"built in by its configuration":   {kernel{config: []byte("CONFIG_NET_CLS_U32=y\n")}, builtin},
		"built in by the list":            {kernel{builtin: []byte("kernel/net/sched/cls_u32.ko\n")}, builtin},
		"a module on disk": {kernel{config: []byte("CONFIG_NET_CLS_U32=m\n"),
			modules: []byte("a/cls-u32.ko.zst: a/b.ko\n")}, loadable},
		"a module that is not on disk": {kernel{config: []byte("CONFIG_NET_CLS_U32=m\n"), modules: []byte("")},
			absent},
		"a module, and the disk is not here": {kernel{config: []byte("CONFIG_NET_CLS_U32=m\n")}, unknown},
		"switched off":                       {kernel{config: []byte("# CONFIG_NET_CLS_U32 is not set\n")}, absent},
		"not mentioned":                      {kernel{config: []byte("CONFIG_NET=y\n")}, absent},
		"only another's dependency":          {kernel{modules: []byte("a/x.ko: a/cls_u32.ko\n")}, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.k.find(p); got != tc.want {
				t.Errorf("it is %s, want %s", got, tc.want)
			}
		})
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte("CONFIG_NET_CLS_U32=y\n"))
	w.Close()
	c := &checker{host: &fake{t: t, files: map[string]string{"/proc/config.gz": b.String()}},
		systems: map[string]System{}}
	if got := c.kernel().find(p); got != builtin {
		t.Errorf("from /proc/config.gz: %s", got)
	}
}

func TestThisHostIsLookedAtWithoutHarm(t *testing.T) {
	l, _ := guestDir(t, "")
	r := Run(t.Context(), Options{Config: l})
	if len(r.Findings) < 12 {
		t.Errorf("%d findings", len(r.Findings))
	}
	t.Log("\n" + lines(r))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Run(done, Options{Config: l}); r.Pods {
		t.Error("a check that was broken off finds that pods run")
	}
}

func FuzzHostTexts(f *testing.F) {
	f.Add("MemAvailable: 1 kB\n", "1 1 0:1 / / rw - cgroup2 x rw\n", "cls_u32 1\n")
	f.Add("MemAvailable: 9999999999999999 kB", " - \n1 2 3 4 - cgroup", "a/cls_u32.ko.xz: \x00")
	f.Fuzz(func(t *testing.T, meminfo, mountinfo, modules string) {
		h := &fake{t: t, files: map[string]string{
			"/proc/meminfo": meminfo, "/proc/self/mountinfo": mountinfo, "/proc/modules": modules,
			"/lib/modules/modules.dep": modules, "/proc/config.gz": modules,
		}}
		c := &checker{host: h, cfg: config.Default(), systems: map[string]System{}}
		c.memory(t.Context())
		c.controlGroups(t.Context())
		c.trafficControl(t.Context())
		for _, f := range c.findings {
			if strings.ContainsAny(f.String(), "\n\x1b") {
				t.Errorf("%q", f)
			}
		}
	})
}

func TestAGuestWithoutAManifest(t *testing.T) {
	dir := t.TempDir()
	kernel := make([]byte, 64)
	copy(kernel[56:], "ARM\x64") // the magic of arm64's Image
	for name, b := range map[string][]byte{"Image": kernel, "initrd": []byte("i"), "text": []byte("x")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(kernel, initrd, attestation, more string) Result {
		t.Helper()
		text := fmt.Sprintf("[hypervisor.qemu]\nkernel = %q\ninitrd = %q\n%s[runtime]\nattestation = %q\n",
			filepath.Join(dir, kernel), filepath.Join(dir, initrd), more, attestation)
		l, err := config.Read([]config.Text{{Name: "c.toml", Data: []byte(text)}}, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		l.Files = []string{"c.toml"}
		f := fits(t)
		f.programs["qemu-system-aarch64"] = "/bin/a"
		f.outputs["/bin/a --version"] = f.outputs["/bin/q --version"]
		f.outputs["/bin/a -machine help"] = "virt QEMU 7.2 ARM Virtual Machine\n"
		f.outputs["/bin/a -machine virt -device help"] = "name \"vhost-user-fs-pci\"\nname " +
			"\"vhost-user-vsock-pci\"\nname \"virtio-net-pci\"\nname \"virtio-rng-pci\"\nname \"virtio-9p-pci\"\n"
		return Run(t.Context(), Options{Config: l, Host: f})
	}
	r := run("Image", "initrd", "off", "shared_fs = 'virtio-9p'\n")
	if s := lines(r); !r.Pods || r.Acceleration != accel.TCG ||
		!strings.Contains(s, "ok guest: arm64 Image for aarch64, ") ||
		!strings.Contains(s, "ok QEMU: /bin/a, version 7.2") ||
		!strings.Contains(s, "the guest is aarch64 and this host is x86_64") ||
		!strings.Contains(s, "a pod without limits has 2048 MiB and 1 CPUs") {
		t.Errorf("%v\n%s", r.Pods, s)
	}
	for name, tc := range map[string]struct{ kernel, initrd, attestation, more, says string }{
		"enforce": {"Image", "initrd", "enforce", "",
			`has no manifest to compare it with, and attestation is "enforce"; set attestation`},
		"a kernel that is none": {"text", "initrd", "off", "", "missing guest: kernel "},
		"virtio-fs": {"Image", "initrd", "off", "",
			`virtio-fs cannot serve files of a host that is x86_64 to a guest that is aarch64`},
		"an initrd that is not there": {"Image", "none", "off", "", "missing guest: open "},
		"another architecture's machine": {"Image", "initrd", "off", "machine_type = 'q35'\n",
			"has no machine q35 for aarch64 guests"},
		"KVM": {"Image", "initrd", "off", "acceleration = 'kvm'\n", "KVM was asked for, but the guest is aarch64"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(tc.kernel, tc.initrd, tc.attestation, tc.more)
			if s := lines(r); r.Pods || !strings.Contains(s, tc.says) {
				t.Errorf("%v, want %q:\n%s", r.Pods, tc.says, s)
			}
		})
	}
}
