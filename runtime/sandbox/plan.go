package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/bootwords"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// KernelForm is which of the kernel's two files to boot. The zero value is Vmlinux.
type KernelForm string

// The forms.
const (
	Vmlinux KernelForm = "vmlinux" // uncompressed, by its PVH entry: the fastest
	Image   KernelForm = "image"   // compressed, by the architecture's boot protocol
)

// ParseKernelForm reads a kernel form.
func ParseKernelForm(s string) (KernelForm, error) {
	switch f := KernelForm(s); f {
	case "":
		return Vmlinux, nil
	case Vmlinux, Image:
		return f, nil
	}
	return "", fmt.Errorf("unknown kernel form %q (known: vmlinux, image)", s)
}

// DefaultTimeout is how long a guest may take to be ready when the Config does not say.
const DefaultTimeout = 60 * time.Second

// Config is which guest to start, and how. It has a Manifest with its Dir, or Plain; all else may be zero: the manifest
// says the rest, or for a plain guest Kata's defaults do.
type Config struct {
	Manifest *manifest.Manifest
	Dir      string // with the manifest's files
	Plain    *Plain
	// Serves asks whether an agent serves that does not say so by itself, as Kata's. It is called again and again with
	// new connections to agentapi.Port until it returns nil or the guest has said that it is ready; the connections are
	// closed for it. Nil: nobody is asked.
	Serves func(context.Context, net.Conn) error

	ID        string // of what the guest is for, in QEMU's name among the processes; may be empty
	Machine   qemu.Machine
	CPUs      int
	MemoryMiB int
	Kernel    KernelForm // of a manifest
	Words     []string   // appended to the kernel command line
	// Extensions are attached in this order, each with its word on the kernel command line, before Words.
	Extensions  []Extension
	FileSystems []qemu.FileSystem
	NICs        []NIC
	RootPorts   int // places for PlugDisk and PlugNIC; ignored where the machine has none
	// Max is what Grow may make of the machine, with this many pieces of memory; ignored where the machine cannot grow.
	// The zero value is what it starts with.
	Max         Size
	MemorySlots int
	RNG         bool // an entropy device
	Accel       accel.Wish
	ICount      bool          // for measurements: virtual time, the same on every run; see qemu.Config
	Timeout     time.Duration // until the agent is ready; zero is DefaultTimeout
	QEMU        string        // the program; empty is the architecture's, found in $PATH
	NoSeccomp   bool          // for a QEMU that was built without it

	Console io.Writer // gets the console's bytes as they come, unchanged
	// Netns is the network namespace that QEMU's process is in; nil is this process's. It stays the caller's.
	Netns *os.File
	// Hybrid is the path of a UNIX socket through which other processes reach the guest's ports; empty is none. See
	// vsock.Device.ServeHybrid.
	Hybrid string
	// OnStage is told of each stage when the guest reaches it, from several goroutines, never at once. It must not
	// block for long.
	OnStage func(Moment)
	Log     *slog.Logger // nil is silent

	withoutVsock bool // for tests: a guest that finds no vsock device
	cpusUnderTCG bool // for tests: processors are plugged in that the guest does not take
}

// NIC is a network interface of the guest.
type NIC struct {
	MAC string   // 52:54:00:12:34:56
	Tap *os.File // an open tap device; it stays the caller's
	MTU int      // bytes, told to the guest; 0 says nothing
}

// Plan is what Start will do.
type Plan struct {
	Arch        arch.Arch // the guest's
	Accel       accel.Choice
	Vsock       vsock.Choice
	CommandLine string // the kernel's
	// Words are what stands on it behind the guest's own and those of its extensions: what this way to run it wants,
	// and Config.Words.
	Words []string
	// QEMU is the virtual machine with the kernel and the initrd where they lie, its console on standard input and
	// output, and without monitor and vsock, whose other ends are in this process: a command to try by hand.
	QEMU qemu.Config

	guest *guest
}

// guest is what is booted: a manifest's words, or for a plain guest those that stand for them.
type guest struct {
	name                  string
	arch                  arch.Arch
	kernel, initrd, image string // paths; one of initrd and image is empty
	imageSize             int64  // of an NVDIMM
	boot                  manifest.Boot
	plain                 *KernelFile // nil where there is a manifest
}

