// Package oci turns a container of the OCI runtime specification into the guest API's mirror of it, and back.
//
// The mirror has no nil for numbers: 0 is "not set" there, as in the specification wherever 0 would make no sense. What
// the mirror has no place for, and an agent of ours can do, travels as JSON in the annotation Extra; other agents do
// not look at it. It does not know what the fields mean.
package oci

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// extraKey is the annotation that carries what the mirror lacks. docs/formats/agent-api.md.
const extraKey = "io.katabuild.oci-extra"

// extra is what the mirror lacks.
type extra struct {
	Umask           *uint32                          `json:"umask,omitempty"`
	Domainname      string                           `json:"domainname,omitempty"`
	DefaultErrnoRet *uint                            `json:"defaultErrnoRet,omitempty"`
	Unified         map[string]string                `json:"unified,omitempty"`
	TimeOffsets     map[string]specs.LinuxTimeOffset `json:"timeOffsets,omitempty"`
	CPUBurst        *uint64                          `json:"cpuBurst,omitempty"`
	CPUIdle         *int64                           `json:"cpuIdle,omitempty"`
}

func (e extra) empty() bool {
	return e.Umask == nil && e.Domainname == "" && e.DefaultErrnoRet == nil && len(e.Unified) == 0 &&
		len(e.TimeOffsets) == 0 &&
		e.CPUBurst == nil && e.CPUIdle == nil
}

// each converts a list.
func each[A, B any](in []A, f func(A) B) []B {
	if in == nil {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}

// value is 0 for nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// set is nil for 0.
func set[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// ToWire is the mirror of s. Nil is nil.
func ToWire(s *specs.Spec) (*katapb.Spec, error) {
	if s == nil {
		return nil, nil
	}
	w := &katapb.Spec{
		Version: s.Version, Hostname: s.Hostname, Process: ProcessToWire(s.Process), Hooks: hooksToWire(s.Hooks),
		Mounts: each(s.Mounts, func(m specs.Mount) *katapb.Mount {
			return &katapb.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options}
		}),
		Linux: linuxToWire(s.Linux),
	}
	if s.Root != nil {
		w.Root = &katapb.Root{Path: s.Root.Path, Readonly: s.Root.Readonly}
	}
	e := extra{Domainname: s.Domainname}
	if s.Process != nil {
		e.Umask = s.Process.User.Umask
	}
	if l := s.Linux; l != nil {
		e.TimeOffsets = l.TimeOffsets
		if l.Seccomp != nil {
			e.DefaultErrnoRet = l.Seccomp.DefaultErrnoRet
		}
		if l.Resources != nil {
			e.Unified = l.Resources.Unified
			if c := l.Resources.CPU; c != nil {
				e.CPUBurst, e.CPUIdle = c.Burst, c.Idle
			}
		}
	}
	if len(s.Annotations) > 0 || !e.empty() {
		w.Annotations = map[string]string{}
		for k, v := range s.Annotations {
			w.Annotations[k] = v
		}
	}
	delete(w.Annotations, extraKey) // nobody but this package says what it holds
	if !e.empty() {
		b, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("container's specification: %w", err)
		}
		w.Annotations[extraKey] = string(b)
	}
	return w, nil
}

// FromWire is the specification that w mirrors. Nil is nil.
func FromWire(w *katapb.Spec) (*specs.Spec, error) {
	if w == nil {
		return nil, nil
	}
	s := &specs.Spec{
		Version: w.Version, Hostname: w.Hostname, Process: ProcessFromWire(w.Process), Hooks: hooksFromWire(w.Hooks),
		Mounts: each(w.Mounts, func(m *katapb.Mount) specs.Mount {
			return specs.Mount{Destination: m.GetDestination(), Type: m.GetType(), Source: m.GetSource(),
				Options: m.GetOptions()}
		}),
		Linux: linuxFromWire(w.Linux),
	}
	if w.Root != nil {
		s.Root = &specs.Root{Path: w.Root.Path, Readonly: w.Root.Readonly}
	}
	var e extra
	for k, v := range w.Annotations {
		if k == extraKey {
			if err := json.Unmarshal([]byte(v), &e); err != nil {
				return nil, fmt.Errorf("annotation %s: %w", extraKey, err)
			}
			continue
		}
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[k] = v
	}
	s.Domainname = e.Domainname
	if s.Process != nil {
		s.Process.User.Umask = e.Umask
	}
	if l := s.Linux; l != nil {
		l.TimeOffsets = e.TimeOffsets
		if l.Seccomp != nil {
			l.Seccomp.DefaultErrnoRet = e.DefaultErrnoRet
		}
		if l.Resources == nil && len(e.Unified) > 0 {
			l.Resources = &specs.LinuxResources{}
		}
		if r := l.Resources; r != nil {
			r.Unified = e.Unified
			if r.CPU == nil && (e.CPUBurst != nil || e.CPUIdle != nil) {
				r.CPU = &specs.LinuxCPU{}
			}
			if r.CPU != nil {
				r.CPU.Burst, r.CPU.Idle = e.CPUBurst, e.CPUIdle
			}
		}
	}
	return s, nil
}

