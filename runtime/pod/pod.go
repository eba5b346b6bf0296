// Package pod is one virtual machine with the containers in it.
//
// In come the effective configuration, a container's OCI specification and its root file system; out come running
// containers, reached through the agent. It puts together what the other packages of runtime make: the folder that is
// shared, the network, the sandbox, the verdict. It does not know what asks: nothing here speaks to containerd.
//
// A pod keeps a record on disk of everything that could outlive it (package record), so that whoever comes after a
// killed one can clean up.
package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/kmodule"
	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/agentlink"
	"github.com/katabuild/katabuild/runtime/cgroup"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/disks"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/network"
	"github.com/katabuild/katabuild/runtime/network/dan"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/thread"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/katabuild/katabuild/runtime/translate"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Times that bound what should be quick.
const (
	reportTime = 30 * time.Second // for the report; a guest that is ready answers at once
	endTime    = 5 * time.Second  // for the guest to end its containers before it is stopped
)

// Options are how to start a pod.
type Options struct {
	ID         string
	Config     *config.Config
	Hypervisor machine.Hypervisor // nil is the configuration's
	Dirs       record.Dirs
	// Netns is the path of the pod's network namespace. Empty is a new one, with nothing in it but what comes later.
	Netns string
	// Hooks is called once there is a network namespace, and before the guest looks at it, with the number of a thread
	// that is in it. nil does nothing.
	Hooks func(ctx context.Context, pid int) error
	// HostNetwork: the pod asks for the host's network, which no guest gets. A Netns that is the host's own says the
	// same.
	HostNetwork bool
	Cgroup      string // in which the pod's own is made, as cgroup.Parent says; empty makes none
	Hostname    string
	DNS         []string // lines of resolv.conf, for the guest itself
	Size        Size     // what the pod's containers may use, on top of what the configuration says
	Log         *slog.Logger
	// Shm is the size of the pod's /dev/shm in bytes, 0 is half of the guest's memory.
	Shm         int64
	Annotations map[string]string // for the record only
	// Spec is the pod's first container, whose devices of the host the machine may have from its start; nil has none.
	Spec    *specs.Spec
	Root    string // for tests: in which /sys and /etc of the host are; empty is /
	Version string // of katabuild, which templates depend on
	// Observe is told of each call of the agent, and how long it took; nil is not.
	Observe func(request string, took time.Duration)
	// Spans takes the spans of the guest, until ctx ends; it closes the listener. nil: nobody here does.
	Spans func(ctx context.Context, l net.Listener) error
	// Maker is the command line of a program that calls factory.Serve: it makes templates where the configuration wants
	// that. None: nobody does.
	Maker []string

	cold    error    // why the guest boots, although templates are wanted; nil: it need not
	entered *os.File // a network namespace in which the Hooks have been; nil is none
}

// Pod is a running guest with its containers. Its methods may be called from several goroutines. None of its locks is
// held while another one of its is taken.
type Pod struct {
	id       string
	options  Options // it was started with
	cfg      *config.Config
	dirs     record.Dirs
	log      *slog.Logger
	share    *share.Share  // nil where nothing is shared
	claims   *share.Claims // likewise, and where foreign locks are granted
	fs       *share.Daemon
	net      *network.Network // nil without a network
	direct   bool             // its interfaces are not those of the network namespace
	netns    *os.File         // the namespace, which QEMU is in too; nil where none could be made
	stand    *thread.StandIn  // is in it; nil likewise
	cgroup   cgroup.Group
	vm       *sandbox.Sandbox
	link     *agentlink.Link
	seccomp  bool // the agent can do seccomp
	growth   growth
	waited   bool     // the guest did not boot for this pod
	adopted  bool     // its hypervisor is another process's child, and in no namespace of the pod
	lacks    bool     // there is no template, and there could be one
	nicPaths []string // where a restored guest finds its interfaces, in their order

	record *record.File

	mu         sync.Mutex
	containers map[string]*container // guarded by mu
	users      translate.Users       // guarded by mu
	disks      disks.Pool
	passing    passing
	binds      binds

	stop     func() error
	stopping chan struct{}      // closed when Stop begins
	cancel   context.CancelFunc // ends what runs beside
	wg       sync.WaitGroup
	sick     chan struct{} // closed when the pod is given up
	sickErr  error         // why; set before sick is closed
	lost     sync.Once     // of lose
	starved  sync.Once     // of ended
	ended    error         // why QEMU ended; guarded by starved
}

