// Package machinetest is a hypervisor without a machine: the guest is a function of a test's, the console and the vsock
// are sockets, and whatever is plugged in is written down. All that holds for machine.Hypervisor holds for it, so that
// those who start machines can be tested without one.
//
// It fails loudly: what it does not know is an error, and a guest that outlives its machine stops the test.
package machinetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/machine"
)

// stopTime bounds how long a guest may go on once its machine has ended.
const stopTime = 5 * time.Second

// Hypervisor runs a test's guests. The zero value has one that does nothing.
type Hypervisor struct {
	// Guest is what runs in a machine, in a goroutine of its own, from the start to the machine's end. When it returns
	// first, the guest has shut down. Nil waits for the end.
	Guest func(*Inside)
	// StartError, when not nil, is why no machine starts.
	StartError error
	// Mute leaves VM.Answers open.
	Mute bool
	// Fixed makes machines that can neither grow nor be plugged into: neither machine.Plugger nor machine.Grower.
	Fixed bool
	// PlugError, when not nil, is why nothing can be plugged into a machine of a template.
	PlugError error

	mu  sync.Mutex
	vms []*VM // guarded by mu
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// VMs are the machines that were started, in order.
func (h *Hypervisor) VMs() []*VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*VM(nil), h.vms...)
}

// twinPlan is what a Spec becomes: itself.
type twinPlan struct{ Spec machine.Spec }

// Command is no program's.
func (p *twinPlan) Command() string { return "machinetest -append '" + p.Spec.CommandLine + "'" }

// Size is what was wanted.
func (p *twinPlan) Size() machine.Size { return p.Spec.Size }

// Kind is the kind that was wanted, or "test".
func (p *twinPlan) Kind() string {
	for _, k := range []string{p.Spec.Kind, p.Spec.DefaultKind} {
		if k != "" {
			return k
		}
	}
	return "test"
}

// Plan takes any machine that has a processor, memory and a kernel.
func (h *Hypervisor) Plan(s machine.Spec) (machine.Plan, error) {
	if s.Size.CPUs < 1 || s.Size.MemoryMiB < 1 || s.Kernel == "" {
		return nil, fmt.Errorf("a machine with %d CPUs, %d MiB of memory and the kernel %q", s.Size.CPUs,
			s.Size.MemoryMiB, s.Kernel)
	}
	return &twinPlan{s}, nil
}

// Start runs the guest.
func (h *Hypervisor) Start(_ context.Context, p machine.Plan, o machine.Start) (machine.VM, error) {
	plan, ok := p.(*twinPlan)
	if !ok {
		return nil, fmt.Errorf("machinetest does not start a %T", p)
	}
	if o.Kernel == nil || o.Linked == nil {
		return nil, errors.New("machinetest: no open kernel, or nobody listens")
	}
	if len(o.Disks) != len(plan.Spec.Disks) {
		return nil, fmt.Errorf("machinetest: %d open disks for %d", len(o.Disks), len(plan.Spec.Disks))
	}
	console, inside, err := pair()
	if err != nil {
		return nil, err
	}
	vm := &VM{Spec: plan.Spec, hypervisor: h, size: plan.Spec.Size, answers: make(chan struct{}),
		done: make(chan struct{}), over: make(chan struct{}), net: newChannel(), free: plan.Spec.Places}
	vm.inside = &Inside{vm: vm, console: inside, driver: make(chan struct{})}
	links := machine.Links{Console: console, Channel: vm.net, Driver: vm.inside.driver, Told: true,
		Broken: func() error { return nil }}
	err = o.Linked(links)
	if err == nil && h.StartError != nil {
		err = &machine.StartError{Cause: h.StartError, Argv: []string{"machinetest"}}
	}
	if err != nil {
		return nil, errors.Join(err, vm.net.Close(), inside.Close())
	}
	h.mu.Lock()
	h.vms = append(h.vms, vm)
	h.mu.Unlock()
	if !h.Mute {
		close(vm.answers)
	}
	go vm.run(h.Guest)
	if h.Fixed {
		return fixed{vm}, nil
	}
	return vm, nil
}

// fixed hides what not every machine can do.
type fixed struct{ machine.VM }

// VM is one machine.
type VM struct {
	Spec machine.Spec

	hypervisor *Hypervisor

	inside  *Inside
	net     *channel
	answers chan struct{}
	over    chan struct{} // closed when the machine is to end
	end     sync.Once     // of over
	done    chan struct{} // closed when it has ended

	mu    sync.Mutex // guards what follows
	why   error
	size  machine.Size
	free  int // places
	disks map[*machine.Plugged]machine.Disk
	nics  []machine.NIC

	passed []machine.HostDevice
}

var (
	_ machine.VM      = (*VM)(nil)
	_ machine.Plugger = (*VM)(nil)
	_ machine.Grower  = (*VM)(nil)

	_ machine.SharePlugger = (*VM)(nil)
	_ machine.Passer       = (*VM)(nil)
)

