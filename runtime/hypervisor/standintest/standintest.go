// Package standintest is a QEMU that stands in behind the API of another hypervisor, for tests on hosts where that one
// cannot be had: the guest, its disks, its vsock and its console are real, and are those that the requests described.
//
// In comes a Config, made of requests; out comes a Machine that devices are plugged into. It emulates, and knows
// neither the API nor the driver that is tested.
package standintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu/qmp"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// firstSlot is the first of the PCI bus that is free on QEMU's machine pc.
const firstSlot = 2

// waitTime bounds waiting for QEMU and for the guest.
const waitTime = 60 * time.Second

// Config is a machine. The files stay the caller's.
type Config struct {
	Kernel, Initrd *os.File // Initrd may be nil
	CommandLine    string
	CPUs           int
	MemoryMiB      int
	MoreMiB        int // for GrowMemory
	Disks          []Disk
	NICs           []NIC
	Shares         []Share
	RNG            bool
	Vsock          string // the path of the socket by which others reach the guest's ports
	// MMIO is a machine without PCI, whose devices are on virtio-mmio.
	MMIO bool
	// Streams are the console's.
	Streams *os.File
}

// Disk is a disk.
type Disk struct {
	ID       string
	File     *os.File
	ReadOnly bool
	Serial   string
}

// NIC is an interface with an open tap.
type NIC struct {
	ID, MAC string
	Tap     *os.File
}

// Share is a folder that a virtiofsd serves.
type Share struct{ Tag, Socket string }

// Machine is a QEMU that runs. Its methods must not be called at once.
type Machine struct {
	mmio    bool
	process *child.Process
	monitor *qmp.Client
	device  *vsock.Device
	served  chan struct{}
	slot    int // the next free one
	pieces  int
	mib     int
}

// starter collects the command line and the files that go with it.
type starter struct {
	argv  []string
	files []*os.File // ours to close
	slot  int
	mmio  bool
}

func (s *starter) add(words ...string) { s.argv = append(s.argv, words...) }

// fd is the number that QEMU has a file by.
func (s *starter) fd(f *os.File) int {
	s.files = append(s.files, f)
	return 2 + len(s.files)
}

// lend is fd of a file that stays its owner's.
func (s *starter) lend(f *os.File) (int, error) {
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return s.fd(os.NewFile(uintptr(n), f.Name())), nil
}

// device is the name of a device on the machine's bus, with its place.
func (s *starter) device(name string) string {
	if s.mmio {
		return name + "-device"
	}
	s.slot++
	return fmt.Sprintf("%s-pci,bus=pci.0,addr=%#x", name, s.slot-1)
}

// Start starts QEMU.
func Start(ctx context.Context, c Config) (_ *Machine, err error) {
	s := &starter{slot: firstSlot, mmio: c.MMIO, argv: []string{"qemu-system-x86_64", "-nodefaults", "-no-user-config",
		"-no-reboot", "-display", "none"}}
	defer func() {
		for _, f := range s.files {
			_ = f.Close() // QEMU has its own
		}
	}()
	board := "pc,usb=off,vmport=off,memory-backend=memory"
	if c.MMIO {
		board = "microvm,acpi=on,pic=on,pit=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off,memory-backend=memory"
		s.add("-global", "virtio-mmio.force-legacy=false")
	}
	memory := fmt.Sprintf("%dM", c.MemoryMiB)
	if c.MoreMiB > 0 {
		memory += fmt.Sprintf(",slots=8,maxmem=%dM", c.MemoryMiB+c.MoreMiB)
	}
	s.add("-machine", board, "-accel", "tcg,tb-size=128", "-cpu", "max,-erms,-fsrm",
		"-smp", fmt.Sprintf("%d,maxcpus=%d", c.CPUs, max(2, c.CPUs)), "-m", memory,
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", c.MemoryMiB),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	s.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", s.fd(theirs)), "-mon", "chardev=monitor,mode=control")
	m := &Machine{mmio: c.MMIO, served: make(chan struct{}), mib: c.MemoryMiB}
	defer func() {
		if err != nil {
			err = errors.Join(err, ours.Close(), m.Stop())
		}
	}()
	if err := m.vsock(s, c.Vsock); err != nil {
		return nil, err
	}
	if err := s.devices(c); err != nil {
		return nil, err
	}
	if m.process, err = child.StartIn("QEMU", s.argv, s.files, child.Options{Streams: c.Streams}); err != nil {
		return nil, err
	}
	m.slot = s.slot
	if m.monitor, err = qmp.New(ctx, ours); err != nil {
		<-m.process.Done()
		return nil, errors.Join(m.process.ExitError(), err)
	}
	return m, nil
}

