package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
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
	socketTime = 20 * time.Second       // until the program, or its jailer, has made its socket
	lastWords  = 500 * time.Millisecond // of a program that ended
)

// The names of files in the machine's folder, or in its jail. The vsock's is short: with a port behind it has to fit
// into a UNIX address.
const (
	folderName  = "vm"
	apiSocket   = "api"
	vsockSocket = "v"
	logFile     = "log"
	emptyFile   = "empty" // what drives without a disk have
)

// fcVM is a Firecracker that was started.
type fcVM struct {
	plan    *fcPlan
	argv    []string
	log     *slog.Logger
	dir     string // the machine's folder
	link    string // a link to the vsock's socket, or empty
	inside  string // where its files are: dir, or the jail's root
	jail    jail
	mounted bool // dir is a mount of its own
	api     rest.Client
	process *child.Process
	channel *vsock.Remote
	stop    func() error
	answers chan struct{}

	plugging sync.Mutex // held while a disk is plugged in or taken away; guards what follows and jail
	taken    map[string]bool
}

var (
	_ machine.VM      = (*fcVM)(nil)
	_ machine.Plugger = (*fcVM)(nil)
)

// Start starts Firecracker, has it make the machine, and boots that.
func (h Hypervisor) Start(ctx context.Context, plan machine.Plan, o machine.Start) (machine.VM, error) {
	p, ok := plan.(*fcPlan)
	if !ok {
		return nil, fmt.Errorf("%s does not start the plan of another hypervisor (%T)", name, plan)
	}
	v := &fcVM{plan: p, log: o.Log, answers: make(chan struct{}), taken: map[string]bool{}, jail: jail{user: -1}}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.stop = sync.OnceValue(v.stopOnce)
	if err := v.start(ctx, h, o); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

func (v *fcVM) start(ctx context.Context, h Hypervisor, o machine.Start) error {
	if err := v.makeFolder(h, o.Hybrid); err != nil {
		return err
	}
	with := &child.Inheritance{}
	defer with.Close()
	source, drives, err := v.files(o, with)
	if err != nil {
		return err
	}
	streams, serial, err := child.SocketPair("console")
	if err != nil {
		return err
	}
	defer serial.Close() //nolint:errcheck // the child has its own
	v.channel = vsock.NewRemote(filepath.Join(v.inside, vsockSocket), v.jail.user)
	now := make(chan struct{}) // nobody says when the guest's driver runs
	close(now)
	if err := o.Linked(machine.Links{Console: streams, Channel: v.channel, Driver: now,
		Broken: func() error { return nil }}); err != nil {
		return err
	}
	options := child.Options{Netns: o.Netns, Streams: serial}
	if v.plan.spec.Jailer == "" && !h.StandIn {
		options.Isolation = isolation(v.dir)
	}
	v.process, err = child.StartIn(name, v.argv, with.Files(), options)
	if err != nil {
		return &machine.StartError{Cause: err, Argv: v.argv}
	}
	for _, m := range v.process.Missing() {
		v.log.Warn("Firecracker lacks " + m)
	}
	if err := v.boot(ctx, source, drives); err != nil {
		return &machine.StartError{Cause: v.orEnded(err), Argv: v.argv}
	}
	return nil
}

// isolation is that of a Firecracker that root starts without its jailer, with a folder that its machine has for
// itself.
func isolation(dir string) *child.Isolation {
	return &child.Isolation{Devices: []string{accel.Device, "/dev/net/tun"}, Folder: dir,
		Capabilities: []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_NET_ADMIN},
		Why:          "it opens disks and taps by their names, which belong to root"}
}

