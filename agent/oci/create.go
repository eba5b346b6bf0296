package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/oci/hostgroup"
	"github.com/katabuild/katabuild/agent/oci/record"
	"github.com/katabuild/katabuild/internal/atomicfile"
)

// Streams says what a process reads and writes.
type Streams struct {
	Files [3]*os.File // standard input, output and error; with a terminal unused
	// Console is the path of a UNIX socket that gets the master of the process's terminal; empty keeps it for Started.
	Console string
	Keep    int    // how many files beyond the standard streams the process gets, from 3 on, which are this program's
	PidFile string // where the process's number is written to; empty for nowhere
}

// Creation says how a container is made.
type Creation struct {
	Streams
	Bundle   string // its folder
	NoPivot  bool
	Detached bool // nobody stays to have the terminal
}

// checkConsole says whether a terminal and what is to become of it fit.
func checkConsole(terminal, detached bool, socket string) error {
	switch {
	case terminal && detached && socket == "":
		return errors.New("cannot allocate a terminal for what nobody stays with, without a console socket")
	case socket != "" && !(terminal && detached):
		return errors.New("a console socket is for a process with a terminal that nobody stays with")
	}
	return nil
}

// Started is a process that was started, for whoever waits for it.
type Started struct {
	Pid    int
	Master *os.File // of its terminal, where it has one and no Console; the caller closes it
	stage  *launch.Stage
	launch *launch.Launcher
}

// cleanTimeout bounds what is done after a failure.
const cleanTimeout = 10 * time.Second

// Create makes a container whose process waits for Start.
func (r *Runtime) Create(ctx context.Context, id string, how Creation) error {
	how.Detached = true
	m, err := r.make(ctx, id, how, true)
	if err != nil {
		return err
	}
	m.stage.Control.Close() // the stage waits at its socket
	return nil
}

// Run makes a container and starts it. What is returned waits for its end.
func (r *Runtime) Run(ctx context.Context, id string, how Creation) (*Container, *Started, error) {
	m, err := r.make(ctx, id, how, false)
	if err != nil {
		return nil, nil, err
	}
	if err := m.begin(ctx); err != nil {
		return nil, nil, fmt.Errorf("start container %s: %w", id, errors.Join(err, m.undo()))
	}
	return m.Container, &Started{m.Process.Pid, m.master, m.stage, m.launcher}, nil
}

// making is a container that is being made.
type making struct {
	*Container
	how      Creation
	spec     *specs.Spec
	plan     *blueprint.Blueprint
	launcher *launch.Launcher
	soon     *launch.Stage // started before there was a plan; nil if it is used, or none was
	stage    *launch.Stage
	master   *os.File
}

// make does all that comes before the start. wait has the stage wait at a socket, and not for this program.
func (r *Runtime) make(ctx context.Context, id string, how Creation, wait bool) (_ *making, err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	m := &making{how: how, Container: &Container{r: r, Record: &record.Record{Version: record.Version, ID: id,
		Created: time.Now().UTC().Format(time.RFC3339Nano), Owner: uint32(os.Geteuid())}}}
	if m.launcher, err = r.launcher(); err != nil {
		return nil, err
	}
	host, err := hostgroup.Find()
	if err != nil {
		return nil, err
	}
	if !host.V2() && os.Geteuid() == 0 {
		// It becomes a process while the specification is read. Where it cannot be used, another one is made.
		if m.soon, err = m.launcher.StartSoon(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(r.Root, 0o700); err != nil {
		return nil, fmt.Errorf("folder of states: %w", err)
	}
	if err := os.Mkdir(r.dir(id), 0o700); err != nil {
		m.endSoon()
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("container %q: %w", id, errExists)
		}
		return nil, fmt.Errorf("folder of container %s: %w", id, err)
	}
	if err := m.all(ctx, host, wait); err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, errors.Join(err, m.undo()))
	}
	return m, nil
}

func (m *making) endSoon() {
	if m.soon != nil {
		m.soon.End()
		m.soon = nil
	}
}

