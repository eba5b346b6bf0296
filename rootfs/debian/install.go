// Package debian makes a root file system of Debian's binary packages without running anything of theirs: it reads
// package lists, chooses what a request needs, unpacks packages into a tree, and does by declaration what their
// maintainer scripts would have done.
//
// Lists and .deb files come in as bytes that someone has checked; a tree goes out. It knows no network, no apt and no
// dpkg. Formats are deb(5), deb-control(5), deb-version(7) and the Debian Policy Manual, chapters 5 and 7.
// docs/formats/debian.md says what is not done.
package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/debian/control"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// Options of Install. The zero value installs everything and stamps 1970.
type Options struct {
	// Time of all that no package brings.
	Time tree.Time
	// Paths says what of the packages counts.
	Paths Rules
}

// Install puts unpacked packages into a tree, then what their maintainer scripts would have made, then dpkg's database.
// The same packages in any order give the same tree. What was in the tree before gives way to no package's file unless
// it is a folder.
func Install(t *tree.Tree, debs []*Deb, o Options) error {
	debs = slices.Clone(debs)
	slices.SortFunc(debs, func(a, b *Deb) int {
		// base-files says what the common folders are, and the first to describe a folder is right.
		if (a.Name == "base-files") != (b.Name == "base-files") {
			if a.Name == "base-files" {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i, d := range debs {
		if i > 0 && debs[i-1].Name == d.Name {
			return fmt.Errorf("%s and %s: a package is installed once", debs[i-1], d)
		}
		if d.Tar == "" {
			return fmt.Errorf("%s is not unpacked", d)
		}
	}
	implied := t.Implied
	defer func() { t.Implied = implied }()
	t.Implied = tree.Node{Mode: 0o755, Time: o.Time, Origin: "a folder nobody describes"}
	in := &installer{t: t, o: o, owner: map[*tree.Node]*Deb{}}
	e := &effects{t: t, time: o.Time}
	before, err := ReadDatabase(t)
	if err != nil {
		return err
	}
	var former []formerVersion
	for _, p := range before {
		if slices.ContainsFunc(debs, func(d *Deb) bool {
			return p.same(Installed{Name: d.Name, Arch: d.Arch}) && p.Version != string(d.Version)
		}) {
			paths, err := pathsOf(t, p)
			if err != nil {
				return err
			}
			former = append(former, formerVersion{p, paths})
		}
	}
	if err := e.before(debs); err != nil {
		return err
	}
	for _, d := range debs {
		if err := in.apply(d); err != nil {
			return fmt.Errorf("install %s: %w", d, err)
		}
	}
	if err := in.supersede(former, before); err != nil {
		return err
	}
	if err := e.after(); err != nil {
		return err
	}
	e.name = "dpkg's database"
	return in.database(e, debs, before)
}

type installer struct {
	t     *tree.Tree
	o     Options
	owner map[*tree.Node]*Deb
	lists []list
}

// list is what a package has, as dpkg lists it.
type list struct {
	deb   *Deb
	paths []string
}

func (in *installer) apply(d *Deb) error {
	l := list{deb: d}
	folders := map[string]*tree.Node{} // left out, unless something in them is kept
	err := tarfile.Apply(in.t, d.Tar, tarfile.Options{Origin: d.String(), Keep: func(p string, n *tree.Node) (bool,
		error) {
		if !in.o.Paths.keep(p) {
			if n.Kind == tree.Dir {
				folders[p] = n
			}
			return false, nil
		}
		for _, f := range tree.Parents(p) {
			if folders[f] == nil {
				continue
			}
			if _, err := in.t.Lookup(f); errors.Is(err, fs.ErrNotExist) {
				if err := in.t.Put(f, folders[f]); err != nil {
					return false, err
				}
			}
			l.paths = append(l.paths, f)
			delete(folders, f)
		}
		l.paths = append(l.paths, p)
		return in.mayPut(d, p, n)
	}})
	in.lists = append(in.lists, l)
	return err
}

// mayPut decides which package has a path that another one has too. Debian Policy 7.6.1: a package that replaces
// another has its files, in whatever order the two are installed.
func (in *installer) mayPut(d *Deb, p string, n *tree.Node) (bool, error) {
	there, err := in.t.Lookup(p)
	if err != nil { // nothing is there, or Put finds the same error
		in.owner[n] = d
		return true, nil
	}
	other := in.owner[there]
	if n.Kind == tree.Dir && there.Kind == tree.Dir && other != nil {
		return false, nil
	}
	if n.Kind == tree.Symlink && there.Kind == tree.Dir && p != "/" {
		return false, nil // dpkg never puts a link in a folder's place: dpkg(1), Debian Policy 6.6
	}
	if n.Kind != tree.Dir && other != nil && other != d {
		over, err1 := d.replaces(other)
		under, err2 := other.replaces(d)
		switch {
		case err1 != nil || err2 != nil:
			return false, errors.Join(err1, err2)
		case under && !over:
			return false, nil
		case !over:
			return false, fmt.Errorf("%s has %s too, and neither replaces the other (diversions are not made)", other,
				p)
		}
	}
	in.owner[n] = d
	if there.Kind == tree.Dir && n.Kind == tree.Dir {
		in.owner[there] = d // Put keeps the node that is there
	}
	return true, nil
}

func (d *Deb) replaces(other *Deb) (bool, error) {
	clauses, err := control.ParseRelations(d.Control.Get("Replaces"))
	if err != nil {
		return false, fmt.Errorf("%s: Replaces: %w", d, err)
	}
	return slices.ContainsFunc(clauses, func(c control.Clause) bool {
		return slices.ContainsFunc(c, func(r control.Relation) bool {
			return r.Name == other.Name && r.Holds(other.Version)
		})
	}), nil
}
