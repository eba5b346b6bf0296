package sandbox

import (
	"cmp"
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
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// DefaultTimeout is how long a guest may take to be ready when the Config does not say.
const DefaultTimeout = 60 * time.Second

// Config is which guest to start, and how. Guest and Hypervisor are needed; all else may be zero: the guest says the
// rest.
type Config struct {
	Guest      *guest.Guest
	Hypervisor machine.Hypervisor
	// Serves asks whether an agent serves that does not say so by itself, as Kata's. It is called again and again with
	// new connections to agentapi.Port until it returns nil or the guest has said that it is ready; the connections are
	// closed for it. Nil: nobody is asked.
	Serves func(context.Context, net.Conn) error

	ID      string // of what the guest is for, in the machine's name among the processes; may be empty
	Machine string // the hypervisor's name of a machine
	Size    machine.Size
	Words   []string // appended to the kernel command line
	// Extensions are attached in this order, each with its word on the kernel command line, before Words.
	Extensions []guest.Extension
	Shares     []machine.Share
	NICs       []machine.NIC
	Places     int // for PlugDisk and PlugNIC; ignored where the machine has none
	// Passed are devices of the host from the start, and Passing says how the machine gets such devices; see
	// machine.Spec.
	Passed  []machine.HostDevice
	Passing machine.Passing
	// Max is what Grow may make of the machine, with this many pieces of memory; ignored where the machine cannot grow.
	// The zero value is what it starts with.
	Max         machine.Size
	MemorySlots int
	RNG         bool // an entropy device
	Accel       accel.Preference
	VirtualTime bool          // for measurements: the same times on every run; see machine.Spec
	Timeout     time.Duration // until the agent is ready; zero is DefaultTimeout
	Program     string        // the hypervisor's; see machine.Spec
	NoSeccomp   bool          // likewise
	Jailer      string        // likewise, and so the rates
	DiskRate    machine.Rate
	RxRate      machine.Rate
	TxRate      machine.Rate

	// Template makes a guest that only waits once it is prepared, to be saved (Save); with Saved, it is restored and
	// woken instead of booted. Shares and NICs are ignored then, and plugged in once it serves (PlugShare, PlugNIC).
	Template bool
	Saved    *Saved
	Hostname string // of a guest that is woken; empty leaves its own
	// Held is a guest that waits in the hands of another process, and is adopted and woken; Template is set then.
	Held *Held
	hold bool // the guest is one that is held

	// Attest says that the guest is to be attested: its files that are not booted are compared with the manifest while
	// it boots, so that Attest need not wait for that.
	Attest bool
	Probes []string // what Attest has the guest try, by the names of the manifest; none for pods

	Console io.Writer // gets the console's bytes as they come, unchanged
	// Netns is the network namespace that the hypervisor's process is in; nil is this process's. It stays the caller's.
	Netns *os.File
	Ports []uint32 // of the host that the guest connects to, beside the one that it is ready at
	// Hybrid is the path of a UNIX socket through which other processes reach the guest's ports; empty is none. See
	// vsock.Device.ServeHybrid.
	Hybrid string
	// OnStage is told of each stage when the guest reaches it, from several goroutines, never at once. It must not
	// block for long.
	OnStage func(Moment)
	Log     *slog.Logger // nil is silent
}

// Plan is what Start will do.
type Plan struct {
	Accel       accel.Choice
	Vsock       vsock.Choice
	CommandLine string // the kernel's
	// Words are what stands on it behind the guest's own and those of its extensions: what this way to run it wants,
	// and Config.Words.
	Words   []string
	Machine machine.Plan
}

// Command is the machine's command line to try by hand, ready to paste.
func (p *Plan) Command() string { return p.Machine.Command() }

// NewPlan looks at this host and decides. It starts and opens nothing that lasts.
func NewPlan(cfg Config) (*Plan, error) {
	if cfg.Guest == nil || cfg.Hypervisor == nil {
		return nil, errors.New("a sandbox wants a guest and a hypervisor")
	}
	choice, err := accel.Choose(cfg.Accel, accel.Probe(cfg.Guest.Arch))
	if err != nil {
		return nil, err
	}
	ports := append([]uint32{agentapi.ReadyPort}, cfg.Ports...)
	return newPlan(cfg, choice, vsock.Choose(ports...), accel.HostClockKHz())
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
func newPlan(cfg Config, choice accel.Choice, channel vsock.Choice, clockKHz int) (*Plan, error) {
	g := cfg.Guest
	s := machine.Spec{
		Name: "katabuild-" + g.Name, Arch: g.Arch, Kind: cfg.Machine, DefaultKind: g.Boot.Machine,
		Size: machine.Size{CPUs: cmp.Or(cfg.Size.CPUs, g.Boot.CPUs), MemoryMiB: cmp.Or(cfg.Size.MemoryMiB,
			g.Boot.MemoryMiB)},
		Max: cfg.Max, MemorySlots: cfg.MemorySlots, Places: cfg.Places,
		Kernel: g.Kernel, Initrd: g.Initrd, Shares: cfg.Shares, NICs: cfg.NICs, RNG: cfg.RNG,
		Accel: choice.Accel, Channel: channel, VirtualTime: cfg.VirtualTime, Program: cfg.Program,
		NoSeccomp: cfg.NoSeccomp, Template: cfg.Template, Jailer: cfg.Jailer, DiskRate: cfg.DiskRate,
		RxRate: cfg.RxRate, TxRate: cfg.TxRate, Passed: cfg.Passed, Passing: cfg.Passing,
	}
	if cfg.Template {
		if err := canWait(g); err != nil {
			return nil, err
		}
		if _, ok := cfg.Hypervisor.(machine.Templates); !ok {
			return nil, fmt.Errorf("%w: its hypervisor saves none", machine.ErrNoTemplate)
		}
		s.Shares, s.NICs = nil, nil
	}
	if cfg.ID != "" {
		s.Name += "-" + cfg.ID
	}
	if g.Image != "" {
		s.Disks = append(s.Disks, machine.Disk{Path: g.Image, Size: g.ImageSize,
			NVDIMM: g.Boot.Disk == manifest.NVDIMM})
	}
	hostWords, err := hostWords(cfg, choice.Accel)
	if err != nil {
		return nil, err
	}
	extensionWords, err := attach(&s, cfg.Extensions)
	if err != nil {
		return nil, err
	}
	if cfg.VirtualTime {
		clockKHz = virtualKHz
	}
	words := slices.Concat([]string{CommandLine(g.Boot, choice.Accel, clockKHz)}, extensionWords, hostWords)
	s.CommandLine = strings.Join(words, " ")
	if n, most := len(s.CommandLine), maxCommandLine(g.Arch); n > most {
		return nil, fmt.Errorf(
			"kernel command line of %d bytes: Linux keeps %d; %d extensions need %d of them, and what this host "+
				"adds %d", n, most,
			len(extensionWords), len(strings.Join(extensionWords, " ")), len(strings.Join(hostWords, " ")))
	}
	m, err := cfg.Hypervisor.Plan(s)
	if err != nil {
		return nil, err
	}
	return &Plan{Accel: choice, Vsock: channel, CommandLine: s.CommandLine, Words: hostWords, Machine: m}, nil
}

// hostWords are what a host has to say behind the guest's own words.
func hostWords(cfg Config, a accel.Accel) ([]string, error) {
	if !cfg.Template {
		return wordsForShares(cfg, a)
	}
	words := []string{agentapi.WaitWord}
	if a == accel.TCG { // a folder may be plugged in
		words = append(words, bootwords.ClearMemory)
	}
	return slices.Concat(words, cfg.Words), nil
}

// canWait says why a guest cannot wait to be woken: it is our agent that does that, and as the init alone.
func canWait(g *guest.Guest) error {
	if !g.Described() {
		return fmt.Errorf("%w: nothing says whether its agent waits to be woken, as the guest has no manifest",
			machine.ErrNoTemplate)
	}
	if init := g.Manifest.Agent.Init; init != manifest.InitAgent {
		return fmt.Errorf("%w: the guest's init is %s, and only the agent waits to be woken", machine.ErrNoTemplate,
			init)
	}
	return nil
}

// wordsForShares are Config.Words, behind those that shared folders want.
func wordsForShares(cfg Config, a accel.Accel) ([]string, error) {
	if !slices.ContainsFunc(cfg.Shares, func(f machine.Share) bool { return f.Socket != "" }) {
		return cfg.Words, nil
	}
	if host, err := arch.FromGo(runtime.GOARCH); err == nil {
		if err := ServesFiles(host, cfg.Guest.Arch); err != nil {
			return nil, err
		}
	}
	if a == accel.TCG {
		return slices.Concat([]string{bootwords.ClearMemory}, cfg.Words), nil
	}
	return cfg.Words, nil
}

// maxCommandLine is what Linux keeps of a kernel command line, in bytes without the NUL.
func maxCommandLine(a arch.Arch) int {
	if a.CommandLine == 0 {
		return 2047 // of most architectures
	}
	return a.CommandLine - 1
}

// attach adds the extensions to a machine, and returns their words for the kernel command line.
func attach(s *machine.Spec, list []guest.Extension) ([]string, error) {
	var words []string
	seen := map[string]bool{}
	for _, e := range list {
		if err := extension.CheckName(e.Name); err != nil {
			return nil, err
		}
		if seen[e.Name] {
			return nil, fmt.Errorf("two extensions are called %s; name one with NAME=FOLDER", e.Name)
		}
		seen[e.Name] = true
		s.Disks = append(s.Disks, machine.Disk{Path: e.Path(), Serial: e.Serial()})
		words = append(words, e.Word())
	}
	return words, nil
}

// virtualKHz is the rate of the time stamp counter where instructions are counted: it shows the virtual time in
// nanoseconds.
const virtualKHz = 1_000_000

// CommandLine is the kernel command line of a guest under an accelerator, on a host whose time stamp counter runs at
// clockKHz. Where that is 0, because the host does not say, words that need it are left out.
func CommandLine(b manifest.Boot, a accel.Accel, clockKHz int) string {
	if a != accel.TCG || b.TCGCommandLine == "" {
		return b.CommandLine
	}
	return strings.TrimSpace(b.CommandLine + " " + bootwords.OnHost(b.TCGCommandLine, clockKHz))
}