// described is the guest of a manifest.
func described(cfg Config) (*guest, error) {
	m := cfg.Manifest
	a, err := arch.Parse(m.Arch)
	if err != nil {
		return nil, err
	}
	g := &guest{name: m.Name, arch: a, boot: m.Boot}
	switch cfg.Kernel {
	case "", Vmlinux:
		g.kernel = hostPath(cfg.Dir, m.Kernel.Vmlinux)
	case Image:
		g.kernel = hostPath(cfg.Dir, m.Kernel.Image)
	default:
		return nil, fmt.Errorf("unknown kernel form %q", cfg.Kernel)
	}
	if m.Initrd != nil {
		g.initrd = hostPath(cfg.Dir, m.Initrd.File)
	}
	if m.Image != nil {
		g.image, g.imageSize = hostPath(cfg.Dir, m.Image.File), m.Image.Size
	}
	return g, nil
}

// Command is QEMU's command line, ready to paste.
func (p *Plan) Command() string { return qemu.Quote(p.QEMU.Argv()) }

// NewPlan looks at this host and decides. It starts and opens nothing that lasts.
func NewPlan(cfg Config) (*Plan, error) {
	var g *guest
	var err error
	switch {
	case (cfg.Manifest == nil) == (cfg.Plain == nil):
		return nil, errors.New("a sandbox wants one of a manifest and plain files")
	case cfg.Plain != nil:
		g, err = cfg.Plain.read()
	default:
		g, err = described(cfg)
	}
	if err != nil {
		return nil, err
	}
	choice, err := accel.Choose(cfg.Accel, accel.Probe(g.arch))
	if err != nil {
		return nil, err
	}
	return newPlan(cfg, g, choice, vsock.Choose(agentapi.ReadyPort), accel.HostClockKHz())
}

// ServesFiles says why a host cannot serve files to a guest by virtio-fs: FUSE has the byte order and the numbers of
// the kernel that speaks it, and virtiofsd takes them for its own.
func ServesFiles(host, guest arch.Arch) error {
	if host.OpenFlags == guest.OpenFlags {
		return nil
	}
	return fmt.Errorf("virtio-fs cannot serve files of a host that is %s to a guest that is %s, as FUSE has numbers "+
		"of the architecture's own; share them by virtio-9p", host.Name, guest.Name)
}

