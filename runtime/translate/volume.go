package translate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// volumes brings the container's volumes into the guest.
func (p *Plan) volumes(pod Pod, host Host, c Container) error {
	for _, m := range c.Spec.Mounts {
		what := "mount at " + m.Destination
		t, err := p.volume(pod, host, c, what, m)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if t != nil {
			p.Spec.Mounts = append(p.Spec.Mounts, *t)
		}
	}
	return nil
}

// Shm is where the guest has the pod's /dev/shm, as with Kata Containers.
const Shm = "/run/kata-containers/sandbox/shm"

// volume is the mount in the guest, or nil for one that has no use there. It becomes the next one of the plan.
func (p *Plan) volume(pod Pod, host Host, c Container, what string, m specs.Mount) (*specs.Mount, error) {
	if !isBind(m) {
		if m.Type == "cgroup" {
			m.Source = "cgroup"
		}
		return &m, nil
	}
	switch {
	case filepath.Clean(m.Destination) == "/dev/shm":
		return bindOf(m, Shm, []string{"rbind"}), nil
	case hasPrefix(m.Destination, "/proc"), hasPrefix(m.Destination, "/sys"):
		p.warn(c, "a mount of the host's has no place in the guest", slog.String("source", m.Source),
			slog.String("destination", m.Destination))
		return nil, nil
	}
	direct, err := host.DirectVolume(m.Source)
	if err == nil {
		return p.directVolume(what, m, direct)
	}
	if !errors.Is(err, directvolume.ErrNone) {
		return nil, err
	}
	f, err := host.Stat(m.Source)
	if err != nil {
		return nil, err
	}
	switch {
	case f.is(unix.S_IFBLK):
		p.diskVolume(what, m)
		return nil, nil
	case f.is(unix.S_IFCHR) && pod.GuestDevices:
		if t := ownDevice(host, m, f); t != nil {
			return t, nil
		}
		fallthrough
	case f.is(unix.S_IFCHR), f.is(unix.S_IFIFO), f.is(unix.S_IFSOCK):
		p.warn(c, "a socket, pipe or device of the host does not work in the guest; it is left out",
			slog.String("source", m.Source))
		return nil, nil
	}
	if plugin(m.Source) == emptyDirPlugin {
		// An emptyDir in memory is in the guest's memory then, as the pod's is.
		if size, memory := host.Tmpfs(m.Source); memory {
			return p.emptyDir(m, f, "ephemeral", "tmpfs", fmt.Sprintf("size=%d", size)), nil
		}
		if !pod.Shared { // a folder of the guest's, which all containers of the pod see
			return p.emptyDir(m, f, "local", "local"), nil
		}
	}
	if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
		p.warn(c, "what a container mounts in its guest cannot appear on the host; it sees the host's mounts "+
			"(Bidirectional is as HostToContainer)", slog.String("source", m.Source))
	}
	if !pod.Shared {
		path := share.GuestPath(copyName(m.Source))
		p.Copies = append(p.Copies, Copy{What: what, Source: m.Source, Path: path})
		m.Type, m.Source, m.Options = "bind", path, guestOptions(m.Options)
		return &m, nil
	}
	return p.sharedVolume(host, c, what, m, f)
}

// sharedVolume has a file or folder shared with the guest.
func (p *Plan) sharedVolume(host Host, c Container, what string, m specs.Mount, f File) (*specs.Mount, error) {
	access, alone, err := accessOf(host, m, f)
	if err != nil {
		return nil, err
	}
	b := Bind{What: what, Source: m.Source, File: f, Access: access, Alone: alone, Owners: ownersOf(m, c.Spec),
		mount: len(p.Spec.Mounts)}
	if b.Owners.Set() { // the host has seen to it
		m.UIDMappings, m.GIDMappings = nil, nil
		m.Options = without(m.Options, "idmap", "ridmap")
	}
	if alone {
		m.Options = without(m.Options, "ro")
	}
	if b.Claimed = !watched(f, m.Source); b.Claimed {
		p.Binds = append(p.Binds, b)
		m.Type, m.Options = "bind", guestOptions(m.Options)
		return &m, nil
	}
	// Bound completes both by the name.
	b.storage = &katapb.Storage{
		Driver: "watchable-bind", Fstype: "bind", MountPoint: "/run/kata-containers/" + c.ID + "/watchable/",
		Options: guestOptions(m.Options),
	}
	p.Storages = append(p.Storages, b.storage)
	p.Binds = append(p.Binds, b)
	return bindOf(m, "", guestOptions(m.Options)), nil
}

// DirectVolumePath is where the guest mounts a volume that is assigned directly, as with Kata Containers.
func DirectVolumePath(source string) string {
	return "/run/kata-containers/sandbox/storage/" + directvolume.Name(source)
}

