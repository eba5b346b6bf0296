// Package translate makes of a container of the host the container that its guest is asked for.
//
// In come a container's OCI specification, the mounts of its root file system, and what the pod and its guest can do;
// out comes a Plan: the specification, storages and devices for the guest, and a list of what has to be done on the
// host before: disks to plug in, files to share or to copy. What is of the host alone goes, and files of the host
// become files in the guest. The package only looks at the host, through Host; it changes nothing, and does not know
// how a disk gets into a machine or a file into the shared folder. Package pod carries the list out.
package translate

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Pod is what has to be known of the pod that a container is for. The zero value is one that shares nothing, with an
// agent that can do no more than is needed.
type Pod struct {
	Shared       bool  // there is a folder that host and guest share
	NoSeccomp    bool  // seccomp profiles of containers are left out
	Seccomp      bool  // the agent can do seccomp
	GuestDevices bool  // the agent gives a container devices of the guest, by their names
	PIDOf        bool  // the agent lets a container share the processes of any other
	Users        Users // of the pod's containers so far
	Passes       Mode  // what becomes of devices of the host that VFIO gives away
}

// Mode is who has a device of the host in the guest. The zero value passes none.
type Mode string

// guestKernel is a driver of the guest's kernel, by Kata's name. The other mode, vfio, is the container, by VFIO.
const guestKernel Mode = "guest-kernel"

// Container is a container as the host knows it.
type Container struct {
	ID     string
	Spec   *specs.Spec   // it is not changed
	Rootfs []share.Mount // of its root; none is the folder Spec.Root.Path
	Bundle string        // holds Spec.Root.Path where that is relative
	PIDOf  string        // the container of the pod whose PID namespace this one joins; empty for none
}

// Plan is a container as its guest is asked for it, and what has to be done before. It is complete once all of that has
// been done and noted by Plugged, Bound and Rooted.
type Plan struct {
	Spec     *specs.Spec
	Storages []*katapb.Storage // without those of the root before Rooted
	Devices  []*katapb.Device
	Users    Users // of the pod from here on

	// Roots are ways to bring the root file system into the guest, the best first. Each is for a machine that has no
	// place for the disks of those before it.
	Roots  []Root
	Disks  []Disk // to plug in, in this order
	Passes []Pass // devices of the host
	Binds  []Bind
	Copies []Copy
	Notes  []Note // for the log
}

// Disk is a disk to plug into the machine.
type Disk struct {
	What     string // the part of the specification that wants it, for errors; empty for one of the root
	File     string // a block device or a file of the host; empty for a partition of the root's pack
	ReadOnly bool
	// Exclusive: it must be in no other use on the host, since two kernels that write to one file system destroy it.
	Exclusive bool

	// Volume is the path of the volume that it is, which is assigned directly; empty for none.
	Volume string

	device  int             // in the plan's list, from 1; 0 is none
	storage *katapb.Storage // of the plan; nil is none
}

// Pass is a group of devices of the host to pass to the machine.
type Pass struct {
	What  string // the part of the specification that wants it, for errors
	Group string // /dev/vfio/7

	device int // in the plan's list, from 1
}

// Bind is a file or folder to share with the guest.
type Bind struct {
	What   string // the part of the specification that wants it, for errors
	Source string
	File   File // which Source is
	Access share.Access
	// Alone: the host alone sees to Access, so that the container cannot have it by what another one shares.
	Alone  bool
	Owners share.Owners
	// Claimed: programs take locks on it, which do not exclude those of another pod. Bound is told whether another one
	// has it.
	Claimed bool

	mount   int             // in the plan's list
	storage *katapb.Storage // of the plan; nil is none
}

// Copy is a file or folder to copy into the guest.
type Copy struct {
	What   string // the part of the specification that wants it, for errors
	Source string
	Path   string // in the guest
}

// Note is a line for the log.
type Note struct {
	Level slog.Level
	Text  string
	Attrs []slog.Attr
}

// Plugged notes where the guest finds a disk of the plan.
func (p *Plan) Plugged(d Disk, pciPath string) {
	if d.device > 0 {
		to := p.Devices[d.device-1]
		to.Id, to.Type = pciPath, driverOf(pciPath)
		if to.Type != "blk" {
			to.VmPath = pciPath // where Kata's agent looks
		}
	}
	if d.storage != nil {
		d.storage.Source, d.storage.Driver = pciPath, driverOf(pciPath)
	}
}

// Passed notes where the guest finds the devices of a group: "HOST=PATH" of each, an address of the host's PCI and the
// guest's path.
func (p *Plan) Passed(x Pass, devices []string) { p.Devices[x.device-1].Options = devices }

// driverOf is how the agent finds a disk: on the PCI bus, or in a machine without one by its device file.
func driverOf(place string) string {
	if strings.HasPrefix(place, "/dev/") {
		return "mmioblk"
	}
	return "blk"
}

