// Package debiantest judges a choice of Debian's packages by other means than rootfs/debian makes it.
package debiantest

import (
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// offer is a name that a package has, or provides, in a version or in none.
type offer struct {
	version  control.Version
	provided bool
}

// meets says whether the offer is what a relation wants. A relation with a version is only met by a provision with one.
// Debian Policy 7.5.
func (o offer) meets(r control.Relation) bool {
	if o.provided && o.version == "" {
		return r.Op == ""
	}
	return r.Holds(o.version)
}

// Satisfied says which need of a list of packages the list itself does not meet. arch is dpkg's name.
func Satisfied(list []*debian.Package, arch string) error {
	offers := map[string][]offer{}
	for _, p := range list {
		offers[p.Name] = append(offers[p.Name], offer{version: p.Version})
		provides, err := control.ParseRelations(p.Provides)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		for _, c := range provides {
			offers[c[0].Name] = append(offers[c[0].Name], offer{c[0].Version, true})
		}
	}
	var errs []error
	for _, p := range list {
		for _, field := range []string{p.PreDepends, p.Depends} {
			clauses, err := control.ParseRelations(field)
			if err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			for _, c := range clauses {
				met := false
				for _, r := range c {
					for _, o := range offers[r.Name] {
						met = met || o.meets(r) && (r.Arch == "" || r.Arch == "any" || r.Arch == arch)
					}
				}
				if !met {
					errs = append(errs, fmt.Errorf("%s needs %s, which is not in the list", p.Name, c))
				}
			}
		}
	}
	return errors.Join(errs...)
}
