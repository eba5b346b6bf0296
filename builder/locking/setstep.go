package locking

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/mistake"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// Update says what a new lock looks up again although the old one pins it. The zero value is nothing.
type Update struct {
	All   bool
	Names []string // of packages, images, or inputs as the lock calls them
}

// namesOf are the words by which people may mean an input.
func namesOf(in *lock.Input) []string {
	names := []string{in.Name}
	if in.Where != "" {
		names = append(names, in.Where)
	}
	if in.Package != nil {
		names = append(names, in.Package.Name)
	}
	return names
}

func (u Update) renews(in *lock.Input) bool {
	return u.All || slices.ContainsFunc(namesOf(in), func(n string) bool { return slices.Contains(u.Names, n) })
}

// check refuses names that an old lock does not have: nothing would be renewed.
func (u Update) check(old *lock.Lock) error {
	if len(u.Names) == 0 {
		return nil
	}
	if old == nil {
		return errors.New("there is no lock yet of which something could be renewed; lock without names first")
	}
	known := map[string]bool{}
	for i := range old.Inputs {
		for _, n := range namesOf(&old.Inputs[i]) {
			known[n] = true
		}
	}
	for _, n := range u.Names {
		if known[n] {
			continue
		}
		err := fmt.Errorf("the lock has nothing called %q to renew", n)
		if near := mistake.Nearest(n, slices.Sorted(maps.Keys(known)), len(n)/3+2); near != "" {
			err = fmt.Errorf("%w; did you mean %q?", err, near)
		}
		return err
	}
	return nil
}

// keep takes over the packages that the old lock has for the same wish, unless something in it is to be renewed.
func (m *locker) keep(w inputs.Set) bool {
	if m.old == nil || m.o.Update.All {
		return false
	}
	s := m.old.FindSet(w.Name)
	if s == nil || s.Asked != w.Deb.Asked() {
		return false
	}
	var inputs []lock.Input
	for _, name := range s.Inputs {
		in := *m.old.Find(name)
		if m.o.Update.renews(&in) {
			return false
		}
		if in.Kind != lock.Debian {
			now := m.lock.Find(name)
			if now == nil || now.Digest != in.Digest {
				return false // a .deb beside the recipe has changed
			}
			now.Package = in.Package
			continue
		}
		inputs = append(inputs, in)
	}
	for _, in := range inputs {
		if m.add(in) != nil {
			return false
		}
	}
	m.lock.Sets = append(m.lock.Sets, *s)
	return true
}

// add puts an input into the lock unless it is there.
func (m *locker) add(in lock.Input) error {
	if there := m.lock.Find(in.Name); there != nil {
		if there.Digest != in.Digest {
			return fmt.Errorf("%s: two archives have it with different bytes, %s and %s", in.Name, there.Digest,
				in.Digest)
		}
		return nil
	}
	m.lock.Inputs = append(m.lock.Inputs, in)
	return nil
}

// choose chooses the packages of a wish, adds them to the lock, and returns the date of the newest release file.
func (m *locker) choose(ctx context.Context, w inputs.Set) (time.Time, error) {
	m.c.Report.Send(progress.Event{Step: "lock", Kind: progress.Update,
		Message: "choose packages of Debian " + strings.Join(w.Deb.Suites, ", ")})
	x, date, err := m.index(ctx, w)
	if err != nil {
		return date, err
	}
	wish := debian.Request{Recommends: w.Deb.Recommends, Exclude: w.Deb.Exclude}
	firm := map[string]bool{} // what the recipe itself decides
	for i, p := range w.Deb.Packages {
		want := recipe.ParseWanted(p)
		if err := choose(x, want); err != nil {
			return date, m.r.Blame(fmt.Sprintf("%s.packages[%d]", w.Field, i), err)
		}
		if want.Version != "" || want.Suite != "" {
			firm[want.Name] = true
		}
		wish.Packages = append(wish.Packages, want.Name)
	}
	debs, err := m.addDebs(ctx, x, w)
	if err != nil {
		return date, err
	}
	for name := range debs {
		firm[name] = true
		wish.Packages = append(wish.Packages, name)
	}
	chosen, err := m.resolve(x, wish, firm, w.Arch)
	if err != nil {
		return date, m.r.Blame(blamed(w, err), err)
	}
	set := lock.Set{Name: w.Name, Asked: w.Deb.Asked(), Inputs: []string{}}
	for _, p := range chosen {
		if in := debs[p.Name]; in != "" {
			set.Inputs = append(set.Inputs, in)
			continue
		}
		in := lock.Input{Name: inputs.PackageInput(p), Kind: lock.Debian, Digest: p.Digest, Size: p.Size,
			Package: &lock.Package{
				Archive: p.Source.Archive, Suite: p.Source.Suite, Name: p.Name, Version: string(p.Version),
				Arch: p.Arch, Filename: path.Clean(p.Filename),
			}}
		if err := m.add(in); err != nil {
			return date, err
		}
		set.Inputs = append(set.Inputs, in.Name)
	}
	m.lock.Sets = append(m.lock.Sets, set)
	return date, nil
}

