// Package config reads configuration.toml: how the runtime makes the virtual machine that a pod runs in.
//
// In come texts, in the order in which they win, and a pod's annotations; out comes a Config that remembers for every
// value what set it, or errors that a line or an annotation can be blamed for. Names, sections, search order, drop-ins
// and annotations are those of Kata Containers, so that its configuration can be used here. The package starts nothing
// and does not know whether a path it names exists.
//
// docs/formats/configuration.md owns the format.
package config

import (
	"encoding/base64"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
)

// Config is the effective configuration. Default makes one; the zero value is not one.
type Config struct {
	Hypervisor string  // whose table VM is: HypervisorQEMU, HypervisorCLH or HypervisorFirecracker
	VM         VM      // [hypervisor.NAME]
	Agent      Agent   // [agent.kata]
	Runtime    Runtime // [runtime]
	Factory    Factory // [factory]
}

// What Hypervisor may be: the names of their tables.
const (
	HypervisorQEMU        = "qemu"
	HypervisorCLH         = "clh"
	HypervisorFirecracker = "firecracker"
)

// VM is the virtual machine. A field whose key a hypervisor's table does not have keeps its default there.
type VM struct {
	Guest                string           // folder of a guest, with manifest.json; empty where nobody has set it
	Kernel               string           // of a guest without a manifest; Guest is empty then
	Initrd               string           // of such a guest; one of Initrd and Image
	Image                string           // of such a guest
	RootfsType           string           // of the image's root: ext4, erofs or xfs; never empty
	KernelVerityParams   string           // of the image, as dmverity.ParseParams reads them; empty is none
	ValidGuestPaths      []string         // patterns of the guests that an annotation may choose
	Acceleration         accel.Preference // never empty
	Path                 string           // the program; empty is the architecture's, found in $PATH
	ValidHypervisorPaths []string         // patterns of the programs that an annotation may choose
	// regular expressions for the whole name behind io.katacontainers.config.hypervisor.
	EnableAnnotations   []string
	MachineType         qemu.Machine    // empty is the manifest's
	KernelParams        []KernelParam   // joined behind the manifest's command line, in this order
	DefaultVCPUs        float64         // 0 is the manifest's, below 0 all of the host's; see VCPUs
	DefaultMemoryMiB    int             // 0 is the manifest's
	DefaultMaxVCPUs     int             // to which the machine may grow; 0 is the host's
	DefaultMaxMemoryMiB int             // likewise
	MemorySlots         int             // how many times its memory may grow
	Extensions          []ExtensionDisk // attached in this order
	EnableDebug         bool            // the guest's console goes to the log

	SharedFS                 string   // SharedVirtioFS, Shared9P or SharedNone; never empty
	VirtioFSDaemon           string   // the program; empty is the first of share.Programs that exists
	ValidVirtioFSDaemonPaths []string // patterns of the programs that an annotation may choose
	VirtioFSCache            string   // never, auto or always
	VirtioFSExtraArgs        []string // handed to virtiofsd as they are
	ForeignLocks             string   // LocksRefused or LocksGranted
	Msize9P                  int      // bytes of a 9p message
	PCIeRootPorts            int      // places for disks that are plugged in later; machine q35 only
	GuestHookPath            string   // folder in the guest with hooks; empty is none

	ColdPlugVFIO    string // where devices of the host are from the start: PortNone, PortRoot or PortSwitch
	HotPlugVFIO     string // where they are plugged in later, likewise; one of the two is PortNone
	PCIeSwitchPorts int    // places of the switch, with PortSwitch
	EnableIOMMU     bool   // the guest has an IOMMU
	IOMMUPlatform   bool   // which the hypervisor's own devices use

	DisableSeccomp   bool     // of Cloud Hypervisor
	JailerPath       string   // Firecracker's jailer; empty is none
	ValidJailerPaths []string // patterns of the jailers that an annotation may choose
	Disk             Rate     // of each disk
	Net              Rate     // of each interface, both ways, where RxMaxRate and TxMaxRate say nothing
	RxMaxRate        int64    // bits a second to the guest; 0 is no bound
	TxMaxRate        int64    // and from it
}

// Rate bounds what passes through a device of the machine. A zero is no bound.
type Rate struct {
	MaxRate, Burst       int64 // bits a second, and more of them once, at the beginning
	OpsMaxRate, OpsBurst int64 // likewise in requests
}