// Start boots the guest of a pod and gets it ready for containers. When it fails nothing is left.
func Start(ctx context.Context, o Options) (*Pod, error) {
	p, err := start(ctx, o)
	if p != nil && err != nil {
		return p.Cold(ctx, err)
	}
	return p, err
}

// start is Start. A pod beside an error is whole still, and to be started again: see Cold.
func start(ctx context.Context, o Options) (made *Pod, err error) {
	ctx, span := trace.Start(ctx, "pod/start")
	defer func() { span.End(err) }()
	p := &Pod{id: o.ID, options: o, cfg: o.Config, dirs: o.Dirs.WithDefaults(), log: o.Log,
		containers: map[string]*container{}, sick: make(chan struct{}), stopping: make(chan struct{})}
	p.link = agentlink.New(p.dial, p.betterReason)
	p.link.Observe = o.Observe
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.stop = sync.OnceValue(p.stopOnce)
	if err := record.CheckID(o.ID); err != nil {
		return nil, err
	}
	if o.Hypervisor == nil {
		if o.Hypervisor, err = hypervisor.Named(o.Config.Hypervisor); err != nil {
			return nil, err
		}
	}
	g, err := readGuest(o.Config)
	if err != nil {
		return nil, err
	}
	if o.Netns, err = p.ownNetns(o); err != nil {
		return nil, err
	}
	p.record, err = record.Begin(p.dirs, record.Record{ID: p.id, Guest: o.Config.VM.Guest,
		Annotations: o.Annotations})
	if err != nil {
		return nil, err
	}
	defer func() {
		switch {
		case err == nil:
		case p.givenUp(err):
			made = p
		default:
			err = errors.Join(p.because(err), p.stop())
		}
	}()
	beside, end := context.WithCancel(context.Background())
	p.cancel = end
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.wg.Go(func() {
		select {
		case <-p.sick:
			cancel(p.sickErr)
		case <-ctx.Done():
		}
	})
	if err := p.joinCgroup(o.Cgroup); err != nil {
		return nil, err
	}
	cfg, err := p.sandboxConfig(ctx, o, g)
	if err != nil {
		return nil, err
	}
	if p.fs != nil {
		p.wg.Go(func() { p.watchFS(beside) })
	}
	if err := p.boot(ctx, o, cfg); err != nil {
		return nil, p.outOfMemory(explain(err))
	}
	if err := p.notePassed(); err != nil {
		return nil, err
	}
	p.wg.Go(func() {
		<-p.vm.Done()
		p.link.Lose(explain(p.reason())) // nobody waits for answers that cannot come
	})
	if err := p.record.Note(func(r *record.Record) {
		r.QEMU = record.ProcessOf(p.vm.PID())
		r.Command = p.vm.Argv()
		r.Files = p.vm.Files()
	}); err != nil {
		return nil, err
	}
	p.takeSpans(beside, o)
	if err := p.link.Connect(ctx); err != nil {
		return nil, err
	}
	if err := p.attest(ctx); err != nil {
		return nil, err
	}
	if p.waited { // the machine is as small as that
		if err := p.resize(ctx, "", Size{}); err != nil {
			return nil, p.plugging(err)
		}
	}
	if err := p.introduce(ctx, o); err != nil {
		return nil, err
	}
	p.wg.Go(func() { p.watch(beside) })
	if p.net != nil && !p.direct { // which is whole
		p.wg.Go(func() { p.watchNetwork(beside) })
	}
	p.orderTemplate(beside, o)
	return p, p.record.Note(func(r *record.Record) { r.State = record.Running })
}

// takesSpans says whether the guest makes spans for this process.
func takesSpans(c *config.Config, o Options) bool { return c.Agent.EnableTracing && o.Spans != nil }

