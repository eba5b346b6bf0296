package ceremony

import (
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/releases/roles"
)

// Status is what people ask about a role.
type Status struct {
	Role      string
	Version   int64     // of the complete metadata; 0 is none
	Expires   time.Time // of the complete metadata
	Keys      []string  // what people call its keys, with the beginning of their identifiers
	Threshold int
	Channels  []string // patterns of the releases for which a delegated role speaks
	Releases  []string // that it lists, sorted
	Problem   string   // why clients would refuse it; empty where they would not
	Draft     *Draft
}

// Draft is metadata that is not complete.
type Draft struct {
	Version int64
	Expires time.Time
	Add     []string // releases that the complete list does not have
	Drop    []string // releases that only the complete list has
	Keys    []string // that have the role with it and did not before, and otherwise: +alice, -bob
	Needs   []Need   // all must be met
}

// Need is what a draft lacks by one set of keys.
type Need struct {
	Threshold       int
	Signed, Missing []string // what people call keys
}

// Status says how every role is, root first.
func (r *Repository) Status() []Status {
	list := []string{roles.Root, roles.Targets, roles.Snapshot, roles.Timestamp}
	list = order(append(list, r.delegated()...))
	var out []Status
	for _, role := range list {
		s := Status{Role: role, Version: version(r.current[role]), Expires: expires(r.current[role]),
			Problem: r.problem(role)}
		keepers := r.keepers(r.current, role)
		if len(keepers) == 0 {
			keepers = r.keepers(r.drafts, role)
		}
		if len(keepers) > 0 {
			for _, id := range keepers[0].IDs {
				s.Keys = append(s.Keys, keepers[0].Name(id))
			}
			s.Threshold = keepers[0].Threshold
		}
		if t := r.targets(r.current, role); !topLevel(role) || role == roles.Targets {
			s.Releases = releases(t)
		}
		s.Channels = r.channels(role)
		s.Draft = r.draftStatus(role)
		out = append(out, s)
	}
	return out
}

func (r *Repository) channels(role string) []string {
	if t := r.targets(r.drafts, roles.Targets); t != nil && t.Delegations != nil {
		for _, d := range t.Delegations.Roles {
			if d.Name == role {
				return d.Paths
			}
		}
	}
	return nil
}

func (r *Repository) draftStatus(role string) *Draft {
	data := r.drafts[role]
	h, err := roles.ReadHead(data)
	if err != nil {
		return nil
	}
	d := &Draft{Version: h.Version, Expires: expires(data)}
	for _, k := range r.keepers(r.drafts, role) {
		n := Need{Threshold: k.Threshold}
		fit, _, _ := k.Signed(h)
		for _, id := range k.IDs {
			if slices.Contains(fit, id) {
				n.Signed = append(n.Signed, k.Name(id))
			} else {
				n.Missing = append(n.Missing, k.Name(id))
			}
		}
		d.Needs = append(d.Needs, n)
	}
	if role == roles.Targets || !topLevel(role) {
		before, after := releases(r.targets(r.current, role)), releases(r.targets(r.drafts, role))
		d.Add, d.Drop = without(after, before), without(before, after)
	}
	d.Keys = r.keyChanges(role)
	return d
}

// keyChanges are the keys that a draft of root, or of a list with delegations, gives roles and takes roles from.
func (r *Repository) keyChanges(role string) []string {
	var out []string
	differ := func(of string, before, after *roles.Keepers) {
		names := func(k *roles.Keepers) (list []string) {
			if k == nil {
				return nil
			}
			for _, id := range k.IDs {
				list = append(list, k.Name(id))
			}
			return list
		}
		for _, n := range without(names(after), names(before)) {
			out = append(out, of+" +"+n)
		}
		for _, n := range without(names(before), names(after)) {
			out = append(out, of+" -"+n)
		}
	}
	switch role {
	case roles.Root:
		before, after := r.root(r.current), r.root(r.drafts)
		if before == nil {
			return nil
		}
		for _, of := range []string{roles.Root, roles.Targets, roles.Snapshot, roles.Timestamp} {
			differ(of, roles.OfRoot(before, of), roles.OfRoot(after, of))
		}
	case roles.Targets:
		before, after := r.targets(r.current, role), r.targets(r.drafts, role)
		if before == nil {
			before = &metadata.TargetsType{}
		}
		for _, of := range r.delegated() {
			differ(of, roles.OfTargets(before, of), roles.OfTargets(after, of))
		}
	}
	return out
}

// problem says why clients would refuse the newest metadata of a role, whatever the time is.
func (r *Repository) problem(role string) string {
	data := r.current[role]
	h, err := roles.ReadHead(data)
	if err != nil {
		return "there is none yet"
	}
	all := r.keepers(r.current, role)
	if role == roles.Root {
		// Whoever has to sign a draft does not matter here.
		all = []*roles.Keepers{roles.OfRoot(r.root(r.current), role)}
	}
	for _, k := range all {
		if fit, _, _ := k.Signed(h); len(fit) < k.Threshold {
			return "the keys that have the role now have not signed it"
		}
	}
	return ""
}

// releases are those of a list, sorted.
func releases(t *metadata.TargetsType) []string {
	if t == nil {
		return nil
	}
	var out []string
	for path := range t.Targets {
		out = append(out, path)
	}
	slices.Sort(out)
	return out
}

// without is what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// expires is until when metadata is good.
func expires(data []byte) time.Time {
	h, err := roles.ReadHead(data)
	if err != nil {
		return time.Time{}
	}
	return h.Expires
}