// undo takes away whatever there is of the container.
func (m *making) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	m.endSoon()
	if m.stage != nil {
		m.stage.End()
	}
	if m.master != nil {
		m.master.Close()
	}
	var errs []error
	if m.groups != nil {
		errs = append(errs, m.groups.Remove(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(m.r.dir(m.ID)))...)
}

func (m *making) all(ctx context.Context, host *hostgroup.Host, wait bool) error {
	if err := m.read(); err != nil {
		return err
	}
	linux := m.spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	var err error
	if m.groups, err = host.Make(linux.CgroupsPath, m.ID); err != nil {
		// A user without rights has no control groups, unless somebody has given him some.
		if os.Geteuid() == 0 || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
			return err
		}
		m.groups = hostgroup.Open(map[string]string{})
	}
	m.Groups = m.groups.Folders()
	// The kernel takes its time to move a process, in which the rest is prepared.
	arrived := make(chan error, 1)
	if m.soon != nil {
		pid := m.soon.Child.Pid
		go func() { arrived <- m.groups.Add(pid) }()
	}
	m.spec.Mounts = showGroups(m.spec.Mounts, m.groups, host)
	place := blueprint.Place{NoPivot: m.how.NoPivot, Host: true}
	if m.plan, err = blueprint.New(m.ID, m.Bundle, m.spec, place); err != nil {
		return err
	}
	for _, c := range m.plan.Unknown {
		m.r.log().Warn("capability " + c + " is unknown here, and left out")
	}
	m.plan.Stage.Process.Profile = m.spec.Process.ApparmorProfile
	m.Join = record.Join{User: m.plan.User, Time: m.plan.Stage.Unshare&unix.CLONE_NEWTIME != 0,
		PIDs: m.plan.Clone&unix.CLONE_NEWPID != 0}
	if err := m.limit(linux.Resources); err != nil {
		return err
	}
	if err := m.start(ctx, wait, arrived); err != nil {
		return err
	}
	if m.Process.Start, _, err = stat(m.Process.Pid); err != nil {
		return fmt.Errorf("its process: %w", err)
	}
	if err := m.save(); err != nil {
		return err
	}
	return m.await(ctx)
}

// read reads the bundle.
func (m *making) read() (err error) {
	if m.Bundle, err = filepath.Abs(m.how.Bundle); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(m.Bundle, configFile))
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if m.spec, err = parse(b); err != nil {
		return err
	}
	s := m.spec
	if s.Root == nil || s.Process == nil {
		return fmt.Errorf("%s: it has no root or no process", configFile)
	}
	if err := checkConsole(s.Process.Terminal, m.how.Detached, m.how.Console); err != nil {
		return err
	}
	if !filepath.IsAbs(s.Root.Path) {
		s.Root.Path = filepath.Join(m.Bundle, s.Root.Path)
	}
	if fi, err := os.Stat(s.Root.Path); err != nil {
		return fmt.Errorf("root file system: %w", err)
	} else if !fi.IsDir() {
		return fmt.Errorf("root file system %s: not a folder", s.Root.Path)
	}
	if s.Linux != nil && s.Linux.IntelRdt != nil {
		return errors.New("intelRdt: this runtime does not allot caches and memory bandwidth")
	}
	for i := range s.Mounts {
		mt := &s.Mounts[i]
		bind := mt.Type == "bind" || mt.Type == "rbind" || slices.Contains(mt.Options, "bind") ||
			slices.Contains(mt.Options, "rbind")
		if bind && mt.Source != "" && !filepath.IsAbs(mt.Source) { // config.md, "Mounts"
			mt.Source = filepath.Join(m.Bundle, mt.Source)
		}
	}
	m.OCI, m.Rootfs, m.Annotations = s.Version, s.Root.Path, s.Annotations
	if err := atomicfile.Write(filepath.Join(m.r.dir(m.ID), configFile), b, 0o600); err != nil {
		return fmt.Errorf("copy of the specification: %w", err)
	}
	return nil
}