// takeSpans listens for those of the guest, where it makes any for this process. A pod without them is as good.
func (p *Pod) takeSpans(ctx context.Context, o Options) {
	if !takesSpans(p.cfg, o) {
		return
	}
	l, err := p.vm.Listen(agentapi.TracePort)
	if err != nil {
		p.log.Warn("the guest's spans are not taken", "err", err)
		return
	}
	p.wg.Go(func() {
		if err := o.Spans(ctx, l); err != nil {
			p.log.Warn("the guest's spans are not taken any more", "err", err)
		}
	})
}

// joinCgroup moves this process, and so all that it starts, into a group of the pod's own.
func (p *Pod) joinCgroup(parent string) error {
	if parent == "" {
		return nil
	}
	if dirs, err := cgroup.Dirs(parent, p.id); err == nil { // Join says why not
		if err := p.record.Note(func(r *record.Record) { r.Cgroup = append(r.Cgroup, dirs...) }); err != nil {
			return err
		}
	}
	g, err := cgroup.Join(parent, p.id)
	if err != nil {
		p.log.Warn("the pod's processes are not, or not wholly, in a control group of their own", "err", err)
	}
	p.cgroup = g
	return p.record.Note(func(r *record.Record) { r.Cgroup = append([]string{}, g.Dirs...) })
}

// readGuest is the guest of the configuration.
func readGuest(c *config.Config) (*guest.Guest, error) {
	if c.VM.Kernel == "" && c.VM.Guest == "" {
		return nil, errors.New(
			`no guest is configured: set "guest" in [hypervisor.` + c.Hypervisor + `] of configuration.toml to the ` +
				`folder that katabuild build made, or "kernel" and "image" or "initrd" to a guest without a manifest`)
	}
	if c.VM.Kernel != "" && c.Runtime.Attestation == config.Enforce {
		return nil, errNothingToCompare
	}
	g, err := c.VM.ReadGuest()
	if err != nil && c.VM.Kernel == "" {
		return nil, fmt.Errorf("the guest of the configuration: %w", err)
	}
	return g, err
}

// errNothingToCompare says that a guest without a manifest cannot be attested, and attestation is asked for.
var errNothingToCompare = errors.New(
	`attestation is "enforce", and a guest of kernel and image or initrd has no manifest to compare it with: ` +
		`set "guest" to a folder that katabuild build made, or attestation to "warn" or "off"`)

// sandboxConfig makes everything that the machine needs on the host, and says how to start it.
func (p *Pod) sandboxConfig(ctx context.Context, o Options, g *guest.Guest) (sandbox.Config, error) {
	c := o.Config
	cfg, err := factory.Sandbox(c, g, o.Hypervisor)
	if err != nil {
		return cfg, err
	}
	if takesSpans(c, o) {
		cfg.Ports = append(cfg.Ports, agentapi.TracePort)
	}
	cfg.ID, cfg.Log, cfg.Hybrid, cfg.Hostname = p.id, p.log, p.dirs.VsockSocket(p.id), o.Hostname
	bounds(&cfg, &c.VM)
	p.growth.base, p.growth.said = cfg.Size, o.Size
	o.Size.add(&cfg.Size, runtime.NumCPU())
	if c.VM.EnableDebug {
		cfg.Console = &consoleLog{log: p.log, now: time.Now}
	}
	if err := p.startShare(ctx, &cfg); err != nil {
		return cfg, err
	}
	if err := p.passFromStart(o, &cfg); err != nil {
		return cfg, err
	}
	return cfg, p.startNetwork(ctx, o, &cfg)
}

// bounds are what the configuration says of the walls around the hypervisor, and of what passes through its devices.
func bounds(cfg *sandbox.Config, c *config.VM) {
	cfg.NoSeccomp, cfg.Jailer = c.DisableSeccomp, c.JailerPath
	bytes := func(bits int64) int64 { return (bits + 7) / 8 } // a rate that is there stays one
	rate := func(r config.Rate) machine.Rate {
		return machine.Rate{Bytes: bytes(r.MaxRate), BytesBurst: bytes(r.Burst), Ops: r.OpsMaxRate,
			OpsBurst: r.OpsBurst}
	}
	cfg.DiskRate, cfg.RxRate, cfg.TxRate = rate(c.Disk), rate(c.Net), rate(c.Net)
	if n := c.RxMaxRate; n > 0 {
		cfg.RxRate.Bytes = bytes(n)
	}
	if n := c.TxMaxRate; n > 0 {
		cfg.TxRate.Bytes = bytes(n)
	}
}

