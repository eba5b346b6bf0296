// Package sandbox boots one guest and keeps it.
//
// In come a manifest with its files and a Config; out comes a running guest that has said it is ready, or one error
// that names the stage at which it failed, with the console's last words. It refuses to know what the agent serves: it
// hands out connections. A guest may also be plain files, of which nobody says what they must be; otherwise every byte
// that the guest boots has been checked against the manifest, and cannot change between the check and its use: kernel
// and initrd are copies that nobody can write, and a disk behind dm-verity is refused by the guest itself, block by
// block, when it changes.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/console"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// consoleLines is how many of the console's last lines an error carries.
const consoleLines = 30

// Times that bound waiting for what should be immediate.
const (
	panicTime = 500 * time.Millisecond // for the rest of a panic's text, where the kernel does not reboot by itself
	lastWords = 500 * time.Millisecond // for the console's and the monitor's last bytes after QEMU ended
	readyTime = 5 * time.Second        // for the ready line once the guest has connected
	stopTime  = 3 * time.Second        // for QEMU to quit
	askFirst  = 20 * time.Millisecond  // between two questions whether an agent serves
	askLast   = 500 * time.Millisecond // it grows up to this
	// for an answer; a connection before the guest's driver runs takes the host's kernel 2 s to give up
	askTime     = 3 * time.Second
	childFDBase = 3 // the first file that a child inherits beside its standard ones
)

