package qemu

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
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// Times that bound waiting for what should be immediate.
const (
	stopTime  = 3 * time.Second        // for QEMU to quit
	lastWords = 500 * time.Millisecond // for the monitor's last bytes after QEMU ended
)

// VM is a QEMU that was started.
//
// Locks: growing and ports are each taken alone, and neither while the other is held.
type VM struct {
	plan    *Plan
	argv    []string
	log     *slog.Logger
	process process
	channel vsock.Transport
	device  *os.File // the end of our own vsock back end that a restored machine gets
	console *os.File // the end of the console of a machine that is to be held
	second  *os.File // and of its second monitor
	wg      sync.WaitGroup
	stop    func() error

	monitor chan *qmp.Client // has the client once there is one; whoever takes it puts it back
	answers chan struct{}

	why   sync.Once
	ended error // guarded by why

	ports    sync.Mutex
	plugged  []bool // root ports that are taken; guarded by ports
	switched []bool // places of the switch that are taken; guarded by ports

	growing sync.Mutex   // held while the machine grows; guards what follows
	grown   machine.Size // beyond what it was started with
	dimms   int          // memory slots that are taken
}

// process is QEMU's: a child.Process or a child.Adopted, whose methods are meant.
type process interface {
	PID() int
	Done() <-chan struct{}
	ExitError() error
	Stop(ctx context.Context, quit func(context.Context) error) error
}

var (
	_ machine.VM      = (*VM)(nil)
	_ machine.Plugger = (*VM)(nil)
	_ machine.Grower  = (*VM)(nil)

	_ machine.Saver        = (*VM)(nil)
	_ machine.SharePlugger = (*VM)(nil)
)