// directVolume has the guest mount a volume's disk, once for all containers of the pod.
func (p *Plan) directVolume(what string, m specs.Mount, v *directvolume.Info) (*specs.Mount, error) {
	switch v.Kind() {
	case directvolume.Block:
	case directvolume.VFIO:
		return nil, fmt.Errorf("a volume of the type %s: disks are not passed through", v.Type)
	case directvolume.SPDK:
		return nil, fmt.Errorf("a volume of the type %s: the runtime speaks to no SPDK", v.Type)
	default:
		return nil, fmt.Errorf("a volume of the type %q: this runtime knows %s", v.Type, directvolume.Block)
	}
	at := DirectVolumePath(m.Source)
	bind := bindOf(m, at, guestOptions(m.Options))
	if slices.ContainsFunc(p.Storages, func(s *katapb.Storage) bool { return s.MountPoint == at }) {
		return bind, nil // the container has it twice
	}
	g, err := v.Group()
	if err != nil {
		return nil, err
	}
	s := &katapb.Storage{Fstype: v.FSType, MountPoint: at, Options: v.Options}
	if g != nil {
		s.FsGroup = &katapb.FSGroup{GroupId: g.ID}
		if g.OnMismatch {
			s.FsGroup.GroupChangePolicy = katapb.FSGroupChangePolicy_OnRootMismatch
		}
	}
	p.Storages = append(p.Storages, s)
	p.Disks = append(p.Disks, Disk{What: what, File: v.Device, ReadOnly: v.ReadOnly(), Exclusive: !v.ReadOnly(),
		Volume: m.Source, storage: s})
	return bind, nil
}

// bindOf is the bind of a file or folder in the guest where a container wants m.
func bindOf(m specs.Mount, source string, options []string) *specs.Mount {
	return &specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: options}
}

// without is a list without some words.
func without(list []string, words ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(o string) bool { return slices.Contains(words, o) })
}

// accessOf is what a container may do with a bind. Alone means that the host must see to it, and the guest not: each
// mount of the host below a shared folder appears in the guest when it is first walked into, with the flags of the one
// above, so that "ro", which is about the top alone, would be about all. Linux: fs/namespace.c, finish_automount.
func accessOf(host Host, m specs.Mount, f File) (access share.Access, alone bool, err error) {
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
	if access != share.ReadOnly || !f.is(unix.S_IFDIR) {
		return access, false, nil
	}
	alone, err = host.MountsBelow(m.Source)
	return access, alone, err
}

// ownDevice is the mount of a character device of the guest that has the same name as the host's, or nil for one that
// has no name.
func ownDevice(host Host, m specs.Mount, f File) *specs.Mount {
	name, err := host.DeviceName(charKind, f.Major, f.Minor)
	if err != nil {
		return nil
	}
	return bindOf(m, "/dev/"+name, append(guestOptions(m.Options), agentapi.GuestDevice))
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

// copyName is what the copy of a file or folder is called: the same for all containers of the pod, so that one which is
// started again and again does not fill the guest's memory.
func copyName(source string) string {
	source = filepath.Clean(source)
	sum := sha256.Sum256([]byte(source))
	base := filepath.Base(source)
	if base == "/" {
		base = "root"
	}
	return fmt.Sprintf("copied-%x-%s", sum[:8], base)
}

// The kubelet calls its volumes' folders .../pods/UID/volumes/PLUGIN/NAME.
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

// emptyDir is an emptyDir that a driver of the agent's makes as a file system of a type, once for all containers of the
// pod.
func (p *Plan) emptyDir(m specs.Mount, f File, driver, fstype string, options ...string) *specs.Mount {
	// Two pods' volumes may have one name, but a guest has one pod; two volumes of a pod may not.
	at := "/run/kata-containers/sandbox/" + driver + "/" + filepath.Base(m.Source)
	// Mode and group are what the kubelet has made of the pod's fsGroup.
	options = append(options, fmt.Sprintf("mode=%o", f.Mode&0o7777))
	if f.GID != 0 {
		options = append(options, fmt.Sprintf("fsgid=%d", f.GID))
	}
	p.Storages = append(p.Storages, &katapb.Storage{Driver: driver, Source: fstype, Fstype: fstype, MountPoint: at,
		Shared: true, Options: options})
	return bindOf(m, at, guestOptions(m.Options))
}

// watchedPlugins make volumes whose files change while containers look at them. A guest hears of no change on a shared
// folder, so its agent looks for changes and copies them.
var watchedPlugins = []string{"kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected",
	"kubernetes.io~downward-api"}

func watched(f File, source string) bool {
	return f.is(unix.S_IFDIR) && slices.Contains(watchedPlugins, plugin(source))
}