// makeFolder makes the machine's folder, beside the path where others look for the vsock, and decides how the program
// is started in it.
func (v *fcVM) makeFolder(h Hypervisor, hybrid string) (err error) {
	if hybrid == "" {
		v.dir, err = os.MkdirTemp("", "katabuild-fc-")
	} else if err = os.Mkdir(filepath.Join(filepath.Dir(hybrid), folderName), 0o700); err == nil {
		v.dir = filepath.Join(filepath.Dir(hybrid), folderName)
	}
	if err != nil {
		return err
	}
	v.inside = v.dir
	program := []string{v.plan.program}
	if s := &v.plan.spec; s.Jailer != "" {
		if program, err = v.makeJail(h, s.Jailer); err != nil {
			return err
		}
	} else {
		v.jail.lonely = os.Geteuid() == 0 && !h.StandIn
		program = append(program, "--id", jailID)
	}
	v.argv = append(program, "--api-sock", v.name(apiSocket), "--log-path", v.name(logFile), "--level", "Warning")
	v.api = rest.Client{Name: name, Socket: filepath.Join(v.inside, apiSocket), Fault: fault}
	for _, f := range []string{logFile, emptyFile} {
		path := filepath.Join(v.inside, f)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), v.jail.own(path)); err != nil {
			return err
		}
	}
	if hybrid == "" {
		return nil
	}
	to, err := filepath.Rel(filepath.Dir(hybrid), filepath.Join(v.inside, vsockSocket))
	if err == nil {
		err = os.Symlink(to, hybrid)
	}
	if err == nil {
		v.link = hybrid
	}
	return err
}

// makeJail makes the root that the jailer will find there, on a file system of its own: the host's may have neither
// devices nor programs there. It returns the jailer's command line.
func (v *fcVM) makeJail(h Hypervisor, jailer string) ([]string, error) {
	if os.Geteuid() == 0 && !h.StandIn {
		if err := unix.Mount("tmpfs", v.dir, "tmpfs", unix.MS_NOSUID, "mode=711"); err != nil {
			return nil, &os.PathError{Op: "mount", Path: v.dir, Err: err}
		}
		v.mounted, v.jail.user = true, jailUser()
	}
	argv, root := jailerArgv(jailer, v.plan.program, v.dir, max(v.jail.user, 0))
	v.inside, v.jail.root, v.jail.lonely = root, root, true
	if h.StandIn {
		v.jail.user = -1
	}
	return argv, errors.Join(os.MkdirAll(root, 0o711), v.jail.own(root))
}

// name is the program's name of a file of ours.
func (v *fcVM) name(file string) string {
	return v.jail.path(filepath.Join(v.inside, file))
}

// files gives the program the guest's files: by their numbers, or as copies in the jail.
func (v *fcVM) files(o machine.Start, with *child.Inheritance) (bootSource, []drive, error) {
	source, drives := v.plan.source(), v.plan.drives()
	give := func(f *os.File, as string) (string, error) {
		if v.jail.root == "" {
			return with.LendPath(f)
		}
		return v.jail.copyIn(f, as)
	}
	var err error
	if source.Kernel, err = give(o.Kernel, "kernel"); err != nil {
		return source, nil, err
	}
	if o.Initrd != nil {
		if source.Initrd, err = give(o.Initrd, "initrd"); err != nil {
			return source, nil, err
		}
	}
	for i := range drives {
		if i >= len(o.Disks) {
			drives[i].Path = v.name(emptyFile)
		} else if drives[i].Path, err = give(o.Disks[i].File, drives[i].ID); err != nil {
			return source, nil, err
		}
	}
	return source, drives, nil
}

// boot makes the machine, and boots it.
func (v *fcVM) boot(ctx context.Context, source bootSource, drives []drive) error {
	b, err := v.firstAnswer(ctx)
	if err != nil {
		return err
	}
	answer, err := rest.Decode[versionAnswer](name, b)
	if err != nil {
		return err
	}
	v.log.Info(name, "version", rest.Clean(answer.Version))
	nics, err := v.nics()
	if err != nil {
		return err
	}
	for _, r := range requests(v.plan, source, drives, nics, v.name(vsockSocket)) {
		if _, err := v.api.Do(ctx, r); err != nil {
			return err
		}
	}
	close(v.answers)
	return nil
}

// nics are the interfaces. Firecracker opens taps by their names, so that nobody else may have them.
func (v *fcVM) nics() ([]networkInterface, error) {
	var out []networkInterface
	for i, n := range v.plan.spec.NICs {
		if n.ByName == nil {
			return nil, fmt.Errorf("the interface %s has no tap that Firecracker can open by its name", n.MAC)
		}
		tap, err := n.ByName()
		if err != nil {
			return nil, err
		}
		out = append(out, networkInterface{ID: fmt.Sprintf("net%d", i), MAC: n.MAC, Tap: tap,
			Rx: limiter(v.plan.spec.RxRate), Tx: limiter(v.plan.spec.TxRate)})
	}
	return out, nil
}