// What SharedFS may be.
const (
	SharedVirtioFS = "virtio-fs"
	Shared9P       = "virtio-9p"
	SharedNone     = "none"
)

// What becomes of the locks of programs on a volume that another pod of the host had first.
const (
	LocksRefused = "refuse" // with ENOLCK
	LocksGranted = "grant"  // they hold within the pod alone
)

// KernelParam is one text of kernel parameters: the configuration's, or what an annotation adds to it.
type KernelParam string

// ExtensionDisk is one of guest_extension_images.
type ExtensionDisk struct {
	Name string // as extension.CheckName wants it
	Path string // absolute: the image, or its folder as katabuild makes it
	// Params is what dm-verity must know. It is nil where Path is a folder, which has them in root_hash.txt.
	Params *dmverity.Params
}

// Agent is what the agent in the guest is told.
type Agent struct {
	EnableDebug         bool // agent.log=debug on the kernel command line
	DebugConsoleEnabled bool // agent.debug_console on the kernel command line
	// agent.container_pipe_size on the kernel command line, in bytes; 0 is the agent's own
	ContainerPipeSize int
	KernelModules     []string      // that the guest loads, as kmodule.ParseList reads them
	EnableTracing     bool          // agent.trace on the kernel command line
	Policy            string        // for the agent, in base64; empty is what the guest has
	EnableAnnotations []string      // regular expressions for the whole name behind io.katacontainers.config.agent.
	DialTimeout       time.Duration // from QEMU's start until the agent is ready
}

// PolicyText is the policy as the agent wants it; empty is none.
func (a Agent) PolicyText() (string, error) {
	b, err := base64.StdEncoding.DecodeString(a.Policy)
	if err != nil {
		return "", fmt.Errorf("want a policy in base64: %w", err)
	}
	return string(b), nil
}

// Runtime is what the runtime itself does.
type Runtime struct {
	Attestation Attestation // never empty
	// StaticSandboxResourceMgmt: the machine does not grow.
	StaticSandboxResourceMgmt bool
	EnableDebug               bool          // the runtime logs at level debug
	EnablePprof               bool          // the shim can be profiled through its management socket
	CreateContainerTimeout    time.Duration // for one container, in a guest that is ready
	InternetworkingModel      string        // NetworkTC, NetworkMacvtap, NetworkL3 or NetworkNone; never empty
	DisableNewNetns           bool          // no network namespace is made; only with NetworkNone
	VFIOMode                  string        // VFIOGuestKernel or VFIOContainer; never empty
	DANConf                   string        // folder of the files of directly attachable networks; empty is none
	DisableGuestSeccomp       bool          // containers' seccomp profiles are not sent to the guest
	// regular expressions for the whole name behind io.katacontainers.config.runtime.
	EnableAnnotations []string
	SandboxBindMounts []string // host folders or files, with :ro or :rw, that every container's guest sees
	EnableTracing     bool     // the shim notes where time goes
	OTLPEndpoint      string   // of a collector that gets the spans; empty is none
}

// Factory is about guests that need not boot: templates, which they are restored from, and the pool in which they
// wait.
type Factory struct {
	EnableTemplate    bool
	AutomaticTemplate bool   // the first pod that finds none has one made
	TemplatePath      string // the folder of templates; never empty
	VMCacheNumber     int    // guests that "kata-runtime factory serve" keeps ready; 0: pods do not ask for any
	VMCacheMemory     int    // MiB that the guests which wait may have together; 0: as the host has room
	VMCacheCPU        int    // per cent of one processor that starting them may take in the long run; 0: no bound
	VMCacheEndpoint   string // its socket; never empty
}

// Where devices of the host are plugged in.
const (
	PortNone   = "no-port"
	PortRoot   = "root-port"
	PortSwitch = "switch-port"
	portBridge = "bridge-port" // of Kata's, and none here
)

// What VFIOMode may be.
const (
	VFIOGuestKernel = "guest-kernel" // the guest's own driver has the device
	VFIOContainer   = "vfio"         // the container has it, by VFIO within the guest
)

// What InternetworkingModel may be.
const (
	NetworkTC      = "tcfilter"
	NetworkMacvtap = "macvtap"
	NetworkL3      = "l3forwarding"
	NetworkNone    = "none"
)

// Attestation is what happens when a running guest is not the one that its manifest describes.
type Attestation string

// The answers to a mismatch. There is no zero value: Default says Enforce.
const (
	Enforce Attestation = "enforce" // the sandbox does not start
	Warn    Attestation = "warn"    // the verdict is logged, the sandbox starts
	Off     Attestation = "off"     // no report is asked for
)

