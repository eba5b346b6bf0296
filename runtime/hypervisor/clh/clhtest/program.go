package clhtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
	"github.com/katabuild/katabuild/runtime/hypervisor/standintest"
)

// By which names a test's own program is the strict one.
const (
	name  = "cloud-hypervisor"
	Alone = "cloud-hypervisor-alone" // requests are only judged, and no guest runs
)

// Is says whether a program, by its first argument, is to be the strict Cloud Hypervisor: Main then.
func Is(args []string) bool {
	base := filepath.Base(args[0])
	return base == name || base == Alone
}

// Main is the strict Cloud Hypervisor, with a QEMU behind it unless it is Alone. It returns the exit code.
func Main(args []string) int {
	if err := run(args[1:], filepath.Base(args[0]) == Alone); err != nil {
		fmt.Fprintln(os.Stderr, "strict cloud-hypervisor:", err)
		return 1
	}
	return 0
}

func run(args []string, alone bool) error {
	var fds [2]int
	for i, want := range []string{"--api-socket", "--event-monitor"} {
		if len(args) < 2*i+2 || args[2*i] != want {
			return fmt.Errorf("%q: want %s fd=N", args, want)
		}
		if _, err := fmt.Sscanf(args[2*i+1], "fd=%d", &fds[i]); err != nil {
			return fmt.Errorf("%s %q: %w", want, args[2*i+1], err)
		}
	}
	if rest := strings.Join(args[4:], " "); rest != "" && rest != "--seccomp false" {
		return fmt.Errorf("unknown arguments %q", rest)
	}
	f := os.NewFile(uintptr(fds[0]), "API")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	unix.CloseOnExec(fds[1])
	m := &qemu{events: os.NewFile(uintptr(fds[1]), "events"), over: make(chan error, 1)}
	s := &server{machine: m}
	if alone {
		s.machine = nil
	}
	go func() {
		resttest.Serve(l.(*net.UnixListener), func(r resttest.Request) resttest.Answer {
			a := s.answer(r)
			if s.Ended {
				go func() { m.over <- nil }()
			}
			return a
		})
	}()
	return errors.Join(<-m.over, m.Stop())
}

// qemu is a standIn.
type qemu struct {
	m      *standintest.Machine
	events *os.File
	over   chan error
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Boot starts QEMU.
func (q *qemu) Boot(ctx context.Context, c config, taps []*os.File) error {
	if len(c.Pmem) > 0 {
		return errors.New("the QEMU behind the strict server has no pmem")
	}
	sc := standintest.Config{CommandLine: c.Payload.Cmdline, CPUs: c.CPUs.Boot, MemoryMiB: int(c.Memory.Size >> 20),
		MoreMiB: int(c.Memory.Hotplug >> 20), RNG: c.RNG != nil, Vsock: c.Vsock.Socket, Streams: os.Stdin}
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close() // QEMU has its own
		}
	}()
	file := func(path string, flags int) (*os.File, error) {
		f, err := os.OpenFile(path, flags, 0)
		if err == nil {
			open = append(open, f)
		}
		return f, err
	}
	var err error
	if sc.Kernel, err = file(c.Payload.Kernel, os.O_RDONLY); err != nil {
		return err
	}
	if c.Payload.Initramfs != "" {
		if sc.Initrd, err = file(c.Payload.Initramfs, os.O_RDONLY); err != nil {
			return err
		}
	}
	for _, d := range c.Disks {
		f, err := file(d.Path, access(d.Readonly))
		if err != nil {
			return err
		}
		sc.Disks = append(sc.Disks, standintest.Disk{ID: d.ID, File: f, ReadOnly: d.Readonly, Serial: d.Serial})
	}
	for i, n := range c.Net {
		sc.NICs = append(sc.NICs, standintest.NIC{ID: n.ID, MAC: n.MAC, Tap: taps[i]})
	}
	for _, f := range c.FS {
		sc.Shares = append(sc.Shares, standintest.Share(f))
	}
	if q.m, err = standintest.Start(ctx, sc); err != nil {
		return err
	}
	go func() {
		<-q.m.Done()
		event := "shutdown"
		if q.m.Ended() == "guest-reset" {
			event = "rebooting"
		}
		_, err := fmt.Fprintf(q.events, "{\n  \"timestamp\": {\"secs\": 1, \"nanos\": 0},\n  \"source\": \"vm\",\n"+
			"  \"event\": %q,\n  \"properties\": null\n}\n\n", event)
		if event == "shutdown" || err != nil { // Cloud Hypervisor goes on when its guest resets itself
			q.over <- err
		}
	}()
	return nil
}

func access(readOnly bool) int {
	if readOnly {
		return os.O_RDONLY
	}
	return os.O_RDWR
}

// AddDisk plugs in a disk.
func (q *qemu) AddDisk(ctx context.Context, d disk) (int, error) {
	f, err := os.OpenFile(d.Path, access(d.Readonly), 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return q.m.PlugDisk(ctx, standintest.Disk{ID: d.ID, File: f, ReadOnly: d.Readonly, Serial: d.Serial})
}

// AddNet plugs in an interface.
func (q *qemu) AddNet(ctx context.Context, n nic, tap *os.File) (int, error) {
	return q.m.PlugNIC(ctx, standintest.NIC{ID: n.ID, MAC: n.MAC, Tap: tap})
}

// Remove takes a disk away.
func (q *qemu) Remove(ctx context.Context, id string) error { return q.m.Unplug(ctx, id) }

// Resize plugs in memory.
func (q *qemu) Resize(ctx context.Context, ram int64) error { return q.m.GrowMemory(ctx, int(ram>>20)) }

// Stop ends QEMU.
func (q *qemu) Stop() error {
	if q.m == nil {
		return nil
	}
	return q.m.Stop()
}
