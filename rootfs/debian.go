package rootfs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/debian/control"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Debian is binary packages of Debian's archive.
type Debian struct {
	Packages []DebianPackage
	Rules    debian.Rules // which of their files count
}

// DebianPackage is one package.
type DebianPackage struct {
	Name, Version, Arch string
	Foreign             bool          // it comes from elsewhere than Debian's archive
	Digest              digest.Digest // of the .deb
	Path                string        // of the .deb
	Tar                 string        // what it installs, uncompressed, as debian.Unpack leaves it
}

// Inputs implements Layer.
func (l Debian) Inputs() []artifact.Input {
	var out []artifact.Input
	for _, p := range l.Packages {
		out = append(out, artifact.Input{Name: "package " + p.Name, Value: string(p.Digest)})
	}
	for i, r := range l.Rules {
		what := "exclude "
		if r.Keep {
			what = "include "
		}
		out = append(out, artifact.Input{Name: fmt.Sprintf("paths %d", i), Value: what + r.Pattern})
	}
	return out
}

// Apply implements Layer.
func (l Debian) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	var debs []*debian.Deb
	var parts []sbom.Component
	for _, p := range l.Packages {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := debian.Read(p.Path)
		if err != nil {
			return nil, err
		}
		d.Tar = p.Tar
		debs = append(debs, d)
		c := sbom.Component{
			Name: p.Name, Version: p.Version, Arch: p.Arch, PURL: debPURL("debian", p.Name, p.Version, p.Arch),
			Digest: p.Digest, Supplier: "Debian",
			Homepage: d.Control.Get("Homepage"), Origin: d.String(),
		}
		if p.Foreign {
			// Debian's advisories have nothing to say of it.
			c.PURL, c.Supplier = strings.Replace(c.PURL, "pkg:deb/debian/", "pkg:generic/", 1), ""
		}
		parts = append(parts, c)
	}
	if err := addNeeds(parts, debs); err != nil {
		return nil, err
	}
	return parts, debian.Install(t, debs, debian.Options{Time: now, Paths: l.Rules})
}

// addNeeds says of each package which of the others it depends on: every one that meets an alternative, by name or by
// what it provides.
func addNeeds(parts []sbom.Component, debs []*debian.Deb) error {
	meets := map[string][]string{} // a name that is asked for, to the packages that have it or provide it
	for _, d := range debs {
		meets[d.Name] = append(meets[d.Name], d.Name)
		provides, err := control.ParseRelations(d.Control.Get("Provides"))
		if err != nil {
			return fmt.Errorf("%s: Provides: %w", d, err)
		}
		for _, clause := range provides {
			for _, r := range clause {
				meets[r.Name] = append(meets[r.Name], d.Name)
			}
		}
	}
	for i, d := range debs {
		for _, field := range []string{"Pre-Depends", "Depends"} {
			clauses, err := control.ParseRelations(d.Control.Get(field))
			if err != nil {
				return fmt.Errorf("%s: %s: %w", d, field, err)
			}
			for _, clause := range clauses {
				for _, r := range clause {
					for _, name := range meets[r.Name] {
						if name != d.Name && !slices.Contains(parts[i].Needs, name) {
							parts[i].Needs = append(parts[i].Needs, name)
						}
					}
				}
			}
		}
	}
	return nil
}
