package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// files is a Files of path to text; a text that begins with "-> " is a link.
type files map[string]string

func (f files) Resolve(p string) (string, error) {
	s, ok := f[p]
	if s == "denied" {
		return "", &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrPermission}
	}
	if !ok {
		return "", &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	}
	if to, link := strings.CutPrefix(s, "-> "); link {
		return f.Resolve(to)
	}
	return p, nil
}

func (f files) ReadFile(p string) ([]byte, error) {
	if s, ok := f[p]; ok {
		return []byte(s), nil
	}
	return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
}

func (f files) ReadDir(p string) ([]string, error) {
	var out []string
	for n := range f {
		if path.Dir(n) == p {
			out = append(out, path.Base(n))
		}
	}
	if out == nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(b, a) }) // Load does not rely on the order
	return out, nil
}

const (
	own   = "/etc/katabuild/configuration.toml"
	etc   = "/etc/kata-containers/configuration.toml"
	share = "/usr/share/defaults/kata-containers/configuration.toml"
)

// memory is a file that sets default_memory.
func memory(n int) string { return fmt.Sprintf("[hypervisor.qemu]\ndefault_memory = %d\n", n) }

func TestSearch(t *testing.T) {
	for name, c := range map[string]struct {
		files files
		o     Options
		want  int    // memory
		read  string // the last file
		err   string
		warn  string
	}{
		"this runtime's own goes before Kata's": {files{own: memory(32), etc: memory(64), share: memory(128)},
			Options{}, 32, own, "", ""},
		"the environment chooses Kata's": {files{own: memory(32), etc: memory(64)},
			Options{Environment: etc}, 64, etc, "", ""},
		"/etc goes before /usr/share": {files{etc: memory(64), share: memory(128)}, Options{}, 64,
			etc, "", ""},
		"/usr/share comes second": {files{share: memory(128)}, Options{}, 128, share, "", ""},
		"a named file goes before all": {files{etc: memory(64), "/x.toml": memory(256)},
			Options{Path: "/x.toml", Environment: share}, 256, "/x.toml", "", ""},
		"a named file must be there": {files{etc: memory(64)}, Options{Path: "/x.toml"}, 0, "",
			"configuration /x.toml: ", ""},
		"the environment chooses among them": {files{etc: memory(64), share: memory(128)},
			Options{Environment: share}, 128, share, "", ""},
		"the environment's choice must be there": {files{etc: memory(64)}, Options{Environment: share}, 0, "",
			"no configuration", ""},
		"another path in the environment is warned of": {files{etc: memory(64), "/x.toml": memory(1)},
			Options{Environment: "/x.toml"}, 64, etc, "", "KATA_CONF_FILE=/x.toml is ignored"},
		"none": {files{}, Options{}, 0, "", "there is no " + own + " and no " + etc + " and no " + share, ""},
		"one that cannot be read is not passed over": {files{etc: "denied", share: memory(128)}, Options{}, 0, "",
			"permission denied", ""},
		"drop-ins win, the last by byte order most": {files{
			etc: memory(64), path.Dir(etc) + "/config.d/9": memory(90), path.Dir(etc) + "/config.d/10": memory(100),
			path.Dir(etc) + "/config.d/.9.swp": "?", path.Dir(share) + "/config.d/99": memory(990),
		}, Options{}, 90, path.Dir(etc) + "/config.d/9", "", ""},
		"drop-ins lie beside the file that a link leads to": {files{
			etc: "-> /opt/kata/c.toml", "/opt/kata/c.toml": memory(64), "/opt/kata/config.d/1": memory(32),
			path.Dir(etc) + "/config.d/2": memory(16),
		}, Options{}, 32, "/opt/kata/config.d/1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Files = c.files
			l, err := Load(c.o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Config.VM.DefaultMemoryMiB; got != c.want || l.Files[len(l.Files)-1] != c.read {
				t.Errorf("memory %d of %v, want %d of %s", got, l.Files, c.want, c.read)
			}
			if got := fmt.Sprint(l.Warnings); c.warn == "" && len(l.Warnings) > 0 || !strings.Contains(got, c.warn) {
				t.Errorf("warnings %s, want %q", got, c.warn)
			}
			if from := l.from["hypervisor.qemu.default_memory"]; !reflect.DeepEqual(from,
				[]Place{{File: c.read, Line: 2, Column: 1}}) {
				t.Errorf("set by %v", from)
			}
		})
	}
}

func TestHostFilesFollowLinksAndListNames(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a/config.d/folder", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for n, s := range map[string]string{"a/c.toml": memory(64), "a/config.d/2": memory(32)} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../a/c.toml", filepath.Join(dir, "b/c.toml")); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Options{Path: filepath.Join(dir, "b/c.toml")})
	if err != nil {
		t.Fatal(err)
	}
	if l.Config.VM.DefaultMemoryMiB != 32 || !slices.Equal(l.Files, []string{dir + "/a/c.toml",
		dir + "/a/config.d/2"}) {
		t.Errorf("memory %d of %v", l.Config.VM.DefaultMemoryMiB, l.Files)
	}
	big := filepath.Join(dir, "big.toml")
	if err := os.WriteFile(big, bytes.Repeat([]byte("#\n"), maxSize), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Options{Path: big}); err == nil || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("error %v", err)
	}
}