// vsock gives the guest a device, and others the way to it.
func (m *Machine) vsock(s *starter, path string) error {
	ours, theirs, err := pair()
	if err != nil {
		return err
	}
	s.add("-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", s.fd(theirs)), "-device", s.device("vhost-user-vsock")+
		",chardev=vsock")
	m.device = vsock.NewDevice(slog.New(slog.DiscardHandler))
	if err := m.device.ServeHybrid(path); err != nil {
		return errors.Join(err, ours.Close())
	}
	go func() {
		defer close(m.served)
		_ = m.device.Serve(ours) // ends with QEMU
	}()
	return nil
}

// devices are those from the start.
func (s *starter) devices(c Config) error {
	fd, err := s.lend(c.Kernel)
	if err != nil {
		return err
	}
	s.add("-kernel", fmt.Sprintf("/proc/self/fd/%d", fd), "-append", c.CommandLine)
	if c.Initrd != nil {
		if fd, err = s.lend(c.Initrd); err != nil {
			return err
		}
		s.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	for _, d := range c.Disks {
		if fd, err = s.lend(d.File); err != nil {
			return err
		}
		s.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd))
		readOnly := onOff(d.ReadOnly)
		s.add("-blockdev", fmt.Sprintf("driver=file,node-name=file-%s,filename=/dev/fdset/%d,read-only=%s,locking=off",
			d.ID, fd, readOnly), "-blockdev", fmt.Sprintf("driver=raw,node-name=raw-%s,file=file-%s,read-only=%s", d.ID,
			d.ID, readOnly), "-device", s.device("virtio-blk")+",id="+d.ID+",drive=raw-"+d.ID+serial(d.Serial))
	}
	for _, n := range c.NICs {
		if fd, err = s.lend(n.Tap); err != nil {
			return err
		}
		s.add("-netdev", fmt.Sprintf("tap,id=tap-%s,fd=%d", n.ID, fd), "-device", s.device("virtio-net")+",id="+n.ID+
			",netdev=tap-"+n.ID+",mac="+n.MAC+",romfile=")
	}
	for i, f := range c.Shares {
		s.add("-chardev", fmt.Sprintf("socket,id=fs%d,path=%s", i, f.Socket), "-device", s.device("vhost-user-fs")+
			fmt.Sprintf(",chardev=fs%d,tag=%s,queue-size=1024", i, f.Tag))
	}
	if c.RNG {
		s.add("-device", s.device("virtio-rng"))
	}
	return nil
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func serial(s string) string {
	if s == "" {
		return ""
	}
	return ",serial=" + s
}

// Done is closed when QEMU has ended.
func (m *Machine) Done() <-chan struct{} { return m.process.Done() }

// Ended is why the guest of a machine that is Done ended, by QEMU's words; empty where it did not end by itself.
func (m *Machine) Ended() string {
	<-m.monitor.Done()
	for {
		select {
		case e := <-m.monitor.Events():
			var data struct{ Reason string }
			if e.Name == "SHUTDOWN" && json.Unmarshal(e.Data, &data) == nil {
				return data.Reason
			}
		default:
			return ""
		}
	}
}

// Stop ends QEMU and waits for it.
func (m *Machine) Stop() error {
	var errs []error
	if m.process != nil {
		errs = append(errs, m.process.Stop(context.Background(), nil))
	}
	if m.monitor != nil {
		errs = append(errs, m.monitor.Close())
	}
	if m.device != nil {
		errs = append(errs, m.device.Close())
	}
	return errors.Join(errs...)
}

// pair is a connection to QEMU.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "QEMU")
	c, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[1]))
	}
	return c.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "QEMU"), nil
}

// ask has QEMU carry out a command.
func (m *Machine) ask(ctx context.Context, name, arguments string, file *os.File) (json.RawMessage, error) {
	return m.monitor.Execute(ctx, qmp.Command{Name: name, Arguments: json.RawMessage(arguments), File: file})
}

// all has QEMU carry out commands, each "NAME ARGUMENTS", until one fails.
func (m *Machine) all(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		name, arguments, _ := strings.Cut(c, " ")
		if _, err := m.ask(ctx, name, arguments, nil); err != nil {
			return err
		}
	}
	return nil
}
