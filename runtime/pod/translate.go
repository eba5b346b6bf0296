package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inGuest is a container as the guest is asked for it.
type inGuest struct {
	spec     *specs.Spec
	storages []*katapb.Storage
	devices  []*katapb.Device
}

// translate makes of a container on the host the one in the guest: what is of the host alone goes, and files of the
// host become files in the guest.
func (p *Pod) translate(ctx context.Context, c Container, have *container) (*inGuest, error) {
	if c.Spec.Process == nil || c.Spec.Linux == nil || c.Spec.Root == nil {
		return nil, errors.New("the container's config.json lacks process, root or linux")
	}
	g := &inGuest{spec: guestSpec(c.Spec, p.seccomp && !p.cfg.Runtime.DisableGuestSeccomp)}
	if err := p.users.of(c.Spec, g.spec); err != nil {
		return nil, err
	}
	if c.Spec.Linux.Seccomp != nil && !p.seccomp && !p.cfg.Runtime.DisableGuestSeccomp {
		return nil, errors.New(
			"the container has a seccomp profile and the agent cannot do seccomp; set disable_guest_seccomp to run " +
				"it without")
	}
	if err := p.rootfs(ctx, c, have, g); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	if err := p.devices(ctx, c, have, g); err != nil {
		return nil, err
	}
	if err := p.mounts(ctx, c, have, g); err != nil {
		return nil, err
	}
	return g, nil
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
		r := guestResources(s.Linux.Resources)
		if usesAll(s.Linux.Resources) {
			r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}} // the guest's
		}
		linux.Resources = r
	}
	return &out
}

// usesAll says whether the last rule about all devices allows everything, as for privileged containers.
func usesAll(r *specs.LinuxResources) bool {
	all := false
	for _, d := range r.Devices {
		if (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil {
			all = d.Allow && (d.Access == "" || d.Access == "rwm")
		}
	}
	return all
}

// guestResources is what of a container's resources means something in the guest: numbers of the host's devices,
// processors and memory nodes do not.
func guestResources(r *specs.LinuxResources) *specs.LinuxResources {
	out := *r
	out.Devices, out.BlockIO, out.Network, out.Rdma = nil, nil, nil, nil
	if r.CPU != nil {
		c := *r.CPU
		c.Cpus, c.Mems = "", ""
		out.CPU = &c
	}
	return &out
}

// mounts brings the container's volumes into the guest.
func (p *Pod) mounts(ctx context.Context, c Container, have *container, g *inGuest) error {
	for _, m := range c.Spec.Mounts {
		t, err := p.volume(ctx, c, have, g, m)
		if err != nil {
			return fmt.Errorf("mount at %s: %w", m.Destination, err)
		}
		if t != nil {
			g.spec.Mounts = append(g.spec.Mounts, *t)
		}
	}
	return nil
}

// volume is the mount in the guest, or nil for one that has no use there.
func (p *Pod) volume(ctx context.Context, c Container, have *container, g *inGuest, m specs.Mount) (*specs.Mount,
	error) {
	if !isBind(m) {
		if m.Type == "cgroup" {
			m.Source = "cgroup"
		}
		return &m, nil
	}
	switch {
	case filepath.Clean(m.Destination) == "/dev/shm":
		return &specs.Mount{Destination: m.Destination, Type: "bind", Source: guestShm, Options: []string{"rbind"}}, nil
	case hasPrefix(m.Destination, "/proc"), hasPrefix(m.Destination, "/sys"):
		p.log.Warn("a mount of the host's has no place in the guest", "container", c.ID, "source", m.Source,
			"destination", m.Destination)
		return nil, nil
	}
	st, err := os.Stat(m.Source)
	if err != nil {
		return nil, err
	}
	switch mode := st.Mode(); {
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return nil, p.diskVolume(ctx, have, g, m)
	case mode&os.ModeCharDevice != 0 && p.can.guestDevices:
		if t := ownDevice("/", m, st); t != nil {
			return t, nil
		}
		fallthrough
	case mode&(os.ModeDevice|os.ModeNamedPipe) != 0, mode&os.ModeSocket != 0:
		p.log.Warn("a socket, pipe or device of the host does not work in the guest; it is left out", "container",
			c.ID, "source", m.Source)
		return nil, nil
	}
	if ephemeral(m.Source) {
		return p.ephemeralVolume(g, m)
	}
	if p.share == nil && plugin(m.Source) == emptyDirPlugin {
		return p.localVolume(g, m)
	}
	if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
		p.log.Warn("what a container mounts in its guest cannot appear on the host; it sees the host's mounts "+
			"(Bidirectional is as HostToContainer)",
			"container", c.ID, "source", m.Source)
	}
	if p.share == nil {
		return p.copyVolume(ctx, m)
	}
	access, alone, err := accessOf(m, st)
	if err != nil {
		return nil, err
	}
	owners := ownersOf(m, c.Spec)
	name, err := p.bind(have, m.Source, st, access, alone, owners)
	if err != nil {
		return nil, err
	}
	if owners.Set() { // the host has seen to it
		m.UIDMappings, m.GIDMappings = nil, nil
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
			return o == "idmap" ||
				o == "ridmap"
		})
	}
	if alone {
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
	}
	if watched(st, m.Source) {
		return p.watchedVolume(c, g, m, name)
	}
	foreign, err := p.foreignLocks(c, m.Source, access)
	if err != nil {
		return nil, err
	}
	m.Type, m.Source = "bind", share.GuestPath(name)
	m.Options = guestOptions(m.Options)
	if foreign {
		m.Options = append(m.Options, agentapi.ForeignLocks)
	}
	return &m, nil
}