// blamed is the entry of a wish that an error is about, or the wish itself.
func blamed(w inputs.Set, err error) string {
	var unmet *debian.UnmetError
	if !errors.As(err, &unmet) {
		return w.Field
	}
	name := unmet.Need
	if len(unmet.Chain) > 0 {
		name = unmet.Chain[0]
	}
	for i, p := range w.Deb.Exclude {
		if p == name {
			return fmt.Sprintf("%s.exclude[%d]", w.Field, i)
		}
	}
	for i, p := range w.Deb.Packages {
		if recipe.ParseWanted(p).Name == name {
			return fmt.Sprintf("%s.packages[%d]", w.Field, i)
		}
	}
	return w.Field
}

// choose makes the version that the recipe names the one that counts.
func choose(x *debian.Index, w recipe.Wanted) error {
	if w.Version == "" && w.Suite == "" {
		return nil
	}
	found := x.Choose(w.Name, func(p *debian.Package) bool {
		return (w.Version == "" || string(p.Version) == w.Version) && (w.Suite == "" || p.Source.Suite == w.Suite)
	})
	if found || x.Find(w.Name) == nil {
		return nil // one that is not there at all has an error of its own
	}
	var there []string
	for _, p := range x.Versions(w.Name) {
		there = append(there, fmt.Sprintf("%s in %s", p.Version, p.Source.Suite))
	}
	want := "version " + w.Version
	if w.Suite != "" {
		want = "version in " + w.Suite
	}
	return fmt.Errorf("package %s: there is no %s; there is %s", w.Name, want, strings.Join(there, ", "))
}

// index reads the lists of everything that a wish may take packages from.
func (m *locker) index(ctx context.Context, w inputs.Set) (*debian.Index, time.Time, error) {
	type list struct {
		archive fetch.Archive
		section fetch.Section
		from    debian.Source
	}
	var lists []list
	for _, suite := range w.Deb.Suites {
		for _, component := range w.Deb.Components {
			lists = append(lists, list{m.f.Apt, fetch.Section{Suite: suite, Component: component},
				debian.Source{Suite: suite}})
		}
	}
	for _, a := range w.Deb.Archives {
		own, err := m.c.OwnArchive(ctx, m.f, a)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("archive %s: %w", a.Name, err)
		}
		for _, s := range own.Sections {
			lists = append(lists, list{own.Archive, s, debian.Source{Archive: a.Name, Suite: s.Suite, Pin: a.Priority}})
		}
	}
	x := debian.NewIndex(w.Arch)
	var date time.Time
	for _, l := range lists {
		r, rel, err := l.archive.Index(ctx, l.section, w.Arch)
		if err != nil {
			return nil, date, err
		}
		l.from.Pin = cmp.Or(l.from.Pin, rel.Pin())
		if err := errors.Join(x.Read(r, l.from), r.Close()); err != nil {
			return nil, date, err
		}
		if rel.Date.After(date) {
			date = rel.Date
		}
	}
	return x, date, nil
}

// pinFile is the priority of single files: whoever names one wants it.
const pinFile = 1 << 30

