package clh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/rest"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// Times that bound waiting for what should be immediate.
const (
	stopTime  = 3 * time.Second // for the program to end when it is asked to
	lastWords = 500 * time.Millisecond
)

// The names of files in the machine's folder. The vsock's is short: with a port behind it has to fit into a UNIX
// address.
const (
	folderName  = "vm"
	apiSocket   = "api"
	vsockSocket = "v"
)

// clhVM is a Cloud Hypervisor that was started.
type clhVM struct {
	plan    *clhPlan
	argv    []string
	log     *slog.Logger
	dir     string // the machine's folder
	link    string // a link to the vsock's socket, or empty
	walls   bool   // it sees no files of the host but those in dir
	api     rest.Client
	process *child.Process
	channel *vsock.Remote
	wg      sync.WaitGroup
	stop    func() error
	answers chan struct{}
	events  chan string // how the guest ended; written before the process is asked to end

	why   sync.Once
	ended error // guarded by why

	plugging sync.Mutex // held while a device is plugged in or taken away; guards what follows
	used     int        // slots of the bus that are taken
	number   int        // of the device that is plugged in next; none has the name of another one
	shown    map[string]bool

	growing sync.Mutex // held while the machine grows; guards what follows
	size    machine.Size
	pieces  int // of memory that were plugged in
}

var (
	_ machine.VM      = (*clhVM)(nil)
	_ machine.Plugger = (*clhVM)(nil)
	_ machine.Grower  = (*clhVM)(nil)
)

