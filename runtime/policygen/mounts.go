package policygen

import (
	"fmt"
	"path"
	"regexp"
	"slices"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/policygen/kube"
	"github.com/katabuild/katabuild/runtime/policygen/rules"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
)

// Names that the runtime gives. runtime/pod and runtime/translate make them.
const (
	anyID     = `[0-9A-Za-z][0-9A-Za-z_.-]*`
	guestRun  = `/run/kata-containers/`
	boundName = anyID + `-[0-9a-f]{8}-`
)

// binds are what a container may have, gathered.
type binds struct {
	mounts   []rules.Value
	storages []rules.Value
}

// volume is how files of the host come into a guest.
type volume struct {
	base    string // an expression for the last part of their path on the host
	watched bool   // the agent keeps a copy, as they change
	others  bool   // pods have it side by side
	local   string // the driver of the agent that makes it in the guest; empty for none
	name    string
}

func mount(destination, kind, source rules.Value, options ...rules.Value) rules.Value {
	return rules.Object(rules.Field{Name: "destination", Value: destination}, rules.Field{Name: "type", Value: kind},
		rules.Field{Name: "source", Value: source}, rules.Field{Name: "options", Value: rules.List(options...)})
}

func plainMount(destination, kind, source string, options ...string) rules.Value {
	var o []rules.Value
	for _, s := range options {
		o = append(o, rules.Text(s))
	}
	return mount(rules.Text(destination), rules.Text(kind), rules.Text(source), o...)
}

// systems are the file systems that containerd gives every container. access is ro, or rw for those that are
// privileged.
func systems(access string) []rules.Value {
	return []rules.Value{
		plainMount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		plainMount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		plainMount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
			"gid=5"),
		plainMount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
		plainMount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
		plainMount("/dev/shm", "bind", translate.Shm, "rbind"),
	}
}

// file adds a file of the pod's own that the host makes.
func (b *binds) file(destination, base string, options ...string) {
	b.bind(destination, volume{base: base}, options...)
}

// bind adds a bind of a volume, in each of the ways in which it may come into the guest.
func (b *binds) bind(destination string, v volume, options ...string) {
	shared := regexp.QuoteMeta(share.GuestDir + "/")
	source := `(?:` + shared + boundName + `|` + shared + `copied-[0-9a-f]{16}-)` + v.base
	var o []rules.Value
	for _, s := range options {
		o = append(o, rules.Text(s))
	}
	if v.watched {
		mirror := regexp.QuoteMeta(guestRun) + anyID + `/watchable/` + boundName + v.base
		source = `(?:` + source + `|` + mirror + `)`
		b.storages = append(b.storages, rules.Object(
			rules.Field{Name: "driver", Value: rules.Text("watchable-bind")},
			rules.Field{Name: "fstype", Value: rules.Text("bind")},
			rules.Field{Name: "source", Value: rules.Like(shared + boundName + v.base)},
			rules.Field{Name: "mount_point", Value: rules.Like(mirror)},
			rules.Field{Name: "options", Value: rules.List(o...)}))
	}
	at, kind := rules.Text(destination), rules.Text("bind")
	if v.local != "" {
		b.emptyDir(v, at, o)
	}
	b.mounts = append(b.mounts, mount(at, kind, rules.Like(source), o...))
	if v.others {
		b.mounts = append(b.mounts, mount(at, kind, rules.Like(source),
			append(slices.Clone(o), rules.Text(agentapi.ForeignLocks))...))
	}
}

// emptyDir adds one that the agent makes, in memory or as a folder of the guest.
func (b *binds) emptyDir(v volume, at rules.Value, options []rules.Value) {
	place := guestRun + "sandbox/" + v.local + "/" + v.name
	fstype, sizes := "local", [][]rules.Value{nil}
	if v.local == "ephemeral" {
		fstype, sizes = "tmpfs", [][]rules.Value{{rules.Like(`size=[0-9]+`)}}
	}
	for _, o := range sizes {
		o = append(o, rules.Like(`mode=[0-7]+`))
		for _, o := range [][]rules.Value{o, append(slices.Clone(o), rules.Like(`fsgid=[0-9]+`))} {
			b.storages = append(b.storages, rules.Object(
				rules.Field{Name: "driver", Value: rules.Text(v.local)},
				rules.Field{Name: "source", Value: rules.Text(fstype)},
				rules.Field{Name: "fstype", Value: rules.Text(fstype)},
				rules.Field{Name: "mount_point", Value: rules.Text(place)},
				rules.Field{Name: "shared", Value: rules.Bool(true)},
				rules.Field{Name: "options", Value: rules.List(o...)}))
		}
	}
	b.mounts = append(b.mounts, mount(at, rules.Text("bind"), rules.Text(place), options...))
}

