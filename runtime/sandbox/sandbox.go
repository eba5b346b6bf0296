// Package sandbox boots one guest and keeps it.
//
// In come a guest, a hypervisor and a Config; out comes a running guest that has said it is ready, or one error that
// names the stage at which it failed, with the console's last words. It does not know what the agent serves, and what
// runs the machine: it hands out connections, and asks a hypervisor. It also says whether the guest is the one that was
// built (Attest).
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/console"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sealed"
	"github.com/katabuild/katabuild/runtime/trace"
)

// consoleLines is how many of the console's last lines an error carries.
const consoleLines = 30

// Times that bound waiting for what should be immediate.
const (
	panicTime = 500 * time.Millisecond // for the rest of a panic's text, where the kernel does not reboot by itself
	lastWords = 500 * time.Millisecond // for the console's last bytes after the machine ended
	readyTime = 30 * time.Second       // for the ready line once the guest has connected
	askFirst  = 20 * time.Millisecond  // between two questions whether an agent serves
	askLast   = 500 * time.Millisecond // it grows up to this
	// for an answer; a connection before the guest's driver runs takes the host's kernel 2 s to give up
	askTime = 3 * time.Second
)

// Sandbox is one guest. Its methods may be called from several goroutines.
type Sandbox struct {
	cfg      Config
	plan     *Plan
	log      *slog.Logger
	progress *progress
	vm       machine.VM
	links    machine.Links
	console  *console.Console
	wg       sync.WaitGroup
	over     chan struct{} // closed when the machine has ended, or did not start

	stop     func() error
	reason   panicReason // used by the console alone
	panicked chan string // has the text of the first kernel panic
	ready    chan struct{}
	isReady  sync.Once     // of ready
	waits    chan struct{} // closed when the guest waits to be woken
	isWait   sync.Once     // of waits
	unwoken  chan error    // has why the guest was not woken
	memory   *os.File      // of a guest that is to be saved
	boot     *trace.Span   // of Start; nil without one
	booted   []guest.Booted
	files    func() ([]verdict.Claim, error) // of the manifest's files; the first call compares

	why   sync.Once
	ended error // guarded by why
}

// Start boots a guest and returns when its agent is ready. ctx bounds the start only. A guest that does not come up is
// a *StageError, and nothing of it is left. A file that is not what the manifest says is a *digest.Mismatch, and
// nothing was started.
func Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	began := time.Now()
	plan, err := NewPlan(cfg)
	if err != nil {
		return nil, err
	}
	return start(ctx, cfg, plan, began)
}

// Start boots the guest that was planned of cfg; see the function Start.
func (p *Plan) Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	return start(ctx, cfg, p, time.Now())
}

func start(ctx context.Context, cfg Config, plan *Plan, began time.Time) (_ *Sandbox, err error) {
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready within %v", timeout))
	defer cancel()
	s := &Sandbox{
		cfg: cfg, plan: plan, log: cfg.Log,
		progress: &progress{start: began, onStage: cfg.OnStage, foreign: !cfg.Guest.Described()},
		panicked: make(chan string, 1), ready: make(chan struct{}), over: make(chan struct{}),
		waits: make(chan struct{}), unwoken: make(chan error, 1),
	}
	ctx, s.boot = trace.Start(ctx, "boot")
	defer func() { s.boot.End(err) }()
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log.Info(plan.Accel.Reason)
	s.log.Info(plan.Vsock.Reason)
	s.stop = sync.OnceValue(s.stopOnce)
	if err := s.launch(ctx); err != nil {
		if e, ok := errors.AsType[*machine.StartError](err); ok {
			err = &StageError{Stage: stageVMM, Cause: err, Command: plan.Command(), Argv: e.Argv}
		}
		return nil, errors.Join(err, s.stop())
	}
	if err := s.await(ctx); err != nil {
		s.catchUp()
		e := &StageError{Stage: s.progress.failed(), Cause: err, Command: plan.Command(), Argv: s.Argv()}
		stopErr := s.stop()
		e.Console = s.console.Lines(consoleLines)
		return nil, errors.Join(e, stopErr)
	}
	traceStages(s.boot, began, s.Timeline())
	return s, nil
}