// claimsSuffix makes of the folder of pods the file of their claims on volumes, beside it.
const claimsSuffix = ".claims"

func (p *Pod) startShare(ctx context.Context, cfg *sandbox.Config) (err error) {
	c := &p.cfg.VM
	if c.SharedFS == config.SharedNone {
		if list := p.cfg.Runtime.SandboxBindMounts; len(list) > 0 {
			return fmt.Errorf("sandbox_bind_mounts %q cannot be shared, because shared_fs is none", list)
		}
		return nil
	}
	ctx, span := trace.Start(ctx, "pod/share")
	defer func() { span.End(err) }()
	if p.share, err = share.New(p.dirs.Share, p.id); err != nil {
		return err
	}
	if err := p.record.Note(func(r *record.Record) { r.Share = true }); err != nil {
		return err
	}
	if c.ForeignLocks == config.LocksRefused {
		if p.claims, err = share.NewClaims(p.dirs.State + claimsSuffix); err != nil {
			return err
		}
	}
	f := machine.Share{Tag: share.Tag}
	if c.SharedFS == config.Shared9P {
		f.Path = p.share.Dir()
	} else {
		socket := p.dirs.ShareSocket(p.id)
		program, err := p.program(ctx)
		if err != nil {
			return err
		}
		p.fs, err = share.StartDaemon(share.DaemonConfig{
			Program: program, Dir: p.share.Dir(), Socket: socket, Cache: c.VirtioFSCache, Extra: c.VirtioFSExtraArgs,
		})
		if err != nil {
			return err
		}
		f.Socket = socket
		if err := p.record.Note(func(r *record.Record) { r.VirtioFSD = record.ProcessOf(p.fs.PID()) }); err != nil {
			return err
		}
	}
	cfg.Shares = append(cfg.Shares, f)
	return p.bindForAll()
}

// program is the virtiofsd to start. The log is told what cannot be had of it.
func (p *Pod) program(ctx context.Context) (share.Program, error) {
	ask := share.FindProgram
	if path := p.cfg.VM.VirtioFSDaemon; path != "" {
		ask = func(ctx context.Context) (share.Program, error) { return share.Ask(ctx, path) }
	}
	program, err := ask(ctx)
	if err != nil {
		return program, err
	}
	for _, l := range program.Limits() {
		p.log.Warn("a limit of shared files: "+l, "virtiofsd", program.String())
	}
	return program, nil
}

// bindForAll shares sandbox_bind_mounts.
func (p *Pod) bindForAll() error {
	for _, b := range p.cfg.Runtime.SandboxBindMounts {
		source, mode, _ := strings.Cut(b, ":")
		access := share.ReadOnlyAll
		if mode == "rw" {
			access = share.Writable
		}
		if err := p.share.Bind("sandbox", "sandbox-mounts/"+filepath.Base(source), source, access,
			share.Owners{}); err != nil {
			return fmt.Errorf("sandbox_bind_mounts %s: %w", b, err)
		}
	}
	return nil
}

// errHostNetwork says that a pod asks for the host's network.
var errHostNetwork = errors.New(
	"the host's network is asked for (hostNetwork of a pod, --net=host), and a guest has none but its own: ask for " +
		"a network " +
		`of the pod's own, or set internetworking_model to "none" for a pod without a network`)

// ownNetns is the network namespace whose interfaces the guest gets, or empty for a new one. The host's own is never
// that.
func (p *Pod) ownNetns(o Options) (string, error) {
	host := o.HostNetwork
	if !host && o.Netns != "" {
		var err error
		if host, err = network.IsHost(o.Netns); err != nil {
			return "", err
		}
	}
	switch {
	case !host:
		return o.Netns, nil
	case o.Config.Runtime.InternetworkingModel != config.NetworkNone:
		return "", errHostNetwork
	}
	p.log.Warn("the host's network is asked for; the guest has no network at all")
	return "", nil
}

