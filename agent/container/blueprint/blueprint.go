// Package blueprint says how a container of a specification is made.
//
// In comes a specification of the OCI runtime specification; out goes a stage's plan with what the agent itself has to
// do for it, or the reason why there can be no such container. Nothing is done here, and nothing looked at but the
// kernel's bound on open files.
package blueprint

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/agent/container/seccomp"
	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaces of the specification as clone(2) flags.
var namespaces = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace:   unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS,
	specs.UserNamespace:   unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// NamespaceTypes are the kinds of namespaces that a container can have, sorted.
func NamespaceTypes() []string {
	var out []string
	for n := range namespaces {
		out = append(out, string(n))
	}
	slices.Sort(out)
	return out
}

// Blueprint is a stage's plan and what the agent itself has to do for it.
type Blueprint struct {
	Stage stage.Plan
	Clone int          // namespaces made when the stage is cloned, as CLONE_NEW flags
	Join  []stage.Join // namespaces that have a name
	User  bool         // a user namespace that is not the agent's
	Owner string       // its path, where it is not new
	// UIDs and GIDs are its mappings, where it is new.
	UIDs, GIDs []specs.LinuxIDMapping
	Trees      []Tree
	Hooks      []stage.Hook // prestart and createRuntime
	OOM        *int         // oom_score_adj of proc(5); nil is 0
	Unknown    []string     // capabilities that this agent does not know, and leaves out
	// Sysctls are set by the agent, because the stage may not.
	Sysctls []stage.Sysctl

	host bool // as in Place
}

// Tree is a mount that the agent makes for a stage: one that has other owners than its file system says, or one that
// only the owner of a namespace may make.
type Tree struct {
	Mount      int  // index among the plan's mounts
	Recursive  bool // also what is mounted below
	UIDs, GIDs []specs.LinuxIDMapping
	FS         string     // the type of a file system that shows a namespace; empty for a bind
	Attr       int        // of its mount, MOUNT_ATTR_ bits
	In         stage.Join // the namespace that it shows; the zero value is the agent's
}

// Place says where containers are made. The zero value is a guest, all of which is one pod.
type Place struct {
	NoPivot bool // as in stage.Root
	// Host is a machine with other things on it than containers of one pod: a network that is not the container's own
	// is the host's, and a control group namespace is made only where one is asked for.
	Host bool
}

// New checks a specification and says how to make its container. bundle is its folder.
func New(id, bundle string, spec *specs.Spec, place Place) (*Blueprint, error) {
	switch {
	case spec == nil:
		return nil, errors.New("no specification")
	case spec.Process == nil:
		return nil, errors.New("the specification has no process")
	case spec.Root == nil:
		return nil, errors.New("the specification has no root")
	case !path.IsAbs(spec.Root.Path):
		return nil, fmt.Errorf("root file system %q: not an absolute path", spec.Root.Path)
	}
	linux := spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	b := &Blueprint{host: place.Host}
	b.Stage.State = stage.State{Version: spec.Version, ID: id, Status: "creating", Bundle: bundle,
		Annotations: spec.Annotations}
	for _, part := range []func() error{
		func() error { return b.namespaces(linux) },
		func() error { return b.root(spec.Root, linux.RootfsPropagation, place.NoPivot) },
		func() error { return b.files(spec.Mounts, linux) },
		func() error { return b.sysctls(linux.Sysctl) },
		func() error { return b.hostname(spec.Hostname, spec.Domainname) },
		func() error { b.hooks(spec.Hooks); return nil },
		func() error { return b.process(spec.Process, linux) },
	} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// root is the root file system.
func (b *Blueprint) root(r *specs.Root, propagation string, noPivot bool) error {
	b.Stage.Root = &stage.Root{Path: path.Clean(r.Path), Readonly: r.Readonly, NoPivot: noPivot}
	if propagation != "" {
		bits, ok := propagations[propagation]
		if !ok {
			return fmt.Errorf("propagation %q of the root file system is unknown", propagation)
		}
		b.Stage.Root.Propagation = bits
	}
	return nil
}

// files are the mounts and the devices.
func (b *Blueprint) files(mounts []specs.Mount, linux *specs.Linux) error {
	p := &b.Stage
	ownDev := false
	for _, m := range mounts {
		s, err := mount(m)
		if err != nil {
			return err
		}
		s.Late = b.host && s.Type == "tmpfs" && s.Flags&unix.MS_RDONLY != 0
		p.Mounts = append(p.Mounts, s)
		ownDev = ownDev || s.Destination == "/dev" && s.Bind
	}
	if err := b.otherOwners(mounts); err != nil {
		return err
	}
	b.mountsOfThePod()
	if !ownDev {
		list, err := devices(linux.Devices, b.User)
		if err != nil {
			return err
		}
		p.Devices = list
	}
	p.Console = !ownDev
	p.Masked, p.Readonly = linux.MaskedPaths, linux.ReadonlyPaths
	return nil
}

// sysctls are those that the stage sets, and those that the agent does.
func (b *Blueprint) sysctls(wanted map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := sysctl(name, b.host, b.has); err != nil {
			return err
		}
		s := stage.Sysctl{Name: name, Value: wanted[name]}
		if b.User && b.Clone&SysctlNamespace(name) == 0 {
			b.Sysctls = append(b.Sysctls, s)
			continue
		}
		b.Stage.Sysctls = append(b.Stage.Sysctls, s)
	}
	return nil
}