// ProcessToWire is the mirror of p. Nil is nil.
func ProcessToWire(p *specs.Process) *katapb.Process {
	if p == nil {
		return nil
	}
	w := &katapb.Process{
		Terminal: p.Terminal, Args: p.Args, Env: p.Env, Cwd: p.Cwd, NoNewPrivileges: p.NoNewPrivileges,
		ApparmorProfile: p.ApparmorProfile, SelinuxLabel: p.SelinuxLabel, OOMScoreAdj: int64(value(p.OOMScoreAdj)),
		User: &katapb.User{UID: p.User.UID, GID: p.User.GID, AdditionalGids: p.User.AdditionalGids,
			Username: p.User.Username},
		Rlimits: each(p.Rlimits, func(r specs.POSIXRlimit) *katapb.POSIXRlimit {
			return &katapb.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft}
		}),
	}
	if b := p.ConsoleSize; b != nil {
		w.ConsoleSize = &katapb.Box{Height: uint32(b.Height), Width: uint32(b.Width)}
	}
	if c := p.Capabilities; c != nil {
		w.Capabilities = &katapb.LinuxCapabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted,
			Ambient: c.Ambient,
		}
	}
	return w
}

// ProcessFromWire is the process that w mirrors. Nil is nil.
func ProcessFromWire(w *katapb.Process) *specs.Process {
	if w == nil {
		return nil
	}
	p := &specs.Process{
		Terminal: w.Terminal, Args: w.Args, Env: w.Env, Cwd: w.Cwd, NoNewPrivileges: w.NoNewPrivileges,
		ApparmorProfile: w.ApparmorProfile, SelinuxLabel: w.SelinuxLabel, OOMScoreAdj: set(int(w.OOMScoreAdj)),
		User: specs.User{
			UID: w.User.GetUID(), GID: w.User.GetGID(), AdditionalGids: w.User.GetAdditionalGids(),
			Username: w.User.GetUsername(),
		},
		Rlimits: each(w.Rlimits, func(r *katapb.POSIXRlimit) specs.POSIXRlimit {
			return specs.POSIXRlimit{Type: r.GetType(), Hard: r.GetHard(), Soft: r.GetSoft()}
		}),
	}
	if b := w.ConsoleSize; b != nil {
		p.ConsoleSize = &specs.Box{Height: uint(b.Height), Width: uint(b.Width)}
	}
	if c := w.Capabilities; c != nil {
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted,
			Ambient: c.Ambient,
		}
	}
	return p
}

func hooksToWire(h *specs.Hooks) *katapb.Hooks {
	if h == nil {
		return nil
	}
	one := func(h specs.Hook) *katapb.Hook {
		return &katapb.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: int64(value(h.Timeout))}
	}
	return &katapb.Hooks{
		//lint:ignore SA1019 prestart hooks are deprecated, and in use
		Prestart: each(h.Prestart, one), CreateRuntime: each(h.CreateRuntime, one),
		CreateContainer: each(h.CreateContainer, one),
		StartContainer:  each(h.StartContainer, one), Poststart: each(h.Poststart, one), Poststop: each(h.Poststop,
			one),
	}
}

func hooksFromWire(w *katapb.Hooks) *specs.Hooks {
	if w == nil {
		return nil
	}
	one := func(h *katapb.Hook) specs.Hook {
		return specs.Hook{Path: h.GetPath(), Args: h.GetArgs(), Env: h.GetEnv(), Timeout: set(int(h.GetTimeout()))}
	}
	return &specs.Hooks{
		//lint:ignore SA1019 prestart hooks are deprecated, and in use
		Prestart: each(w.Prestart, one), CreateRuntime: each(w.CreateRuntime, one),
		CreateContainer: each(w.CreateContainer, one),
		StartContainer:  each(w.StartContainer, one), Poststart: each(w.Poststart, one), Poststop: each(w.Poststop,
			one),
	}
}