// enterNetns opens or makes the pod's network namespace. QEMU is in it, since its number is what others know the pod
// by: whoever makes interfaces for the pod in /proc/NUMBER/ns/net, as engines and their hooks do, would else make them
// on the host.
func (p *Pod) enterNetns(ctx context.Context, o Options) (err error) {
	if o.entered != nil {
		p.netns, err = duplicate(o.entered)
	} else if o.Netns != "" {
		p.netns, err = network.Open(o.Netns)
	} else if p.cfg.Runtime.DisableNewNetns {
		p.log.Debug("the pod has no network namespace of its own, as the configuration wants it")
	} else if p.netns, err = network.New(); errors.Is(err, unix.EPERM) {
		p.log.Warn("the pod has no network namespace of its own, as this user may not make one", "err", err)
		p.netns, err = nil, nil
	}
	if err != nil {
		return err
	}
	pid := os.Getpid()
	if p.netns != nil {
		if p.stand, err = thread.Stand(p.joinNetns); err != nil {
			return fmt.Errorf("enter the network namespace of the pod: %w", err)
		}
		pid = p.stand.TID
	}
	if o.Hooks != nil && o.entered == nil {
		return o.Hooks(ctx, pid)
	}
	return nil
}

// joinNetns takes the calling thread into the pod's network namespace.
func (p *Pod) joinNetns() error { return unix.Setns(int(p.netns.Fd()), unix.CLONE_NEWNET) }

// StandIn is a thread that is in the pod's network namespace, to stand for a container. End ends it.
func (p *Pod) StandIn() (*thread.StandIn, error) {
	if p.netns == nil {
		return thread.Stand(nil)
	}
	return thread.Stand(p.joinNetns)
}

// leaveNetns gives the namespace up. Calling it again is a no-op.
func (p *Pod) leaveNetns() error {
	if p.stand != nil {
		p.stand.End()
	}
	if p.netns == nil {
		return nil
	}
	if err := p.netns.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (p *Pod) startNetwork(ctx context.Context, o Options, cfg *sandbox.Config) (err error) {
	ctx, span := trace.Start(ctx, "pod/network")
	defer func() { span.End(err) }()
	if err := p.enterNetns(ctx, o); err != nil {
		return err
	}
	cfg.Netns = p.netns
	model := p.cfg.Runtime.InternetworkingModel
	from, err := p.readDirect()
	if err != nil {
		return err
	}
	if from == nil && (p.netns == nil || model == config.NetworkNone) {
		return nil
	}
	path := o.Netns
	if path == "" && p.netns != nil { // it goes with its last process, and nothing of it is left to clean up
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.netns.Fd())
	}
	note := func(link string) error {
		return p.record.Note(func(r *record.Record) { r.Netns = o.Netns; r.Links = append(r.Links, link) })
	}
	to := network.Options{Netns: path, Model: network.Model(model), Log: p.log, Note: note}
	if p.cfg.Hypervisor == config.HypervisorQEMU { // the others bound their devices by themselves
		to.RxRate, to.TxRate = p.cfg.VM.RxMaxRate, p.cfg.VM.TxMaxRate
	}
	if from != nil {
		p.net, err = network.Direct(to, from)
	} else {
		p.net, err = network.Attach(ctx, to)
	}
	if err != nil {
		p.net = nil
		return err
	}
	for _, e := range p.net.Endpoints() {
		if e.PCI != "" {
			if err := p.passInterface(cfg, e.PCI); err != nil {
				return fmt.Errorf("directly attachable network: interface %s: %w", e.Name, err)
			}
			continue
		}
		cfg.NICs = append(cfg.NICs, nicOf(e))
	}
	return nil
}

// readDirect is the network that somebody has made on the host for this very pod, or nil: the guest has no other then.
func (p *Pod) readDirect() (*dan.Network, error) {
	if p.cfg.Runtime.DANConf == "" {
		return nil, nil
	}
	path := dan.Path(p.cfg.Runtime.DANConf, p.id)
	from, err := dan.Read(path, p.id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("directly attachable network: %w", err)
	}
	p.direct = true
	p.log.Info("the guest has a directly attachable network", "file", path, "interfaces", len(from.Devices))
	return from, nil
}

// nicOf is an interface as the machine gets it.
func nicOf(e *network.Endpoint) machine.NIC {
	return machine.NIC{MAC: e.MAC, Tap: e.Tap, MTU: e.MTU, Socket: e.Socket, Queues: e.Queues, QueueSize: e.QueueSize,
		ByName: e.ByName}
}