// hostname is the name of the host and its domain. A namespace by path has those that its maker gave it; the
// specification may still name them.
func (b *Blueprint) hostname(host, domain string) error {
	if host+domain != "" && !b.has(unix.CLONE_NEWUTS) {
		return fmt.Errorf("host name %q: without a UTS namespace it would be the guest's", host)
	}
	if b.User && b.Clone&unix.CLONE_NEWUTS == 0 {
		return nil // the pod has its name, and a user namespace may not change it
	}
	b.Stage.Hostname, b.Stage.Domainname = host, domain
	return nil
}

// hooks are those that the agent runs before the stage goes on, and those that the stage runs.
func (b *Blueprint) hooks(h *specs.Hooks) {
	if h == nil {
		return
	}
	//lint:ignore SA1019 prestart hooks are deprecated, and in use
	b.Hooks = append(Hooks("prestart", h.Prestart), Hooks("createRuntime", h.CreateRuntime)...)
	b.Stage.AskHooks = len(b.Hooks) > 0
	b.Stage.CreateHooks = Hooks("createContainer", h.CreateContainer)
	b.Stage.StartHooks = Hooks("startContainer", h.StartContainer)
}

// process is the container's first one.
func (b *Blueprint) process(p *specs.Process, linux *specs.Linux) error {
	proc, unknown, err := Process(p, linux)
	if err != nil {
		return err
	}
	b.Stage.Process, b.Unknown, b.OOM = *proc, unknown, p.OOMScoreAdj
	if linux.Personality != nil {
		b.Stage.Process.Personality, err = personality(linux.Personality)
	}
	return err
}

// has says whether the container has a namespace that is not the agent's.
func (b *Blueprint) has(flag int) bool {
	return b.Clone&flag != 0 || b.Stage.Unshare&flag != 0 ||
		slices.ContainsFunc(b.Join, func(j stage.Join) bool { return j.Flag == flag })
}

func (b *Blueprint) namespaces(linux *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	b.Clone = unix.CLONE_NEWNS // never without: mounts would be the guest's
	if !b.host {
		b.Stage.Unshare = unix.CLONE_NEWCGROUP // always new, and made in there: it is rooted where its maker is
	}
	for _, n := range linux.Namespaces {
		flag, ok := namespaces[n.Type]
		if !ok {
			return fmt.Errorf("namespace type %q is unknown", n.Type)
		}
		if seen[n.Type] {
			return fmt.Errorf("namespace type %q is there twice", n.Type)
		}
		seen[n.Type] = true
		switch {
		case n.Path == "" && (flag == unix.CLONE_NEWCGROUP || flag == unix.CLONE_NEWTIME):
			b.Stage.Unshare |= flag // a time namespace cannot be asked of clone(2)
		case n.Path == "":
			b.Clone |= flag
			b.User = b.User || flag == unix.CLONE_NEWUSER
		case flag == unix.CLONE_NEWUSER:
			b.User, b.Owner = true, n.Path
		case flag == unix.CLONE_NEWTIME:
			// setns(2): not by a program with threads
			return fmt.Errorf("time namespace %s: none can be joined by path", n.Path)
		case flag == unix.CLONE_NEWNS:
			return fmt.Errorf("mount namespace %s: a container's mounts are always its own", n.Path)
		default:
			if flag == unix.CLONE_NEWCGROUP {
				b.Stage.Unshare &^= flag
			}
			b.Join = append(b.Join, stage.Join{Path: n.Path, Flag: flag})
		}
	}
	if b.User && b.Owner == "" { // one that is there has the mappings that its maker gave it
		b.UIDs, b.GIDs = linux.UIDMappings, linux.GIDMappings
		for _, m := range [][]specs.LinuxIDMapping{b.UIDs, b.GIDs} {
			if !slices.ContainsFunc(m, func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 && m.Size > 0 }) {
				return errors.New("user namespace: the mappings have no root")
			}
		}
	}
	if len(linux.TimeOffsets) > 0 {
		if b.Stage.Unshare&unix.CLONE_NEWTIME == 0 {
			return errors.New("time offsets without a time namespace")
		}
		for _, clock := range slices.Sorted(maps.Keys(linux.TimeOffsets)) {
			if clock != "monotonic" && clock != "boottime" {
				return fmt.Errorf("time offset of clock %q: only monotonic and boottime have one", clock)
			}
			o := linux.TimeOffsets[clock]
			b.Stage.Offsets += fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
	}
	return nil
}