func linuxToWire(l *specs.Linux) *katapb.Linux {
	if l == nil {
		return nil
	}
	ids := func(m specs.LinuxIDMapping) *katapb.LinuxIDMapping {
		return &katapb.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Size}
	}
	w := &katapb.Linux{
		UIDMappings: each(l.UIDMappings, ids), GIDMappings: each(l.GIDMappings, ids), Sysctl: l.Sysctl,
		CgroupsPath: l.CgroupsPath,
		Resources:   ResourcesToWire(l.Resources), RootfsPropagation: l.RootfsPropagation, MaskedPaths: l.MaskedPaths,
		ReadonlyPaths: l.ReadonlyPaths, MountLabel: l.MountLabel,
		Namespaces: each(l.Namespaces, func(n specs.LinuxNamespace) *katapb.LinuxNamespace {
			return &katapb.LinuxNamespace{Type: string(n.Type), Path: n.Path}
		}),
		Devices: each(l.Devices, func(d specs.LinuxDevice) *katapb.LinuxDevice {
			return &katapb.LinuxDevice{
				Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: uint32(value(d.FileMode)),
				UID: value(d.UID), GID: value(d.GID),
			}
		}),
	}
	if r := l.IntelRdt; r != nil {
		w.IntelRdt = &katapb.LinuxIntelRdt{L3CacheSchema: r.L3CacheSchema}
	}
	if s := l.Seccomp; s != nil {
		w.Seccomp = &katapb.LinuxSeccomp{
			DefaultAction: string(s.DefaultAction),
			Architectures: each(s.Architectures, func(a specs.Arch) string { return string(a) }),
			Flags:         each(s.Flags, func(f specs.LinuxSeccompFlag) string { return string(f) }),
			Syscalls:      each(s.Syscalls, syscallToWire),
		}
	}
	return w
}

func linuxFromWire(w *katapb.Linux) *specs.Linux {
	if w == nil {
		return nil
	}
	ids := func(m *katapb.LinuxIDMapping) specs.LinuxIDMapping {
		return specs.LinuxIDMapping{HostID: m.GetHostID(), ContainerID: m.GetContainerID(), Size: m.GetSize()}
	}
	l := &specs.Linux{
		UIDMappings: each(w.UIDMappings, ids), GIDMappings: each(w.GIDMappings, ids), Sysctl: w.Sysctl,
		CgroupsPath: w.CgroupsPath,
		Resources:   ResourcesFromWire(w.Resources), RootfsPropagation: w.RootfsPropagation, MaskedPaths: w.MaskedPaths,
		ReadonlyPaths: w.ReadonlyPaths, MountLabel: w.MountLabel,
		Namespaces: each(w.Namespaces, func(n *katapb.LinuxNamespace) specs.LinuxNamespace {
			return specs.LinuxNamespace{Type: specs.LinuxNamespaceType(n.GetType()), Path: n.GetPath()}
		}),
		Devices: each(w.Devices, func(d *katapb.LinuxDevice) specs.LinuxDevice {
			return specs.LinuxDevice{
				Path: d.GetPath(), Type: d.GetType(), Major: d.GetMajor(), Minor: d.GetMinor(),
				FileMode: set(os.FileMode(d.GetFileMode())),
				UID:      set(d.GetUID()), GID: set(d.GetGID()),
			}
		}),
	}
	if r := w.IntelRdt; r != nil {
		l.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: r.L3CacheSchema}
	}
	if s := w.Seccomp; s != nil {
		l.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.LinuxSeccompAction(s.DefaultAction),
			Architectures: each(s.Architectures, func(a string) specs.Arch { return specs.Arch(a) }),
			Flags:         each(s.Flags, func(f string) specs.LinuxSeccompFlag { return specs.LinuxSeccompFlag(f) }),
			Syscalls:      each(s.Syscalls, syscallFromWire),
		}
	}
	return l
}

func syscallToWire(s specs.LinuxSyscall) *katapb.LinuxSyscall {
	w := &katapb.LinuxSyscall{
		Names: s.Names, Action: string(s.Action),
		Args: each(s.Args, func(a specs.LinuxSeccompArg) *katapb.LinuxSeccompArg {
			return &katapb.LinuxSeccompArg{Index: uint64(a.Index), Value: a.Value, ValueTwo: a.ValueTwo,
				Op: string(a.Op)}
		}),
	}
	if s.ErrnoRet != nil {
		w.ErrnoRet = &katapb.LinuxSyscall_Errnoret{Errnoret: uint32(*s.ErrnoRet)}
	}
	return w
}

func syscallFromWire(w *katapb.LinuxSyscall) specs.LinuxSyscall {
	s := specs.LinuxSyscall{
		Names: w.GetNames(), Action: specs.LinuxSeccompAction(w.GetAction()),
		Args: each(w.GetArgs(), func(a *katapb.LinuxSeccompArg) specs.LinuxSeccompArg {
			return specs.LinuxSeccompArg{Index: uint(a.GetIndex()), Value: a.GetValue(), ValueTwo: a.GetValueTwo(),
				Op: specs.LinuxSeccompOperator(a.GetOp())}
		}),
	}
	if e, ok := w.GetErrnoRet().(*katapb.LinuxSyscall_Errnoret); ok {
		n := uint(e.Errnoret)
		s.ErrnoRet = &n
	}
	return s
}