// attest asks the guest what it is, and does what the configuration says when it is something else.
func (p *Pod) attest(ctx context.Context) error {
	if p.cfg.Runtime.Attestation == config.Off {
		return nil
	}
	ctx, span := trace.Start(ctx, "pod/attest")
	a, err := p.vm.Attest(ctx, p.vm.Plan().Words)
	span.End(err)
	if err != nil {
		return p.judge(err)
	}
	v := a.Verdict
	if err := p.record.Note(func(r *record.Record) { r.Verdict = v }); err != nil {
		return err
	}
	switch v.Result {
	case verdict.Unchecked:
		p.log.Warn("attestation: nothing of the guest was checked, as it has no manifest", "guest", v.Guest, "files",
			p.vm.Files())
		return nil
	case verdict.Attested:
		p.log.Info("the guest is what its manifest says", "guest", v.Guest, "claims", len(v.Claims))
		return nil
	}
	return p.judge(&mismatchError{v})
}

// judge makes an error of what was found, or only tells it.
func (p *Pod) judge(err error) error {
	if p.cfg.Runtime.Attestation == config.Warn {
		p.log.Warn("attestation", "err", err)
		return nil
	}
	return err
}

// maxUnmet bounds what an error has of claims that are not met, in bytes: what the guest says in them may be long.
const maxUnmet = 8 << 10

// mismatchError says that the guest which came up is not the one that its manifest describes.
type mismatchError struct{ Verdict *verdict.Verdict }

func (e *mismatchError) Error() string {
	var unmet []string
	for _, c := range e.Verdict.Claims {
		if !c.Met {
			unmet = append(unmet, fmt.Sprintf("%s is %q, the manifest says %q", c.Name, c.Got, c.Want))
		}
	}
	return fmt.Sprintf("the running guest is not the %s that was built: %s", e.Verdict.Guest,
		printable.Words(strings.Join(unmet, "; "), maxUnmet))
}

// introduce makes the sandbox in the guest: its network, its shared folder, its name.
func (p *Pod) introduce(ctx context.Context, o Options) (err error) {
	ctx, span := trace.Start(ctx, "pod/introduce")
	defer func() { span.End(err) }()
	ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
	defer cancel()
	// Before anything else, so that it is about all that follows.
	policy, err := p.cfg.Agent.PolicyText()
	if err != nil {
		return err
	}
	if policy != "" {
		if _, err := p.link.SetPolicy(ctx, &katapb.SetPolicyRequest{Policy: policy}); err != nil {
			return fmt.Errorf("policy of the pod: %w", err)
		}
	}
	d, err := p.link.Introduce(ctx)
	if err != nil {
		return err
	}
	p.seccomp = d.GetSupportsSeccomp()
	if p.net != nil {
		if err := p.configureNetwork(ctx); err != nil {
			return p.plugging(err)
		}
		if p.link.Can.Forward && p.netns != nil {
			if err := p.net.Forward(p.dialLoopback); err != nil {
				p.log.Warn("ports cannot be forwarded to the pod by localhost", "err", err)
			}
		}
	}
	modules, err := kernelModules(p.cfg.Agent.KernelModules)
	if err != nil {
		return err
	}
	req := &katapb.CreateSandboxRequest{
		Hostname: o.Hostname, Dns: o.DNS, SandboxId: o.ID, GuestHookPath: p.cfg.VM.GuestHookPath,
		Storages: p.storages(o), KernelModules: modules,
	}
	if _, err := p.link.CreateSandbox(ctx, req); err != nil {
		return p.plugging(fmt.Errorf("make the sandbox in the guest: %w", err))
	}
	return nil
}

// kernelModules are what the guest loads.
func kernelModules(texts []string) ([]*katapb.KernelModule, error) {
	list, err := kmodule.ParseList(texts)
	if err != nil {
		return nil, fmt.Errorf("kernel_modules: %w", err)
	}
	var out []*katapb.KernelModule
	for _, m := range list {
		out = append(out, &katapb.KernelModule{Name: m.Name, Parameters: m.Params})
	}
	return out, nil
}