// addDebs adds the single files of a wish to the lists, and returns the inputs they are, by the names of their
// packages.
func (m *locker) addDebs(ctx context.Context, x *debian.Index, w inputs.Set) (map[string]string, error) {
	out := map[string]string{}
	for _, file := range w.Deb.Debs {
		in := m.lock.Find(lock.DebInput(file))
		path := filepath.Join(m.f.Base, filepath.FromSlash(in.Where))
		if in.Kind == lock.URL {
			if err := m.f.Bring(ctx, *in, m.c.Report); err != nil {
				return nil, err
			}
			var err error
			if path, err = m.c.Store.Get(in.Digest); err != nil {
				return nil, err
			}
		}
		p, err := packageOf(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if p.Arch != m.f.Arch && p.Arch != "all" {
			return nil, fmt.Errorf("%s: it is for %s, the guest is %s", file, p.Arch, m.f.Arch)
		}
		if out[p.Name] != "" {
			return nil, fmt.Errorf("%s: package %s stands twice among debs", file, p.Name)
		}
		p.Digest, p.Size, p.Source.Pin = in.Digest, in.Size, pinFile
		x.Add(p)
		in.Package = &lock.Package{Name: p.Name, Version: string(p.Version), Arch: p.Arch}
		out[p.Name] = in.Name
	}
	return out, nil
}

// packageOf reads what a .deb says of itself, as a list would.
func packageOf(path string) (*debian.Package, error) {
	d, err := debian.Read(path)
	if err != nil {
		return nil, err
	}
	return d.Package()
}

// pins are the versions that the old lock has for an architecture and that are not to be renewed, by name.
func (m *locker) pins(firm map[string]bool, arch string) map[string]lock.Input {
	out := map[string]lock.Input{}
	if m.old == nil || m.o.Update.All {
		return out
	}
	for _, s := range m.old.Sets {
		for _, name := range s.Inputs {
			in := *m.old.Find(name)
			if in.Kind != lock.Debian || firm[in.Package.Name] || m.o.Update.renews(&in) {
				continue
			}
			if in.Package.Arch == arch || in.Package.Arch == "all" {
				out[in.Package.Name] = in
			}
		}
	}
	return out
}

// resolve chooses packages, in the old lock's versions where they are to be had and they can meet the request.
// What stands in the way of that is renewed too.
func (m *locker) resolve(x *debian.Index, wish debian.Request, firm map[string]bool, arch string) ([]*debian.Package,
	error) {
	pins := m.pins(firm, arch)
	newest := map[string]*debian.Package{}
	for name, in := range pins {
		newest[name] = x.Find(name)
		if !m.pin(x, in) {
			m.c.Report.Send(progress.Event{Step: "lock", Kind: progress.Log, Message: fmt.Sprintf(
				"%s %s is in no archive any more, and not in the store; the present version is taken", name,
				in.Package.Version)})
			delete(pins, name)
		}
	}
	for {
		chosen, err := debian.Resolve(x, wish)
		var unmet *debian.UnmetError
		if err == nil || !errors.As(err, &unmet) || len(pins) == 0 {
			return chosen, err
		}
		freed := false
		for _, name := range unmet.Names {
			if _, ok := pins[name]; ok && newest[name] != nil {
				x.Choose(name, func(p *debian.Package) bool { return p == newest[name] })
				freed = true
			}
			delete(pins, name)
		}
		if freed {
			continue
		}
		// Nothing that the error names is pinned: the last way out is the present version of everything.
		for name := range pins {
			x.Choose(name, func(p *debian.Package) bool { return p == newest[name] })
		}
		clear(pins)
	}
}

// pin makes a locked version the one that counts, and says whether it can. One that no list has any more is read from
// the store.
func (m *locker) pin(x *debian.Index, in lock.Input) bool {
	is := func(p *debian.Package) bool { return p.Digest == in.Digest }
	if x.Choose(in.Package.Name, is) {
		return true
	}
	if x.Find(in.Package.Name) == nil {
		return true // nothing of that name is in these lists: another set's
	}
	path, err := m.c.Store.Get(in.Digest)
	if err != nil {
		return false
	}
	p, err := packageOf(path)
	if err != nil || p.Name != in.Package.Name {
		return false
	}
	p.Digest, p.Size, p.Filename = in.Digest, in.Size, in.Package.Filename
	p.Source = debian.Source{Archive: in.Package.Archive, Suite: in.Package.Suite}
	x.Add(p)
	return x.Choose(p.Name, is)
}
