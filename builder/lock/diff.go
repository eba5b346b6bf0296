package lock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Change is one thing that differs between two locks.
type Change struct {
	What     string // a package's name, or an input's
	Was, Is  string // a version or digest; empty where it was not there, or is not any more
	Security bool   // the new one comes from a suite of security updates, and the old one did not have that version
}

// String is the change in words.
func (c Change) String() string {
	s := ""
	switch {
	case c.Was == "":
		s = fmt.Sprintf("%s: new, %s", c.What, c.Is)
	case c.Is == "":
		s = fmt.Sprintf("%s: gone, was %s", c.What, c.Was)
	default:
		s = fmt.Sprintf("%s: %s -> %s", c.What, c.Was, c.Is)
	}
	if c.Security {
		s += " (security update)"
	}
	return s
}

// Diff lists what differs between two locks, inputs that are no packages first, each kind sorted. old may be nil.
func Diff(old, new *Lock) []Change {
	if old == nil {
		old = &Lock{}
	}
	var out []Change
	for _, part := range []func(*Lock) map[string]entry{things, packages} {
		was, is := part(old), part(new)
		var changes []Change
		for name, e := range is {
			if w := was[name]; w.text != e.text {
				changes = append(changes, Change{name, w.text, e.text, e.security})
			}
		}
		for name, w := range was {
			if _, there := is[name]; !there {
				changes = append(changes, Change{What: name, Was: w.text})
			}
		}
		slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.What, b.What) })
		out = append(out, changes...)
	}
	return out
}

type entry struct {
	text     string
	security bool
}

// things are the inputs of a lock that are no packages of sets, by name.
func things(l *Lock) map[string]entry {
	out := map[string]entry{}
	inSet := map[string]bool{}
	for _, s := range l.Sets {
		for _, name := range s.Inputs {
			inSet[name] = true
		}
	}
	for _, in := range l.Inputs {
		switch {
		case inSet[in.Name]:
		case in.Package != nil:
			out[in.Name] = entry{in.Package.Name + " " + in.Package.Version, security(in)}
		default:
			out[in.Name] = entry{text: "sha256:" + in.Digest.Short()}
		}
	}
	return out
}

// packages are those of a lock's sets by name, with all versions that the sets have.
func packages(l *Lock) map[string]entry {
	versions := map[string][]string{}
	secure := map[string]bool{}
	for _, in := range l.Inputs {
		if in.Package == nil || !slices.ContainsFunc(l.Sets, func(s Set) bool {
			return slices.Contains(s.Inputs,
				in.Name)
		}) {
			continue
		}
		v := in.Package.Version
		if in.Kind != Debian {
			v += " (sha256:" + in.Digest.Short() + ")" // a file may change without a new version
		}
		versions[in.Package.Name] = append(versions[in.Package.Name], v)
		secure[in.Package.Name] = secure[in.Package.Name] || security(in)
	}
	out := map[string]entry{}
	for name, v := range versions {
		slices.Sort(v)
		out[name] = entry{strings.Join(slices.Compact(v), ", "), secure[name]}
	}
	return out
}

// security says whether an input comes from a suite of security updates. Debian calls them SUITE-security, and called
// them SUITE/updates.
func security(in Input) bool {
	return in.Package != nil && (strings.HasSuffix(in.Package.Suite, "-security") ||
		strings.HasSuffix(in.Package.Suite, "/updates"))
}