// storages are what the guest mounts for the whole pod.
func (p *Pod) storages(o Options) []*katapb.Storage {
	var list []*katapb.Storage
	switch {
	case p.fs != nil:
		list = append(list, &katapb.Storage{Driver: "virtio-fs", Source: share.Tag, Fstype: "virtiofs",
			MountPoint: share.GuestDir + "/", Shared: true})
	case p.share != nil:
		list = append(list, &katapb.Storage{
			Driver: "9p", Source: share.Tag, Fstype: "9p", MountPoint: share.GuestDir + "/", Shared: true,
			Options: []string{"trans=virtio", "version=9p2000.L", "cache=mmap", "nodev",
				fmt.Sprintf("msize=%d", p.cfg.VM.Msize9P)},
		})
	}
	shm := &katapb.Storage{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: translate.Shm, Shared: true,
		Options: []string{"noexec", "nosuid", "nodev", "mode=1777"},
	}
	if o.Shm > 0 {
		shm.Options = append(shm.Options, fmt.Sprintf("size=%d", o.Shm))
	}
	return append(list, shm)
}

func (p *Pod) configureNetwork(ctx context.Context) error {
	ends := p.net.Endpoints()
	for n, i := range p.net.Interfaces() {
		if ends[n].PCI != "" {
			i.DevicePath = p.passedPath(ends[n].PCI)
		}
		if n < len(p.nicPaths) { // it was plugged in, and may still be on its way
			i.DevicePath = p.nicPaths[n]
		}
		if _, err := p.link.UpdateInterface(ctx, &katapb.UpdateInterfaceRequest{Interface: i}); err != nil {
			return fmt.Errorf("set up the interface %s in the guest: %w", i.GetName(), err)
		}
	}
	return p.updateRoutes(ctx)
}

// updateRoutes has the guest know the routes and neighbours that there are now.
func (p *Pod) updateRoutes(ctx context.Context) error {
	if _, err := p.link.UpdateRoutes(
		ctx, &katapb.UpdateRoutesRequest{Routes: &katapb.Routes{Routes: p.net.Routes()}}); err != nil {
		return fmt.Errorf("set up the routes in the guest: %w", err)
	}
	if n := p.net.Neighbours(); len(n) > 0 {
		if _, err := p.link.AddARPNeighbors(ctx,
			&katapb.AddARPNeighborsRequest{Neighbors: &katapb.ARPNeighbors{ARPNeighbors: n}}); err != nil {
			return fmt.Errorf("set up the neighbours in the guest: %w", err)
		}
	}
	return nil
}

// dialLoopback connects to a TCP port of the guest's loopback interface.
func (p *Pod) dialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, agentlink.RequestTime)
	defer cancel()
	c, err := p.vm.Dial(ctx, agentapi.ForwardPort)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, err = fmt.Fprintf(c, "%d\n", port)
	answer := make([]byte, len(agentapi.ForwardOK))
	if err == nil {
		_, err = io.ReadFull(c, answer)
	}
	if err != nil || string(answer) != agentapi.ForwardOK {
		return nil, errors.Join(fmt.Errorf("port %d of the guest: nobody listens: %w", port, err), c.Close())
	}
	return c, nil
}

// dial connects to a port of the guest.
func (p *Pod) dial(ctx context.Context, port uint32) (net.Conn, error) { return p.vm.Dial(ctx, port) }

// dir is the pod's folder.
func (p *Pod) dir() string { return p.dirs.Folder(p.id) }

// Done is closed when the guest has ended.
func (p *Pod) Done() <-chan struct{} { return p.vm.Done() }

// Sick is closed when the pod is of no use any more: its agent does not answer, its files are gone, or it was given up.
func (p *Pod) Sick() <-chan struct{} { return p.sick }

// Stopping is closed when Stop begins: a guest that ends from there on has been asked to.
func (p *Pod) Stopping() <-chan struct{} { return p.stopping }

// Why is why the guest ended or is of no use any more; nil while it is well.
func (p *Pod) Why() error { return explain(p.reason()) }

// PID is that of the process on the host which is the pod: QEMU's. Of a guest that waited in the pool it is a thread's
// of this process, which is in the pod's network namespace, as that QEMU is not.
func (p *Pod) PID() int {
	if p.adopted && p.stand != nil {
		return p.stand.TID
	}
	return p.vm.PID()
}