// Start starts Cloud Hypervisor, has it make the machine, and boots that.
func (h Hypervisor) Start(ctx context.Context, plan machine.Plan, o machine.Start) (machine.VM, error) {
	p, ok := plan.(*clhPlan)
	if !ok {
		return nil, fmt.Errorf("%s does not start the plan of another hypervisor (%T)", name, plan)
	}
	v := &clhVM{plan: p, log: o.Log, answers: make(chan struct{}), events: make(chan string, 1), size: p.Size(),
		shown: map[string]bool{}}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.stop = sync.OnceValue(v.stopOnce)
	if err := v.start(ctx, h, o); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

func (v *clhVM) start(ctx context.Context, h Hypervisor, o machine.Start) error {
	if err := v.makeFolder(o.Hybrid); err != nil {
		return err
	}
	c := v.plan.Config
	with := &child.Inheritance{}
	defer with.Close()
	if err := v.handFiles(&c, o, with); err != nil {
		return err
	}
	streams, serial, err := child.SocketPair("console")
	if err != nil {
		return err
	}
	defer serial.Close() //nolint:errcheck // the child has its own
	v.channel = vsock.NewRemote(filepath.Join(v.dir, vsockSocket), -1)
	now := make(chan struct{}) // nobody says when the guest's driver runs
	close(now)
	if err := o.Linked(machine.Links{Console: streams, Channel: v.channel, Driver: now,
		Broken: func() error { return nil }}); err != nil {
		return err
	}
	if err := v.startProgram(h, o, with, serial); err != nil {
		return err
	}
	if err := v.boot(ctx, c); err != nil {
		return &machine.StartError{Cause: v.orEnded(err), Argv: v.argv}
	}
	return nil
}

// makeFolder makes the machine's folder, beside the path where others look for the vsock.
func (v *clhVM) makeFolder(hybrid string) (err error) {
	if hybrid == "" {
		v.dir, err = os.MkdirTemp("", "katabuild-clh-")
		return err
	}
	v.dir = filepath.Join(filepath.Dir(hybrid), folderName)
	if err := os.Mkdir(v.dir, 0o700); err != nil {
		v.dir = ""
		return err
	}
	if err := os.Symlink(filepath.Join(folderName, vsockSocket), hybrid); err != nil {
		return err
	}
	v.link = hybrid
	return nil
}

// handFiles gives the program the guest's files by their numbers, and the sockets of its shares by names that it sees.
func (v *clhVM) handFiles(c *vmConfig, o machine.Start, with *child.Inheritance) error {
	var err error
	if c.Payload.Kernel, err = with.LendPath(o.Kernel); err != nil {
		return err
	}
	if o.Initrd != nil {
		if c.Payload.Initramfs, err = with.LendPath(o.Initrd); err != nil {
			return err
		}
	}
	c.Disks, c.Pmem, c.FS = slices.Clone(c.Disks), slices.Clone(c.Pmem), slices.Clone(c.FS)
	disk, pmem := 0, 0
	for i, d := range o.Disks {
		path, err := with.LendPath(d.File)
		if err != nil {
			return err
		}
		if v.plan.spec.Disks[i].NVDIMM {
			c.Pmem[pmem].File = path
			pmem++
		} else {
			c.Disks[disk].Path = path
			disk++
		}
	}
	for i := range c.FS {
		// Another name of the socket, in the folder that the program sees.
		name := filepath.Join(v.dir, fmt.Sprintf("fs%d", i))
		if err := os.Link(c.FS[i].Socket, name); err != nil {
			return err
		}
		c.FS[i].Socket = name
	}
	c.Vsock.Socket = filepath.Join(v.dir, vsockSocket)
	return nil
}

func (v *clhVM) startProgram(h Hypervisor, o machine.Start, with *child.Inheritance, serial *os.File) error {
	v.api = rest.Client{Name: name, Socket: filepath.Join(v.dir, apiSocket), Prefix: "/api/v1", Fault: fault}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.api.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	listener, err := l.File()
	if err := errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("listen at %s: %w", v.api.Socket, err)
	}
	events, child1, err := os.Pipe()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	v.argv = []string{v.plan.program, "--api-socket", fmt.Sprintf("fd=%d", with.Add(listener)), "--event-monitor",
		fmt.Sprintf("fd=%d", with.Add(child1))}
	if v.plan.spec.NoSeccomp {
		v.argv = append(v.argv, "--seccomp", "false")
	}
	options := child.Options{Netns: o.Netns, Streams: serial}
	if !h.StandIn {
		options.Isolation, v.walls = isolation(v.dir), os.Geteuid() == 0
	}
	v.process, err = child.StartIn(name, v.argv, with.Files(), options)
	if err != nil {
		return errors.Join(&machine.StartError{Cause: err, Argv: v.argv}, events.Close())
	}
	for _, m := range v.process.Missing() {
		v.log.Warn("Cloud Hypervisor lacks " + m)
	}
	v.wg.Go(func() {
		defer events.Close() //nolint:errcheck // it was read to its end
		v.watch(events)
	})
	return nil
}

// isolation is that of a Cloud Hypervisor that root starts, with a folder that its machine has for itself.
func isolation(dir string) *child.Isolation {
	return &child.Isolation{Devices: []string{accel.Device}, Folder: dir,
		Capabilities: []uintptr{unix.CAP_DAC_OVERRIDE},
		Why:          "it opens disks that are plugged in by their names, which belong to root"}
}

// boot makes the machine, and boots it.
func (v *clhVM) boot(ctx context.Context, c vmConfig) error {
	b, err := v.api.Do(ctx, rest.Request{Method: "GET", Path: "/vmm.ping"})
	if err != nil {
		return err
	}
	ping, err := rest.Decode[pingResponse](name, b)
	if err != nil {
		return err
	}
	v.log.Info(name, "version", rest.Clean(ping.Version))
	if _, err := v.put(ctx, "/vm.create", rest.Encode(c)); err != nil {
		return err
	}
	v.used = 1 + len(c.Disks) + len(c.Pmem) + len(c.FS) + len(v.plan.spec.NICs) + 2 // the vsock, and an RNG
	for i, n := range v.plan.spec.NICs {
		if _, err := v.put(ctx, "/vm.add-net", rest.Encode(v.net(fmt.Sprintf("net%d", i), n)), n.Tap); err != nil {
			return err
		}
	}
	if _, err := v.put(ctx, "/vm.boot", nil); err != nil {
		return err
	}
	close(v.answers)
	return nil
}