// parseAttestation reads an Attestation.
func parseAttestation(s string) (Attestation, error) {
	switch a := Attestation(s); a {
	case Enforce, Warn, Off:
		return a, nil
	}
	return "", fmt.Errorf("want enforce, warn or off, got %q", s)
}

// machineOrNone reads a kind of machine; an empty text is none.
func machineOrNone(s string) (qemu.Machine, error) {
	if s == "" {
		return "", nil
	}
	return qemu.ParseMachine(s)
}

// Default is the configuration of an empty file. This is the one place where defaults are; DefaultOf has what other
// hypervisors have otherwise.
func Default() Config {
	return Config{
		Hypervisor: HypervisorQEMU,
		VM: VM{
			Acceleration: accel.Auto, RootfsType: "ext4", SharedFS: SharedVirtioFS, VirtioFSCache: "auto",
			ForeignLocks:  LocksRefused,
			Msize9P:       512 << 10, // Kata has 8 KiB; the kernel's own default is 128 KiB, and more is faster
			PCIeRootPorts: 8,         // one slot of the bus
			ColdPlugVFIO:  PortNone,
			HotPlugVFIO:   PortNone,
			MemorySlots:   10, // as Kata's
		},
		Agent: Agent{DialTimeout: 60 * time.Second}, // as runtime/sandbox.DefaultTimeout: TCG is slow
		Runtime: Runtime{
			Attestation:            Enforce,
			CreateContainerTimeout: 60 * time.Second,
			InternetworkingModel:   NetworkTC,
			VFIOMode:               VFIOGuestKernel,
			DANConf:                "/run/kata-containers/dans", // Kata's
		},
		Factory: Factory{TemplatePath: "/run/katabuild-templates",
			VMCacheEndpoint: "/run/katabuild-pool/cache.sock"},
	}
}

// DefaultOf is the configuration of a file with nothing but an empty table of the hypervisor.
func DefaultOf(hypervisor string) Config {
	c := Default()
	c.Hypervisor = hypervisor
	if hypervisor == HypervisorFirecracker {
		c.VM.SharedFS = SharedNone // it can share nothing
	}
	return c
}

// ReadGuest reads the guest that is configured: a folder with a manifest, or plain files.
func (q *VM) ReadGuest() (*guest.Guest, error) {
	if q.Kernel == "" {
		return guest.ReadFolder(q.Guest, "", "")
	}
	p := guest.Plain{Kernel: q.Kernel, Initrd: q.Initrd, Image: q.Image, FileSystem: q.RootfsType}
	if q.KernelVerityParams != "" {
		v, err := dmverity.ParseParams(q.KernelVerityParams)
		if err != nil {
			return nil, fmt.Errorf("kernel_verity_params: %w", err)
		}
		p.Verity = &v
	}
	return p.Read()
}

// VCPUs is the number of virtual CPUs for a guest that itself wants some (guest.Guest.Boot), on a host with host CPUs,
// and at least 1. A fraction is rounded up; more than the host has is cut to what it has.
func (q *VM) VCPUs(wants, host int) int {
	n := q.DefaultVCPUs
	switch {
	case n == 0:
		return max(wants, 1)
	case n < 0:
		return max(host, 1)
	}
	return max(min(int(math.Ceil(n)), host), 1)
}

// Words are what goes behind the manifest's kernel command line, one word each. White space inside double quotes
// belongs to a word.
func (c *Config) Words() []string {
	var out []string
	for _, p := range c.VM.KernelParams {
		out = append(out, splitWords(string(p))...)
	}
	if c.VM.EnableIOMMU { // as Kata; other architectures use theirs unasked
		out = append(out, "intel_iommu=on", "iommu=pt")
	}
	if c.Agent.EnableDebug {
		out = append(out, "agent.log=debug")
	}
	if c.Agent.DebugConsoleEnabled {
		out = append(out, "agent.debug_console", fmt.Sprintf("agent.debug_console_vport=%d", agentapi.DebugConsolePort))
	}
	if c.Agent.EnableTracing {
		out = append(out, "agent.trace")
	}
	if n := c.Agent.ContainerPipeSize; n > 0 {
		out = append(out, fmt.Sprintf("agent.container_pipe_size=%d", n))
	}
	return out
}

// splitWords splits as the kernel does: Linux, lib/cmdline.c, next_arg.
func splitWords(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
}