// launch opens the guest's files and starts the machine.
func (s *Sandbox) launch(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			close(s.over)
		}
	}()
	if s.cfg.Held != nil {
		return s.adopt(ctx)
	}
	files, err := s.cfg.Guest.Open()
	if err != nil {
		return err
	}
	defer files.Close() //nolint:errcheck // the machine has its own, or nobody needs them
	s.booted = files.Booted
	o := machine.Start{Kernel: files.Kernel, Initrd: files.Initrd, Netns: s.cfg.Netns, Hybrid: s.cfg.Hybrid,
		Log: s.log, Linked: func(l machine.Links) error { return s.linked(ctx, l) }, Hold: s.cfg.hold}
	if files.Image != nil {
		o.Disks = append(o.Disks, machine.OpenDisk{File: files.Image, InPlace: files.ImageInPlace})
	}
	for _, e := range s.cfg.Extensions {
		// Nobody tells the host what an extension must be: the root hash tells the guest. But what the machine reads
		// does not change any more.
		image, sum, err := sealed.Copy(e.Path(), -1)
		if err != nil {
			return fmt.Errorf("extension %s: %w", e.Name, err)
		}
		defer image.Close() //nolint:errcheck // as the files
		s.log.Info("an extension is attached", "extension", e.Name, "image", sum, "root_hash", e.Params.RootHash)
		o.Disks = append(o.Disks, machine.OpenDisk{File: image})
	}
	if s.cfg.Template {
		if err := s.giveMemory(&o); err != nil {
			return err
		}
	}
	s.compareFiles(files.Checked)
	s.progress.event("checked")
	_, span := trace.Start(ctx, "hypervisor/start")
	s.vm, err = s.cfg.Hypervisor.Start(ctx, s.plan.Machine, o)
	span.End(err)
	if err != nil {
		return err
	}
	s.runs(ctx)
	return nil
}

// runs looks after a machine that was started.
func (s *Sandbox) runs(ctx context.Context) {
	s.wg.Go(func() {
		<-s.vm.Done()
		close(s.over)
	})
	switch {
	case s.cfg.hold:
	case s.cfg.Held != nil:
		s.progress.event("adopted")
		s.wg.Go(func() { s.wake(ctx) })
	case s.cfg.Saved != nil:
		s.progress.event("restored")
		s.wg.Go(func() { s.wake(ctx) })
	}
	s.wg.Go(func() {
		select {
		case <-s.vm.Answers():
			s.progress.reach(stageVMM)
		case <-s.over:
		}
	})
}

// linked listens to everything that the machine will say. It has not begun yet.
func (s *Sandbox) linked(ctx context.Context, l machine.Links) error {
	s.links = l
	s.console = console.New(l.Console, console.Options{
		Copy:   s.cfg.Console,
		OnByte: func() { s.progress.reach(stageKernel) },
		OnLine: s.consoleLine,
	})
	if l.Told {
		s.wg.Go(func() {
			select {
			case <-l.Driver:
				s.progress.reach(stageTransport)
			case <-s.over:
			}
		})
	}
	ready, err := l.Channel.Listen(agentapi.ReadyPort)
	if err != nil {
		return err
	}
	s.wg.Go(func() { s.awaitReady(ready) })
	if s.cfg.Serves != nil {
		s.wg.Go(func() { s.ask(ctx) })
	}
	return nil
}

func (s *Sandbox) consoleLine(line string) {
	if strings.Contains(line, agentapi.InitLine) {
		s.progress.reach(stageInit)
	}
	if strings.Contains(line, agentapi.WaitLine) {
		s.isWait.Do(func() { close(s.waits) })
	}
	if text := s.reason.read(line); text != "" {
		select {
		case s.panicked <- text:
		default: // the first one is the reason
		}
	}
}

// serves notes that the agent serves.
func (s *Sandbox) serves() {
	s.isReady.Do(func() {
		s.progress.reach(stageAgent)
		close(s.ready)
	})
}