func (v *clhVM) put(ctx context.Context, path string, body json.RawMessage, files ...*os.File) ([]byte, error) {
	return v.api.Do(ctx, rest.Request{Method: "PUT", Path: path, Body: body, Files: files})
}

// orEnded is why the program ended, where that is why a request failed.
func (v *clhVM) orEnded(err error) error {
	if _, refused := errors.AsType[*rest.Error](err); refused {
		return err
	}
	select {
	case <-v.process.Done():
		if exit := v.process.ExitError(); exit != nil {
			return exit
		}
	case <-time.After(lastWords):
	}
	return err
}

// maxEvents bounds what is read of the program's events, in bytes: it has few to tell.
const maxEvents = 1 << 20

// ending is how the guest ended by an event; empty is that it did not. A machine that restarts would be another one
// than was attested.
func ending(source, event string) string {
	switch {
	case source == "vm" && event == "rebooting":
		return "reset"
	case source == "vm" && event == "shutdown":
		return "shutdown"
	case source == "guest" && event == "panic":
		return "panic"
	}
	return ""
}

// readEvents reads how the guest ended, or the error of the reader.
func readEvents(r io.Reader) (string, error) {
	d := json.NewDecoder(io.LimitReader(r, maxEvents))
	for {
		var e struct {
			Source string `json:"source"`
			Event  string `json:"event"`
		}
		if err := d.Decode(&e); err != nil {
			return "", err
		}
		if how := ending(e.Source, e.Event); how != "" {
			return how, nil
		}
	}
}

// watch ends the program when its guest ends.
func (v *clhVM) watch(events io.Reader) {
	how, err := readEvents(events)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			v.log.Debug("events", "err", err)
		}
		_, _ = io.Copy(io.Discard, events) // so that nobody is kept from writing more
		return
	}
	v.events <- how
	if how == "reset" {
		if err := v.process.Stop(context.Background(), nil); err != nil {
			v.log.Warn("the guest has reset itself", "err", err)
		}
	}
	_, _ = io.Copy(io.Discard, events)
}

// Process is Cloud Hypervisor's.
func (v *clhVM) Process() machine.Process { return machine.Process{PID: v.process.PID(), Argv: v.argv} }

// Answers is closed once the machine was booted.
func (v *clhVM) Answers() <-chan struct{} { return v.answers }

// Done is closed when Cloud Hypervisor has ended.
func (v *clhVM) Done() <-chan struct{} { return v.process.Done() }

// Why is why it ended.
func (v *clhVM) Why() error {
	v.why.Do(func() {
		select {
		case how := <-v.events:
			v.ended = fmt.Errorf("%w: %s", machine.ErrGuestEnded, how)
		case <-time.After(lastWords): // the event may be on its way
			if v.ended = v.process.ExitError(); v.ended == nil {
				v.ended = machine.ErrGuestEnded
			}
		}
	})
	return v.ended
}

// Stop ends Cloud Hypervisor, and removes the machine's folder.
func (v *clhVM) Stop() error { return v.stop() }

func (v *clhVM) stopOnce() error {
	var errs []error
	if v.process != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		errs = append(errs, v.process.Stop(ctx, func(ctx context.Context) error {
			_, err := v.put(ctx, "/vmm.shutdown", nil)
			return err
		}))
		cancel()
	}
	v.wg.Wait()
	if v.channel != nil {
		errs = append(errs, v.channel.Close())
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	for path := range v.shown {
		errs = append(errs, v.hide(path))
	}
	if v.link != "" {
		errs = append(errs, os.Remove(v.link))
	}
	if v.dir != "" {
		errs = append(errs, os.RemoveAll(v.dir))
	}
	return errors.Join(errs...)
}