// Bound notes the name that a bind of the plan has in the shared folder, and whether locks on it are to be refused.
func (p *Plan) Bound(b Bind, name string, foreign bool) {
	source := share.GuestPath(name)
	if s := b.storage; s != nil {
		s.Source = source
		s.MountPoint += name
		source = s.MountPoint
	}
	m := &p.Spec.Mounts[b.mount]
	m.Source = source
	if foreign {
		m.Options = append(m.Options, agentapi.ForeignLocks)
	}
}

// Rooted notes that the root file system came into the guest by r, whose disks the guest finds at these places.
func (p *Plan) Rooted(r Root, pciPaths []string) {
	for i, s := range r.storages {
		s.Source, s.Driver = pciPaths[i], driverOf(pciPaths[i])
	}
	p.Storages = append(r.storages[:len(r.storages):len(r.storages)], p.Storages...)
	p.Spec.Root.Path = r.Path
}

// warning is a line for the log about a container.
func (c Container) warning(text string, attrs ...slog.Attr) Note {
	return Note{slog.LevelWarn, text, append([]slog.Attr{slog.String("container", c.ID)}, attrs...)}
}

// warn adds a line to the log's.
func (p *Plan) warn(c Container, text string, attrs ...slog.Attr) {
	p.Notes = append(p.Notes, c.warning(text, attrs...))
}

// Translate makes the plan of a container. An error says which part of it cannot be had in a guest, and why.
func Translate(pod Pod, host Host, c Container) (*Plan, error) {
	if c.Spec.Process == nil || c.Spec.Linux == nil || c.Spec.Root == nil {
		return nil, errors.New("the container's config.json lacks process, root or linux")
	}
	p := &Plan{Spec: guestSpec(c.Spec, pod.Seccomp && !pod.NoSeccomp)}
	var err error
	if p.Users, err = pod.Users.of(c.Spec, p.Spec); err != nil {
		return nil, err
	}
	if c.Spec.Linux.Seccomp != nil && !pod.Seccomp && !pod.NoSeccomp {
		return nil, errors.New(
			"the container has a seccomp profile and the agent cannot do seccomp; set disable_guest_seccomp to run " +
				"it without")
	}
	if err := p.sharePID(pod, c); err != nil {
		return nil, err
	}
	if err := p.root(pod, host, c); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	if err := p.devices(pod, host, c); err != nil {
		return nil, err
	}
	return p, p.volumes(pod, host, c)
}

// sharePID has the container join the processes of another one.
func (p *Plan) sharePID(pod Pod, c Container) error {
	p.Spec.Annotations = maps.Clone(p.Spec.Annotations)
	delete(p.Spec.Annotations, agentapi.PIDOf) // which is ours to say, and not for whoever writes a pod's annotations
	switch {
	case c.PIDOf == "":
		return nil
	case !pod.PIDOf:
		return fmt.Errorf("the container shares the processes of %s, which the guest's agent cannot do", c.PIDOf)
	}
	if p.Spec.Annotations == nil {
		p.Spec.Annotations = map[string]string{}
	}
	p.Spec.Annotations[agentapi.PIDOf] = c.PIDOf
	return nil
}

// guestSpec is the part of the specification that needs no file of the host.
func guestSpec(s *specs.Spec, seccomp bool) *specs.Spec {
	out := *s
	out.Hooks = nil // they are programs of the host
	out.Mounts = nil
	linux := *s.Linux
	out.Linux = &linux
	root := *s.Root
	out.Root = &root
	process := *s.Process
	out.Process = &process
	process.SelinuxLabel, process.ApparmorProfile, linux.MountLabel = "", "", "" // the guest has neither
	if !seccomp {
		linux.Seccomp = nil
	}
	linux.IntelRdt = nil
	linux.CgroupsPath = "" // the agent's to choose: the host's tree is not the guest's
	// The pod's network is the guest's; its PID, IPC and UTS namespaces are made and shared by the agent.
	linux.Namespaces = nil
	for _, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.NetworkNamespace, specs.CgroupNamespace, specs.TimeNamespace, specs.PIDNamespace:
		default:
			linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: n.Type})
		}
	}
	if s.Linux.Resources != nil {
		r := Resources(s.Linux.Resources)
		if usesAll(s.Linux.Resources) {
			r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}} // the guest's
		}
		linux.Resources = r
	}
	return &out
}

// Resources is what of a container's resources means something in the guest: numbers of the host's devices, processors
// and memory nodes do not.
func Resources(r *specs.LinuxResources) *specs.LinuxResources {
	out := *r
	out.Devices, out.BlockIO, out.Network, out.Rdma = nil, nil, nil, nil
	if r.CPU != nil {
		c := *r.CPU
		c.Cpus, c.Mems = "", ""
		out.CPU = &c
	}
	return &out
}
