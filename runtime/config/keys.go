package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/trace"
)

// The sections, by the names that stand in square brackets.
const (
	sectionQEMU    = "hypervisor.qemu"
	sectionAgent   = "agent.kata"
	sectionRuntime = "runtime"
	sectionFactory = "factory"
)

// sections lists them in the order in which they are shown. All of them belong to Kata.
var sections = slices.Concat(hypervisorSections, []string{sectionAgent, sectionRuntime, sectionFactory})

// key is one key that has an effect.
type key struct {
	section, name string
	doc           string // for people, with unit and range
	ours          bool   // Kata has no such key
	// field is where the value goes.
	field func(*Config) value
	// check is nil where every value of the kind is right. It sees the Config with the value in it.
	check func(*Config) error
	// pod says that an annotation may set the key; for a path, valid is the patterns it must match.
	pod   bool
	valid func(*Config) (patterns []string, key string)
	// example is shown in the template instead of the default, where that is empty.
	example string
}

// String is the key's whole name.
func (k *key) String() string { return k.section + "." + k.name }

// Limits of values. Those of QEMU are of QEMU 7.2, hw/i386/pc_q35.c and hw/i386/microvm.c: max_cpus.
const (
	maxVCPUs       = 288
	minMemoryMiB   = 16      // as a manifest wants it
	maxMemoryMiB   = 1 << 26 // 64 TiB
	maxMemorySlots = 256     // QEMU, include/hw/acpi/memory_hotplug.h: ACPI_MAX_RAM_SLOTS
	maxSeconds     = 3600    // of a timeout
	maxParams      = 2047    // bytes, what Linux keeps of a command line: COMMAND_LINE_SIZE of x86_64
)

// keys lists every key that has an effect, in the order in which they are shown.
var keys = slices.Concat(qemuKeys, linkRateKeys(sectionQEMU), clhKeys, firecrackerKeys, otherKeys)