// foreignLocks says whether locks of programs on a volume are to be refused, as they would not exclude the other pod
// that has it.
func (p *Pod) foreignLocks(c Container, source string, access share.Access) (bool, error) {
	if p.claims == nil {
		return false, nil
	}
	foreign, err := p.claims.Claim(source, access)
	if err != nil || !foreign {
		return false, err
	}
	if !p.can.foreignLocks {
		p.log.Warn("another pod has the volume too; locks of one do not exclude the other, and the guest's agent "+
			"cannot refuse them", "container", c.ID, "source", source)
		return false, nil
	}
	p.log.Warn(`another pod has the volume too; locks on its files are refused with ENOLCK here (foreign_locks = "grant" grants them)`, "container", c.ID, "source", source)
	return true, nil
}

// accessOf is what a container may do with a bind. Alone means that the host must see to it, and the guest not: each
// mount of the host below a shared folder appears in the guest when it is first walked into, with the flags of the one
// above, so that "ro", which is about the top alone, would be about all. Linux: fs/namespace.c, finish_automount.
func accessOf(m specs.Mount, st os.FileInfo) (access share.Access, alone bool, err error) {
	for _, o := range m.Options { // the last one counts
		switch o {
		case "ro":
			access = max(access, share.ReadOnly)
		case "rro":
			access = share.ReadOnlyAll
		case "rw", "rrw":
			access = share.Writable
		}
	}
	if access != share.ReadOnly || !st.IsDir() {
		return access, false, nil
	}
	alone, err = hasMountsBelow(m.Source)
	return access, alone, err
}

// hasMountsBelow says whether something is mounted below a folder.
func hasMountsBelow(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	all, err := mountinfo.Self()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(m mountinfo.Mount) bool {
		return m.Point != dir &&
			hasPrefix(m.Point, dir)
	}), nil
}

// ownDevice is the mount of a character device of the guest that has the same name as the host's, or nil for one that
// has no name.
func ownDevice(root string, m specs.Mount, st os.FileInfo) *specs.Mount {
	dev := uint64(st.Sys().(*syscall.Stat_t).Rdev)
	name, err := deviceName(root, "char", int64(unix.Major(dev)), int64(unix.Minor(dev)))
	if err != nil {
		return nil
	}
	return &specs.Mount{Destination: m.Destination, Type: "bind", Source: "/dev/" + name,
		Options: append(guestOptions(m.Options), agentapi.GuestDevice)}
}