// limit sets the limits of the control groups.
func (m *making) limit(res *specs.LinuxResources) error {
	var list []specs.LinuxDeviceCgroup
	if res != nil {
		list = res.Devices
	}
	rules, err := cgroup.Rules(list, m.nodes())
	if err != nil {
		return err
	}
	if err := m.groups.Set(res); err != nil {
		return err
	}
	return m.groups.SetDevices(rules)
}

// nodes are rules for the devices of the specification, which a container may use.
func (m *making) nodes() []cgroup.Rule {
	if m.spec.Linux == nil {
		return nil
	}
	var out []cgroup.Rule
	for _, d := range m.spec.Linux.Devices {
		kind := byte('c')
		switch d.Type {
		case "b":
			kind = 'b'
		case "p":
			continue
		}
		out = append(out, cgroup.Rule{Allow: true, Type: kind, Major: d.Major, Minor: d.Minor, Access: "rwm"})
	}
	return out
}

// start starts the stage.
func (m *making) start(ctx context.Context, wait bool, arrived <-chan error) error {
	req := &launch.Request{Plan: &m.plan.Stage, Clone: m.plan.Clone, Group: m.groups.V2(), Join: m.plan.Join,
		OOM: m.plan.OOM, UIDs: m.plan.UIDs, GIDs: m.plan.GIDs, Owner: m.plan.Owner}
	if req.OOM == nil {
		req.OOM = ownScore()
	}
	if os.Geteuid() != 0 && m.plan.Clone&unix.CLONE_NEWUSER != 0 {
		req.NoGroups, m.plan.Stage.Process.SetGroups = true, false
	}
	if wait {
		f, err := launch.Listen(filepath.Join(m.r.dir(m.ID), socketFile))
		if err != nil {
			return err
		}
		defer f.Close()
		m.plan.Stage.Listen, req.More = true, append(req.More, f)
	}
	req.More = append(req.More, kept(m.how.Keep)...)
	m.plan.Stage.Keep = m.how.Keep
	if err := launch.SetSysctls(m.plan); err != nil {
		return err
	}
	var err error
	req.Trees, err = m.launcher.Trees(m.plan)
	defer func() {
		for _, f := range req.Trees {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	if m.soon != nil && req.Fits() {
		m.stage, m.soon = m.soon, nil
		m.Process.Pid = m.stage.Child.Pid
		return m.stage.HandOver(ctx, req, m.how.Files[:], arrived)
	}
	m.endSoon()
	m.plan.Stage.AskGroup = req.Group == nil
	if m.stage, err = m.launcher.Start(req, m.how.Files[:]); err != nil {
		return err
	}
	m.Process.Pid = m.stage.Child.Pid
	return nil
}

// ownScore is this process's oom_score_adj, which a container has that asks for none. proc(5).
func ownScore() *int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil
	}
	return &n
}

// kept are files of this program that the container's process gets. They stay open: this program ends soon.
func kept(n int) []*os.File {
	var out []*os.File
	for i := range n {
		out = append(out, os.NewFile(uintptr(3+i), "kept"))
	}
	return out
}

// await has the stage make all that comes before the start.
func (m *making) await(ctx context.Context) error {
	ctl := m.stage.Control
	for {
		msg, err := ctl.Next(ctx)
		if err != nil {
			return m.early(ctx, err)
		}
		switch msg.Kind {
		case stage.Group:
			if err := m.groups.Add(m.Process.Pid); err != nil {
				return err
			}
			if err := ctl.Continue(); err != nil {
				return m.early(ctx, err)
			}
		case stage.Hooks:
			if err := m.hooks(ctx); err != nil {
				return err
			}
			if err := ctl.Continue(); err != nil {
				return m.early(ctx, err)
			}
		case stage.Terminal:
			if m.master, err = handConsole(ctl.TakeFile(), m.how.Console); err != nil {
				return err
			}
		case stage.Created:
			return writePid(m.how.PidFile, m.Process.Pid)
		}
	}
}