// ask asks an agent that does not say by itself that it serves, until it does, ctx ends, or the guest does. It begins
// when the guest's driver runs.
func (s *Sandbox) ask(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.wg.Go(func() {
		select {
		case <-s.over:
			cancel()
		case <-ctx.Done():
		}
	})
	select {
	case <-s.links.Driver:
	case <-ctx.Done():
		return
	}
	for pause := askFirst; ; pause = min(2*pause, askLast) {
		err := s.askOnce(ctx)
		if err == nil {
			s.serves()
			return
		}
		s.log.Debug("the agent does not serve yet", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (s *Sandbox) askOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := s.Dial(ctx, agentapi.Port)
	if err != nil {
		return err
	}
	err = s.cfg.Serves(ctx, c)
	return errors.Join(err, c.Close())
}

// awaitReady waits for the agent's word. Whoever else connects is hung up on.
func (s *Sandbox) awaitReady(l net.Listener) {
	defer l.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return // the sandbox stops
		}
		line := make([]byte, len(agentapi.ReadyLine))
		err = c.SetReadDeadline(time.Now().Add(readyTime))
		if err == nil {
			_, err = io.ReadFull(c, line)
		}
		_ = c.Close() // nothing was written to it
		if err == nil && string(line) == agentapi.ReadyLine {
			s.serves()
			return
		}
		s.log.Warn("guest said something else than ready", "said", printable.Clean(line), "err", err)
	}
}

// await waits until the guest is ready or cannot become it any more.
func (s *Sandbox) await(ctx context.Context) error {
	waits := s.waits
	if !s.saves() {
		waits = nil
	}
	if s.cfg.hold && s.cfg.Saved != nil { // it stands still, where it waited
		waits = make(chan struct{})
		close(waits)
	}
	select {
	case <-s.ready:
		if s.saves() {
			return errServes
		}
		return nil
	case <-waits:
		s.progress.event("waits")
		return nil
	case err := <-s.unwoken:
		return err
	case <-s.vm.Done():
		return s.whyEnded()
	case text := <-s.panicked:
		select {
		case <-s.vm.Done():
			s.drain()
		case <-time.After(panicTime):
		}
		return &panicError{text}
	case <-ctx.Done():
		if broken := s.links.Broken(); broken != nil {
			return fmt.Errorf("%w (the guest's driver broke the vsock device: %w)", context.Cause(ctx), broken)
		}
		return context.Cause(ctx)
	}
}

// catchUp notes what has happened, and whoever waits for it has not been told yet.
func (s *Sandbox) catchUp() {
	for stage, happened := range map[Stage]<-chan struct{}{stageVMM: s.vm.Answers(), stageTransport: s.links.Driver} {
		if stage == stageTransport && !s.links.Told {
			continue
		}
		select {
		case <-happened:
			s.progress.reach(stage)
		default:
		}
	}
}

// drain waits for the console's last bytes of a machine that has ended.
func (s *Sandbox) drain() {
	select {
	case <-s.console.Done():
	case <-time.After(lastWords):
	}
}

// whyEnded is why the machine, and so the guest, ended.
func (s *Sandbox) whyEnded() error {
	s.drain()
	select {
	case text := <-s.panicked:
		return &panicError{text}
	default:
	}
	return s.vm.Why()
}

// Dial connects to a port of the guest.
func (s *Sandbox) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return s.links.Channel.Dial(ctx, port)
}

// Listen accepts connections that the guest makes to a port of the host.
func (s *Sandbox) Listen(port uint32) (net.Listener, error) { return s.links.Channel.Listen(port) }

// Plan is what was decided at the start.
func (s *Sandbox) Plan() *Plan { return s.plan }

// Files are those that a plain guest was booted from; none where there is a manifest.
func (s *Sandbox) Files() []guest.Booted { return s.booted }

// Argv is the hypervisor's command line as it was started.
func (s *Sandbox) Argv() []string { return s.vm.Process().Argv }

// PID is the hypervisor's process id.
func (s *Sandbox) PID() int { return s.vm.Process().PID }

// Timeline is what the host saw, in order of time.
func (s *Sandbox) Timeline() []Moment { return s.progress.timeline() }

// Console is the last n lines of the console, cleaned. It works after Stop as well.
func (s *Sandbox) Console(n int) []string { return s.console.Lines(n) }

// Why is why the guest ended: a *panicError, or the hypervisor's error. It is nil while the guest runs.
func (s *Sandbox) Why() error {
	select {
	case <-s.vm.Done():
	default:
		return nil
	}
	s.why.Do(func() { s.ended = s.whyEnded() })
	return s.ended
}

// Done is closed when the machine has ended, by Stop or by itself.
func (s *Sandbox) Done() <-chan struct{} { return s.vm.Done() }

// Stop ends the guest and waits for it, some seconds at most. Nothing of it is left then but what Console and Timeline
// tell. The guest is not asked: have the agent shut it down first where that matters. Calling it again is a no-op.
func (s *Sandbox) Stop() error { return s.stop() }