// requests are those that make the machine and boot it, in their order.
func requests(p *fcPlan, source bootSource, drives []drive, nics []networkInterface, socket string) []rest.Request {
	var out []rest.Request
	put := func(path string, body json.RawMessage) {
		out = append(out, rest.Request{Method: "PUT", Path: path, Body: body})
	}
	put("/machine-config", rest.Encode(p.size()))
	put("/boot-source", rest.Encode(source))
	for _, d := range drives {
		put("/drives/"+d.ID, rest.Encode(d))
	}
	for _, n := range nics {
		put("/network-interfaces/"+n.ID, rest.Encode(n))
	}
	if p.spec.RNG {
		put("/entropy", rest.Encode(entropyDevice{}))
	}
	put("/vsock", rest.Encode(vsockDevice{CID: guestCID, Path: socket}))
	put("/actions", rest.Encode(action{Type: "InstanceStart"}))
	return out
}

// firstAnswer asks for the version until the program listens, and returns the answer. The program makes its socket by
// itself: for a moment it is there and refuses connections.
func (v *fcVM) firstAnswer(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, socketTime, fmt.Errorf("%s has no socket after %v", name, socketTime))
	defer cancel()
	for {
		b, err := v.api.Do(ctx, rest.Request{Method: "GET", Path: "/version"})
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
			return b, err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-v.process.Done():
			return nil, fmt.Errorf("%s ended before it listened", name)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// orEnded is why the program ended, where that is why a request failed, with its last words.
func (v *fcVM) orEnded(err error) error {
	if _, refused := errors.AsType[*rest.Error](err); refused {
		return err
	}
	select {
	case <-v.process.Done():
		if exit := v.process.ExitError(); exit != nil {
			err = exit
		}
		if said := v.said(); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
	case <-time.After(lastWords):
	}
	return err
}

// maxSaid is what is read of the program's log, in bytes.
const maxSaid = 4 << 10

// said is the first of the program's log, which the guest can make it write to.
func (v *fcVM) said() string {
	f, err := os.OpenFile(filepath.Join(v.inside, logFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxSaid)) // what there is
	return rest.Clean(string(b))
}

// Process is Firecracker's.
func (v *fcVM) Process() machine.Process { return machine.Process{PID: v.process.PID(), Argv: v.argv} }

// Answers is closed once the machine was booted.
func (v *fcVM) Answers() <-chan struct{} { return v.answers }

// Done is closed when Firecracker has ended.
func (v *fcVM) Done() <-chan struct{} { return v.process.Done() }

// Why is why it ended. Firecracker ends with its guest, whether that shut down or reset itself.
func (v *fcVM) Why() error {
	if err := v.process.ExitError(); err != nil {
		if said := v.said(); said != "" {
			return fmt.Errorf("%w: %s", err, said)
		}
		return err
	}
	return machine.ErrGuestEnded
}

// Stop ends Firecracker, and removes the machine's folder.
func (v *fcVM) Stop() error { return v.stop() }

func (v *fcVM) stopOnce() error {
	var errs []error
	if v.process != nil {
		errs = append(errs, v.process.Stop(context.Background(), nil)) // it cannot be asked
	}
	if v.channel != nil {
		errs = append(errs, v.channel.Close())
	}
	v.plugging.Lock()
	defer v.plugging.Unlock()
	for len(v.jail.shown) > 0 {
		path := v.jail.shown[0]
		errs = append(errs, v.jail.hide(filepath.Dir(path), filepath.Base(path)))
	}
	if v.link != "" {
		errs = append(errs, os.Remove(v.link))
	}
	if v.mounted {
		if err := unix.Unmount(v.dir, unix.MNT_DETACH); err != nil {
			return errors.Join(append(errs, &os.PathError{Op: "unmount", Path: v.dir, Err: err})...)
		}
	}
	if v.dir != "" {
		errs = append(errs, os.RemoveAll(v.dir))
	}
	return errors.Join(errs...)
}
