// Package machine has the nouns and contracts of virtual machines: what one is made of, what it can do, and what those
// who start one promise. There is no hypervisor in it; each is a package below runtime/hypervisor.
//
// A Hypervisor decides what a Spec becomes on this host (a Plan, a value), and starts that. What not every machine can
// do is an interface of its own, Plugger and Grower, which a VM may have or not.
package machine

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// Size is what a machine has of processors and memory.
type Size struct {
	CPUs      int
	MemoryMiB int
}

// Spec is one virtual machine as it is wanted.
type Spec struct {
	Name string    // for people, in the list of processes
	Arch arch.Arch // of the guest
	// Kind is the hypervisor's name of a kind of machine, such as q35. One that nobody here knows is its program's to
	// refuse. Empty is DefaultKind.
	Kind string
	// DefaultKind is what the guest was built for, which must be known; empty is what there is for the architecture.
	DefaultKind string
	Size        Size
	// Max is what the machine may grow to, with this many pieces of memory. A machine that cannot grow has Size. The
	// zero value is Size.
	Max         Size
	MemorySlots int
	Places      int // for disks and interfaces that are plugged in later; a machine that has none has none

	Kernel, Initrd string // paths; Initrd may be empty
	CommandLine    string // the kernel's
	Disks          []Disk // in the order in which the guest numbers them
	Shares         []Share
	NICs           []NIC
	RNG            bool // an entropy device
	// Passed are devices of the host that are the guest's from the start, and Passing says how it gets such devices. A
	// hypervisor that has no such devices says so; a machine of a Template has none from the start.
	Passed  []HostDevice
	Passing Passing

	Accel   accel.Accel
	Channel vsock.Choice // which vsock the guest gets
	// VirtualTime counts instructions and lets no time pass while waiting: the same times on every run. It needs
	// emulation and one processor.
	VirtualTime bool
	// Template: the machine is one that is saved, or restored from what was saved. Its memory is Start.Memory, and it
	// starts without channel, shares and interfaces, which are plugged in once it is restored. A hypervisor that is no
	// Templates, and a machine that cannot be that, is an ErrNoTemplate.
	Template  bool
	Program   string // the hypervisor's; empty is what it has for the architecture, found in $PATH
	NoSeccomp bool   // for a program that was built without it
	// What follows is for hypervisors that have it; the configuration of others cannot say it.
	Jailer         string // a program that puts the hypervisor's into a jail; empty is none
	DiskRate       Rate   // of each disk
	RxRate, TxRate Rate   // of each interface, to the guest and from it
}

// Rate bounds what passes through a device. A zero is no bound.
type Rate struct {
	Bytes, BytesBurst int64 // a second, and more of them once, at the beginning
	Ops, OpsBurst     int64 // likewise in requests
}

// Disk is a disk from the machine's start, read-only, or one to plug in.
type Disk struct {
	Path   string // a file or a block device of the host
	Serial string // what the guest calls it by; may be empty

	// What follows is for disks from the start.

	Size   int64 // bytes; needed for an NVDIMM
	NVDIMM bool  // mapped into the guest's address space instead of read block by block

	// What follows is for disks that are plugged in.

	ReadOnly bool
	// Parts are files that are the disk one after the other, and read-only. None: Path is the disk, and otherwise a
	// name for it.
	Parts []Part
}

// Part is a piece of a disk.
type Part struct {
	Path string // a file of the host
	Size int64  // bytes, a multiple of 512
}

// Share is a folder of the host that the guest mounts by its tag.
type Share struct {
	Tag    string
	Socket string // of a virtiofsd that serves the folder
	Path   string // otherwise the hypervisor itself serves this folder by 9p, with the files' own owners and modes
}

// NIC is a network interface of the guest.
type NIC struct {
	MAC string   // 52:54:00:12:34:56
	Tap *os.File // an open tap device; it stays the caller's
	MTU int      // bytes, told to the guest; 0 says nothing
	// Socket is the path of a socket on which a vhost-user back end listens, which moves the packets instead of a tap;
	// a hypervisor that has no such interfaces says so.
	Socket    string
	Queues    int // pairs of queues of an interface with a Socket; 0 is one
	QueueSize int // buffers of a queue; 0 is the hypervisor's own
	// ByName gives the tap up, so that a hypervisor that opens taps by their names in its network namespace can have
	// it, and returns its name. Tap is closed then. Nil: it cannot be had so.
	ByName func() (string, error)
}

// HostDevice is a device of the host that a guest gets by VFIO, which nobody on the host uses then.
type HostDevice struct {
	Group    string // the file of its group, /dev/vfio/7
	Name     string // 0000:01:00.0, or the UUID of a mediated one
	Path     string // its folder in sysfs, without links
	Mediated bool   // a part of a device, made by its driver
}