// Sandbox is one guest. Its methods may be called from several goroutines.
type Sandbox struct {
	plan     *Plan
	argv     []string
	log      *slog.Logger
	progress *progress
	process  *child.Process
	console  *console.Console
	channel  vsock.Transport
	wg       sync.WaitGroup

	monitor  chan *qmp.Client // has the client once there is one; whoever takes it puts it back
	stop     func() error
	reason   panicReason // used by the console alone
	panicked chan string // has the text of the first kernel panic
	ready    chan struct{}
	isReady  sync.Once // of ready
	files    []BootedFile

	why   sync.Once
	ended error // guarded by why

	ports   sync.Mutex
	plugged []bool // root ports that are taken; guarded by ports

	growing sync.Mutex // held while the machine grows; guards what follows
	grown   Size       // beyond what it was started with
	dimms   int        // memory slots that are taken
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
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready within %v", timeout))
	defer cancel()

	s := &Sandbox{
		plan: plan, log: cfg.Log, progress: &progress{start: began, onStage: cfg.OnStage, foreign: cfg.Plain != nil},
		monitor: make(chan *qmp.Client, 1), panicked: make(chan string, 1), ready: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log.Info(plan.Accel.Reason)
	s.log.Info(plan.Vsock.Reason)
	s.stop = sync.OnceValue(s.stopOnce)
	if err := s.launch(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.await(ctx); err != nil {
		e := &StageError{Stage: s.progress.failed(), Cause: err, Command: plan.Command(), Argv: s.argv}
		stopErr := s.stop()
		e.Console = s.console.Lines(consoleLines)
		return nil, errors.Join(e, stopErr)
	}
	return s, nil
}

// launch starts QEMU and everything that listens to it.
func (s *Sandbox) launch(ctx context.Context, cfg Config) (err error) {
	var files []*os.File // QEMU's ends, which are ours to close once it has them
	defer func() {
		for _, f := range files {
			_ = f.Close() // QEMU has its own, or nobody needs it
		}
	}()
	inherit := func(f *os.File) int {
		files = append(files, f)
		return childFDBase + len(files) - 1
	}
	byFD := func(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

	q := s.plan.QEMU
	q.Disks = slices.Clone(q.Disks)
	var from *booted
	if cfg.Plain != nil {
		from, err = openPlain(s.plan.guest)
		s.plan.guest.plain.unpacked = nil // the copy is what is booted
	} else {
		from, err = openChecked(cfg)
	}
	if err != nil {
		return err
	}
	s.files = from.files
	q.Kernel = byFD(inherit(from.kernel))
	if from.initrd != nil {
		q.Initrd = byFD(inherit(from.initrd))
	}
	if from.image != nil {
		fd := inherit(from.image)
		q.Disks[0].Path = byFD(fd)
		if flags, err := unix.FcntlInt(from.image.Fd(), unix.F_GETFL, 0); err == nil &&
			flags&unix.O_ACCMODE == unix.O_RDONLY && !q.Disks[0].NVDIMM {
			// The file itself: QEMU's user may not be one who may open it. What is sealed is everybody's.
			q.Inherited = append(q.Inherited, fd)
			q.Disks[0].Path = qemu.InheritedFile(fd)
		}
	}
	for i, e := range cfg.Extensions {
		// Nobody tells the host what an extension must be: the root hash tells the guest. But what QEMU reads does not
		// change any more.
		image, sum, err := sealed(e.image(), -1)
		if err != nil {
			return fmt.Errorf("extension %s: %w", e.Name, err)
		}
		s.log.Info("extension", "name", e.Name, "image", sum, "root hash", e.Params.RootHash)
		q.Disks[len(q.Disks)-len(cfg.Extensions)+i].Path = byFD(inherit(image))
	}
	s.progress.event("checked")
	q.FileSystems = slices.Clone(q.FileSystems)
	for i := range q.FileSystems {
		f := &q.FileSystems[i]
		if path := f.VirtioFS.SocketPath(); path != "" {
			conn, err := connect(path) // which QEMU's user could not
			if err != nil {
				return err
			}
			f.VirtioFS = qemu.Inherited(inherit(conn))
		}
	}
	q.NICs = slices.Clone(q.NICs)
	for i, n := range cfg.NICs {
		tap, err := duplicate(n.Tap)
		if err != nil {
			return err
		}
		q.NICs[i].TapFD = inherit(tap)
	}

	monitor, monitorChild, err := socketPair("monitor")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = monitor.Close()
		}
	}()
	q.Monitor = qemu.Inherited(inherit(monitorChild))
	serial, serialChild, err := socketPair("console")
	if err != nil {
		return err
	}
	q.Console = qemu.Inherited(inherit(serialChild))
	s.console = console.New(serial, console.Options{
		Copy:   cfg.Console,
		OnByte: func() { s.progress.reach(Kernel) },
		OnLine: s.consoleLine,
	})

	up := make(chan struct{})
	var connected <-chan struct{}
	if s.plan.Vsock.Kernel {
		now := make(chan struct{}) // the host's kernel does not say when the guest's driver runs
		close(now)
		connected = now
		k, err := vsock.NewKernel(rand.Reader)
		if err != nil {
			return err
		}
		s.channel = k
		file, err := duplicate(k.File())
		if err != nil {
			return err
		}
		q.Vsock = qemu.Vsock{KernelFD: inherit(file), CID: k.CID()}
	} else {
		d := vsock.NewDevice(s.log)
		s.channel, connected = d, d.Up()
		conn, deviceChild, err := socketPair("vsock")
		if err != nil {
			return err
		}
		q.Vsock = qemu.Vsock{VhostUser: qemu.Inherited(inherit(deviceChild))}
		if cfg.Hybrid != "" {
			if err := d.ServeHybrid(cfg.Hybrid); err != nil {
				_ = conn.Close()
				return err
			}
		}
		s.wg.Go(func() {
			if err := d.Serve(conn); err != nil {
				s.log.Warn("vsock device", "err", err)
			}
		})
		s.wg.Go(func() {
			select {
			case <-d.Up():
				s.progress.reach(Transport)
			case <-up:
			}
		})
	}
	if cfg.withoutVsock {
		q.Vsock = qemu.Vsock{}
	}
	l, err := s.channel.Listen(agentapi.ReadyPort)
	if err != nil {
		close(up)
		return err
	}
	s.wg.Go(func() { s.awaitReady(l) })
	if cfg.Serves != nil {
		s.wg.Go(func() { s.ask(ctx, cfg.Serves, connected, up) })
	}

	s.argv = q.Argv()
	s.process, err = child.StartIn("QEMU", s.argv, files, child.Options{Netns: cfg.Netns, Walls: Walls(q)})
	if err != nil {
		close(up)
		return &StageError{Stage: VMM, Cause: err, Command: s.plan.Command(), Argv: s.argv}
	}
	for _, m := range s.process.Missing() {
		s.log.Warn("QEMU lacks " + m)
	}
	s.wg.Go(func() {
		<-s.process.Done()
		close(up)
	})
	s.wg.Go(func() {
		c, err := qmp.New(ctx, monitor)
		if err != nil {
			s.log.Debug("monitor", "err", err)
			return // QEMU has ended, and says itself why; or ctx has
		}
		s.progress.reach(VMM)
		s.monitor <- c
	})
	return nil
}

func (s *Sandbox) consoleLine(line string) {
	if strings.Contains(line, agentapi.InitLine) {
		s.progress.reach(Init)
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
		s.progress.reach(Agent)
		close(s.ready)
	})
}