var qemuKeys = []key{
	{
		section: sectionQEMU, name: "guest", ours: true, pod: true, example: `"/usr/share/katabuild/guests/default"`,
		doc: "Folder of the guest: manifest.json and the files it names, as katabuild build makes it.\nEvery file " +
			"is checked against the manifest before it is used. There is no default; kernel and image or initrd are " +
			"the other way.",
		field: func(c *Config) value { return plainText(&c.VM.Guest) },
		check: func(c *Config) error { return absolute(c.VM.Guest) },
		valid: func(c *Config) ([]string, string) { return c.VM.ValidGuestPaths, "valid_guest_paths" },
	},
	{
		section: sectionQEMU, name: "kernel",
		doc: "Kernel of a guest without a manifest, such as Kata's /usr/share/kata-containers/vmlinux.container: " +
			"an ELF, a bzImage or an Image, plain or packed; its architecture is the guest's.\nNobody says what its " +
			"files must be: attestation must be \"warn\" or \"off\". Not together with guest.",
		field: func(c *Config) value { return plainText(&c.VM.Kernel) },
		check: func(c *Config) error { return absolute(c.VM.Kernel) },
	},
	{
		section: sectionQEMU, name: "image",
		doc: "Disk image of a guest without a manifest, attached as virtio-blk; its root is the first partition, " +
			"or all of it where it has none.",
		field: func(c *Config) value { return plainText(&c.VM.Image) },
		check: func(c *Config) error { return absolute(c.VM.Image) },
	},
	{
		section: sectionQEMU, name: "initrd",
		doc:   "Initial RAM disk of a guest without a manifest, with the agent as /init. Either image or initrd.",
		field: func(c *Config) value { return plainText(&c.VM.Initrd) },
		check: func(c *Config) error { return absolute(c.VM.Initrd) },
	},
	{
		section: sectionQEMU, name: "rootfs_type",
		doc:   "File system of the image's root: \"ext4\", \"erofs\" or \"xfs\".",
		field: func(c *Config) value { return plainText(&c.VM.RootfsType) },
		check: func(c *Config) error { return oneOf(c.VM.RootfsType, guest.FileSystems()...) },
	},
	{
		section: sectionQEMU, name: "kernel_verity_params",
		doc: "How dm-verity checks the image's root, as the line of root_hash.txt; the hash tree is in the second " +
			"partition. Empty: it is not checked.",
		field: func(c *Config) value { return plainText(&c.VM.KernelVerityParams) },
		check: func(c *Config) error {
			if c.VM.KernelVerityParams == "" {
				return nil
			}
			_, err := dmverity.ParseParams(c.VM.KernelVerityParams)
			return err
		},
	},
	{
		section: sectionQEMU, name: "valid_guest_paths", ours: true, example: `["/usr/share/katabuild/guests/*"]`,
		doc: "Patterns of the folders that the annotation \"guest\" may name. * matches within one name. None: no " +
			"folder.",
		field: func(c *Config) value { return (*texts)(&c.VM.ValidGuestPaths) },
		check: func(c *Config) error { return patterns(c.VM.ValidGuestPaths) },
	},
	{
		section: sectionQEMU, name: "acceleration", ours: true, pod: true,
		doc: "What runs the guest's instructions: \"auto\" (KVM where it works, otherwise TCG), \"kvm\" (or fail) " +
			"or \"tcg\" (emulation).",
		field: func(c *Config) value { return textOf(&c.VM.Acceleration, accel.ParsePreference) },
	},
	{
		section: sectionQEMU, name: "path", pod: true, example: `"/usr/bin/qemu-system-x86_64"`,
		doc:   "The QEMU program. Empty: the one of the guest's architecture, found in $PATH.",
		field: func(c *Config) value { return plainText(&c.VM.Path) },
		check: func(c *Config) error { return absolute(c.VM.Path) },
		valid: func(c *Config) ([]string, string) { return c.VM.ValidHypervisorPaths, "valid_hypervisor_paths" },
	},
	{
		section: sectionQEMU, name: "valid_hypervisor_paths", example: `["/usr/bin/qemu-system-*"]`,
		doc: "Patterns of the programs that the annotation \"path\" may name. * matches within one name. None: no " +
			"program.",
		field: func(c *Config) value { return (*texts)(&c.VM.ValidHypervisorPaths) },
		check: func(c *Config) error { return patterns(c.VM.ValidHypervisorPaths) },
	},
	{
		section: sectionQEMU, name: "enable_annotations", example: `["default_vcpus", "default_memory"]`,
		doc: "Regular expressions for the names behind io.katacontainers.config.hypervisor. that a pod's " +
			"annotations may have.\nOne must match the whole name. Whoever may set kernel_params controls the " +
			"guest's command line.",
		field: func(c *Config) value { return (*texts)(&c.VM.EnableAnnotations) },
		check: func(c *Config) error { return expressions(c.VM.EnableAnnotations) },
	},
	{
		section: sectionQEMU, name: "machine_type", pod: true, example: `"microvm"`,
		doc: "QEMU's machine: \"q35\" or \"microvm\" for x86_64, \"virt\" for aarch64 and riscv64, \"pseries\" " +
			"for ppc64le, \"s390-ccw-virtio\" for s390x.\nEmpty: what the guest's manifest says, or without one the " +
			"first of these.",
		field: func(c *Config) value { return textOf(&c.VM.MachineType, machineOrNone) },
	},
	{
		section: sectionQEMU, name: "default_vcpus", pod: true,
		doc: "Number of virtual CPUs, up to 288; a fraction is rounded up, more than the host has is cut.\n0: " +
			"what the guest's manifest says, or 1 without one. Negative: all that the host has.",
		field: func(c *Config) value { return (*fraction)(&c.VM.DefaultVCPUs) },
		check: func(c *Config) error {
			if n := c.VM.DefaultVCPUs; !(n >= -maxVCPUs && n <= maxVCPUs) {
				return fmt.Errorf("%v virtual CPUs: want at most %d", n, maxVCPUs)
			}
			return nil
		},
	},
	{
		section: sectionQEMU, name: "default_maxvcpus", pod: true,
		doc: "Most virtual CPUs that the machine grows to, where it can (q35). 0, and what the host does not " +
			"have: all that the host has.",
		field: func(c *Config) value { return (*number)(&c.VM.DefaultMaxVCPUs) },
		check: func(c *Config) error { return between(c.VM.DefaultMaxVCPUs, 0, maxVCPUs) },
	},
	{
		section: sectionQEMU, name: "default_maxmemory", pod: true,
		doc: "Most memory in MiB that the machine grows to, where it can (q35). 0, and what the host does not " +
			"have: all that the host has.",
		field: func(c *Config) value { return (*number)(&c.VM.DefaultMaxMemoryMiB) },
		check: func(c *Config) error { return between(c.VM.DefaultMaxMemoryMiB, 0, maxMemoryMiB) },
	},
	{
		section: sectionQEMU, name: "memory_slots", pod: true,
		doc: "How many times the machine's memory can grow, 0 to 256. Back ends such as virtiofsd take a few " +
			"pieces of memory only.",
		field: func(c *Config) value { return (*number)(&c.VM.MemorySlots) },
		check: func(c *Config) error { return between(c.VM.MemorySlots, 0, maxMemorySlots) },
	},
	{
		section: sectionQEMU, name: "default_memory", pod: true,
		doc:   "Memory of the guest in MiB, 16 to 67108864. 0: what the guest's manifest says, or 2048 without one.",
		field: func(c *Config) value { return (*number)(&c.VM.DefaultMemoryMiB) },
		check: func(c *Config) error {
			if n := c.VM.DefaultMemoryMiB; n != 0 && (n < minMemoryMiB || n > maxMemoryMiB) {
				return fmt.Errorf("%d MiB of memory: want 0 or %d to %d", n, minMemoryMiB, maxMemoryMiB)
			}
			return nil
		},
	},
	{
		section: sectionQEMU, name: "kernel_params", pod: true, example: `"loglevel=6"`,
		doc: "Words put behind the guest's kernel command line, at most 2047 bytes. An annotation's words come " +
			"behind these.",
		field: func(c *Config) value { return (*params)(&c.VM.KernelParams) },
		check: func(c *Config) error { return kernelParams(c.VM.KernelParams) },
	},
	{
		section: sectionQEMU, name: "guest_extension_images",
		example: `[{name = "tools", path = "/usr/share/katabuild/extensions/tools"}]`,
		doc: "Extension images, attached in this order. path is the folder that katabuild made, or the image " +
			"alone;\nthe image alone needs verity_params, the line of root_hash.txt.",
		field: func(c *Config) value { return (*disks)(&c.VM.Extensions) },
		check: func(c *Config) error { return extensions(c.VM.Extensions) },
	},
	{
		section: sectionQEMU, name: "shared_fs", pod: true,
		doc: "How containers' files reach the guest: \"virtio-fs\" (by virtiofsd), \"virtio-9p\" (by QEMU; " +
			"slower, needs no other program)\nor \"none\" (root file systems on block devices, other files are " +
			"copied).",
		field: func(c *Config) value { return plainText(&c.VM.SharedFS) },
		check: func(c *Config) error { return oneOf(c.VM.SharedFS, SharedVirtioFS, Shared9P, SharedNone) },
	},
	{
		section: sectionQEMU, name: "virtio_fs_daemon", pod: true, example: `"/usr/libexec/virtiofsd"`,
		doc: "The virtiofsd program, QEMU's own in C or its successor in Rust. Empty: the first in Rust where " +
			"distributions put it, or else the first in C.",
		field: func(c *Config) value { return plainText(&c.VM.VirtioFSDaemon) },
		check: func(c *Config) error { return absolute(c.VM.VirtioFSDaemon) },
		valid: func(c *Config) ([]string, string) {
			return c.VM.ValidVirtioFSDaemonPaths, "valid_virtio_fs_daemon_paths"
		},
	},
	{
		section: sectionQEMU, name: "valid_virtio_fs_daemon_paths", example: `["/usr/libexec/virtiofsd"]`,
		doc: "Patterns of the programs that the annotation \"virtio_fs_daemon\" may name. * matches within one " +
			"name. None: no program.",
		field: func(c *Config) value { return (*texts)(&c.VM.ValidVirtioFSDaemonPaths) },
		check: func(c *Config) error { return patterns(c.VM.ValidVirtioFSDaemonPaths) },
	},
	{
		section: sectionQEMU, name: "virtio_fs_cache", pod: true,
		doc: "What the guest may remember of shared files: \"never\", \"auto\" (for a second) or \"always\" " +
			"(nobody else changes them).",
		field: func(c *Config) value { return plainText(&c.VM.VirtioFSCache) },
		check: func(c *Config) error { return oneOf(c.VM.VirtioFSCache, "never", "none", "auto", "always") },
	},
	{
		section: sectionQEMU, name: "virtio_fs_extra_args", example: `["--thread-pool-size=1"]`,
		doc:   "Arguments handed to virtiofsd as they are.",
		field: func(c *Config) value { return (*texts)(&c.VM.VirtioFSExtraArgs) },
	},
	{
		section: sectionQEMU, name: "foreign_locks", ours: true, pod: true,
		doc: "What becomes of flock and fcntl locks on a volume of the host that another pod may write to and had " +
			"first: \"refuse\" (ENOLCK)\nor \"grant\" (they hold within the pod alone).",
		field: func(c *Config) value { return plainText(&c.VM.ForeignLocks) },
		check: func(c *Config) error { return oneOf(c.VM.ForeignLocks, LocksRefused, LocksGranted) },
	},
	{
		section: sectionQEMU, name: "msize_9p", pod: true,
		doc:   "Bytes of a 9p message, 4096 to 1048576.",
		field: func(c *Config) value { return (*number)(&c.VM.Msize9P) },
		check: func(c *Config) error { return between(c.VM.Msize9P, 4096, 1<<20) },
	},
	{
		section: sectionQEMU, name: "pcie_root_port", pod: true,
		doc:   "Places for disks that are plugged into a running guest, 0 to 120; machines q35 and virt only.",
		field: func(c *Config) value { return (*number)(&c.VM.PCIeRootPorts) },
		check: func(c *Config) error { return between(c.VM.PCIeRootPorts, 0, qemu.MaxRootPorts) },
	},
	{
		section: sectionQEMU, name: "cold_plug_vfio", pod: true,
		doc: "Where devices of the host (/dev/vfio/N) of a pod's first container, and of its annotations for CDI, " +
			"are from the machine's start:\n\"root-port\", \"switch-port\" (a PCI Express switch) or \"no-port\" " +
			"(nowhere); machines q35 and virt only. docs/vfio.md",
		field: func(c *Config) value { return plainText(&c.VM.ColdPlugVFIO) },
		check: func(c *Config) error { return port(c.VM.ColdPlugVFIO) },
	},
	{
		section: sectionQEMU, name: "hot_plug_vfio", pod: true,
		doc: "Likewise for the devices of every container, plugged into the running machine. One of the two is " +
			"\"no-port\".",
		field: func(c *Config) value { return plainText(&c.VM.HotPlugVFIO) },
		check: func(c *Config) error { return port(c.VM.HotPlugVFIO) },
	},
	{
		section: sectionQEMU, name: "pcie_switch_port", pod: true,
		doc: "Places of the switch for devices of the host, 0 to 16; a machine has more where more are there from " +
			"its start.",
		field: func(c *Config) value { return (*number)(&c.VM.PCIeSwitchPorts) },
		check: func(c *Config) error { return between(c.VM.PCIeSwitchPorts, 0, qemu.MaxSwitchPorts) },
	},
	{
		section: sectionQEMU, name: "enable_iommu", pod: true,
		doc: "Give the guest an IOMMU, which vfio_mode = \"vfio\" wants, and have its kernel use it (intel_iommu=on " +
			"iommu=pt); machines q35, and virt of aarch64.",
		field: func(c *Config) value { return (*flag)(&c.VM.EnableIOMMU) },
	},
	{
		section: sectionQEMU, name: "enable_iommu_platform", pod: true,
		doc: "With enable_iommu: disks and interfaces that QEMU itself emulates are behind it too. virtiofsd, the " +
			"vsock and vhost-user\nare not: they read the guest's memory as it is.",
		field: func(c *Config) value { return (*flag)(&c.VM.IOMMUPlatform) },
	},
	{
		section: sectionQEMU, name: "guest_hook_path", pod: true, example: `"/usr/share/oci/hooks"`,
		doc: "Folder in the guest with the folders prestart, poststart and poststop, whose programs are run for " +
			"every container. Empty: none.",
		field: func(c *Config) value { return plainText(&c.VM.GuestHookPath) },
		check: func(c *Config) error { return absolute(c.VM.GuestHookPath) },
	},
	{
		section: sectionQEMU, name: "enable_debug",
		doc:   "Put the guest's console into the runtime's log.",
		field: func(c *Config) value { return (*flag)(&c.VM.EnableDebug) },
	},
}