func (v *VM) run(guest func(*Inside)) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if guest != nil {
			guest(v.inside)
			return
		}
		<-v.over
	}()
	select {
	case <-ended:
		v.finish(machine.ErrGuestEnded)
	case <-v.over:
	}
	_ = v.net.Close() // wakes a guest that waits for its host
	select {
	case <-ended:
	case <-time.After(stopTime):
		panic("machinetest: the guest goes on after its machine has ended; have it return when Inside.Over is closed")
	}
	_ = v.inside.console.Close() // its own end
	close(v.done)
}

// finish ends the machine for a reason, unless it has ended already.
func (v *VM) finish(why error) {
	v.end.Do(func() {
		v.mu.Lock()
		v.why = why
		v.mu.Unlock()
		close(v.over)
	})
}

// Process is this process.
func (v *VM) Process() machine.Process {
	return machine.Process{PID: os.Getpid(), Argv: []string{"machinetest", "-append", v.Spec.CommandLine}}
}

// Answers is closed from the start, unless the Hypervisor is Mute.
func (v *VM) Answers() <-chan struct{} { return v.answers }

// Done is closed when the machine has ended.
func (v *VM) Done() <-chan struct{} { return v.done }

// Why is why it ended.
func (v *VM) Why() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.why
}

// Stop ends the machine and waits for the guest.
func (v *VM) Stop() error {
	v.finish(errors.New("machinetest: stopped"))
	<-v.done
	return nil
}

// PlugDisk writes a disk down, at the next place.
func (v *VM) PlugDisk(_ context.Context, d machine.Disk) (*machine.Plugged, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.free == 0 {
		return nil, fmt.Errorf("plug in %s: %w", d.Path, machine.ErrNoPlace)
	}
	if err := v.takes("the disk " + d.Path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(d.Path); err != nil {
		return nil, err
	}
	v.free--
	p := &machine.Plugged{PCIPath: fmt.Sprintf("%02x.0/00", 0x10+v.free), Place: v}
	if v.disks == nil {
		v.disks = map[*machine.Plugged]machine.Disk{}
	}
	v.disks[p] = d
	return p, nil
}

// UnplugDisk takes a disk away that PlugDisk gave.
func (v *VM) UnplugDisk(_ context.Context, p *machine.Plugged) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, there := v.disks[p]; !there {
		return fmt.Errorf("machinetest: no disk at %s", p.PCIPath)
	}
	delete(v.disks, p)
	v.free++
	return nil
}

// PlugNIC writes an interface down.
func (v *VM) PlugNIC(_ context.Context, n machine.NIC) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.free == 0 {
		return "", fmt.Errorf("plug in the interface %s: %w", n.MAC, machine.ErrNoPlace)
	}
	if err := v.takes("the interface " + n.MAC); err != nil {
		return "", err
	}
	v.free--
	v.nics = append(v.nics, n)
	return fmt.Sprintf("%02x.0/00", 0x10+v.free), nil
}

// Passed says where the devices of Spec.Passed are.
func (v *VM) Passed() []string {
	var out []string
	for i := range v.Spec.Passed {
		out = append(out, fmt.Sprintf("%02x.0/00", i))
	}
	return out
}

// Pass writes a device of the host down.
func (v *VM) Pass(_ context.Context, d machine.HostDevice) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.Spec.Passing.Later {
		return "", fmt.Errorf("machinetest: the machine takes no %s", d.Name)
	}
	if v.free == 0 {
		return "", fmt.Errorf("pass %s: %w", d.Name, machine.ErrNoPlace)
	}
	v.free--
	v.passed = append(v.passed, d)
	return fmt.Sprintf("%02x.0/00", 0x10+v.free), nil
}

// Later are the devices of the host that were passed, in order.
func (v *VM) Later() []machine.HostDevice {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]machine.HostDevice(nil), v.passed...)
}

// PlugShare takes a shared folder.
func (v *VM) PlugShare(_ context.Context, s machine.Share) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.takes("the shared folder " + s.Tag)
}

// takes says why nothing can be plugged into the machine.
func (v *VM) takes(what string) error {
	if v.hypervisor.PlugError == nil || !v.Spec.Template {
		return nil
	}
	return fmt.Errorf("plug in %s: %w", what, v.hypervisor.PlugError)
}

// Disks are those that are plugged in now, in no order.
func (v *VM) Disks() []machine.Disk {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []machine.Disk
	for _, d := range v.disks {
		out = append(out, d)
	}
	return out
}

// NICs are the interfaces that were plugged in, in order.
func (v *VM) NICs() []machine.NIC {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]machine.NIC(nil), v.nics...)
}

// Size is what the machine has now.
func (v *VM) Size() machine.Size {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.size
}

