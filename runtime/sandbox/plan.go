package sandbox

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/arch"
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

// Config is which guest to start, and how. All but the first two fields may be zero: the manifest says the rest.
type Config struct {
	Manifest *manifest.Manifest
	Dir      string // with the manifest's files

	Machine   qemu.Machine
	CPUs      int
	MemoryMiB int
	Kernel    KernelForm
	Words     []string // appended to the kernel command line
	// Extensions are attached in this order, each with its word on the kernel command line, before Words.
	Extensions  []Extension
	FileSystems []qemu.FileSystem
	NICs        []NIC
	RootPorts   int  // places for PlugDisk; Q35 only, ignored elsewhere
	RNG         bool // an entropy device
	Accel       accel.Wish
	ICount      bool          // for measurements: virtual time, the same on every run; see qemu.Config
	Timeout     time.Duration // until the agent is ready; zero is DefaultTimeout
	QEMU        string        // the program; empty is the architecture's, found in $PATH
	NoSeccomp   bool          // for a QEMU that was built without it

	Console io.Writer // gets the console's bytes as they come, unchanged
	// Hybrid is the path of a UNIX socket through which other processes reach the guest's ports; empty is none. See vsock.Device.ServeHybrid.
	Hybrid string
	// OnStage is told of each stage when the guest reaches it, from several goroutines, never at once. It must not block for long.
	OnStage func(Moment)
	Log     *slog.Logger // nil is silent

	withoutVsock bool // for tests: a guest that finds no vsock device
}

// NIC is a network interface of the guest.
type NIC struct {
	MAC string   // 52:54:00:12:34:56
	Tap *os.File // an open tap device; it stays the caller's
	MTU int      // bytes, told to the guest; 0 says nothing
}

// Plan is what Start will do.
type Plan struct {
	Accel       accel.Choice
	Vsock       vsock.Choice
	CommandLine string // the kernel's
	// QEMU is the virtual machine with the kernel and the initrd where they lie, its console on standard input and output, and
	// without monitor and vsock, whose other ends are in this process: a command to try by hand.
	QEMU qemu.Config
}

// Command is QEMU's command line, ready to paste.
func (p *Plan) Command() string { return qemu.Quote(p.QEMU.Argv()) }

// NewPlan looks at this host and decides. It starts and opens nothing that lasts.
func NewPlan(cfg Config) (*Plan, error) {
	if cfg.Manifest == nil {
		return nil, errors.New("sandbox without a manifest")
	}
	m := cfg.Manifest
	a, err := arch.Parse(m.Arch)
	if err != nil {
		return nil, err
	}
	choice, err := accel.Choose(cfg.Accel, accel.Probe(a))
	if err != nil {
		return nil, err
	}
	return newPlan(cfg, a, choice, vsock.Choose(ReadyPort), accel.HostClockKHz())
}

// newPlan is the decision, a pure function of its arguments.
func newPlan(cfg Config, a arch.Arch, choice accel.Choice, channel vsock.Choice, clockKHz int) (*Plan, error) {
	m := cfg.Manifest
	q := qemu.Config{
		Binary: cfg.QEMU, Name: "katabuild-" + m.Name, Machine: cfg.Machine, Accel: choice.Accel,
		CPUs: cfg.CPUs, MemoryMiB: cfg.MemoryMiB,
		ICount: cfg.ICount, NoSeccomp: cfg.NoSeccomp, Console: qemu.Stdio(), FileSystems: cfg.FileSystems, RNG: cfg.RNG,
	}
	if m.Initrd != nil {
		q.Initrd = hostPath(cfg.Dir, m.Initrd.File)
	}
	if m.Image != nil {
		q.Disks = append(q.Disks, qemu.Disk{Path: hostPath(cfg.Dir, m.Image.File), Size: m.Image.Size, NVDIMM: m.Boot.Disk == manifest.NVDIMM})
	}
	extensionWords, err := attach(&q, cfg.Extensions)
	if err != nil {
		return nil, err
	}
	if q.Binary == "" {
		q.Binary = a.QEMU
	}
	if q.Machine == "" {
		if q.Machine, err = qemu.ParseMachine(m.Boot.Machine); err != nil {
			return nil, err
		}
	}
	if q.Machine == qemu.Q35 {
		q.RootPorts = min(cfg.RootPorts, qemu.MaxRootPorts)
	}
	for _, n := range cfg.NICs {
		q.NICs = append(q.NICs, qemu.NIC{MAC: n.MAC, TapFD: int(n.Tap.Fd()), MTU: n.MTU})
	}
	if q.CPUs == 0 {
		q.CPUs = m.Boot.CPUs
	}
	if q.MemoryMiB == 0 {
		q.MemoryMiB = m.Boot.MemoryMiB
	}
	if m.Boot.Disk == manifest.NVDIMM && q.Machine != qemu.Q35 {
		return nil, fmt.Errorf("the guest's root is an NVDIMM, which the machine %s does not have; boot it on %s", q.Machine, qemu.Q35)
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
	switch cfg.Kernel {
	case "", Vmlinux:
		q.Kernel = hostPath(cfg.Dir, m.Kernel.Vmlinux)
	case Image:
		q.Kernel = hostPath(cfg.Dir, m.Kernel.Image)
	default:
		return nil, fmt.Errorf("unknown kernel form %q", cfg.Kernel)
	}
	words := slices.Concat([]string{CommandLine(m.Boot, choice.Accel, clockKHz)}, extensionWords, cfg.Words)
	q.CommandLine = strings.Join(words, " ")
	if n := len(q.CommandLine); len(extensionWords) > 0 && n > maxCommandLine {
		return nil, fmt.Errorf("kernel command line of %d bytes: Linux keeps %d, and %d extensions need %d", n, maxCommandLine, len(extensionWords), len(strings.Join(extensionWords, " ")))
	}
	return &Plan{Accel: choice, Vsock: channel, CommandLine: q.CommandLine, QEMU: q}, nil
}

// icountKHz is the rate of the time stamp counter where QEMU counts instructions: it shows the virtual time in nanoseconds.
const icountKHz = 1_000_000

// clockWord stands for the clock rate in a manifest's TCGCommandLine.
const clockWord = "{tsc_khz}"

// CommandLine is the kernel command line of a guest under an accelerator, on a host whose time stamp counter runs at clockKHz.
// Where that is 0, because the host does not say, words that need it are left out.
func CommandLine(b manifest.Boot, a accel.Accel, clockKHz int) string {
	if a != accel.TCG || b.TCGCommandLine == "" {
		return b.CommandLine
	}
	tcg := strings.ReplaceAll(b.TCGCommandLine, clockWord, strconv.Itoa(clockKHz))
	if clockKHz == 0 {
		words := strings.Fields(b.TCGCommandLine)
		tcg = strings.Join(slices.DeleteFunc(words, func(w string) bool { return strings.Contains(w, clockWord) }), " ")
	}
	if tcg == "" {
		return b.CommandLine
	}
	return b.CommandLine + " " + tcg
}
