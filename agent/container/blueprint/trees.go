package blueprint

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// views are file systems that show a namespace, and may only be mounted by whoever owns that. namespaces(7), sysfs(5),
// mq_overview(7).
var views = map[string]int{"sysfs": unix.CLONE_NEWNET, "mqueue": unix.CLONE_NEWIPC}

// mountsOfThePod finds the mounts that a stage in a user namespace may not make, because what they show belongs to the
// pod: the agent makes them.
func (b *Blueprint) mountsOfThePod() {
	if !b.User {
		return
	}
	for i := range b.Stage.Mounts {
		m := &b.Stage.Mounts[i]
		flag, ok := views[m.Type]
		if !ok || m.Bind || b.Clone&flag != 0 {
			continue
		}
		out := Tree{Mount: i, FS: m.Type, Attr: int(m.Flags & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV |
			unix.MS_NOEXEC))}
		for _, j := range b.Join {
			if j.Flag == flag {
				out.In = j
			}
		}
		b.Trees = append(b.Trees, out)
		m.Bind, m.Type, m.Source, m.Flags, m.Data = true, "", out.FS, 0, ""
		m.Tree, b.Stage.Trees = len(b.Trees), len(b.Trees)
	}
}

// maxTrees is how many mounts of a container can have other owners. Their files have to stay below the number of the
// stage's program, launch.highFD, and within those that package child can give.
const maxTrees = 48

// otherOwners finds the mounts of a specification that have other owners.
func (b *Blueprint) otherOwners(mounts []specs.Mount) error {
	for i, m := range mounts {
		wanted, recursive := len(m.UIDMappings)+len(m.GIDMappings) > 0, false
		for _, o := range m.Options {
			wanted, recursive = wanted || o == "idmap" || o == "ridmap", recursive || o == "ridmap"
		}
		if !wanted {
			continue
		}
		out := Tree{Mount: i, Recursive: recursive, UIDs: m.UIDMappings, GIDs: m.GIDMappings}
		fail := func(why string) error { return fmt.Errorf("mount %s: other owners: %s", m.Destination, why) }
		switch {
		case !b.Stage.Mounts[i].Bind:
			return fail("only a bind can have them")
		case len(out.UIDs)+len(out.GIDs) == 0 && !b.User:
			return fail("neither mappings nor a user namespace of the container say which")
		case len(out.UIDs)+len(out.GIDs) > 0 && (len(out.UIDs) == 0 || len(out.GIDs) == 0):
			return fail("mappings of users and of groups only go together")
		}
		if len(out.UIDs) == 0 && b.Owner == "" {
			out.UIDs, out.GIDs = b.UIDs, b.GIDs
		}
		if b.Trees = append(b.Trees, out); len(b.Trees) > maxTrees {
			return fail(fmt.Sprintf("more than %d mounts with them", maxTrees))
		}
		b.Stage.Mounts[i].Tree, b.Stage.Trees = len(b.Trees), len(b.Trees)
	}
	return nil
}

// SysctlNamespace is the kind of namespace that a sysctl belongs to, as a CLONE_NEW flag.
func SysctlNamespace(name string) int {
	if dotted := strings.ReplaceAll(name, "/", "."); strings.HasPrefix(dotted, "net.") {
		return unix.CLONE_NEWNET
	}
	return unix.CLONE_NEWIPC
}