// rootDisks are the disks that a snapshotter makes a root file system of.
func rootDisks() rules.Value {
	return rules.Object(rules.Field{Name: "driver", Value: rules.Like(`blk|mmioblk`)},
		rules.Field{Name: "source", Value: rules.Like(`.*`)},
		rules.Field{Name: "fstype", Value: rules.Like(`ext4|xfs|btrfs|erofs`)},
		rules.Field{Name: "mount_point", Value: rules.Like(guestRun + anyID + `/disk`)},
		rules.Field{Name: "options"})
}

// volumesOf are a pod's volumes, by name.
func (g *generator) volumesOf(p *kube.Pod) (map[string]volume, error) {
	out := map[string]volume{}
	for _, v := range p.Template.Spec.Volumes {
		base := regexp.QuoteMeta(v.Name)
		switch {
		case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
			out[v.Name] = volume{base: base, watched: true}
		case v.EmptyDir != nil && v.EmptyDir.Medium == "Memory":
			out[v.Name] = volume{base: base, local: "ephemeral", name: v.Name}
		case v.EmptyDir != nil && v.EmptyDir.Medium == "":
			out[v.Name] = volume{base: base, local: "local", name: v.Name}
		case v.EmptyDir != nil:
			return nil, fmt.Errorf("volume %s: emptyDir of medium %s is not supported", v.Name, v.EmptyDir.Medium)
		case v.HostPath != nil:
			if !g.settings.hostPath(v.HostPath.Path) {
				return nil, fmt.Errorf("volume %s: a policy with a hostPath lets the node change what the pod reads "+
					"there; where %s is meant to be so, name it in host_paths of the settings", v.Name,
					v.HostPath.Path)
			}
			last := path.Base(path.Clean(v.HostPath.Path))
			if last == "/" {
				last = "root"
			}
			out[v.Name] = volume{base: regexp.QuoteMeta(last), others: true}
		case v.PersistentVolumeClaim != nil, v.Ephemeral != nil, v.CSI != nil, v.NFS != nil:
			out[v.Name] = volume{base: `[^/]+`, others: true}
		default:
			return nil, fmt.Errorf("volume %s: its kind is not supported", v.Name)
		}
	}
	for _, c := range p.Claims {
		out[c] = volume{base: `[^/]+`, others: true}
	}
	return out, nil
}

// volumeMounts adds those of a container.
func (b *binds) volumeMounts(p *kube.Pod, c kube.Container, volumes map[string]volume) error {
	readOnly := map[string]bool{}
	for _, v := range p.Template.Spec.Volumes {
		readOnly[v.Name] = v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil ||
			v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	}
	for _, m := range c.VolumeMounts {
		v, ok := volumes[m.Name]
		if !ok {
			return fmt.Errorf("volume mount %s: the pod has no such volume", m.Name)
		}
		if m.SubPath != "" || m.SubPathExpr != "" {
			v = volume{base: `[0-9]+`, others: v.others} // kubelet binds each at a place with a number
		}
		propagation, access := "rprivate", "rw"
		switch m.MountPropagation {
		case "", "None":
		case "HostToContainer", "Bidirectional": // in a guest the one is the other
			propagation = "rslave"
		default:
			return fmt.Errorf("volume mount %s: mountPropagation %s is not known", m.Name, m.MountPropagation)
		}
		if m.ReadOnly || readOnly[m.Name] {
			access = "ro"
		}
		b.bind(path.Clean(m.MountPath), v, "rbind", propagation, access)
		if m.RecursiveReadOnly != "" && m.RecursiveReadOnly != "Disabled" {
			b.bind(path.Clean(m.MountPath), v, "rbind", propagation, "rro")
		}
	}
	return nil
}

// mountedAt says whether a container has a volume at a place.
func mountedAt(c kube.Container, place string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m kube.VolumeMount) bool {
		return path.Clean(m.MountPath) == place
	})
}