// newPlan is the decision, a pure function of its arguments.
func newPlan(cfg Config, g *guest, choice accel.Choice, channel vsock.Choice, clockKHz int) (*Plan, error) {
	q := qemu.Config{
		Binary: cfg.QEMU, Name: "katabuild-" + g.name, Arch: g.arch.Name, Machine: cfg.Machine, Accel: choice.Accel,
		CPUs: cfg.CPUs, MemoryMiB: cfg.MemoryMiB, Kernel: g.kernel, Initrd: g.initrd,
		ICount: cfg.ICount, NoSeccomp: cfg.NoSeccomp, Console: qemu.Stdio(), FileSystems: cfg.FileSystems, RNG: cfg.RNG,
	}
	if cfg.ID != "" {
		q.Name += "-" + cfg.ID
	}
	if g.image != "" {
		q.Disks = append(q.Disks, qemu.Disk{Path: g.image, Size: g.imageSize, NVDIMM: g.boot.Disk == manifest.NVDIMM})
	}
	hostWords := cfg.Words
	if slices.ContainsFunc(q.FileSystems, func(f qemu.FileSystem) bool { return f.VirtioFS.Set() }) {
		if host, err := arch.FromGo(runtime.GOARCH); err == nil {
			if err := ServesFiles(host, g.arch); err != nil {
				return nil, err
			}
		}
		if q.Accel == accel.TCG {
			hostWords = slices.Concat([]string{bootwords.ClearMemory}, cfg.Words)
		}
	}
	extensionWords, err := attach(&q, cfg.Extensions)
	if err != nil {
		return nil, err
	}
	if q.Binary == "" {
		q.Binary = g.arch.QEMU
	}
	if q.Machine == "" {
		if q.Machine, err = qemu.ParseMachine(g.boot.Machine); err != nil {
			return nil, err
		}
	}
	// A machine that nobody knows is QEMU's to refuse.
	if _, err := qemu.ParseMachine(string(q.Machine)); err == nil && !slices.Contains(qemu.Machines(g.arch.Name),
		q.Machine) {
		return nil, fmt.Errorf("the kernel %s is for %s, which has no machine %s (but %s)", g.kernel, g.arch.Name,
			q.Machine, list(qemu.Machines(g.arch.Name)))
	}
	machine := qemu.Has(g.arch.Name, q.Machine)
	if machine.RootPorts {
		q.RootPorts = min(cfg.RootPorts, qemu.MaxRootPorts)
	}
	for _, n := range cfg.NICs {
		q.NICs = append(q.NICs, qemu.NIC{MAC: n.MAC, TapFD: int(n.Tap.Fd()), MTU: n.MTU})
	}
	if q.CPUs == 0 {
		q.CPUs = g.boot.CPUs
	}
	if q.MemoryMiB == 0 {
		q.MemoryMiB = g.boot.MemoryMiB
	}
	q.MemoryMiB = (q.MemoryMiB + machine.MemoryMiB - 1) / machine.MemoryMiB * machine.MemoryMiB
	if machine.Grows && !cfg.ICount {
		// Linux takes a processor that was not there at its start only under a hypervisor that it knows, and TCG is
		// none: Linux 6.12.117, arch/x86/kernel/acpi/boot.c, acpi_is_processor_usable.
		if cfg.Max.CPUs > q.CPUs && (q.Accel == accel.KVM || cfg.cpusUnderTCG) {
			q.MaxCPUs = cfg.Max.CPUs
		}
		if cfg.Max.MemoryMiB > q.MemoryMiB && cfg.MemorySlots > 0 {
			q.MaxMemoryMiB, q.MemorySlots = cfg.Max.MemoryMiB, cfg.MemorySlots
		}
	}
	if g.boot.Disk == manifest.NVDIMM && !machine.NVDIMM {
		return nil, fmt.Errorf("the guest's root is an NVDIMM, which the machine %s does not have; boot it on %s",
			q.Machine, qemu.Q35)
	}
	if q.CPUs < 1 || q.MemoryMiB < 1 {
		return nil, fmt.Errorf("a machine with %d CPUs and %d MiB of memory", q.CPUs, q.MemoryMiB)
	}
	if cfg.ICount {
		if q.Accel != accel.TCG || q.CPUs != 1 {
			return nil, errors.New("counting instructions needs TCG and one CPU")
		}
		clockKHz = icountKHz
	}
	words := slices.Concat([]string{CommandLine(g.boot, choice.Accel, clockKHz)}, extensionWords, hostWords)
	q.CommandLine = strings.Join(words, " ")
	if n, most := len(q.CommandLine), maxCommandLine(g.arch); n > most {
		return nil, fmt.Errorf(
			"kernel command line of %d bytes: Linux keeps %d; %d extensions need %d of them, and what this host "+
				"adds %d", n, most,
			len(extensionWords), len(strings.Join(extensionWords, " ")), len(strings.Join(hostWords, " ")))
	}
	return &Plan{Arch: g.arch, Accel: choice, Vsock: channel, CommandLine: q.CommandLine, Words: hostWords, QEMU: q,
		guest: g}, nil
}

func list[T ~string](names []T) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

// icountKHz is the rate of the time stamp counter where QEMU counts instructions: it shows the virtual time in
// nanoseconds.
const icountKHz = 1_000_000

// CommandLine is the kernel command line of a guest under an accelerator, on a host whose time stamp counter runs at
// clockKHz. Where that is 0, because the host does not say, words that need it are left out.
func CommandLine(b manifest.Boot, a accel.Accel, clockKHz int) string {
	if a != accel.TCG || b.TCGCommandLine == "" {
		return b.CommandLine
	}
	return strings.TrimSpace(b.CommandLine + " " + bootwords.OnHost(b.TCGCommandLine, clockKHz))
}