func (s *Sandbox) stopOnce() error {
	var errs []error
	if s.vm != nil {
		errs = append(errs, s.vm.Stop())
	}
	if s.console != nil {
		if s.vm != nil {
			s.drain()
		}
		errs = append(errs, s.console.Close())
	}
	s.wg.Wait()
	if s.memory != nil {
		errs = append(errs, s.memory.Close())
	}
	return errors.Join(errs...)
}

// PlugDisk gives the running guest a disk; see machine.Plugger. A machine that takes nothing has no place for it.
func (s *Sandbox) PlugDisk(ctx context.Context, d machine.Disk) (_ *machine.Plugged, err error) {
	ctx, span := trace.Start(ctx, "hypervisor/plug disk")
	defer func() { span.End(err) }()
	if p, ok := s.vm.(machine.Plugger); ok {
		return p.PlugDisk(ctx, d)
	}
	return nil, fmt.Errorf("plug in %s: %w", d.Path, machine.ErrNoPlace)
}

// UnplugDisk takes away a disk that PlugDisk gave; see machine.Plugger.
func (s *Sandbox) UnplugDisk(ctx context.Context, d *machine.Plugged) error {
	if p, ok := s.vm.(machine.Plugger); ok {
		return p.UnplugDisk(ctx, d)
	}
	return fmt.Errorf("unplug the disk at %s: %w", d.PCIPath, machine.ErrNoPlace)
}

// ResizeDisk tells the guest how large a disk is that PlugDisk gave; see machine.Resizer.
func (s *Sandbox) ResizeDisk(ctx context.Context, d *machine.Plugged, size int64) error {
	if r, ok := s.vm.(machine.Resizer); ok {
		return r.ResizeDisk(ctx, d, size)
	}
	return fmt.Errorf("resize the disk at %s: this hypervisor's disks do not grow", d.PCIPath)
}

// PlugNIC gives the running guest a network interface; see machine.Plugger.
func (s *Sandbox) PlugNIC(ctx context.Context, n machine.NIC) (pciPath string, err error) {
	ctx, span := trace.Start(ctx, "hypervisor/plug interface")
	defer func() { span.End(err) }()
	if p, ok := s.vm.(machine.Plugger); ok {
		return p.PlugNIC(ctx, n)
	}
	return "", fmt.Errorf("plug in the interface %s: %w", n.MAC, machine.ErrNoPlace)
}

// Passed says where the guest finds the devices of the host that it has from the start; see machine.Passer.
func (s *Sandbox) Passed() []string {
	if p, ok := s.vm.(machine.Passer); ok {
		return p.Passed()
	}
	return nil
}

// Pass gives the running guest a device of the host; see machine.Passer.
func (s *Sandbox) Pass(ctx context.Context, d machine.HostDevice) (pciPath string, err error) {
	ctx, span := trace.Start(ctx, "hypervisor/pass device")
	defer func() { span.End(err) }()
	if p, ok := s.vm.(machine.Passer); ok {
		return p.Pass(ctx, d)
	}
	return "", fmt.Errorf("pass the host's device %s: %w", d.Name, machine.ErrNoPlace)
}

// PlugShare gives the running guest a shared folder; see machine.SharePlugger.
func (s *Sandbox) PlugShare(ctx context.Context, f machine.Share) (err error) {
	ctx, span := trace.Start(ctx, "hypervisor/plug share")
	defer func() { span.End(err) }()
	if p, ok := s.vm.(machine.SharePlugger); ok {
		return p.PlugShare(ctx, f)
	}
	return fmt.Errorf("plug in the shared folder %s: %w", f.Tag, machine.ErrNoPlace)
}

// Size is what the machine has now.
func (s *Sandbox) Size() machine.Size {
	if g, ok := s.vm.(machine.Grower); ok {
		return g.Size()
	}
	return s.plan.Machine.Size()
}

// Grow makes the machine larger; see machine.Grower. One that cannot grow at all is machine.ErrNoGrowth, unless it has
// what is wanted.
func (s *Sandbox) Grow(ctx context.Context, want machine.Size) (_ machine.Size, err error) {
	ctx, span := trace.Start(ctx, "hypervisor/grow")
	defer func() { span.End(err) }()
	if g, ok := s.vm.(machine.Grower); ok {
		return g.Grow(ctx, want)
	}
	if has := s.Size(); want.CPUs <= has.CPUs && want.MemoryMiB <= has.MemoryMiB {
		return has, nil
	}
	return s.Size(), machine.ErrNoGrowth
}
