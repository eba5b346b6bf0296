package container

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

// blueprint is a stage's plan and what the agent itself has to do for it.
type blueprint struct {
	stage stage.Plan
	clone int    // namespaces made when the stage is cloned
	join  []join // namespaces that have a name
	user  bool   // a user namespace that is not the agent's
	owner string // its path, where it is not new
	trees []idmap
	uids  []specs.LinuxIDMapping
	gids  []specs.LinuxIDMapping
	hooks []stage.Hook // prestart and createRuntime
	oom   *int         // oom_score_adj
	odd   []string     // capabilities that are unknown here
	// sysctls are set by the agent, because the stage may not.
	sysctls []stage.Sysctl
}

// join is a namespace at a path.
type join struct {
	path string
	flag int
}

// newBlueprint checks a specification and says how to make its container.
func newBlueprint(id, bundle string, spec *specs.Spec, noPivot bool) (*blueprint, error) {
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
	b := &blueprint{}
	if err := b.namespaces(linux); err != nil {
		return nil, err
	}
	p := &b.stage
	p.State = stage.State{Version: spec.Version, ID: id, Status: "creating", Bundle: bundle,
		Annotations: spec.Annotations}
	p.Root = &stage.Root{Path: path.Clean(spec.Root.Path), Readonly: spec.Root.Readonly, NoPivot: noPivot}
	if linux.RootfsPropagation != "" {
		bits, ok := propagations[linux.RootfsPropagation]
		if !ok {
			return nil, fmt.Errorf("propagation %q of the root file system is unknown", linux.RootfsPropagation)
		}
		p.Root.Propagation = bits
	}
	ownDev := false
	for _, m := range spec.Mounts {
		s, err := mount(m)
		if err != nil {
			return nil, err
		}
		p.Mounts = append(p.Mounts, s)
		ownDev = ownDev || s.Destination == "/dev" && s.Bind
	}
	if err := b.idmaps(spec.Mounts); err != nil {
		return nil, err
	}
	b.lend()
	if !ownDev {
		list, err := devices(linux.Devices, b.user)
		if err != nil {
			return nil, err
		}
		p.Devices = list
	}
	p.Console = !ownDev
	p.Masked, p.Readonly = linux.MaskedPaths, linux.ReadonlyPaths
	for _, name := range slices.Sorted(maps.Keys(linux.Sysctl)) {
		if err := sysctl(name, b.has); err != nil {
			return nil, err
		}
		s := stage.Sysctl{Name: name, Value: linux.Sysctl[name]}
		if b.user && b.clone&sysctlNamespace(name) == 0 {
			b.sysctls = append(b.sysctls, s)
			continue
		}
		p.Sysctls = append(p.Sysctls, s)
	}
	// With a namespace by path, the name is whoever's who made it; the specification may still name it.
	p.Hostname, p.Domainname = spec.Hostname, spec.Domainname
	if spec.Hostname+spec.Domainname != "" && !b.has(unix.CLONE_NEWUTS) {
		return nil, fmt.Errorf("host name %q: without a UTS namespace it would be the guest's", spec.Hostname)
	}
	if b.user && b.clone&unix.CLONE_NEWUTS == 0 {
		p.Hostname, p.Domainname = "", "" // the pod has its name, and a user namespace may not change it
	}
	if h := spec.Hooks; h != nil {
		//lint:ignore SA1019 prestart hooks are deprecated, and in use
		b.hooks = append(hooks("prestart", h.Prestart), hooks("createRuntime", h.CreateRuntime)...)
		p.CreateHooks, p.StartHooks = hooks("createContainer", h.CreateContainer),
			hooks("startContainer", h.StartContainer)
	}
	p.AskHooks = len(b.hooks) > 0
	proc, odd, err := process(spec.Process, linux)
	if err != nil {
		return nil, err
	}
	p.Process, b.odd = *proc, odd
	b.oom = spec.Process.OOMScoreAdj
	if linux.Personality != nil {
		if p.Process.Personality, err = personality(linux.Personality); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// has says whether the container has a namespace that is not the agent's.
func (b *blueprint) has(flag int) bool {
	return b.clone&flag != 0 || b.stage.Unshare&flag != 0 ||
		slices.ContainsFunc(b.join, func(j join) bool { return j.flag == flag })
}

func (b *blueprint) namespaces(linux *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	b.clone = unix.CLONE_NEWNS             // never without: mounts would be the guest's
	b.stage.Unshare = unix.CLONE_NEWCGROUP // always new, and made in there: it is rooted where its maker is
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
			b.stage.Unshare |= flag // a time namespace cannot be asked of clone(2)
		case n.Path == "":
			b.clone |= flag
			b.user = b.user || flag == unix.CLONE_NEWUSER
		case flag == unix.CLONE_NEWUSER:
			b.user, b.owner = true, n.Path
		case flag == unix.CLONE_NEWTIME:
			// setns(2): not by a program with threads
			return fmt.Errorf("time namespace %s: none can be joined by path", n.Path)
		case flag == unix.CLONE_NEWNS:
			return fmt.Errorf("mount namespace %s: a container's mounts are always its own", n.Path)
		default:
			if flag == unix.CLONE_NEWCGROUP {
				b.stage.Unshare &^= flag
			}
			b.join = append(b.join, join{n.Path, flag})
		}
	}
	if b.user && b.owner == "" { // the mappings of one that is there are whoever's who made it
		b.uids, b.gids = linux.UIDMappings, linux.GIDMappings
		for _, m := range [][]specs.LinuxIDMapping{b.uids, b.gids} {
			if !slices.ContainsFunc(m, func(m specs.LinuxIDMapping) bool { return m.ContainerID == 0 && m.Size > 0 }) {
				return errors.New("user namespace: the mappings have no root")
			}
		}
	}
	if len(linux.TimeOffsets) > 0 {
		if b.stage.Unshare&unix.CLONE_NEWTIME == 0 {
			return errors.New("time offsets without a time namespace")
		}
		for _, clock := range slices.Sorted(maps.Keys(linux.TimeOffsets)) {
			if clock != "monotonic" && clock != "boottime" {
				return fmt.Errorf("time offset of clock %q: only monotonic and boottime have one", clock)
			}
			o := linux.TimeOffsets[clock]
			b.stage.Offsets += fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
	}
	return nil
}

// hooks converts hooks.
func hooks(kind string, list []specs.Hook) []stage.Hook {
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
func sysctl(name string, has func(int) bool) error {
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
		// The whole guest is one pod and has one network: what a pod's sysctl is for.
		return nil
	}
	return fmt.Errorf("sysctl %s: it is the same for the whole guest, and no namespace separates it", name)
}

// process turns a process of the specification into one of the plan. Unknown capabilities are returned, too.
func process(p *specs.Process, linux *specs.Linux) (_ *stage.Process, unknown []string, _ error) {
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
