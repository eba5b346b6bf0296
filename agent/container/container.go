// Package container runs the containers of a guest.
//
// In come specifications of the OCI runtime specification whose paths are the guest's; out go processes, their streams
// and how they end. A container's first process is this program once more, as a stage (package stage): it is cloned
// into new namespaces, makes mounts, devices and limits, waits for Start and turns into the program. Package blueprint
// decides what it is to do, and package launch starts it. Control groups are those of version 2 (package cgroup). The
// package does not know the guest API and where root file systems come from. Shapes: Container and Process, both from
// a Runner.
package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/katabuild/katabuild/agent/container/blueprint"
	"github.com/katabuild/katabuild/agent/container/cgroup"
	"github.com/katabuild/katabuild/agent/container/launch"
	"github.com/katabuild/katabuild/agent/container/locks"
	"github.com/katabuild/katabuild/agent/container/seccomp"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/katabuild/katabuild/agent/reap"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Reasons why something cannot be done.
var (
	ErrNotFound   = errors.New("not found")
	ErrExists     = errors.New("exists already")
	ErrState      = errors.New("not in this state")
	ErrNoTerminal = errors.New("no terminal")
)

// Config says where containers live. Reaper is needed.
type Config struct {
	Root       string // a folder per container is made here, on a tmpfs; "/run/kata-containers" when empty
	CgroupRoot string // where cgroup2 is mounted; "/sys/fs/cgroup" when empty
	Reaper     *reap.Reaper
	Log        *slog.Logger // nil discards
	Guard      func()       // deferred in each goroutine; nil does nothing
	Self       string       // the program that calls Stage when IsStage says so; "/proc/self/exe" when empty
	PipeSize   int          // what each pipe of a process's streams holds, in bytes; flow.PipeSize when 0
	// the guest's root is an initramfs, which pivot_root(2) cannot replace; found out by itself, too
	NoPivot bool
}

// leaf is the agent's own control group.
const leaf = "kata-agent"

// oomBacklog is how many events wait for somebody to read them.
const oomBacklog = 100

// Runner runs containers. Its methods may be called at the same time.
type Runner struct {
	cfg         Config
	oom         chan string
	outOfMemory *memoryWatch

	programs cgroup.Programs
	stages   *launch.Launcher
	ahead    ahead

	mu         sync.Mutex
	containers map[string]*Container // guarded by mu; nil while being created
}

// New prepares control groups and waits for lack of memory in them.
func New(c Config) (*Runner, error) {
	if c.Reaper == nil {
		return nil, errors.New("containers: no reaper")
	}
	if c.Root == "" {
		c.Root = "/run/kata-containers"
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/sys/fs/cgroup"
	}
	if c.PipeSize == 0 {
		c.PipeSize = flow.PipeSize
	}
	if c.Self == "" {
		c.Self = "/proc/self/exe"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Guard == nil {
		c.Guard = func() {}
	}
	if err := os.MkdirAll(c.Root, 0o711); err != nil { // a user of a user namespace has to get through
		return nil, fmt.Errorf("folder of containers: %w", err)
	}
	if err := cgroup.Prepare(c.CgroupRoot, leaf); err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	// The first root of a kernel is a ramfs or tmpfs. <linux/magic.h>
	c.NoPivot = c.NoPivot || int64(st.Type) == unix.RAMFS_MAGIC || int64(st.Type) == unix.TMPFS_MAGIC && firstRoot()
	r := &Runner{cfg: c, oom: make(chan string, oomBacklog), containers: map[string]*Container{}}
	r.stages = &launch.Launcher{Reaper: c.Reaper, Guard: c.Guard,
		Self: sync.OnceValues(func() (string, error) { return launch.Sealed(c.Self) })}
	var err error
	if r.outOfMemory, err = newMemoryWatch(); err != nil {
		return nil, err
	}
	r.background(r.outOfMemory.listen)
	return r, nil
}

// firstRoot says whether the root is the kernel's first one, which has no device to be mounted from.
func firstRoot() bool {
	all, err := mountinfo.Self()
	if err != nil {
		return false
	}
	for _, m := range all {
		if m.Point == "/" {
			return m.Type == "rootfs"
		}
	}
	return true // a root that mountinfo does not list
}

// IsStage says whether a program with these arguments was started as a stage, and so shall call Stage before anything
// else. It may be process 1 then, of a container.
func IsStage(args []string) bool {
	return len(args) == 2 && args[0] == stage.Name && (args[1] == stage.Word || args[1] == stage.WordAhead)
}

// Stage is the life of such a program. It never returns.
func Stage() { stage.Main() }

// background runs f in a goroutine.
func (r *Runner) background(f func()) {
	go func() {
		defer r.cfg.Guard()
		f()
	}()
}

// OOM tells the containers in which the kernel killed a process for want of memory. The oldest events are dropped when
// nobody reads.
func (r *Runner) OOM() <-chan string { return r.oom }

// reportOOM adds to OOM.
func (r *Runner) reportOOM(id string) {
	for {
		select {
		case r.oom <- id:
			return
		default:
		}
		select {
		case <-r.oom:
		default:
		}
	}
}

// Container finds a container.
func (r *Runner) Container(id string) (*Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
}

// Containers are all containers, sorted by id.
func (r *Runner) Containers() []*Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*Container
	for _, c := range r.containers {
		if c != nil {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *Container) int { return strings.Compare(a.id, b.id) })
	return out
}