// OOM waits for a container that met its memory limit, and returns its id.
func (p *Pod) OOM(ctx context.Context) (string, error) {
	e, err := p.link.GetOOMEvent(ctx, &katapb.GetOOMEventRequest{})
	return e.GetContainerId(), err
}

// Stop ends the guest and removes everything of the pod from the host. Calling it again is a no-op.
func (p *Pod) Stop() error { return p.stop() }

func (p *Pod) stopOnce() error {
	close(p.stopping)
	if p.cancel != nil {
		p.cancel()
	}
	var errs []error
	if p.link.Connected() {
		ctx, cancel := context.WithTimeout(context.Background(), p.endTime())
		if p.Why() == nil {
			if _, err := p.link.DestroySandbox(ctx, &katapb.DestroySandboxRequest{}); err != nil {
				p.log.Debug("end the sandbox in the guest", "err", err)
			}
		}
		cancel()
		errs = append(errs, p.link.Close())
	}
	if p.vm != nil {
		errs = append(errs, p.vm.Stop())
	}
	p.wg.Wait()
	if p.fs != nil {
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		errs = append(errs, p.fs.Stop(ctx))
		cancel()
	}
	if p.net != nil {
		errs = append(errs, p.net.Detach())
	}
	errs = append(errs, p.leaveNetns())
	if p.share != nil {
		errs = append(errs, p.share.Close())
	}
	if p.claims != nil {
		errs = append(errs, p.claims.Close())
	}
	if err := errors.Join(append(errs, p.cgroup.Leave())...); err != nil {
		return err // the record stays, for Clean
	}
	return p.record.End()
}

// endTime is how long the guest may take to end its containers. Shared files are the host's, so that nothing of them is
// lost when it does not answer; what was written to disks has to leave its memory.
func (p *Pod) endTime() time.Duration {
	if p.disks.Written() {
		return agentlink.RequestTime
	}
	return endTime
}

// explain puts the reason into one line: the console's last words are in the log, where there is room.
func explain(err error) error {
	var stage *sandbox.StageError
	if !errors.As(err, &stage) || len(stage.Console) == 0 {
		return err
	}
	last := stage.Console[max(0, len(stage.Console)-3):]
	return fmt.Errorf("%w; the guest's last words: %s", err, strings.Join(last, " | "))
}

// consoleLog puts the guest's console into the log, line by line. A guest that writes without end does not fill the
// host's log: what is beyond the bounds is counted, and told once there is room again.
type consoleLog struct {
	log  *slog.Logger
	line []byte

	now  func() time.Time // time.Now, but for tests
	room float64          // bytes that the log still takes
	last time.Time        // when room was reckoned; zero before the first line
	lost int              // bytes that were left out since
}

// Bounds of consoleLog, in bytes.
const (
	maxConsoleLine  = 1024     // that are kept of a line without an end
	consoleBurst    = 1 << 20  // at once: a kernel that tells all of its start writes a tenth of that
	consoleSustains = 16 << 10 // a second
)

func (c *consoleLog) Write(b []byte) (int, error) {
	for _, x := range b {
		if x == '\n' || len(c.line) == maxConsoleLine {
			c.end()
		}
		if x != '\n' {
			c.line = append(c.line, x)
		}
	}
	return len(b), nil
}

// end is the end of a line.
func (c *consoleLog) end() {
	n := len(c.line)
	if n == 0 {
		return
	}
	now := c.now()
	if c.last.IsZero() {
		c.room = consoleBurst
	} else {
		c.room = min(consoleBurst, c.room+now.Sub(c.last).Seconds()*consoleSustains)
	}
	c.last = now
	if float64(n) > c.room {
		c.lost += n
	} else {
		if c.lost > 0 {
			c.log.Warn("the guest's console writes too much for the log", "bytes left out", c.lost)
			c.lost = 0
		}
		c.room -= float64(n)
		c.log.Info("console", "line", strings.TrimRight(string(c.line), "\r"))
	}
	c.line = c.line[:0]
}

var _ io.Writer = (*consoleLog)(nil)