// hooks runs those that come before the container has a root.
func (m *making) hooks(ctx context.Context) error {
	defer collect(m.launcher)()
	for _, h := range m.plan.Hooks {
		if err := m.launcher.Hook(ctx, h, m.hookState("creating")); err != nil {
			return err
		}
	}
	return nil
}

func (m *making) early(ctx context.Context, err error) error {
	return early(ctx, m.launcher, m.stage, err)
}

// early is the error for a stage that ended too soon; err is what was seen of it.
func early(ctx context.Context, l *launch.Launcher, s *launch.Stage, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	e, err := (&Started{stage: s, launch: l}).Wait(ctx)
	if err != nil {
		return err
	}
	return fmt.Errorf("its process ended with %d before it began", e)
}

// begin starts a container whose stage waits for this program.
func (m *making) begin(ctx context.Context) error {
	ctl := m.stage.Control
	if err := ctl.Continue(); err != nil {
		return m.early(ctx, err)
	}
	if err := begun(ctx, ctl); err != nil {
		return m.early(ctx, err)
	}
	ctl.Close()
	return m.started(ctx, m.launcher, m.spec)
}

// begun reads messages until the program runs. io.EOF means that the stage is no more.
func begun(ctx context.Context, ctl *launch.Control) error {
	announced := false
	for {
		msg, err := ctl.Next(ctx)
		switch {
		case err == nil && msg.Kind == stage.Exec:
			announced = true
		case err == nil:
		case errors.Is(err, io.EOF) && announced:
			return nil // exec has closed the socket
		default:
			return err
		}
	}
}

// started runs the hooks for a container that runs. l may be nil.
func (c *Container) started(ctx context.Context, l *launch.Launcher, spec *specs.Spec) (err error) {
	if spec.Hooks == nil || len(spec.Hooks.Poststart) == 0 {
		return nil
	}
	if l == nil {
		if l, err = c.r.launcher(); err != nil {
			return err
		}
	}
	defer collect(l)()
	for _, h := range blueprint.Hooks("poststart", spec.Hooks.Poststart) {
		if err := l.Hook(ctx, h, c.hookState(running)); err != nil { // runtime.md, "Lifecycle": a warning
			c.r.log().Warn(err.Error())
		}
	}
	return nil
}

// Start starts a container that was created. Once it returns nil, the program has replaced the stage.
func (c *Container) Start(ctx context.Context) error {
	status, err := c.status()
	switch {
	case err != nil:
		return err
	case status == stopped:
		return fmt.Errorf("cannot start a container that has stopped: %s: %w", c.ID, errNotRunning)
	case status != created:
		return fmt.Errorf("cannot start an already running container: %s", c.ID)
	}
	spec, err := c.Spec()
	if err != nil {
		return err
	}
	socket := filepath.Join(c.r.dir(c.ID), socketFile)
	ctl, err := launch.Meet(socket)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	defer ctl.Close()
	if err = ctl.Continue(); err == nil {
		err = errors.Join(os.Remove(socket), begun(ctx, ctl))
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("its process ended before it began")
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	return c.started(ctx, nil, spec)
}

// writePid writes a process's number, whole or not at all.
func writePid(path string, pid int) error {
	if path == "" {
		return nil
	}
	if err := atomicfile.Write(path, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}

// collect has children collected until stop is called.
func collect(l *launch.Launcher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go l.Reaper.Run(ctx)
	return cancel
}

// Wait returns the exit code of the process, or 128 and the signal that ended it.
func (s *Started) Wait(ctx context.Context) (int, error) {
	defer collect(s.launch)()
	e, err := s.stage.Child.Wait(ctx)
	if err != nil {
		return 0, err
	}
	return e.Code, nil
}

// Signal sends it a signal, unless it has ended.
func (s *Started) Signal(sig unix.Signal) { _ = s.stage.Child.Signal(sig) }