var otherKeys = []key{
	{
		section: sectionAgent, name: "enable_debug",
		doc:   "Let the agent log at level debug (agent.log=debug).",
		field: func(c *Config) value { return (*flag)(&c.Agent.EnableDebug) },
	},
	{
		section: sectionAgent, name: "debug_console_enabled",
		doc: "Let the agent give a shell to whoever connects to the guest's vsock port 1026, as \"kata-runtime " +
			"exec\" does.",
		field: func(c *Config) value { return (*flag)(&c.Agent.DebugConsoleEnabled) },
	},
	{
		section: sectionAgent, name: "enable_tracing", pod: true,
		doc: "Have the agent send spans of its calls (agent.trace): to the shim where that has enable_tracing, else " +
			"to \"kata-runtime trace-forward\".",
		field: func(c *Config) value { return (*flag)(&c.Agent.EnableTracing) },
	},
	{
		section: sectionAgent, name: "container_pipe_size",
		doc: "Bytes that each pipe of a process's standard streams holds in the guest, 0 to 1073741824; 0 is the " +
			"agent's own, 262144.",
		field: func(c *Config) value { return (*number)(&c.Agent.ContainerPipeSize) },
		check: func(c *Config) error { return between(c.Agent.ContainerPipeSize, 0, 1<<30) },
	},
	{
		section: sectionAgent, name: "kernel_modules", pod: true, example: `["dummy numdummies=2"]`,
		doc: "Modules that the guest loads before its containers, each with its parameters; what they need comes " +
			"along.\nAt most 256. An annotation has them in one text, with ; between, and takes the place of the list.",
		field: func(c *Config) value { return (*texts)(&c.Agent.KernelModules) },
		check: func(c *Config) error {
			_, err := kmodule.ParseList(c.Agent.KernelModules)
			return err
		},
	},
	{
		section: sectionAgent, name: "policy", ours: true, pod: true,
		example: `"a2F0YWJ1aWxkLXBvbGljeSAxCmRlZmF1bHQgYWxsb3cKZGVueSBFeGVjUHJvY2Vzcwo="`,
		doc: "Policy for the guest's agent, in base64: which calls it answers; docs/formats/policy.md. The " +
			"annotation is Kata's. Empty: what the guest has.",
		field: func(c *Config) value { return plainText(&c.Agent.Policy) },
		check: func(c *Config) error { _, err := c.Agent.PolicyText(); return err },
	},
	{
		section: sectionAgent, name: "enable_annotations", ours: true, example: `["policy"]`,
		doc: "Regular expressions for the names behind io.katacontainers.config.agent. that a pod's annotations " +
			"may have.\nWhoever may set policy takes the place of the policy that is set here.",
		field: func(c *Config) value { return (*texts)(&c.Agent.EnableAnnotations) },
		check: func(c *Config) error { return expressions(c.Agent.EnableAnnotations) },
	},
	{
		section: sectionAgent, name: "dial_timeout",
		doc:   "Seconds from QEMU's start until the agent must be ready, 1 to 3600.",
		field: func(c *Config) value { return (*seconds)(&c.Agent.DialTimeout) },
	},
	{
		section: sectionRuntime, name: "attestation", ours: true,
		doc: "What a guest that is not what its manifest says, or has none, leads to: \"enforce\" (it does not " +
			"start), \"warn\" (it is logged)\nor \"off\" (no report is asked for). No annotation can change this.",
		field: func(c *Config) value { return textOf(&c.Runtime.Attestation, parseAttestation) },
	},
	{
		section: sectionRuntime, name: "enable_annotations", ours: true, example: `["create_container_timeout"]`,
		doc: "Regular expressions for the names behind io.katacontainers.config.runtime. that a pod's annotations " +
			"may have.\nWhoever may set disable_guest_seccomp takes away the profiles that others demand.",
		field: func(c *Config) value { return (*texts)(&c.Runtime.EnableAnnotations) },
		check: func(c *Config) error { return expressions(c.Runtime.EnableAnnotations) },
	},
	{
		section: sectionRuntime, name: "static_sandbox_resource_mgmt",
		doc: "Let the machine stay as large as it was started. Otherwise it grows with its containers, where it " +
			"can (q35).",
		field: func(c *Config) value { return (*flag)(&c.Runtime.StaticSandboxResourceMgmt) },
	},
	{
		section: sectionRuntime, name: "enable_debug",
		doc:   "Log at level debug.",
		field: func(c *Config) value { return (*flag)(&c.Runtime.EnableDebug) },
	},
	{
		section: sectionRuntime, name: "enable_pprof", pod: true,
		doc:   "Let root profile the shim through the pod's management socket (/debug/pprof/).",
		field: func(c *Config) value { return (*flag)(&c.Runtime.EnablePprof) },
	},
	{
		section: sectionRuntime, name: "internetworking_model", pod: true,
		doc: "How the pod's interfaces reach the guest: \"tcfilter\" (a tap joined to each by tc), \"macvtap\", " +
			"\"l3forwarding\"\n(the pod's namespace forwards packets; one interface, IPv4 alone) or \"none\".",
		field: func(c *Config) value { return plainText(&c.Runtime.InternetworkingModel) },
		check: func(c *Config) error {
			return oneOf(c.Runtime.InternetworkingModel, NetworkTC, NetworkMacvtap, NetworkL3, NetworkNone)
		},
	},
	{
		section: sectionRuntime, name: "disable_new_netns", pod: true,
		doc: "Make no network namespace for a pod that brings none: QEMU stays in the runtime's. Only with " +
			"internetworking_model = \"none\".",
		field: func(c *Config) value { return (*flag)(&c.Runtime.DisableNewNetns) },
		check: func(c *Config) error {
			if c.Runtime.DisableNewNetns && c.Runtime.InternetworkingModel != NetworkNone {
				return fmt.Errorf("without a network namespace of its own a pod has no network: set "+
					"internetworking_model = %q too", NetworkNone)
			}
			return nil
		},
	},
	{
		section: sectionRuntime, name: "vfio_mode", pod: true,
		doc: "Who has a device of the host in the guest: \"guest-kernel\" (a driver of the guest's kernel) or " +
			"\"vfio\" (the container,\nwhich finds it at /dev/vfio/N).",
		field: func(c *Config) value { return plainText(&c.Runtime.VFIOMode) },
		check: func(c *Config) error { return oneOf(c.Runtime.VFIOMode, VFIOGuestKernel, VFIOContainer) },
	},
	{
		section: sectionRuntime, name: "dan_conf",
		doc: "Folder of directly attachable networks: where it has a file POD.json, the interfaces of that are the " +
			"pod's, and no others;\ndocs/formats/dan.md. Empty: such files are not looked for.",
		field: func(c *Config) value { return plainText(&c.Runtime.DANConf) },
		check: func(c *Config) error { return absolute(c.Runtime.DANConf) },
	},
	{
		section: sectionRuntime, name: "disable_guest_seccomp", pod: true,
		doc: "Do not send containers' seccomp profiles to the guest. Kata's default is true; here the agent needs " +
			"no library for them.",
		field: func(c *Config) value { return (*flag)(&c.Runtime.DisableGuestSeccomp) },
	},
	{
		section: sectionRuntime, name: "sandbox_bind_mounts", example: `["/etc/company:ro"]`,
		doc: "Folders or files of the host that the guest sees at " +
			"/run/kata-containers/shared/containers/sandbox-mounts/NAME, read-only unless they end in :rw.",
		field: func(c *Config) value { return (*texts)(&c.Runtime.SandboxBindMounts) },
	},
	{
		section: sectionRuntime, name: "enable_tracing",
		doc: "Note where the time of pods goes, for \"kata-runtime trace\" and for the collector at otlp_endpoint; " +
			"docs/tracing.md.",
		field: func(c *Config) value { return (*flag)(&c.Runtime.EnableTracing) },
	},
	{
		section: sectionRuntime, name: "otlp_endpoint", ours: true, example: `"http://localhost:4318"`,
		doc: "With enable_tracing: a collector that takes OpenTelemetry's spans, as OTLP by HTTP. Empty: they are " +
			"sent nowhere.",
		field: func(c *Config) value { return plainText(&c.Runtime.OTLPEndpoint) },
		check: func(c *Config) error {
			if c.Runtime.OTLPEndpoint == "" {
				return nil
			}
			return trace.CheckEndpoint(c.Runtime.OTLPEndpoint)
		},
	},
	{
		section: sectionRuntime, name: "create_container_timeout", pod: true,
		doc:   "Seconds that creating one container may take in a guest that is ready, 1 to 3600.",
		field: func(c *Config) value { return (*seconds)(&c.Runtime.CreateContainerTimeout) },
	},
	{
		section: sectionFactory, name: "enable_template",
		doc: "Restore the guests of pods from a template that \"kata-runtime factory init\" made, instead of booting " +
			"them.\nMachine q35 only, with shared_fs \"virtio-fs\" or \"none\". Without a fitting template a pod's " +
			"guest boots, and the log says why.",
		field: func(c *Config) value { return (*flag)(&c.Factory.EnableTemplate) },
	},
	{
		section: sectionFactory, name: "automatic_template", ours: true,
		doc: "With enable_template: a pod that finds no template that fits has one made beside it, at the lowest " +
			"priority, for the pods\nthat come. Otherwise only \"kata-runtime factory init\" makes one.",
		field: func(c *Config) value { return (*flag)(&c.Factory.AutomaticTemplate) },
	},
	{
		section: sectionFactory, name: "template_path",
		doc: "Folder of the templates, which root alone may write to. A template takes as much as its guest's memory " +
			"is used.",
		field: func(c *Config) value { return plainText(&c.Factory.TemplatePath) },
		check: func(c *Config) error {
			if c.Factory.TemplatePath == "" {
				return errors.New("want the path of a folder")
			}
			return absolute(c.Factory.TemplatePath)
		},
	},
	{
		section: sectionFactory, name: "vm_cache_number",
		doc: "Guests that \"kata-runtime factory serve\" keeps ready for pods, 0 to 1000. 0: pods do not ask for any." +
			"\nMachine q35 only, with shared_fs \"virtio-fs\" or \"none\". Where none fits a pod starts its own, and " +
			"the log says why.",
		field: func(c *Config) value { return (*number)(&c.Factory.VMCacheNumber) },
		check: func(c *Config) error { return between(c.Factory.VMCacheNumber, 0, maxPool) },
	},
	{
		section: sectionFactory, name: "vm_cache_memory", ours: true,
		doc: "MiB of memory that guests which wait may have together, each counted with all that it is given. " +
			"0: as the host has room.",
		field: func(c *Config) value { return (*number)(&c.Factory.VMCacheMemory) },
		check: func(c *Config) error { return between(c.Factory.VMCacheMemory, 0, maxMemoryMiB) },
	},
	{
		section: sectionFactory, name: "vm_cache_cpu", ours: true,
		doc: "Per cent of one processor that starting guests for the pool may take in the long run: after each, the " +
			"next one waits.\n0: no bound but the lowest priority.",
		field: func(c *Config) value { return (*number)(&c.Factory.VMCacheCPU) },
		check: func(c *Config) error { return between(c.Factory.VMCacheCPU, 0, maxCPUPercent) },
	},
	{
		section: sectionFactory, name: "vm_cache_endpoint",
		doc:   "Socket of \"kata-runtime factory serve\", in a folder of its own that root alone may enter.",
		field: func(c *Config) value { return plainText(&c.Factory.VMCacheEndpoint) },
		check: func(c *Config) error {
			if c.Factory.VMCacheEndpoint == "" || len(c.Factory.VMCacheEndpoint) > maxSocket {
				return fmt.Errorf("want the path of a socket, of at most %d bytes", maxSocket)
			}
			return absolute(c.Factory.VMCacheEndpoint)
		},
	},
}