// Start starts QEMU.
func (h Hypervisor) Start(ctx context.Context, plan machine.Plan, o machine.Start) (machine.VM, error) {
	p, ok := plan.(*Plan)
	if !ok {
		return nil, fmt.Errorf("QEMU does not start the plan of another hypervisor (%T)", plan)
	}
	v := &VM{plan: p, log: o.Log, monitor: make(chan *qmp.Client, 1), answers: make(chan struct{})}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.stop = sync.OnceValue(v.stopOnce)
	if err := v.start(ctx, h, o); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

// start makes what leads to QEMU, and starts it.
func (v *VM) start(ctx context.Context, h Hypervisor, o machine.Start) (err error) {
	with := &child.Inheritance{}
	defer with.Close()
	q := v.plan.Config
	if err := handFiles(&q, v.plan.spec, o, with); err != nil {
		return err
	}
	if q.Template {
		fd, err := with.Lend(o.Memory)
		if err != nil {
			return err
		}
		q.Memory, q.Incoming = child.Path(fd), o.State != nil
	}
	monitor, monitorChild, err := child.SocketPair("monitor")
	if err != nil {
		return err
	}
	q.Monitor = inherited(with.Add(monitorChild))
	defer func() {
		if err != nil {
			_ = monitor.Close()
		}
	}()
	serial, serialChild, err := child.SocketPair("console")
	if err != nil {
		return err
	}
	q.Console = inherited(with.Add(serialChild))
	if o.Hold {
		if err := v.prepareHold(&q, with, serial); err != nil {
			return errors.Join(err, serial.Close())
		}
	}
	links := machine.Links{Console: serial}
	if err := v.link(&q, o, with, &links); err != nil {
		return errors.Join(err, serial.Close())
	}
	if h.NoVsock || q.Template {
		q.Vsock = Vsock{}
	}
	if err := o.Linked(links); err != nil {
		return err
	}
	v.argv = q.argv()
	if len(q.Passed) > 0 { // it has them before it could be told more
		before, err := lockMemory(0, unlimited)
		if err != nil {
			return err
		}
		defer func() { _, _ = lockMemory(0, before) }() // which was allowed before
	}
	started, err := child.StartIn("QEMU", v.argv, with.Files(), child.Options{Netns: o.Netns, Isolation: Isolation(q)})
	if err != nil {
		return &machine.StartError{Cause: err, Argv: v.argv}
	}
	v.process = started
	for _, m := range started.Missing() {
		v.log.Warn("QEMU lacks " + m)
	}
	if o.State != nil {
		return v.restore(ctx, monitor, func() error { return v.resume(ctx, o.State, o.Hold) })
	}
	v.wg.Go(func() {
		c, err := qmp.New(ctx, monitor)
		if err != nil {
			v.log.Debug("monitor", "err", err)
			return // QEMU has ended, and says itself why; or ctx has
		}
		v.monitor <- c
		close(v.answers)
	})
	return nil
}

// handFiles gives QEMU the guest's files, the sockets of its shares and its taps, by their numbers.
func handFiles(q *Config, s machine.Spec, o machine.Start, with *child.Inheritance) error {
	fd, err := with.Lend(o.Kernel)
	if err != nil {
		return err
	}
	q.Kernel = child.Path(fd)
	if o.Initrd != nil {
		if fd, err = with.Lend(o.Initrd); err != nil {
			return err
		}
		q.Initrd = child.Path(fd)
	}
	q.Disks = slices.Clone(q.Disks)
	for i, d := range o.Disks {
		if fd, err = with.Lend(d.File); err != nil {
			return err
		}
		q.Disks[i].Path = child.Path(fd)
		if d.InPlace && !q.Disks[i].NVDIMM {
			// The file itself: QEMU's user may not be one who may open it. What is sealed is everybody's.
			q.Inherited = append(q.Inherited, fd)
			q.Disks[i].Path = inheritedFile(fd)
		}
	}
	q.FileSystems = slices.Clone(q.FileSystems)
	for i := range q.FileSystems {
		if path := q.FileSystems[i].VirtioFS.socketPath(); path != "" {
			conn, err := connect(path) // which QEMU's user could not
			if err != nil {
				return err
			}
			q.FileSystems[i].VirtioFS = inherited(with.Add(conn))
		}
	}
	q.NICs = slices.Clone(q.NICs)
	for i, n := range s.NICs {
		if n.Socket != "" {
			conn, err := connect(n.Socket) // which QEMU's user could not
			if err != nil {
				return fmt.Errorf("the back end of the interface %s: %w", n.MAC, err)
			}
			q.NICs[i].VhostUser = inherited(with.Add(conn))
			continue
		}
		if q.NICs[i].TapFD, err = with.Lend(n.Tap); err != nil {
			return err
		}
	}
	return nil
}

// link makes the vsock.
func (v *VM) link(q *Config, o machine.Start, with *child.Inheritance, l *machine.Links) error {
	l.Broken = func() error { return nil }
	if v.plan.spec.Channel.Kernel {
		k, err := vsock.NewKernel(rand.Reader)
		if err != nil {
			return err
		}
		v.channel = k
		fd, err := with.Lend(k.File())
		if err != nil {
			return err
		}
		q.Vsock = Vsock{KernelFD: fd, CID: k.CID()}
		now := make(chan struct{}) // the host's kernel does not say when the guest's driver runs
		close(now)
		l.Channel, l.Driver = k, now
		return nil
	}
	d := vsock.NewDevice(v.log)
	v.channel = d
	conn, deviceChild, err := child.SocketPair("vsock")
	if err != nil {
		return err
	}
	if v.plan.spec.Template {
		v.device = deviceChild // plugged in later, or closed at the end
	} else {
		q.Vsock = Vsock{VhostUser: inherited(with.Add(deviceChild))}
	}
	if o.Hybrid != "" {
		if err := d.ServeHybrid(o.Hybrid); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	v.wg.Go(func() {
		if err := d.Serve(conn); err != nil {
			v.log.Warn("vsock device", "err", err)
		}
	})
	l.Channel, l.Driver, l.Told, l.Broken = d, d.Up(), true, d.Broken
	return nil
}

// Process is QEMU's.
func (v *VM) Process() machine.Process { return machine.Process{PID: v.process.PID(), Argv: v.argv} }

// Answers is closed once QEMU answers on its monitor.
func (v *VM) Answers() <-chan struct{} { return v.answers }

// Done is closed when QEMU has ended.
func (v *VM) Done() <-chan struct{} { return v.process.Done() }

// Why is why QEMU ended.
func (v *VM) Why() error {
	v.why.Do(func() {
		v.ended = v.process.ExitError()
		if v.ended == nil {
			v.ended = machine.ErrGuestEnded
			if reason := v.shutdownReason(); reason != "" {
				v.ended = fmt.Errorf("%w: %s", machine.ErrGuestEnded, reason)
			}
		}
	})
	return v.ended
}

// shutdownReason is the reason in QEMU's SHUTDOWN event, or empty. QEMU has ended.
func (v *VM) shutdownReason() string {
	select {
	case c := <-v.monitor:
		defer func() { v.monitor <- c }()
		select {
		case <-c.Done():
		case <-time.After(lastWords):
		}
		for {
			select {
			case e := <-c.Events():
				var data struct{ Reason string }
				if e.Name == "SHUTDOWN" && json.Unmarshal(e.Data, &data) == nil {
					return printable.Clean([]byte(data.Reason))
				}
			default:
				return ""
			}
		}
	default:
		return ""
	}
}

// Stop ends QEMU.
func (v *VM) Stop() error { return v.stop() }

func (v *VM) stopOnce() error {
	var errs []error
	if v.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		errs = append(errs, v.process.Stop(ctx, v.quit))
		cancel()
	}
	select {
	case c := <-v.monitor:
		errs = append(errs, c.Close())
	default:
	}
	for _, f := range []*os.File{v.device, v.console, v.second} {
		if f != nil {
			_ = f.Close() // nothing was written to it
		}
	}
	if v.channel != nil {
		errs = append(errs, v.channel.Close())
	}
	v.wg.Wait()
	return errors.Join(errs...)
}

// quit asks QEMU to end.
func (v *VM) quit(ctx context.Context) error {
	select {
	case c := <-v.monitor:
		_, err := c.Execute(ctx, qmp.Command{Name: "quit"})
		v.monitor <- c
		if errors.Is(err, io.EOF) {
			return nil // it was faster than its answer
		}
		return err
	default:
		return errors.New("QEMU has not answered yet")
	}
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