// Hooks are hooks of a kind, which is what the specification calls it, in the form of a stage's.
func Hooks(kind string, list []specs.Hook) []stage.Hook {
	var out []stage.Hook
	for _, h := range list {
		s := stage.Hook{Kind: kind, Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			s.Timeout = time.Duration(*h.Timeout) * time.Second
		}
		out = append(out, s)
	}
	return out
}

// kernelSysctls belong to an IPC namespace. ipc_namespaces(7).
var kernelSysctls = []string{"msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"}

// sysctl refuses what would change more than the container.
func sysctl(name string, host bool, has func(int) bool) error {
	dotted := strings.ReplaceAll(name, "/", ".")
	if dotted == "" || strings.Contains(dotted, "..") || strings.HasPrefix(dotted, ".") {
		return fmt.Errorf("sysctl %q: not a name", name)
	}
	if rest, ok := strings.CutPrefix(dotted, "kernel."); ok {
		switch {
		case rest == "hostname", rest == "domainname":
			return fmt.Errorf("sysctl %s: the specification has a field of its own for it", name)
		case slices.Contains(kernelSysctls, rest):
			if !has(unix.CLONE_NEWIPC) {
				return fmt.Errorf("sysctl %s: without an IPC namespace it would be the guest's", name)
			}
			return nil
		}
	}
	switch {
	case strings.HasPrefix(dotted, "fs.mqueue."):
		if !has(unix.CLONE_NEWIPC) {
			return fmt.Errorf("sysctl %s: without an IPC namespace it would be the guest's", name)
		}
		return nil
	case strings.HasPrefix(dotted, "net."):
		// A whole guest is one pod and has one network: what a pod's sysctl is for.
		if host && !has(unix.CLONE_NEWNET) {
			return fmt.Errorf("sysctl %s: without a network namespace it would be the host's", name)
		}
		return nil
	}
	return fmt.Errorf("sysctl %s: it is the same for the whole guest, and no namespace separates it", name)
}

// Process turns a process of the specification into one of a plan. Capabilities that are unknown, and so left out, are
// returned, too.
func Process(p *specs.Process, linux *specs.Linux) (_ *stage.Process, unknown []string, _ error) {
	if len(p.Args) == 0 {
		return nil, nil, errors.New("the process has no arguments")
	}
	for i, a := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(a, 0) {
			return nil, nil, fmt.Errorf(
				"the process has a zero byte in its folder, arguments or environment (word %d)", i)
		}
	}
	out := &stage.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, Terminal: p.Terminal, UID: p.User.UID, GID: p.User.GID,
		Groups: p.User.AdditionalGids,
		Umask:  p.User.Umask, NoNew: p.NoNewPrivileges, Label: p.SelinuxLabel, SetGroups: true,
	}
	if p.ConsoleSize != nil {
		out.Rows, out.Columns = uint16(min(p.ConsoleSize.Height, 1<<16-1)), uint16(min(p.ConsoleSize.Width, 1<<16-1))
	}
	var err error
	if out.Caps, unknown, err = caps(p.Capabilities); err != nil {
		return nil, nil, err
	}
	if out.Rlimits, err = rlimits(p.Rlimits, maxFiles); err != nil {
		return nil, nil, err
	}
	if linux.Seccomp != nil {
		if out.Filter, out.FFlags, err = seccomp.Compile(linux.Seccomp); err != nil {
			return nil, nil, err
		}
	}
	if p.IOPriority != nil {
		if out.IOPrio, err = ioPriority(p.IOPriority); err != nil {
			return nil, nil, err
		}
	}
	if p.Scheduler != nil {
		if out.Scheduler, err = scheduler(p.Scheduler); err != nil {
			return nil, nil, err
		}
	}
	return out, unknown, nil
}