// maxID is the longest name a file can have. NAME_MAX of <linux/limits.h>.
const maxID = 255

// validID says whether an id can be the name of a folder and a control group. No regular expression: to compile one
// costs every stage more than all that it does.
func validID(id string) bool {
	for i, r := range []byte(id) {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return id != "" && len(id) <= maxID && !slices.Contains(reserved, id)
}

// reserved are folders of others beside those of containers.
var reserved = []string{"shared", "sandbox", "virtual-volumes", "image"}

// phase is what a container does.
type phase string

// The states of a container.
const (
	stateCreated phase = "created"
	stateRunning phase = "running"
	statePaused  phase = "paused"
	stateStopped phase = "stopped"
)

// Container is a container from Create to Remove.
type Container struct {
	r     *Runner
	id    string
	dir   string
	spec  *specs.Spec
	group *cgroup.Group
	init  *Process
	plan  *blueprint.Blueprint
	locks locks.Foreign // whose locks are refused; not changed after creation

	mounts mounts // used by Create, and then by Remove

	op sync.Mutex // one of Start, Remove, Pause, Resume at a time; held while those wait, and by nothing else

	mu      sync.Mutex
	state   phase               // guarded by mu; stopped is told from init
	procs   map[string]*Process // guarded by mu; by exec id, without init
	control *launch.Control     // guarded by mu; the stage's, until it started
	kills   uint64              // guarded by mu; how many ends for want of memory were told
	stopped bool                // guarded by mu; poststop hooks have run
	going   bool                // guarded by mu; Remove has begun, and nothing is started any more
}

// ID is the container's id.
func (c *Container) ID() string { return c.id }

// Spec is what the container was made from. It must not be changed.
func (c *Container) Spec() *specs.Spec { return c.spec }

// Create makes a container whose process waits for Start. Its streams are in use from now on. On an error nothing is
// left of it, except what the caller made.
func (r *Runner) Create(ctx context.Context, id string, spec *specs.Spec, stdio Stdio) (*Container, error) {
	if !validID(id) {
		stdio.close()
		return nil, fmt.Errorf("container %q: not an id", id)
	}
	r.mu.Lock()
	_, there := r.containers[id]
	if !there {
		r.containers[id] = nil
	}
	r.mu.Unlock()
	if there {
		stdio.close()
		return nil, fmt.Errorf("container %q: %w", id, ErrExists)
	}
	c := &Container{r: r, id: id, dir: filepath.Join(r.cfg.Root, id), spec: spec, state: stateCreated,
		procs: map[string]*Process{}}
	if err := c.create(ctx, stdio); err != nil {
		if c.init == nil {
			stdio.close()
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		err = fmt.Errorf("create container %s: %w", id, errors.Join(err, c.undo(clean)))
		r.mu.Lock()
		delete(r.containers, id)
		if len(r.containers) == 0 {
			r.forgetAhead()
		}
		r.mu.Unlock()
		return nil, err
	}
	r.mu.Lock()
	r.containers[id] = c
	r.startNext() // with mu held, so that whoever removes the last container comes after it
	r.mu.Unlock()
	return c, nil
}

func (c *Container) create(ctx context.Context, stdio Stdio) error {
	var err error
	if c.plan, err = blueprint.New(c.id, c.dir, c.spec, blueprint.Place{NoPivot: c.r.cfg.NoPivot}); err != nil {
		return err
	}
	c.warn(c.plan.Unknown)
	if c.locks, err = locks.Find(c.spec.Mounts); err != nil {
		return err
	}
	if len(c.locks) > 0 {
		if c.plan.Stage.Process.Locks, err = seccomp.Locks(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.dir, 0o711); err != nil {
		return fmt.Errorf("folder: %w", err)
	}
	path := ""
	if c.spec.Linux != nil {
		path = c.spec.Linux.CgroupsPath
	}
	if c.group, err = cgroup.Make(c.r.cfg.CgroupRoot, cgroup.Path(path, "kata/"+c.id)); err != nil {
		return err
	}
	p, ctl, err := c.first(ctx, stdio)
	if err != nil {
		return err
	}
	c.init, c.control = p, ctl
	c.keepMounts(p)
	return c.awaitCreated(ctx)
}

// first starts the container's first process: in its control group, with its limits, and what the agent has to make and
// set for it.
func (c *Container) first(ctx context.Context, stdio Stdio) (*Process, *launch.Control, error) {
	l := &launch.Request{Plan: &c.plan.Stage, Clone: c.plan.Clone, Group: c.group, Join: c.plan.Join, OOM: c.plan.OOM,
		UIDs: c.plan.UIDs, GIDs: c.plan.GIDs, Owner: c.plan.Owner}
	moving := c.r.takeAhead(l)
	defer func() {
		if moving != nil {
			moving.discard()
		}
	}()
	if err := c.limit(); err != nil {
		return nil, nil, err
	}
	if err := launch.SetSysctls(c.plan); err != nil {
		return nil, nil, err
	}
	var err error
	l.Trees, err = c.r.stages.Trees(c.plan)
	defer func() {
		for _, f := range l.Trees {
			f.Close()
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	use := moving
	moving = nil // whether it can be used or not, launch ends with it
	return c.r.launch(ctx, c, l, stdio, use)
}

// awaitCreated has the stage make all that comes before Start.
func (c *Container) awaitCreated(ctx context.Context) error {
	p, ctl := c.init, c.control
	for {
		m, err := ctl.Next(ctx)
		if err != nil {
			return p.early(ctx, err)
		}
		switch m.Kind {
		case stage.Hooks:
			s := c.plan.Stage.State
			s.Pid = p.pid
			for _, h := range c.plan.Hooks {
				if err := c.r.stages.Hook(ctx, h, s); err != nil {
					return err
				}
			}
			if err := ctl.Continue(); err != nil {
				return p.early(ctx, err)
			}
		case stage.Terminal:
			p.io.terminal(ctl.TakeFile())
		case stage.Created:
			p.io.begin()
			return nil
		}
	}
}

// warn tells of capabilities that the kernel does not know.
func (c *Container) warn(capabilities []string) {
	if len(capabilities) > 0 {
		c.r.cfg.Log.Warn("capabilities that are unknown here are left out", "container", c.id, "capabilities",
			capabilities)
	}
}

// limit sets the limits of the control group.
func (c *Container) limit() error {
	var res *specs.LinuxResources
	if l := c.spec.Linux; l != nil {
		res = l.Resources
	}
	files, err := cgroup.Files(res)
	if err != nil {
		return err
	}
	rules, err := c.rules(res)
	if err != nil {
		return err
	}
	if err := c.group.Set(files); err != nil {
		return err
	}
	if err := c.group.SetDevices(&c.r.programs, rules); err != nil {
		return err
	}
	c.r.outOfMemory.watch(filepath.Join(c.group.Path, cgroup.EventsFile), c.id, c.checkOOM)
	return nil
}

// rules are the devices that a container may use: the default ones, the specification's, its nodes, and those that are
// mounted into it.
func (c *Container) rules(res *specs.LinuxResources) ([]cgroup.Rule, error) {
	var more []cgroup.Rule
	allow := func(kind byte, major, minor int64) {
		more = append(more, cgroup.Rule{Allow: true, Type: kind, Major: major, Minor: minor, Access: "rwm"})
	}
	var list []specs.LinuxDeviceCgroup
	if res != nil {
		list = res.Devices
	}
	if len(list) > 0 {
		return cgroup.Rules(list, nil)
	}
	if c.spec.Linux != nil {
		for _, d := range c.spec.Linux.Devices {
			switch d.Type {
			case "c", "u":
				allow('c', d.Major, d.Minor)
			case "b":
				allow('b', d.Major, d.Minor)
			}
		}
	}
	for _, m := range c.plan.Stage.Mounts {
		var st unix.Stat_t
		if !m.Bind || unix.Stat(m.Source, &st) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			allow('c', int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)))
		case unix.S_IFBLK:
			allow('b', int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)))
		}
	}
	return cgroup.Rules(nil, more)
}

// checkOOM tells of processes killed since it was last called.
func (c *Container) checkOOM() {
	n, err := c.group.OOMKills()
	c.mu.Lock()
	more := err == nil && n > c.kills
	if more {
		c.kills = n
	}
	c.mu.Unlock()
	if more {
		c.r.reportOOM(c.id)
	}
}