func read(t *testing.T, s string, annotations map[string]string) *Loaded {
	t.Helper()
	l, err := Read([]Text{{"c.toml", []byte(s)}}, annotations, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const verity = "root_hash=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,salt=-,data_blocks=3," +
	"data_block_size=4096,hash_block_size=4096"

// everything sets every key to something else than its default.
const everything = `
[hypervisor.qemu]
rx_rate_limiter_max_rate = 8000000
tx_rate_limiter_max_rate = 4000000
guest = "/srv/guest"
kernel = ""
image = ""
initrd = ""
rootfs_type = "xfs"
kernel_verity_params = ""
valid_guest_paths = ["/srv/*"]
acceleration = "tcg"
path = '/opt/qemu'
valid_hypervisor_paths = ["/opt/*"]
enable_annotations = ["default_.*", 'path']
machine_type = "q35"
default_vcpus = 1.5
default_memory = 0x200
default_maxvcpus = 4
default_maxmemory = 4096
memory_slots = 3
kernel_params = 'quiet a="b  c"'
enable_debug = true
shared_fs = "virtio-9p"
virtio_fs_daemon = "/opt/virtiofsd"
valid_virtio_fs_daemon_paths = ["/opt/virtio*"]
virtio_fs_cache = "never"
virtio_fs_extra_args = ["--thread-pool-size=1"]
foreign_locks = "grant"
msize_9p = 8192
pcie_root_port = 2
cold_plug_vfio = "switch-port"
hot_plug_vfio = "no-port"
pcie_switch_port = 4
enable_iommu = true
enable_iommu_platform = true
guest_hook_path = "/hooks"
[[hypervisor.qemu.guest_extension_images]]
name = "tools"
path = "/srv/tools"
[[hypervisor.qemu.guest_extension_images]]
name = "gpu"
path = "/srv/gpu.img"
verity_params = "` + verity + `"
[agent.kata]
enable_debug = true
debug_console_enabled = true
container_pipe_size = 65536
enable_tracing = true
kernel_modules = ["dummy numdummies=2", "nfs-v4"]
policy = "cGFja2FnZQ=="
enable_annotations = ["policy"]
dial_timeout = 5
[runtime]
attestation = "warn"
enable_annotations = ["create_container_timeout"]
static_sandbox_resource_mgmt = true
enable_debug = true
enable_pprof = true
create_container_timeout = 90
internetworking_model = "none"
disable_new_netns = true
vfio_mode = "vfio"
dan_conf = "/run/dans"
disable_guest_seccomp = true
sandbox_bind_mounts = ["/etc/company:ro"]
enable_tracing = true
otlp_endpoint = "http://localhost:4318"
[factory]
enable_template = true
automatic_template = true
template_path = "/srv/templates"
vm_cache_number = 3
vm_cache_memory = 4096
vm_cache_cpu = 25
vm_cache_endpoint = "/srv/pool.sock"
`

func TestEveryKeyReachesItsField(t *testing.T) {
	l := read(t, everything, nil)
	p, err := dmverity.ParseParams(verity)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Hypervisor: HypervisorQEMU,
		VM: VM{
			Guest: "/srv/guest", RootfsType: "xfs", ValidGuestPaths: []string{"/srv/*"}, Acceleration: accel.OnlyTCG,
			Path: "/opt/qemu", ValidHypervisorPaths: []string{"/opt/*"},
			EnableAnnotations: []string{"default_.*", "path"}, MachineType: qemu.Q35, DefaultVCPUs: 1.5,
			DefaultMemoryMiB: 512, DefaultMaxVCPUs: 4, DefaultMaxMemoryMiB: 4096, MemorySlots: 3,
			KernelParams: []KernelParam{`quiet a="b  c"`}, EnableDebug: true,
			Extensions: []ExtensionDisk{{"tools", "/srv/tools", nil}, {"gpu", "/srv/gpu.img", &p}},
			SharedFS:   Shared9P, VirtioFSDaemon: "/opt/virtiofsd",
			ValidVirtioFSDaemonPaths: []string{"/opt/virtio*"}, VirtioFSCache: "never",
			VirtioFSExtraArgs: []string{"--thread-pool-size=1"}, ForeignLocks: LocksGranted, Msize9P: 8192,
			PCIeRootPorts: 2, ColdPlugVFIO: PortSwitch, HotPlugVFIO: PortNone, PCIeSwitchPorts: 4, EnableIOMMU: true,
			IOMMUPlatform: true, GuestHookPath: "/hooks", RxMaxRate: 8000000, TxMaxRate: 4000000,
		},
		Agent: Agent{EnableDebug: true, DebugConsoleEnabled: true, ContainerPipeSize: 65536, EnableTracing: true,
			Policy:            "cGFja2FnZQ==",
			KernelModules:     []string{"dummy numdummies=2", "nfs-v4"},
			EnableAnnotations: []string{"policy"}, DialTimeout: 5 * time.Second},
		Runtime: Runtime{
			Attestation: Warn, StaticSandboxResourceMgmt: true, EnableDebug: true, EnablePprof: true,
			CreateContainerTimeout: 90 * time.Second, InternetworkingModel: NetworkNone,
			DisableNewNetns:     true,
			VFIOMode:            VFIOContainer,
			DANConf:             "/run/dans",
			DisableGuestSeccomp: true, SandboxBindMounts: []string{"/etc/company:ro"},
			EnableTracing: true, OTLPEndpoint: "http://localhost:4318",
			EnableAnnotations: []string{"create_container_timeout"},
		},
		Factory: Factory{EnableTemplate: true, AutomaticTemplate: true, TemplatePath: "/srv/templates",
			VMCacheNumber: 3, VMCacheMemory: 4096, VMCacheCPU: 25, VMCacheEndpoint: "/srv/pool.sock"},
	}
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("got  %+v\nwant %+v", l.Config, want)
	}
	if words := l.Config.Words(); !slices.Equal(words, []string{"quiet", `a="b  c"`, "intel_iommu=on",
		"iommu=pt", "agent.log=debug", "agent.debug_console", "agent.debug_console_vport=1026", "agent.trace",
		"agent.container_pipe_size=65536"}) {
		t.Errorf("words %q", words)
	}
	settings, err := l.Settings()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range settings {
		if s.Default() {
			t.Errorf("%s: everything does not set it", s.Key)
		}
		fmt.Fprintf(&b, "%s = %s\n%s\n", s.Key, s.Value, s.JSON)
	}
	golden.Check(t, "settings", []byte(b.String()))
	// What is shown is TOML that says the same.
	var again strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&again, "%s = %s\n", s.Key, s.Value)
	}
	if l := read(t, again.String(), nil); !reflect.DeepEqual(l.Config, want) {
		t.Errorf("read again: %+v", l.Config)
	}
}