// Port is where a machine has its places for devices of the host.
type Port string

// The ports, by Kata's names.
const (
	NoPort     Port = ""            // it has none
	RootPort   Port = "root-port"   // places of the root bus, which disks and interfaces take too
	SwitchPort Port = "switch-port" // places of a PCI Express switch
)

// Passing is how a machine gets devices of the host.
type Passing struct {
	Port        Port
	Later       bool // while it runs
	SwitchPorts int  // places of the switch, with SwitchPort; more where the devices from the start are more
	IOMMU       bool // the guest has an IOMMU
	// IOMMUPlatform: the hypervisor's own devices use it.
	IOMMUPlatform bool
}

// Plan is what a Spec becomes. It is a value, and nothing of it lasts.
type Plan interface {
	// Command is a command line to try by hand, ready to paste: the machine with the files where they lie, its console
	// on standard input and output, and without what leads to the process that would start it.
	Command() string
	// Size is what the machine starts with. It may be more than was wanted, where memory comes in larger pieces.
	Size() Size
	// Kind is the kind of machine.
	Kind() string
}

// Appender is a Plan whose hypervisor itself puts words behind the kernel command line.
type Appender interface {
	// Appends is a regular expression for what is behind it then, which may be nothing.
	Appends() string
}

// Hypervisor starts virtual machines.
type Hypervisor interface {
	// Plan decides what a Spec becomes. It starts and opens nothing that lasts.
	Plan(Spec) (Plan, error)
	// Start starts a machine that it planned. It does not wait for the guest. With an error nothing is left, and Linked
	// may have been called; an error of a machine that did not start at all is a *StartError.
	Start(context.Context, Plan, Start) (VM, error)
}

// Start is what a machine gets when it is started.
type Start struct {
	// Kernel and Initrd are the open files; Disks are those of Spec.Disks, in their order. They stay the caller's. A
	// disk that may be opened again by its number, but not by everybody, is InPlace: the hypervisor hands on the open
	// file itself.
	Kernel, Initrd *os.File
	Disks          []OpenDisk

	// Memory is the guest's, of a machine of a Template: a file of Plan.Size, which the hypervisor's process must be
	// able to open again by its number, as it can what unix.MemfdCreate makes. State is what Saver.Save wrote of the
	// machine that had this memory; nil boots the guest. Both stay the caller's.
	Memory, State *os.File
	// Hold: the machine of a Template is one for a Holder: what is restored of State does not run.
	Hold bool

	Netns *os.File // the network namespace of the hypervisor's process; nil is this process's. It stays the caller's
	// Hybrid is the path of a UNIX socket through which other processes reach the guest's ports; empty is none. See
	// vsock.Device.ServeHybrid.
	Hybrid string
	Log    *slog.Logger
	// Linked is called once, before the machine runs, so that nobody misses what the guest says first. The machine is
	// not started when it fails.
	Linked func(Links) error
}

// OpenDisk is an open disk.
type OpenDisk struct {
	File    *os.File
	InPlace bool
}

// Links are what leads into a machine. The channel is closed by VM.Stop; the console is its receiver's to close.
type Links struct {
	Console net.Conn // the serial console
	Channel vsock.Transport
	// Driver is closed once the guest's vsock driver runs. A host that cannot tell closes it at once, and has Told
	// false.
	Driver <-chan struct{}
	Told   bool
	// Broken is why the channel does not serve the guest any more, or nil.
	Broken func() error
}

// VM is a machine that was started. Its methods may be called from several goroutines.
type VM interface {
	// Process is the hypervisor's.
	Process() Process
	// Answers is closed once the hypervisor runs and answers; a machine that ends before never closes it.
	Answers() <-chan struct{}
	// Done is closed when the machine has ended, by Stop or by itself.
	Done() <-chan struct{}
	// Why is why a machine that is Done ended: the hypervisor's error, or one that wraps ErrGuestEnded.
	Why() error
	// Stop ends the machine and waits for it, some seconds at most. The guest is not asked. Nothing of the machine is
	// left then. Calling it again is a no-op.
	Stop() error
}

// Process is a hypervisor's process.
type Process struct {
	PID  int
	Argv []string
}

// Plugger is a VM that disks and interfaces can be plugged into while it runs.
type Plugger interface {
	// PlugDisk gives the guest a disk. It fails with ErrNoPlace where there is no place for it, or none that takes a
	// disk in parts.
	PlugDisk(context.Context, Disk) (*Plugged, error)
	// UnplugDisk takes a disk away. The guest must not use it any more. Where the guest does not let go of it in time,
	// its place stays taken.
	UnplugDisk(context.Context, *Plugged) error
	// PlugNIC gives the guest a network interface, and says where the guest finds it, as the guest API wants it. It
	// fails with ErrNoPlace where there is no place. The interface stays until the machine ends.
	PlugNIC(context.Context, NIC) (pciPath string, err error)
}