// guestOptions drops what means nothing inside the guest: propagation to the host. From the host it is a matter of the
// shared folder, whose mounts the container's are to receive.
func guestOptions(options []string) []string {
	out := slices.Clone(options)
	for i, o := range out {
		switch o {
		case "shared":
			out[i] = "slave"
		case "rshared":
			out[i] = "rslave"
		}
	}
	if !slices.Contains(out, "bind") && !slices.Contains(out, "rbind") {
		out = append([]string{"rbind"}, out...)
	}
	return out
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func hasPrefix(path, dir string) bool {
	path = filepath.Clean(path)
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// volumeName is a name in the shared folder that no other volume has.
func volumeName(id, source string) (string, error) {
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	base := filepath.Base(source)
	if base == "/" {
		base = "root"
	}
	return id + "-" + hex.EncodeToString(b) + "-" + base, nil
}

// kubeletVolumes is how the kubelet calls its volumes' folders: .../pods/UID/volumes/PLUGIN/NAME.
const (
	emptyDirPlugin = "kubernetes.io~empty-dir"
	volumesDir     = "volumes"
)

// plugin is the kubelet's plug-in that made the volume, or empty.
func plugin(source string) string {
	dir := filepath.Dir(filepath.Clean(source))
	if filepath.Base(filepath.Dir(dir)) != volumesDir {
		return ""
	}
	return filepath.Base(dir)
}

// tmpfsMagic is TMPFS_MAGIC of <linux/magic.h>.
const tmpfsMagic = 0x01021994

// ephemeral says whether the volume is an emptyDir in memory: the guest's memory then, as the pod's is.
func ephemeral(source string) bool {
	if plugin(source) != emptyDirPlugin {
		return false
	}
	var sf unix.Statfs_t
	return unix.Statfs(source, &sf) == nil && int64(sf.Type) == tmpfsMagic
}

func (p *Pod) ephemeralVolume(g *inGuest, m specs.Mount) (*specs.Mount, error) {
	var sf unix.Statfs_t
	if err := unix.Statfs(m.Source, &sf); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: m.Source, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Source, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: m.Source, Err: err}
	}
	// Two pods' volumes may have one name, but a guest has one pod; two volumes of a pod may not.
	at := "/run/kata-containers/sandbox/ephemeral/" + filepath.Base(m.Source)
	// Mode and group are what the kubelet has made of the pod's fsGroup.
	options := []string{fmt.Sprintf("size=%d", sf.Blocks*uint64(sf.Bsize)), fmt.Sprintf("mode=%o", st.Mode&0o7777)}
	if st.Gid != 0 {
		options = append(options, fmt.Sprintf("fsgid=%d", st.Gid))
	}
	g.storages = append(g.storages, &katapb.Storage{
		Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: at, Shared: true, Options: options,
	})
	return &specs.Mount{Destination: m.Destination, Type: "bind", Source: at, Options: guestOptions(m.Options)}, nil
}

// localVolume is an emptyDir of a pod with which nothing is shared: a folder of the guest's, which all containers of
// the pod see.
func (p *Pod) localVolume(g *inGuest, m specs.Mount) (*specs.Mount, error) {
	var st unix.Stat_t
	if err := unix.Stat(m.Source, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: m.Source, Err: err}
	}
	at := "/run/kata-containers/sandbox/local/" + filepath.Base(m.Source)
	options := []string{fmt.Sprintf("mode=%o", st.Mode&0o7777)}
	if st.Gid != 0 {
		options = append(options, fmt.Sprintf("fsgid=%d", st.Gid))
	}
	g.storages = append(g.storages, &katapb.Storage{Driver: "local", Source: "local", Fstype: "local", MountPoint: at,
		Shared: true, Options: options})
	return &specs.Mount{Destination: m.Destination, Type: "bind", Source: at, Options: guestOptions(m.Options)}, nil
}

// watchedPlugins make volumes whose files change while containers look at them. A guest hears of no change on a shared
// folder, so its agent looks for changes and copies them.
var watchedPlugins = []string{"kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected",
	"kubernetes.io~downward-api"}

func watched(st os.FileInfo, source string) bool {
	return st.IsDir() && slices.Contains(watchedPlugins, plugin(source))
}

func (p *Pod) watchedVolume(c Container, g *inGuest, m specs.Mount, name string) (*specs.Mount, error) {
	at := "/run/kata-containers/" + c.ID + "/watchable/" + name
	g.storages = append(g.storages, &katapb.Storage{
		Driver: "watchable-bind", Source: share.GuestPath(name), Fstype: "bind", MountPoint: at,
		Options: guestOptions(m.Options),
	})
	return &specs.Mount{Destination: m.Destination, Type: "bind", Source: at, Options: guestOptions(m.Options)}, nil
}