// ask asks an agent that does not say by itself that it serves, until it does, ctx ends, or over, the guest's end, is
// closed. It begins when connected is.
func (s *Sandbox) ask(ctx context.Context, serves func(context.Context, net.Conn) error, connected,
	over <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.wg.Go(func() {
		select {
		case <-over:
			cancel()
		case <-ctx.Done():
		}
	})
	select {
	case <-connected:
	case <-ctx.Done():
		return
	}
	for pause := askFirst; ; pause = min(2*pause, askLast) {
		err := s.askOnce(ctx, serves)
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

func (s *Sandbox) askOnce(ctx context.Context, serves func(context.Context, net.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := s.channel.Dial(ctx, agentapi.Port)
	if err != nil {
		return err
	}
	err = serves(ctx, c)
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
		s.log.Warn("guest said something else than ready", "said", console.Clean(line), "err", err)
	}
}

// await waits until the guest is ready or cannot become it any more.
func (s *Sandbox) await(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-s.process.Done():
		return s.whyEnded()
	case text := <-s.panicked:
		select {
		case <-s.process.Done():
			s.drain()
		case <-time.After(panicTime):
		}
		return &PanicError{text}
	case <-ctx.Done():
		if d, ok := s.channel.(*vsock.Device); ok && d.Broken() != nil {
			return fmt.Errorf("%w (the guest's driver broke the vsock device: %w)", context.Cause(ctx), d.Broken())
		}
		return context.Cause(ctx)
	}
}

// drain waits for the console's last bytes of a QEMU that has ended.
func (s *Sandbox) drain() {
	select {
	case <-s.console.Done():
	case <-time.After(lastWords):
	}
}

// whyEnded is why QEMU, and so the guest, ended.
func (s *Sandbox) whyEnded() error {
	s.drain()
	select {
	case text := <-s.panicked:
		return &PanicError{text}
	default:
	}
	if err := s.process.ExitError(); err != nil {
		return err
	}
	if reason := s.shutdownReason(); reason != "" {
		return fmt.Errorf("%w: %s", ErrGuestExited, reason)
	}
	return ErrGuestExited
}

// shutdownReason is the reason in QEMU's SHUTDOWN event, or empty. QEMU has ended.
func (s *Sandbox) shutdownReason() string {
	select {
	case c := <-s.monitor:
		defer func() { s.monitor <- c }()
		select {
		case <-c.Done():
		case <-time.After(lastWords):
		}
		for {
			select {
			case e := <-c.Events():
				var data struct{ Reason string }
				if e.Name == "SHUTDOWN" && json.Unmarshal(e.Data, &data) == nil {
					return console.Clean([]byte(data.Reason))
				}
			default:
				return ""
			}
		}
	default:
		return ""
	}
}

// Dial connects to a port of the guest.
func (s *Sandbox) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return s.channel.Dial(ctx, port)
}

// Listen accepts the guest's connections to a port of the host, until Stop or the listener is closed.
func (s *Sandbox) Listen(port uint32) (net.Listener, error) { return s.channel.Listen(port) }

// Plan is what was decided at the start.
func (s *Sandbox) Plan() *Plan { return s.plan }

// Files are those that a plain guest was booted from; none where there is a manifest.
func (s *Sandbox) Files() []BootedFile { return s.files }

// Argv is QEMU's command line as it was started.
func (s *Sandbox) Argv() []string { return s.argv }

// PID is QEMU's process id.
func (s *Sandbox) PID() int { return s.process.PID() }

// Timeline is what the host saw, in order of time.
func (s *Sandbox) Timeline() []Moment { return s.progress.timeline() }

// Console is the last n lines of the console, cleaned. It works after Stop as well.
func (s *Sandbox) Console(n int) []string { return s.console.Lines(n) }

// Why is why the guest ended: a *PanicError, QEMU's error, or ErrGuestExited. It is nil while the guest runs.
func (s *Sandbox) Why() error {
	select {
	case <-s.process.Done():
	default:
		return nil
	}
	s.why.Do(func() { s.ended = s.whyEnded() })
	return s.ended
}

// Done is closed when QEMU has ended, by Stop or by itself.
func (s *Sandbox) Done() <-chan struct{} { return s.process.Done() }

// Stop ends the guest and waits for it, some seconds at most. Nothing of it is left then but what Console and Timeline
// tell. The guest is not asked: have the agent shut it down first where that matters. Calling it again is a no-op.
func (s *Sandbox) Stop() error { return s.stop() }

func (s *Sandbox) stopOnce() error {
	var errs []error
	if s.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		errs = append(errs, s.process.Stop(ctx, s.quit))
		cancel()
	}
	select {
	case c := <-s.monitor:
		errs = append(errs, c.Close())
	default:
	}
	if s.channel != nil {
		errs = append(errs, s.channel.Close())
	}
	if s.console != nil {
		if s.process != nil {
			s.drain()
		}
		errs = append(errs, s.console.Close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// quit asks QEMU to end.
func (s *Sandbox) quit(ctx context.Context) error {
	select {
	case c := <-s.monitor:
		_, err := c.Execute(ctx, qmp.Command{Name: "quit"})
		s.monitor <- c
		if errors.Is(err, io.EOF) {
			return nil // it was faster than its answer
		}
		return err
	default:
		return errors.New("QEMU has not answered yet")
	}
}

// duplicate is another descriptor of f: QEMU's ends are closed once it has them, and f stays whose it is.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// connect connects to a UNIX socket for a child.
func connect(path string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	f, err := conn.File()
	if err := errors.Join(err, conn.Close()); err != nil {
		return nil, fmt.Errorf("connection to %s: %w", path, err)
	}
	return f, nil
}

// socketPair makes a connection between this process and a child.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for the %s: %w", name, err)
	}
	child := os.NewFile(uintptr(fds[1]), name)
	f := os.NewFile(uintptr(fds[0]), name)
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket pair for the %s: %w", name, err), child.Close())
	}
	return conn.(*net.UnixConn), child, nil
}