// Resizer is a Plugger whose disks can become larger.
type Resizer interface {
	// ResizeDisk tells the guest that the file or device of a disk has size bytes now.
	ResizeDisk(ctx context.Context, d *Plugged, size int64) error
}

// Plugged is a disk that was plugged in.
type Plugged struct {
	// PCIPath is where the guest finds it, as the guest API wants it; in a machine without PCI it is the disk's device
	// file in the guest, as /dev/vdb.
	PCIPath string
	Place   any // the hypervisor's own
}

// Passer is a VM that devices of the host can be passed to.
type Passer interface {
	// Passed says where the guest finds the devices of Spec.Passed, in their order, as the guest API wants it.
	Passed() []string
	// Pass gives the running guest a device of the host, and says where the guest finds it. It fails with ErrNoPlace
	// where there is no place. The device stays until the machine ends.
	Pass(context.Context, HostDevice) (pciPath string, err error)
}

// Grower is a VM that can get more processors and memory while it runs.
type Grower interface {
	// Size is what the machine has now.
	Size() Size
	// Grow plugs in processors and memory until the machine has at least what is wanted, or all it can have, and says
	// what it has. The guest has to put them to use. What the machine has already is never taken away. The error is
	// ErrNoGrowth where a machine was started without room, for processors or for memory, and nothing else is wrong.
	Grow(context.Context, Size) (Size, error)
}

// SharePlugger is a VM that shared folders can be plugged into while it runs.
type SharePlugger interface {
	// PlugShare gives the guest a folder that a virtiofsd serves. It fails with ErrNoPlace where there is no place. The
	// folder stays until the machine ends.
	PlugShare(context.Context, Share) error
}

// Templates is a Hypervisor whose machines can be saved and restored.
type Templates interface {
	// Traits say what a machine of a Spec that is a Template has to have in common with the one it is restored from.
	Traits(Plan) (*Traits, error)
}

// Traits are what a saved machine depends on, beside the guest. A machine whose traits are others is not restored.
type Traits struct {
	Machine []byte        // all that the hypervisor is told, without names of files
	Program digest.Digest // of the hypervisor's
	CPU     []byte        // the host's processor, as far as guests see it
	// Most is what a restored machine can grow to.
	Most Size
}

// Saver is a VM of a Template.
type Saver interface {
	// Save stops the guest for good, and writes to a file what the machine is beside its memory. The machine is of no
	// use then but to be stopped, and its memory is whole once it was.
	Save(context.Context, *os.File) error
}

// Held is a machine that waits, stopped, in the hands of a process that did not start it. Its files are the holder's to
// close, and whoever adopts the machine has its own of them.
type Held struct {
	Console *os.File // the end of the serial console
	Control *os.File // the hypervisor's own: a connection through which it takes orders, at its beginning
	Process *os.File // a descriptor of the hypervisor's process, pidfd_open(2)
	// Keeper is a connection to the process that started the hypervisor: that one ends it when all have closed the
	// connection, and writes a child.Ended to it when it has ended by itself.
	Keeper *os.File
	PID    int // of the hypervisor
	Argv   []string
}

// Close closes all files. Without another who has them, the machine ends.
func (h *Held) Close() error {
	var errs []error
	for _, f := range []*os.File{h.Console, h.Control, h.Process, h.Keeper} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Holder is a VM that was started with Start.Hold.
type Holder interface {
	// Hold stops the guest, and lends what leads to the machine; Keeper is nil. The files are new.
	Hold(context.Context) (*Held, error)
}

// Adopter is a Hypervisor that takes machines over which another process started.
type Adopter interface {
	// Adopt is Hypervisor.Start for a machine that was held: the guest gets its channel and goes on. Plan has to have
	// the Traits of that which it was started by. Held stays the caller's.
	Adopt(context.Context, Plan, Start, *Held) (VM, error)
}

// ErrNoTemplate says that a machine can neither be saved nor restored.
var ErrNoTemplate = errors.New("this machine has no templates")

// ErrNoPlace says that nothing can be plugged into a machine: it has no places for devices, or they are all taken.
var ErrNoPlace = errors.New("no place for another device")

// ErrNoGrowth says that a machine stays as large as it was started.
var ErrNoGrowth = errors.New("the machine cannot grow")

// ErrGuestEnded is the cause when a guest shut down or reset itself.
var ErrGuestEnded = errors.New("the guest ended")

// StartError says that a hypervisor did not start.
type StartError struct {
	Cause error
	Argv  []string // as it was to be started
}

func (e *StartError) Error() string { return e.Cause.Error() }

func (e *StartError) Unwrap() error { return e.Cause }