func TestAGuestWithoutAManifest(t *testing.T) {
	const q = "[hypervisor.qemu]\n"
	l := read(t, q+"kernel = '/k'\nimage = '/i'\nrootfs_type = 'erofs'\nkernel_verity_params = '"+verity+"'\n", nil)
	if c := l.Config.VM; c.Kernel != "/k" || c.Image != "/i" || c.Initrd != "" || c.RootfsType != "erofs" ||
		c.KernelVerityParams != verity || c.Guest != "" {
		t.Errorf("%+v", c)
	}
	if c := read(t, q+"kernel = '/k'\ninitrd = '/i'", nil).Config.VM; c.Kernel != "/k" || c.Initrd != "/i" ||
		c.RootfsType != "ext4" {
		t.Errorf("%+v", c)
	}
	if c := read(t, q+"kernel = '/k'\nimage = '/i'\n[factory]\n", nil).Config.VM; c.VCPUs(guest.PlainCPUs, 4) != 1 ||
		c.DefaultMemoryMiB != 0 {
		t.Errorf("%+v", c)
	}
	for name, c := range map[string]struct{ text, says string }{
		"a guest and a kernel": {"guest = '/g'\nkernel = '/k'\ninitrd = '/i'",
			`guest (c.toml:2:1) and kernel (c.toml:3:1) are both set`},
		"a guest and an image": {"guest = '/g'\nimage = '/i'",
			`guest (c.toml:2:1) and image (c.toml:3:1) are both set`},
		"an image and an initrd": {"kernel = '/k'\nimage = '/i'\ninitrd = '/i'",
			`image (c.toml:3:1) and initrd (c.toml:4:1) are both set`},
		"a kernel alone":  {"kernel = '/k'", `kernel (c.toml:2:1) is set, and neither image nor initrd`},
		"an image alone":  {"image = '/i'", `image (c.toml:2:1) is set without a kernel`},
		"an initrd alone": {"initrd = '/i'", `initrd (c.toml:2:1) is set without a kernel`},
		"dm-verity of an initrd": {"kernel = '/k'\ninitrd = '/i'\nkernel_verity_params = '" + verity + "'",
			`kernel_verity_params (c.toml:4:1) is for an image`},
		"dm-verity beside a manifest": {"guest = '/g'\nkernel_verity_params = '" + verity + "'",
			`kernel_verity_params (c.toml:3:1) is set, but guest`},
		"parameters that are none": {"kernel_verity_params = 'x'", `kernel_verity_params: `},
		"another file system":      {"rootfs_type = 'btrfs'", `want ext4, erofs or xfs`},
		"a relative path":          {"kernel = 'k'", `want an absolute one`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read([]Text{{"c.toml", []byte(q + c.text + "\n")}}, nil, false)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	t.Run("a drop-in can take the kernel back", func(t *testing.T) {
		l, err := Read([]Text{{"a.toml", []byte(q + "kernel = '/k'\nimage = '/i'\n")},
			{"b.toml", []byte(q + "guest = '/g'\nkernel = ''\nimage = ''\n")}}, nil, false)
		if err != nil || l.Config.VM.Guest != "/g" {
			t.Error(err)
		}
	})
	t.Run("a pod cannot choose it", func(t *testing.T) {
		_, err := Read([]Text{{"c.toml", []byte(q + "enable_annotations = ['.*']\n")}},
			map[string]string{AnnotationPrefix + "hypervisor.kernel": "/k"}, false)
		if err == nil || !strings.Contains(err.Error(),
			"only the host's configuration may set hypervisor.qemu.kernel") {
			t.Error(err)
		}
	})
}

func TestAnEmptyFileIsTheDefault(t *testing.T) {
	l := read(t, "", nil)
	if !reflect.DeepEqual(l.Config, Default()) || len(l.Warnings) > 0 {
		t.Errorf("%+v, %v", l.Config, l.Warnings)
	}
	if Default().Agent.DialTimeout != sandbox.DefaultTimeout {
		t.Error("dial_timeout is not the sandbox's own default")
	}
	for i := range keys {
		c := Default()
		if k := &keys[i]; k.check != nil {
			if err := k.check(&c); err != nil {
				t.Errorf("default of %s: %v", k, err)
			}
		}
	}
}

func TestTheTemplateIsCurrentAndSetsNothing(t *testing.T) {
	for _, h := range Hypervisors() {
		t.Run(h, func(t *testing.T) { testTemplate(t, h) })
	}
}

func testTemplate(t *testing.T, hypervisor string) {
	tmpl, name, def := Template(hypervisor), "configuration.toml", DefaultOf(hypervisor)
	if hypervisor != HypervisorQEMU {
		name = "configuration-" + hypervisor + ".toml"
	}
	golden.Check(t, name, tmpl)
	if l := read(t, string(tmpl), nil); !reflect.DeepEqual(l.Config, def) || len(l.Warnings) > 0 {
		t.Errorf("%+v, %v", l.Config, l.Warnings)
	}
	// With every # taken away it says each key's default, or an example that is right.
	var b strings.Builder
	n := 0
	for line := range strings.Lines(string(tmpl)) {
		if strings.HasPrefix(line, "#") && len(line) > 1 && line[1] >= 'a' && line[1] <= 'z' {
			line = line[1:]
			n++
		}
		b.WriteString(line)
	}
	want := 0
	l := read(t, b.String(), nil)
	for i := range keys {
		k := &keys[i]
		if !def.inForce(k.section) {
			continue
		}
		want++
		if k.example == "" && k.field(&l.Config).toml() != k.field(&def).toml() {
			t.Errorf("%s is %s in the template", k, k.field(&l.Config).toml())
		}
	}
	if n != want {
		t.Errorf("%d keys in the template, want %d", n, want)
	}
}

func TestNoKeyStandsTwice(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range keys {
		if seen[k.String()] {
			t.Errorf("%s stands twice", &k)
		}
		seen[k.String()] = true
		if !slices.Contains(sections, k.section) || k.doc == "" {
			t.Errorf("%s: section or doc", &k)
		}
	}
	for _, i := range idles {
		for _, n := range i.names {
			key := i.section + "." + n
			if seen[key] {
				t.Errorf("%s stands twice", key)
			}
			seen[key] = true
			if i.reason == "" {
				t.Errorf("%s has no reason", key)
			}
		}
	}
}

func TestTheDocumentNamesEveryKeyOfItsSection(t *testing.T) {
	data, err := os.ReadFile("../../docs/formats/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		_, table, _ := strings.Cut(string(data), "| `["+k.section+"]` |")
		table, _, _ = strings.Cut(table, "\n\n")
		row := "\n| `" + k.name + "` |"
		if k.ours {
			row = "\n| **`" + k.name + "`** |"
		}
		if !strings.Contains(table, row) {
			t.Errorf("no row of %s", &k)
		}
	}
	for _, i := range idles {
		for _, n := range i.names {
			if i.harmless != "" && !strings.Contains(string(data), "`"+n[strings.LastIndexByte(n, '.')+1:]+"`") {
				t.Errorf("%s.%s can only be %s, and the document does not say so", i.section, n, i.harmless)
			}
		}
	}
}

func TestMistakesHaveAPlaceAndAnAnswer(t *testing.T) {
	q := "[hypervisor.qemu]\n"
	for name, c := range map[string]struct{ in, want string }{
		"misspelt key": {q + "default_vcpu = 1",
			`c.toml:2:1: unknown key "default_vcpu" in [hypervisor.qemu]; did you mean "default_vcpus"?`},
		"a module that is none": {"[agent.kata]\nkernel_modules = ['dummy', 'a b;c']",
			`c.toml:2:1: kernel_modules: entry 2: kernel module a: parameter "b;c": want NAME=VALUE`},
		"modules as one text": {"[agent.kata]\nkernel_modules = 'dummy'",
			`c.toml:2:18: kernel_modules: want a list of texts, got text`},
		"misspelt key inline": {"hypervisor = { qemu = { gest = '/g' } }",
			`c.toml:1:25: unknown key "gest" in [hypervisor.qemu]; did you mean "guest"?`},
		"misspelt dotted key": {"agent.kata.enable_debg = true",
			`c.toml:1:12: unknown key "enable_debg" in [agent.kata]; did you mean "enable_debug"?`},
		"quoted key, odd letters": {q + "\t\"dé\" . \"x\" = 1", `c.toml:2:2: unknown key "dé" in [hypervisor.qemu]`},
		"columns are characters":  {`runtime = { "é" = 1, zz = 3 }`, `c.toml:1:22: unknown key "zz" in [runtime]`},
		"key in the wrong section": {q + `attestation = "off"`,
			`c.toml:2:1: unknown key "attestation" in [hypervisor.qemu]; it belongs in [runtime]`},
		"key in no section": {`guest = "/g"`,
			`c.toml:1:1: unknown key "guest"; it belongs in [hypervisor.qemu]`},
		"misspelt section": {"[runtme]\nx = 1", `c.toml:1:2: unknown key "runtme"; did you mean "runtime"?`},
		"misspelt hypervisor": {"[hypervisor.qmu]",
			`c.toml:1:13: unknown key "qmu" in [hypervisor]; did you mean "qemu"?`},
		"section as one name": {`["hypervisor.qemu"]`, `c.toml:1:2: unknown key "hypervisor.qemu"`},
		"another hypervisor": {"[hypervisor.acrn]", `c.toml:1:13: hypervisor "acrn" is not supported; there are ` +
			`[hypervisor.qemu], [hypervisor.clh], [hypervisor.firecracker]`},
		"two hypervisors": {"[hypervisor.clh]\n[hypervisor.qemu]", `c.toml:2:13: [hypervisor.qemu] and ` +
			`[hypervisor.clh] (c.toml:1:13) are both there, and a pod runs in one hypervisor; remove one of them`},
		"Cloud Hypervisor emulates": {"[hypervisor.clh]\nacceleration = 'tcg'", `c.toml:2:16: acceleration: Cloud ` +
			`Hypervisor does not emulate; set "auto" or "kvm", or use [hypervisor.qemu]`},
		"Cloud Hypervisor has 9p": {"[hypervisor.clh]\nshared_fs = 'virtio-9p'", `c.toml:2:13: shared_fs: Cloud ` +
			`Hypervisor has no 9p; set "virtio-fs" or "none", or use [hypervisor.qemu]`},
		"Firecracker shares": {"[hypervisor.firecracker]\nshared_fs = 'virtio-fs'", `c.toml:2:13: shared_fs can only ` +
			`be "none", because Firecracker shares no folders: root file systems come on block devices (devmapper, ` +
			`blockfile), other files are copied; [hypervisor.qemu] and [hypervisor.clh] share`},
		"a rate below 0": {"[hypervisor.clh]\ndisk_rate_limiter_bw_max_rate = -1",
			`c.toml:2:33: disk_rate_limiter_bw_max_rate: -1: want 0 or more`},
		"section is no table": {"runtime = 3", `c.toml:1:11: want the table [runtime], got a whole number`},
		"section is a list":   {"[[runtime]]", `c.toml:1:3: want the table [runtime], got a list`},
		"group is no table":   {"agent = true", `c.toml:1:9: want tables such as [agent.kata], got true or false`},
		"hypervisor is no table": {"[hypervisor]\nqemu = 1",
			`c.toml:2:8: want the table [hypervisor.qemu], got a whole number`},
		"no TOML":         {q + "guest = \n", `c.toml:2:9: `},
		"key twice":       {q + "guest = '/a'\nguest = '/b'", `c.toml:3:1: `},
		"table twice":     {"[runtime]\n[runtime]", `c.toml:2:`},
		"number for text": {q + "guest = 3", `c.toml:2:9: guest: want text, got a whole number`},
		"text for number": {q + `default_memory = "2048"`,
			`c.toml:2:18: default_memory: want a whole number, got text`},
		"point in whole number": {q + "default_memory = 1.5",
			`c.toml:2:18: default_memory: want a whole number, got a number with a point`},
		"text for truth": {"[runtime]\nenable_debug = 'true'",
			`c.toml:2:16: enable_debug: want true or false, got text`},
		"text for list": {q + "enable_annotations = '.*'",
			`c.toml:2:22: enable_annotations: want a list of texts, got text`},
		"number in list": {q + "enable_annotations = ['a', 3]",
			`c.toml:2:1: enable_annotations: want a list of texts, got one with a whole number`},
		"table for text":    {q + "guest = { x = 1 }", `c.toml:2:1: guest: want text, got a table`},
		"date for text":     {q + "guest = 2026-01-01", `c.toml:2:9: guest: want text, got a date or time`},
		"relative guest":    {q + "guest = 'out/default'", `want an absolute one`},
		"guest with dots":   {q + "guest = '/a/../b'", `want it as plain as "/b"`},
		"too little memory": {q + "default_memory = 15", `15 MiB of memory: want 0 or 16 to 67108864`},
		"too much memory":   {q + "default_memory = 9223372036854775807", `out of range`},
		"too many CPUs":     {q + "default_vcpus = 289", `289 virtual CPUs: want at most 288`},
		"no number of CPUs": {q + "default_vcpus = nan", `NaN virtual CPUs`},
		"unknown machine": {q + "machine_type = 'pc'",
			`unknown machine "pc" (known: q35, microvm, virt, pseries, s390-ccw-virtio)`},
		"unknown acceleration": {q + "acceleration = 'hvf'", `known: auto, kvm, tcg`},
		"unknown attestation": {"[runtime]\nattestation = 'no'",
			`c.toml:2:15: attestation: want enforce, warn or off, got "no"`},
		"timeout of nothing":       {"[agent.kata]\ndial_timeout = 0", `0 seconds: want 1 to 3600`},
		"bad regular expression":   {q + "enable_annotations = ['(']", `"(" is no regular expression`},
		"bad pattern":              {q + "valid_guest_paths = ['/[']", `"/[" is no pattern`},
		"relative pattern":         {q + "valid_hypervisor_paths = ['*']", `want one of absolute paths`},
		"line break in parameters": {q + `kernel_params = "a\nb"`, `want printable ASCII`},
		"open quotation mark":      {q + `kernel_params = 'a="b'`, `not closed`},
		"words for init":           {q + `kernel_params = 'a -- b'`, `take the words behind it away`},
		"words of extensions": {q + `kernel_params = 'a "kata.extension.x.verity_params=y"'`,
			`use guest_extension_images`},
		"long parameters": {q + `kernel_params = '` + strings.Repeat("a", 2047) + `'`, `Linux keeps 2047`},
		"extension's key": {q + "guest_extension_images = [{name = 'a', path = '/a', verity_param = ''}]",
			`image 1: unknown key "verity_param"; did you mean "verity_params"?`},
		"extension's name":       {q + "guest_extension_images = [{name = 'A.', path = '/a'}]", `image 1: `},
		"extension without path": {q + "guest_extension_images = [{name = 'a'}]", `a has no path`},
		"extension twice": {q + "guest_extension_images = [{name = 'a', path = '/a'}, {name = 'a', path " +
			"= '/b'}]", `"a" stands twice`},
		"extension's parameters": {q + "guest_extension_images = [{name = 'a', path = '/a', verity_params = 'x'}]",
			`verity_params: `},
		"promise of protection": {q + "confidential_guest = true",
			`c.toml:2:22: confidential_guest can only be false, because confidential guests are not supported`},
		"another promise": {"[runtime]\nguest_selinux_label = 'x'", `guest_selinux_label can only be ""`},
		"a way of sharing": {q + "shared_fs = 'virtio-fs-nydus'",
			`want virtio-fs, virtio-9p or none, got "virtio-fs-nydus"`},
		"a message too long":   {q + "msize_9p = 2000000", `2000000: want 4096 to 1048576`},
		"no network namespace": {"[runtime]\ndisable_new_netns = true", `internetworking_model = "none"`},
		"a way of networking":  {"[runtime]\ninternetworking_model = 'bridge'", `want tcfilter, macvtap, l3forwarding or none`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read([]Text{{"c.toml", []byte(c.in)}}, nil, false)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got  %v\nwant %s", err, c.want)
			}
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%T is no *Error", err)
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := Read([]Text{{"a", []byte("[runtime]\nx1 = 1\nattestation = 2\n")}, {"b", []byte("[runtime")},
		{"c", []byte("y = 1")}}, nil, false)
	for _, want := range []string{"a:2:1: ", "a:3:15: ", "b:1:", "c:1:1: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestLenientWarnsOfUnknownKeysOnly(t *testing.T) {
	l, err := Read([]Text{{"c", []byte("[new]\na = 1\n[runtime]\nzz = 2\nattestation = 'off'\n")}}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(l.Warnings); got != `[c:1:2: unknown key "new" c:4:1: unknown key "zz" in [runtime]]` ||
		l.Config.Runtime.Attestation != Off {
		t.Errorf("%s, %v", got, l.Config.Runtime)
	}
	for _, bad := range []string{"[hypervisor.stratovirt]", "runtime.attestation = 1",
		"hypervisor.qemu.sev_snp_guest = true"} {
		if _, err := Read([]Text{{"c", []byte(bad)}}, nil, true); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestKatasOwnDefaultsAreAccepted reads keys and values as Kata 4.1.0 ships them, as far as they are known.
func TestKatasOwnDefaultsAreAccepted(t *testing.T) {
	for _, h := range Hypervisors() {
		data, err := os.ReadFile("testdata/kata-" + h + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		l := read(t, string(data), nil)
		var b strings.Builder
		for _, w := range l.Warnings {
			fmt.Fprintln(&b, w)
		}
		golden.Check(t, "kata-"+h+".warnings", []byte(b.String()))
		if l.Config.Hypervisor != h {
			t.Errorf("%s, want %s", l.Config.Hypervisor, h)
		}
	}
}

func TestDevicesOfTheHostComeInOneWay(t *testing.T) {
	const plug = "[hypervisor.qemu]\ncold_plug_vfio = %q\nhot_plug_vfio = %q\n"
	for _, c := range []struct{ cold, hot, more, err string }{
		{PortRoot, PortNone, "", ""}, {PortNone, PortRoot, "", ""}, {PortSwitch, PortNone, "", ""},
		{PortNone, PortSwitch, "pcie_switch_port = 2\n", ""},
		{PortNone, PortSwitch, "", `hot_plug_vfio (c.toml:3:1) is "switch-port", and pcie_switch_port is 0`},
		{PortRoot, PortSwitch, "pcie_switch_port = 2\n",
			`cold_plug_vfio (c.toml:2:1) is "root-port" and hot_plug_vfio (c.toml:3:1) is "switch-port", and only one`},
		{"port", PortNone, "", `want no-port, root-port or switch-port, got "port"`},
		{PortNone, PortNone, "pcie_switch_port = 17\n", "17: want 0 to 16"},
		{PortNone, PortNone, "[runtime]\nvfio_mode = \"guest\"\n", `want guest-kernel or vfio, got "guest"`},
	} {
		_, err := Read([]Text{{"c.toml", []byte(fmt.Sprintf(plug, c.cold, c.hot) + c.more)}}, nil, false)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s, %s: %v, want %q", c.cold, c.hot, err, c.err)
		}
	}
	for _, h := range []string{HypervisorCLH, HypervisorFirecracker} {
		text := "[hypervisor." + h + "]\nhot_plug_vfio = \"root-port\"\n"
		if _, err := Read([]Text{{"c.toml", []byte(text)}}, nil, false); err == nil ||
			!strings.Contains(err.Error(), `hot_plug_vfio can only be "no-port", because the runtime passes devices`) {
			t.Errorf("%s: %v", h, err)
		}
	}
}

func TestAnnotations(t *testing.T) {
	const h, file = AnnotationPrefix + "hypervisor.", `
[hypervisor.qemu]
enable_annotations = ["default_.*", "path|guest", "kernel_params", "shared_fs|enable_hugepages|enable_iommu|.*_plug_vfio|.*_hash", "acceleration", "machine_type"]
valid_guest_paths = ["/srv/guests/*"]
kernel_params = "a"
[agent.kata]
enable_annotations = ["policy", "kernel_modules"]
kernel_modules = ["loop"]
[runtime]
enable_annotations = ["create_container_timeout"]
`
	for name, c := range map[string]struct {
		in   map[string]string
		want func(*Config)
		err  string
		warn string
	}{
		"others are not read": {map[string]string{"io.kubernetes.x": "y",
			"io.katacontainers.pkg.oci.bundle_path": "/b"}, func(*Config) {}, "", ""},
		"a number": {map[string]string{h + "default_memory": "512"},
			func(c *Config) { c.VM.DefaultMemoryMiB = 512 }, "", ""},
		"a fraction": {map[string]string{h + "default_vcpus": "2.5"},
			func(c *Config) { c.VM.DefaultVCPUs = 2.5 }, "", ""},
		"words are added": {map[string]string{h + "kernel_params": "b c"},
			func(c *Config) { c.VM.KernelParams = []KernelParam{"a", "b c"} }, "", ""},
		"a wish": {map[string]string{h + "acceleration": "tcg"},
			func(c *Config) { c.VM.Acceleration = accel.OnlyTCG }, "", ""},
		"a guest that is listed": {map[string]string{h + "guest": "/srv/guests/a"},
			func(c *Config) { c.VM.Guest = "/srv/guests/a" }, "", ""},
		"a timeout": {map[string]string{AnnotationPrefix +
			"runtime.create_container_timeout": "7"},
			func(c *Config) { c.Runtime.CreateContainerTimeout = 7 * time.Second }, "", ""},
		"a key without effect": {map[string]string{h + "enable_hugepages": "true"}, func(*Config) {}, "",
			"annotation " + h + "enable_hugepages: it has no effect, because the guest's memory is ordinary"},
		"devices of the host": {map[string]string{h + "cold_plug_vfio": "root-port", h + "enable_iommu": "true"},
			func(c *Config) { c.VM.ColdPlugVFIO, c.VM.EnableIOMMU = PortRoot, true }, "", ""},
		"devices of the host on a bridge": {map[string]string{h + "hot_plug_vfio": "bridge-port"}, nil,
			`bridge-port: the machines here have no PCI bridges; set "root-port" or "switch-port"`, ""},
		"a way of sharing": {map[string]string{h + "shared_fs": "none"},
			func(c *Config) { c.VM.SharedFS = SharedNone }, "", ""},
		"an empty hash asks for nothing": {map[string]string{h + "kernel_hash": ""}, func(*Config) {}, "",
			"has no effect"},
		"a guest elsewhere": {map[string]string{h + "guest": "/srv/other"}, nil,
			`path "/srv/other" matches none of valid_guest_paths = ["/srv/guests/*"] (c.toml:4:1)`, ""},
		"a guest by a detour": {map[string]string{h + "guest": "/srv/guests/../x"}, nil, `as plain as`,
			""},
		"a guest below a listed one": {map[string]string{h + "guest": "/srv/guests/a/b"}, nil, `matches none`,
			""},
		"no guest": {map[string]string{h + "guest": ""}, nil, `matches none`, ""},
		"a program, where none is listed": {map[string]string{h + "path": "/bin/sh"}, nil,
			`matches none of valid_hypervisor_paths = [] (default)`, ""},
		"not listed": {map[string]string{h + "pcie_root_port": "1"}, nil,
			`not allowed by enable_annotations`, ""},
		"listed in part only": {map[string]string{h + "enable_iommu_platform": "true"}, nil,
			`not allowed by enable_annotations`, ""},
		"seccomp, which is not listed": {map[string]string{AnnotationPrefix +
			"runtime.disable_guest_seccomp": "true"}, nil,
			`not allowed by enable_annotations = ["create_container_timeout"] in [runtime] (c.toml:10:1)`, ""},
		"who may annotate the agent": {map[string]string{AnnotationPrefix + "agent.enable_annotations": ".*"},
			nil, `only the host's configuration may set agent.kata.enable_annotations`, ""},
		"who may annotate": {map[string]string{h + "enable_annotations": ".*"}, nil,
			`only the host's configuration may set hypervisor.qemu.enable_annotations`, ""},
		"attestation": {map[string]string{AnnotationPrefix + "runtime.attestation": "off"}, nil,
			`only the host's configuration may set runtime.attestation`, ""},
		"a misspelling": {map[string]string{h + "default_vcpu": "1"}, nil,
			`annotation ` + h + `default_vcpu: unknown key "default_vcpu"; did you mean "default_vcpus"?`, ""},
		"an unknown group": {map[string]string{AnnotationPrefix + "hypervisr.default_vcpus": "1"},
			nil, `unknown group "hypervisr"; did you mean "hypervisor"?`, ""},
		"no number": {map[string]string{h + "default_memory": "2G"}, nil,
			`want a whole number, got "2G"`, ""},
		"no fraction": {map[string]string{h + "default_vcpus": "two"}, nil,
			`want a number, got "two"`, ""},
		"out of range": {map[string]string{h + "default_memory": "1"}, nil, `1 MiB of memory`, ""},
		"not a number at all": {map[string]string{h + "default_vcpus": "NaN"}, nil, `NaN virtual CPUs`,
			""},
		"too many words together": {map[string]string{h + "kernel_params": strings.Repeat("x", 2045)}, nil,
			`2048 bytes`, ""},
		"a policy": {map[string]string{AnnotationPrefix + "agent.policy": "cGFja2FnZQ=="},
			func(c *Config) { c.Agent.Policy = "cGFja2FnZQ==" }, "", ""},
		"a policy that is no base64": {map[string]string{AnnotationPrefix + "agent.policy": "package"}, nil,
			`want a policy in base64`, ""},
		"modules in the place of the host's": {map[string]string{AnnotationPrefix + "agent.kernel_modules": "e1000e " +
			"EEE=1,2 a=b; i915"},
			func(c *Config) { c.Agent.KernelModules = []string{"e1000e EEE=1,2 a=b", "i915"} }, "", ""},
		"no modules": {map[string]string{AnnotationPrefix + "agent.kernel_modules": ""},
			func(c *Config) { c.Agent.KernelModules = []string{} }, "", ""},
		"a module without a name": {map[string]string{AnnotationPrefix + "agent.kernel_modules": "a;;b"}, nil,
			`entry 2: a kernel module without a name: want NAME`, ""},
		"a module by its path": {map[string]string{AnnotationPrefix + "agent.kernel_modules": "/tmp/x.ko"}, nil,
			`entry 1: kernel module "/tmp/x.ko": want a name`, ""},
		"a hash, which nobody would check": {map[string]string{h + "kernel_hash": "ab"}, nil, `it can only be ""`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Read([]Text{{"c.toml", []byte(file)}}, c.in, false)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %s", err, c.err)
				}
				e, ok := errors.AsType[*annotationError](err)
				if n := slices.Collect(maps.Keys(c.in))[0]; !ok || e.Name != n {
					t.Errorf("%v does not name %s", err, n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := read(t, file, nil).Config
			c.want(&want)
			if !reflect.DeepEqual(l.Config, want) {
				t.Errorf("got  %+v\nwant %+v", l.Config, want)
			}
			if got := fmt.Sprint(l.Warnings); c.warn == "" && len(l.Warnings) > 0 || !strings.Contains(got, c.warn) {
				t.Errorf("warnings %s, want %q", got, c.warn)
			}
		})
	}
}

// TestThePageSaysWhoMaySetWhat walks all keys: nothing is for pods unless the configuration names it, and what the page
// does not call a pod's never is.
func TestThePageSaysWhoMaySetWhat(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	const named = "enable_annotations = ['.*']\n[agent.kata]\nenable_annotations = ['.*']\n[runtime]\n" +
		"enable_annotations = ['.*']\n"
	for i := range keys {
		k := &keys[i]
		if k.section == sectionFactory {
			continue
		}
		row := regexp.MustCompile("(?m)^\\| [*]*`" + k.name + "`[*]* \\|([^|]*)\\|([^|]*)\\|([^|]*)\\|")
		var says []string
		part := string(page)
		part = part[strings.Index(part, "| `["+k.section+"]` |"):]
		if m := row.FindStringSubmatch(part); m == nil {
			t.Errorf("the page has no row for %s", k)
			continue
		} else {
			says = m
		}
		if pod := strings.TrimSpace(says[3]) == "yes"; pod != k.pod {
			t.Errorf("%s: the page says pod %q", k, strings.TrimSpace(says[3]))
		}
		name := AnnotationPrefix + strings.Split(k.section, ".")[0] + "." + k.name
		table := "[" + k.section + "]\n"
		if !strings.HasPrefix(k.section, hypervisorGroup) {
			table = "[" + sectionQEMU + "]\n"
		}
		for _, value := range []string{"1", "true", "x", ""} {
			if _, err := Read(nil, map[string]string{name: value}, false); err == nil {
				t.Errorf("%s=%s is allowed though nobody named it", name, value)
			}
			_, err := Read([]Text{{"c.toml", []byte(table + named)}}, map[string]string{name: value}, false)
			only := err != nil && strings.Contains(err.Error(), "only the host's configuration may set")
			if only == k.pod {
				t.Errorf("%s=%s, named: %v", name, value, err)
			}
		}
	}
}

func TestFilesOfOthersAreNotRead(t *testing.T) {
	asRoot := testenv.Root
	for _, c := range []struct {
		name, want string
		root       bool
		spoil      func(dir string) error
	}{
		{"as it should be", "", false, func(string) error { return nil }},
		{"everybody may write it", "c.toml has mode 0666: other users may write to it", false,
			func(dir string) error { return os.Chmod(dir+"/c.toml", 0o666) }},
		{"its group may write it", "mode 0664", false, func(dir string) error {
			return os.Chmod(dir+"/c.toml",
				0o664)
		}},
		{"everybody may write a drop-in", "90-x has mode 0646", false,
			func(dir string) error { return os.Chmod(dir+"/config.d/90-x", 0o646) }},
		{"everybody may add a drop-in", "config.d has mode 0777", false,
			func(dir string) error { return os.Chmod(dir+"/config.d", 0o777) }},
		{"everybody may replace it", "has mode 0777", false, func(dir string) error { return os.Chmod(dir, 0o777) }},
		{"it is another user's", "c.toml belongs to user 65534", true,
			func(dir string) error { return os.Chown(dir+"/c.toml", 65534, 65534) }},
		{"a drop-in is another user's", "90-x belongs to user 65534", true,
			func(dir string) error { return os.Chown(dir+"/config.d/90-x", 65534, 65534) }},
		{"a link to another user's", "belongs to user 65534", true, func(dir string) error {
			return errors.Join(os.Rename(dir+"/c.toml", dir+"/x"), os.Chown(dir+"/x", 65534, 65534),
				os.Symlink("x", dir+"/c.toml"))
		}},
		{"a FIFO", "is no regular file", false, func(dir string) error {
			return errors.Join(os.Remove(dir+"/c.toml"), syscall.Mkfifo(dir+"/c.toml", 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				testenv.Require(t, asRoot)
			}
			dir := t.TempDir()
			err := errors.Join(os.Mkdir(dir+"/config.d", 0o755), os.WriteFile(dir+"/c.toml", []byte("[runtime]\n"),
				0o644),
				os.WriteFile(dir+"/config.d/90-x", []byte("[runtime]\nenable_debug = true\n"), 0o644), c.spoil(dir))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(Options{Path: dir + "/c.toml"})
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTheNumberOfCPUs(t *testing.T) {
	for _, c := range []struct {
		wish                 float64
		manifest, host, want int
	}{
		{0, 2, 8, 2}, {0, 0, 8, 1}, {1, 2, 8, 1}, {1.5, 2, 8, 2}, {0.1, 2, 8, 1}, {-1, 2, 8, 8}, {16, 2, 8, 8},
		{288, 1, 0, 1}, {math.Nextafter(2, 3), 1, 8, 3},
	} {
		q := VM{DefaultVCPUs: c.wish}
		if got := q.VCPUs(c.manifest, c.host); got != c.want {
			t.Errorf("%v of manifest %d, host %d: %d, want %d", c.wish, c.manifest, c.host, got, c.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(everything), "default_vcpus", "2")
	f.Add(Template(HypervisorQEMU), "kernel_params", "a")
	f.Add([]byte("hypervisor = { qemu = { guest = '/a', "+
		"guest_extension_images = [{name = 'a'}] } }\r\n[runtime]\r\n"), "guest", "/srv/x")
	f.Add([]byte("a.b.c = [[{x = 1}], [[]]]\n[[a.d]]\n[a.d.e]\n\"\\u0000\" = 1979-05-27T07:32:00Z"), "x", "")
	f.Fuzz(func(t *testing.T, data []byte, name, value string) {
		for _, lenient := range []bool{false, true} {
			l, err := Read([]Text{{"c.toml", data}},
				map[string]string{AnnotationPrefix + "hypervisor." + name: value}, lenient)
			if err != nil {
				_ = err.Error()
				continue
			}
			settings, err := l.Settings()
			if err != nil {
				t.Fatal(err)
			}
			// What was accepted can be written, and read as the same.
			var b bytes.Buffer
			for _, s := range settings {
				if s.Key != "hypervisor.qemu.kernel_params" { // the annotation's part becomes one with the file's
					fmt.Fprintf(&b, "%s = %s\n", s.Key, s.Value)
				}
			}
			again, err := Read([]Text{{"again", b.Bytes()}}, nil, false)
			if err != nil {
				t.Fatalf("%s\n%v", b.Bytes(), err)
			}
			l.Config.VM.KernelParams = nil
			l2, err := again.Settings()
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range settings {
				if s.Key != "hypervisor.qemu.kernel_params" && l2[i].Value != s.Value {
					t.Fatalf("%s: %s is read again as %s", s.Key, s.Value, l2[i].Value)
				}
			}
		}
	})
}