// Grow gives the machine what is wanted, up to Spec.Max.
func (v *VM) Grow(_ context.Context, want machine.Size) (machine.Size, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	most := machine.Size{CPUs: max(v.Spec.Max.CPUs, v.size.CPUs), MemoryMiB: max(v.Spec.Max.MemoryMiB,
		v.size.MemoryMiB)}
	var err error
	if want.CPUs > most.CPUs || want.MemoryMiB > most.MemoryMiB {
		err = fmt.Errorf("%w: %+v is wanted, and %+v can be had", machine.ErrNoGrowth, want, most)
	}
	v.size.CPUs = max(v.size.CPUs, min(want.CPUs, most.CPUs))
	v.size.MemoryMiB = max(v.size.MemoryMiB, min(want.MemoryMiB, most.MemoryMiB))
	return v.size, err
}

// Inside is the machine as its guest sees it.
type Inside struct {
	vm      *VM
	console net.Conn
	driver  chan struct{}
	up      sync.Once
}

// Spec is what the machine was started as.
func (i *Inside) Spec() machine.Spec { return i.vm.Spec }

// Say writes a line on the console. A host that does not read it any more has ended the machine.
func (i *Inside) Say(line string) {
	_, _ = i.console.Write([]byte(strings.TrimSuffix(line, "\n") + "\r\n"))
}

// drive says that the guest's vsock driver runs. Calling it again is a no-op.
func (i *Inside) drive() { i.up.Do(func() { close(i.driver) }) }

// Listen accepts the host's connections to a port of the guest. The driver runs then.
func (i *Inside) Listen(port uint32) (net.Listener, error) {
	i.drive()
	return i.vm.net.guest.listen(port)
}

// Dial connects to a port of the host. The driver runs then.
func (i *Inside) Dial(port uint32) (net.Conn, error) {
	i.drive()
	return i.vm.net.host.dial(port)
}

// Over is closed when the machine ends, and the guest must return.
func (i *Inside) Over() <-chan struct{} { return i.vm.over }

// Crash ends the machine for a reason, as a hypervisor that fails.
func (i *Inside) Crash(why error) { i.vm.finish(why) }

// channel is the vsock of one machine.
type channel struct{ host, guest *ports }

func newChannel() *channel {
	return &channel{host: &ports{at: map[uint32]*listener{}}, guest: &ports{at: map[uint32]*listener{}}}
}

// CID is the first that a guest may have.
func (c *channel) CID() uint32 { return 3 }

// Dial connects to a port of the guest.
func (c *channel) Dial(_ context.Context, port uint32) (net.Conn, error) { return c.guest.dial(port) }

// Listen accepts the guest's connections to a port of the host.
func (c *channel) Listen(port uint32) (net.Listener, error) { return c.host.listen(port) }

// Close ends all connections and listeners.
func (c *channel) Close() error {
	c.host.close()
	c.guest.close()
	return nil
}

// ports are the listeners of one side, and the connections to them.
type ports struct {
	mu     sync.Mutex // guards what follows
	at     map[uint32]*listener
	conns  []net.Conn
	closed bool
}

func (p *ports) listen(port uint32) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, net.ErrClosed
	case p.at[port] != nil:
		return nil, fmt.Errorf("listen on port %d: %w", port, syscall.EADDRINUSE)
	}
	l := &listener{ports: p, port: port, conns: make(chan net.Conn, 16), closed: make(chan struct{})}
	p.at[port] = l
	return l, nil
}

func (p *ports) dial(port uint32) (net.Conn, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at[port]
	if l == nil || p.closed {
		return nil, errors.Join(fmt.Errorf("dial port %d: %w", port, syscall.ECONNREFUSED), ours.Close(),
			theirs.Close())
	}
	select {
	case l.conns <- theirs:
		p.conns = append(p.conns, ours, theirs)
		return ours, nil
	default:
		return nil, errors.Join(fmt.Errorf("machinetest: nobody accepts on port %d", port), ours.Close(),
			theirs.Close())
	}
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range p.at {
		l.end.Do(func() { close(l.closed) })
	}
	for _, c := range p.conns {
		_ = c.Close() // the machine has ended
	}
}

// listener is a net.Listener of ports.
type listener struct {
	ports  *ports
	port   uint32
	conns  chan net.Conn
	closed chan struct{}
	end    sync.Once // of closed
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.end.Do(func() { close(l.closed) })
	l.ports.mu.Lock()
	defer l.ports.mu.Unlock()
	if l.ports.at[l.port] == l {
		delete(l.ports.at, l.port)
	}
	return nil
}

func (l *listener) Addr() net.Addr {
	return &net.UnixAddr{Name: fmt.Sprint("port ", l.port), Net: "vsock"}
}

// pair is a connection with both its ends.
func pair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "machinetest")
		c, cerr := net.FileConn(f)
		err = errors.Join(err, cerr, f.Close())
		ends[i] = c
	}
	return ends[0], ends[1], err
}
