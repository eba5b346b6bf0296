package debian

import (
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// Request says what a root file system needs. The zero value is nothing.
type Request struct {
	Packages []string // by name; one that only others provide must have a single provider
	// Essential adds all packages without which Debian says it may not work; Required all of the priority "required",
	// as debootstrap's minimal variant does.
	Essential, Required bool
	// Recommends adds what chosen packages recommend, where it can be had.
	Recommends bool
	// Exclude is never chosen. A need that only such a package could meet counts as met: whoever excludes it answers
	// for that.
	Exclude []string
}

// UnmetError says why a request cannot come true.
type UnmetError struct {
	Chain []string // what needs what: a wanted package first, the one whose need is not met last
	Need  string   // what that one needs, or is
	Why   string
	// of packages whose versions have a say in it: the chain, those that could meet the need, those in the way
	Names []string
}

func (e *UnmetError) Error() string {
	if len(e.Chain) == 0 {
		return e.Need + ": " + e.Why
	}
	return strings.Join(e.Chain, " needs ") + " needs " + e.Need + ": " + e.Why
}

// choice is a chosen package.
type choice struct {
	*Package
	by       *choice // what needed it first; nil where the request did
	provides map[string]control.Version
	against  []control.Relation // what it conflicts with, or breaks
}

// need is a clause of a chosen package.
type need struct {
	by *choice
	control.Clause
}

type resolver struct {
	x        *Index
	exclude  map[string]bool
	chosen   map[string]*choice
	provided map[string][]*choice // chosen packages by the names they provide
	firm     []need               // not yet looked at
	open     []need               // more than one package would do
	wishes   []need               // recommended
}

// Resolve chooses packages so that every need of each is met and none conflicts with another, sorted by name. What is
// chosen depends on the index and the request alone, not on the order of the request.
//
// Needs that leave a choice wait until all others are met, so that a package that is there anyway is preferred; then
// the first alternative that can be had counts, and of packages that provide a name the more important, then the first
// by name. A choice is never taken back: where apt would try another way, this is an error that says what to ask for or
// to exclude.
func Resolve(x *Index, w Request) ([]*Package, error) {
	r := &resolver{x: x, exclude: map[string]bool{}, chosen: map[string]*choice{}, provided: map[string][]*choice{}}
	for _, name := range w.Exclude {
		if x.packages[name] == nil {
			return nil, &UnmetError{Need: name, Why: "excluded, but " + r.unknown(name)}
		}
		r.exclude[name] = true
	}
	var first []*Package
	for _, p := range x.packages {
		if (w.Essential && p.Essential || w.Required && p.Priority == "required") && !r.exclude[p.Name] {
			first = append(first, p)
		}
	}
	sortPackages(first)
	for _, name := range slices.Sorted(slices.Values(w.Packages)) {
		p, err := r.wanted(name)
		if err != nil {
			return nil, err
		}
		first = append(first, p)
	}
	for _, p := range first {
		if err := r.choose(p, nil, control.Clause{{Name: p.Name}}); err != nil {
			return nil, err
		}
	}
	if err := r.settle(w.Recommends); err != nil {
		return nil, err
	}
	out := make([]*Package, 0, len(r.chosen))
	for _, c := range r.chosen {
		out = append(out, c.Package)
	}
	sortPackages(out)
	return out, nil
}

func sortPackages(l []*Package) {
	slices.SortFunc(l, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
}

// unknown says that there is no package of a name, and which was probably meant.
func (r *resolver) unknown(name string) string {
	if near := r.x.Nearest(name); near != "" {
		return fmt.Sprintf("there is no such package; did you mean %s?", near)
	}
	return "there is no such package"
}

// wanted is the package that a request means by a name.
func (r *resolver) wanted(name string) (*Package, error) {
	if r.exclude[name] {
		return nil, &UnmetError{Need: name, Why: "both wanted and excluded"}
	}
	if p := r.x.packages[name]; p != nil {
		return p, nil
	}
	by, err := r.x.providers(control.Relation{Name: name})
	if err != nil {
		return nil, err
	}
	switch len(by) {
	case 0:
		return nil, &UnmetError{Need: name, Why: r.unknown(name)}
	case 1:
		return by[0], nil
	}
	var names []string
	for _, p := range by {
		names = append(names, p.Name)
	}
	return nil, &UnmetError{Need: name, Why: "no package, but provided by several: ask for one of " + strings.Join(
		names, ", ")}
}

func (r *resolver) settle(recommends bool) error {
	for {
		switch {
		case len(r.firm) > 0:
			n := r.firm[0]
			r.firm = r.firm[1:]
			if err := r.meet(n, false); err != nil {
				return err
			}
		case len(r.open) > 0:
			n := r.open[0]
			r.open = r.open[1:]
			if err := r.meet(n, true); err != nil {
				return err
			}
		case recommends && len(r.wishes) > 0:
			n := r.wishes[0]
			r.wishes = r.wishes[1:]
			if can, err := r.candidates(n.Clause); err != nil {
				return err
			} else if !r.met(n.Clause) && len(can) > 0 {
				if err := r.choose(can[0], n.by, n.Clause); err != nil {
					return err
				}
			}
		default:
			return nil
		}
	}
}

// meet chooses a package for a need that is not met. One that leaves a choice is put off, unless now.
func (r *resolver) meet(n need, now bool) error {
	if r.met(n.Clause) {
		return nil
	}
	can, err := r.candidates(n.Clause)
	switch {
	case err != nil:
		return err
	case len(can) == 0 && slices.ContainsFunc(n.Clause, func(a control.Relation) bool { return r.exclude[a.Name] }):
		return nil
	case len(can) == 0:
		return &UnmetError{Chain: n.by.chain(), Need: n.Clause.String(), Why: r.why(n.Clause),
			Names: r.involved(n.by, n.Clause)}
	case len(can) > 1 && !now:
		r.open = append(r.open, n)
		return nil
	}
	return r.choose(can[0], n.by, n.Clause)
}

func (r *resolver) met(c control.Clause) bool {
	for _, a := range c {
		if !r.ours(a) {
			continue
		}
		if p := r.chosen[a.Name]; p != nil && a.Holds(p.Version) {
			return true
		}
		for _, p := range r.provided[a.Name] {
			if v := p.provides[a.Name]; a.Op == "" || v != "" && a.Holds(v) {
				return true
			}
		}
	}
	return false
}

// ours says whether a relation's architecture is one that the index has.
func (r *resolver) ours(a control.Relation) bool {
	return a.Arch == "" || a.Arch == "any" || a.Arch == r.x.arch
}

// candidates are packages that would meet a clause and go with those chosen, the preferred first.
func (r *resolver) candidates(c control.Clause) (out []*Package, err error) {
	for _, a := range c {
		if !r.ours(a) {
			continue
		}
		var list []*Package
		if p := r.x.packages[a.Name]; p != nil && a.Holds(p.Version) {
			list = append(list, p)
		}
		by, err := r.x.providers(a)
		if err != nil {
			return nil, err
		}
		for _, p := range append(list, by...) {
			if r.exclude[p.Name] || slices.Contains(out, p) {
				continue
			}
			with, err := r.conflict(p)
			if err != nil {
				return nil, err
			}
			if with == "" {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// involved are the packages whose versions decide whether a clause can be met.
func (r *resolver) involved(by *choice, c control.Clause) []string {
	names := by.chain()
	for _, a := range c {
		names = append(names, a.Name)
		list, _ := r.x.providers(a)
		if p := r.x.packages[a.Name]; p != nil {
			list = append(list, p)
		}
		for _, p := range list {
			names = append(names, p.Name)
			with, err := newChoice(p, nil)
			if err != nil {
				continue
			}
			for _, d := range r.chosen {
				if d.Name != p.Name && (with.hits(d) || d.hits(with)) {
					names = append(names, d.Name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// why explains a clause without candidates.
func (r *resolver) why(c control.Clause) string {
	var said []string
	for _, a := range c {
		p := r.x.packages[a.Name]
		by, _ := r.x.providers(a)
		switch {
		case !r.ours(a):
			said = append(said, a.Name+":"+a.Arch+" is of another architecture")
		case p != nil && !a.Holds(p.Version):
			said = append(said, fmt.Sprintf("there is %s %s", p.Name, p.Version))
		case p != nil:
			by = append(by, p)
			fallthrough
		default:
			for _, p := range by {
				if with, _ := r.conflict(p); with != "" {
					said = append(said, with)
				}
			}
		}
	}
	if len(said) == 0 {
		return "nothing provides it"
	}
	return strings.Join(said, "; ")
}

func newChoice(p *Package, by *choice) (*choice, error) {
	c := &choice{Package: p, by: by}
	for _, field := range []string{p.Conflicts, p.Breaks} {
		clauses, err := control.ParseRelations(field)
		if err != nil {
			return nil, fmt.Errorf("package %s: Conflicts or Breaks: %w", p.Name, err)
		}
		for _, l := range clauses {
			c.against = append(c.against, l...)
		}
	}
	var err error
	if c.provides, err = p.provisions(); err != nil {
		return nil, fmt.Errorf("package %s: Provides: %w", p.Name, err)
	}
	return c, nil
}

// hits says whether c conflicts with d or breaks it. What a package itself provides is no conflict. Debian Policy 7.4.
func (c *choice) hits(d *choice) bool {
	return slices.ContainsFunc(c.against, func(a control.Relation) bool {
		if a.Name == d.Name {
			return a.Holds(d.Version)
		}
		v, ok := d.provides[a.Name]
		return ok && (a.Op == "" || v != "" && a.Holds(v))
	})
}

// conflict says which chosen package p does not go with, or "".
func (r *resolver) conflict(p *Package) (string, error) {
	c, err := newChoice(p, nil)
	if err != nil {
		return "", err
	}
	var with []string
	for _, d := range r.chosen {
		if d.Name != c.Name && (c.hits(d) || d.hits(c)) {
			with = append(with, d.Name)
		}
	}
	if with == nil {
		return "", nil
	}
	slices.Sort(with)
	return fmt.Sprintf("%s %s conflicts with %s", p.Name, p.Version, strings.Join(with, ", ")), nil
}

// choose adds a package and queues its needs.
func (r *resolver) choose(p *Package, by *choice, asked control.Clause) error {
	if r.chosen[p.Name] != nil {
		return nil
	}
	if with, err := r.conflict(p); err != nil {
		return err
	} else if with != "" {
		return &UnmetError{Chain: by.chain(), Need: asked.String(), Why: with, Names: append(r.involved(by, asked),
			p.Name)}
	}
	c, err := newChoice(p, by)
	if err != nil {
		return err
	}
	r.chosen[p.Name] = c
	for name := range c.provides {
		r.provided[name] = append(r.provided[name], c)
	}
	for _, f := range []struct {
		name, value string
		queue       *[]need
	}{{"Pre-Depends", p.PreDepends, &r.firm}, {"Depends", p.Depends, &r.firm}, {"Recommends", p.Recommends,
		&r.wishes}} {
		clauses, err := control.ParseRelations(f.value)
		if err != nil {
			return fmt.Errorf("package %s: %s: %w", p.Name, f.name, err)
		}
		for _, l := range clauses {
			*f.queue = append(*f.queue, need{c, l})
		}
	}
	return nil
}

// chain is what needed what, until c was chosen.
func (c *choice) chain() (out []string) {
	for ; c != nil; c = c.by {
		out = append(out, c.Name)
	}
	slices.Reverse(out)
	return out
}
