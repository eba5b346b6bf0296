package blueprint

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/agent/container/stage"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// option is what a word among mount options means. config.md, "Linux mount options"; mount(8).
type option struct {
	set, clear   uintptr // MS_ bits
	attr, noAttr uint64  // MOUNT_ATTR_ bits that say the same for a bind
}

// atime options exclude each other: setting one means clearing the whole field first. mount_setattr(2).
const atime = unix.MOUNT_ATTR__ATIME

var options = map[string]option{
	"defaults":      {},
	"ro":            {unix.MS_RDONLY, 0, unix.MOUNT_ATTR_RDONLY, 0},
	"rw":            {0, unix.MS_RDONLY, 0, unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {unix.MS_NOSUID, 0, unix.MOUNT_ATTR_NOSUID, 0},
	"suid":          {0, unix.MS_NOSUID, 0, unix.MOUNT_ATTR_NOSUID},
	"nodev":         {unix.MS_NODEV, 0, unix.MOUNT_ATTR_NODEV, 0},
	"dev":           {0, unix.MS_NODEV, 0, unix.MOUNT_ATTR_NODEV},
	"noexec":        {unix.MS_NOEXEC, 0, unix.MOUNT_ATTR_NOEXEC, 0},
	"exec":          {0, unix.MS_NOEXEC, 0, unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow":   {unix.MS_NOSYMFOLLOW, 0, unix.MOUNT_ATTR_NOSYMFOLLOW, 0},
	"symfollow":     {0, unix.MS_NOSYMFOLLOW, 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":       {unix.MS_NOATIME, 0, unix.MOUNT_ATTR_NOATIME, atime},
	"atime":         {0, unix.MS_NOATIME, unix.MOUNT_ATTR_RELATIME, atime},
	"relatime":      {unix.MS_RELATIME, 0, unix.MOUNT_ATTR_RELATIME, atime},
	"norelatime":    {0, unix.MS_RELATIME, unix.MOUNT_ATTR_STRICTATIME, atime},
	"strictatime":   {unix.MS_STRICTATIME, 0, unix.MOUNT_ATTR_STRICTATIME, atime},
	"nostrictatime": {0, unix.MS_STRICTATIME, unix.MOUNT_ATTR_RELATIME, atime},
	"nodiratime":    {unix.MS_NODIRATIME, 0, unix.MOUNT_ATTR_NODIRATIME, 0},
	"diratime":      {0, unix.MS_NODIRATIME, 0, unix.MOUNT_ATTR_NODIRATIME},
	"sync":          {unix.MS_SYNCHRONOUS, 0, 0, 0},
	"async":         {0, unix.MS_SYNCHRONOUS, 0, 0},
	"dirsync":       {unix.MS_DIRSYNC, 0, 0, 0},
	"mand":          {unix.MS_MANDLOCK, 0, 0, 0},
	"nomand":        {0, unix.MS_MANDLOCK, 0, 0},
	"lazytime":      {unix.MS_LAZYTIME, 0, 0, 0},
	"nolazytime":    {0, unix.MS_LAZYTIME, 0, 0},
	"iversion":      {unix.MS_I_VERSION, 0, 0, 0},
	"noiversion":    {0, unix.MS_I_VERSION, 0, 0},
	"silent":        {unix.MS_SILENT, 0, 0, 0},
	"loud":          {0, unix.MS_SILENT, 0, 0},
	"remount":       {},
}

// propagations by their names. mount_namespaces(7).
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// copyUp asks for a tmpfs that begins with what the folder below holds. config.md, "Linux mount options".
const copyUp = "tmpcopyup"

// MountOptions are the names of all options of mounts that are no file system's own, sorted.
func MountOptions() []string {
	out := []string{"bind", "rbind", "idmap", "ridmap", copyUp}
	out = slices.AppendSeq(slices.AppendSeq(out, maps.Keys(options)), maps.Keys(propagations))
	for name, o := range options {
		if o.attr|o.noAttr != 0 {
			out = append(out, "r"+name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// mount turns a mount of the specification into one of the plan.
func mount(m specs.Mount) (stage.Mount, error) {
	fail := func(format string, a ...any) (stage.Mount, error) {
		return stage.Mount{}, fmt.Errorf("mount %s: %s", m.Destination, fmt.Sprintf(format, a...))
	}
	if m.Destination == "" {
		return fail("no destination")
	}
	out := stage.Mount{
		Name: m.Destination, Destination: path.Clean("/" + m.Destination), Source: m.Source, Type: m.Type,
		Bind: m.Type == "bind" || m.Type == "rbind", Recursive: m.Type == "rbind",
	}
	if out.Destination == "/" {
		return fail("that would hide the root file system")
	}
	var data []string
	for _, o := range m.Options {
		if p, ok := propagations[o]; ok {
			out.Propagation = append(out.Propagation, p)
			continue
		}
		switch o {
		case "idmap", "ridmap": // see idmaps
			continue
		case copyUp:
			out.CopyUp = out.Type == "tmpfs"
			continue
		case "bind", "rbind":
			out.Bind, out.Recursive = true, out.Recursive || o == "rbind"
			continue
		}
		if f, ok := options[o]; ok {
			out.Flags = out.Flags&^f.clear | f.set
			out.Clear = out.Clear&^f.attr | f.noAttr
			out.Set = out.Set&^f.noAttr | f.attr
			continue
		}
		if rest, ok := strings.CutPrefix(o, "r"); ok { // rro, rnosuid...: for what is mounted below, too
			if f, ok := options[rest]; ok && f.attr|f.noAttr != 0 {
				out.RClr = out.RClr&^f.attr | f.noAttr
				out.RSet = out.RSet&^f.noAttr | f.attr
				continue
			}
		}
		if o != "" {
			data = append(data, o)
		}
	}
	out.Data = strings.Join(data, ",")
	switch {
	case out.Bind:
		if !path.IsAbs(out.Source) {
			return fail("source %q of a bind: not an absolute path", m.Source)
		}
		// Words for a file system say nothing to a bind, and callers add them at will.
		out.Type, out.Flags, out.Data = "", 0, ""
	case out.Type == "cgroup", out.Type == "cgroup2":
		out.Type, out.Source, out.Data = "cgroup2", "cgroup", ""
		out.Set, out.Clear = 0, 0
	case out.Type == "":
		return fail("neither a type nor bind among the options %q", m.Options)
	default:
		out.Set, out.Clear = 0, 0
	}
	if out.Source == "" {
		out.Source = out.Type
	}
	// A tmpfs takes the mode of the folder in whose place it is, where nothing else is said, as with runc.
	out.AsBelow = out.Type == "tmpfs" && !slices.ContainsFunc(data, func(o string) bool {
		return strings.HasPrefix(o,
			"mode=")
	})
	out.CopyUp = out.CopyUp && !out.Bind
	// A mount that shows the kernel's state, and whose content depends on its mounter, must be where it says.
	out.Exact = slices.Contains([]string{"proc", "sysfs"}, out.Type)
	return out, nil
}