// Bounds of the pool: how many guests wait, and the processor time of starting them, in per cent of one processor.
const (
	maxPool       = 1000
	maxCPUPercent = 100_000
)

// maxSocket is what a path has room for in a UNIX socket's address, in bytes; unix(7).
const maxSocket = 107

// findKey returns nil for a name that has no effect or is unknown.
func findKey(section, name string) *key {
	for i := range keys {
		if keys[i].section == section && keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

func oneOf(s string, words ...string) error {
	if slices.Contains(words, s) {
		return nil
	}
	return fmt.Errorf("want %s or %s, got %q", strings.Join(words[:len(words)-1], ", "), words[len(words)-1], s)
}

// port accepts where devices of the host can be.
func port(s string) error {
	if s == portBridge {
		return fmt.Errorf("%s: the machines here have no PCI bridges; set %q or %q", portBridge, PortRoot, PortSwitch)
	}
	return oneOf(s, PortNone, PortRoot, PortSwitch)
}

func between(n, low, high int) error {
	if n < low || n > high {
		return fmt.Errorf("%d: want %d to %d", n, low, high)
	}
	return nil
}

// expressions refuses what is no regular expression.
func expressions(list []string) error {
	for _, e := range list {
		if _, err := regexp.Compile(e); err != nil {
			return fmt.Errorf("%q is no regular expression: %w", e, err)
		}
	}
	return nil
}

// absolute accepts the empty path, which is a default.
func absolute(p string) error {
	switch {
	case p == "":
		return nil
	case !path.IsAbs(p):
		return fmt.Errorf("path %q: want an absolute one", p)
	case path.Clean(p) != p:
		return fmt.Errorf("path %q: want it as plain as %q", p, path.Clean(p))
	case hasControl(p):
		return fmt.Errorf("path %q has control characters", p)
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func patterns(list []string) error {
	for _, p := range list {
		if _, err := path.Match(p, "/"); err != nil {
			return fmt.Errorf("%q is no pattern: %w", p, err)
		}
		if !path.IsAbs(p) {
			return fmt.Errorf("pattern %q: want one of absolute paths", p)
		}
	}
	return nil
}

func kernelParams(list []KernelParam) error {
	n := 0
	for _, p := range list {
		for _, r := range p {
			if r < ' ' || r > '~' {
				return fmt.Errorf("kernel parameters hold %q: want printable ASCII", r)
			}
		}
		if strings.Count(string(p), `"`)%2 != 0 {
			return fmt.Errorf("kernel parameters %q: a quotation mark is not closed", string(p))
		}
		// What stands behind "--" goes to init, and so would every word of ours that follows.
		for _, w := range splitWords(string(p)) {
			if w == "--" {
				return fmt.Errorf(
					`kernel parameters %q: "--" would take the words behind it away from the kernel and the agent`,
					string(p))
			}
			if strings.HasPrefix(strings.Trim(w, `"`), extension.WordPrefix) {
				return fmt.Errorf("kernel parameters: %q is the runtime's to say; use guest_extension_images", w)
			}
		}
		n += len(p) + 1
	}
	if n > maxParams {
		return fmt.Errorf("%d bytes of kernel parameters: Linux keeps %d", n, maxParams)
	}
	return nil
}

func extensions(list []ExtensionDisk) error {
	seen := map[string]bool{}
	for _, e := range list {
		if seen[e.Name] {
			return fmt.Errorf("extension %q stands twice", e.Name)
		}
		seen[e.Name] = true
	}
	return nil
}
