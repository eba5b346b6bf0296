// Package sbom writes the software bill of materials of an image: what it is made of, with versions, licences, digests
// and the files of each.
//
// Components come in with the paths they brought; the tree says which of them are still there and what they hold. Out
// comes an SPDX 2.3 document in JSON, and a CycloneDX 1.6 one where it is asked for. They have no time or identifier of
// their own: the same image has the same bill.
package sbom

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// What the manifest calls the documents.
const (
	Format          = "spdx-2.3"
	FormatCycloneDX = "cyclonedx-1.6"
)

// Component is one thing that the image is made of: a package, the kernel, the agent, a layer.
type Component struct {
	Name, Version string
	Arch          string        // dpkg's name; may be empty
	PURL          string        // https://github.com/package-url/purl-spec; may be empty
	Digest        digest.Digest // of what it came as; may be empty
	Supplier      string        // an organisation or person; may be empty
	Homepage      string        // may be empty
	// Origin is that of its nodes in the tree (tree.Node.Origin); empty where it has none there, as the kernel.
	Origin string
	// License is an SPDX expression where it is known for sure; else the copyright file in the tree is asked, see
	// licenseOf.
	License string
	// Needs are the names of other components that it depends on.
	Needs []string
}

// Document is the bill of an image.
type Document struct {
	Name       string        // of the guest
	Digest     digest.Digest // of what makes the image what it is: the bill's namespace is made from it
	Time       int64         // the lock's, seconds since 1970
	Creator    string        // the tool, such as "katabuild"
	Components []Component
	// Files is what the tree's files were read with, WithSums. What it has not read is read now; nil is all of them.
	Files *tree.Opener
}

// files is Document.Files, or one that has read nothing.
func (d Document) files() *tree.Opener {
	if d.Files == nil {
		return &tree.Opener{}
	}
	return d.Files
}

// Write writes the bill of a tree. It keeps next to nothing of each file in memory.
func (d Document) Write(ctx context.Context, w io.Writer, t *tree.Tree) error {
	files := d.files()
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: d.Name,
		// A name, not an address: the specification wants a URI that nobody else uses.
		DocumentNamespace: "urn:katabuild:" + d.Digest.Hex(),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: d.Creator}},
			Created:  time.Unix(d.Time, 0).UTC().Format(time.RFC3339),
		},
	}
	image := &v2_3.Package{
		PackageName: d.Name, PackageSPDXIdentifier: "Image", PackageDownloadLocation: "NOASSERTION",
		PrimaryPackagePurpose:     "OPERATING-SYSTEM",
		IsFilesAnalyzedTagPresent: true, PackageCopyrightText: "NOASSERTION", PackageLicenseConcluded: "NOASSERTION",
		PackageLicenseDeclared: "NOASSERTION",
	}
	doc.Packages = append(doc.Packages, image)
	relate := func(a, kind, b string) {
		doc.Relationships = append(doc.Relationships, &v2_3.Relationship{
			RefA: common.DocElementID{ElementRefID: common.ElementID(a)}, Relationship: kind,
			RefB: common.DocElementID{ElementRefID: common.ElementID(b)},
		})
	}
	relate("DOCUMENT", common.TypeRelationshipDescribe, "Image")

	ids := map[string]string{} // origin to the package's identifier
	components := d.sorted()
	var extracted extractedLicenses
	byName := map[string]string{}
	for i, c := range components {
		byName[c.Name] = packageID(i, c)
	}
	for i, c := range components {
		id := packageID(i, c)
		p := &v2_3.Package{
			PackageName: c.Name, PackageVersion: c.Version, PackageSPDXIdentifier: common.ElementID(id),
			PackageDownloadLocation:   "NOASSERTION",
			IsFilesAnalyzedTagPresent: true, PackageHomePage: c.Homepage, PackageCopyrightText: "NOASSERTION",
			PackageLicenseConcluded: "NOASSERTION",
		}
		license, err := licenseOf(c, t, files)
		if err != nil {
			return err
		}
		p.PackageLicenseDeclared = extracted.expression(license)
		if c.Supplier != "" {
			p.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: c.Supplier}
		}
		if c.Digest != "" {
			p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: c.Digest.Hex()}}
		}
		if c.PURL != "" {
			p.PackageExternalReferences = []*v2_3.PackageExternalReference{{Category: common.CategoryPackageManager,
				RefType: common.TypePackageManagerPURL, Locator: c.PURL}}
		}
		doc.Packages = append(doc.Packages, p)
		relate("Image", common.TypeRelationshipContains, id)
		for _, n := range slices.Sorted(slices.Values(c.Needs)) {
			if other := byName[n]; other != "" && other != id {
				relate(id, common.TypeRelationshipDependsOn, other)
			}
		}
		if c.Origin != "" {
			ids[c.Origin] = id
		}
	}
	doc.OtherLicenses = extracted.list()

	out := newStream(w)
	out.document(doc)
	var owners []string // of each file
	out.list("files", func() error {
		return t.Walk(func(p string, n *tree.Node, _ bool) error {
			if n.Kind != tree.File {
				return nil
			}
			sum, err := files.Sum(ctx, n)
			if err != nil {
				return fmt.Errorf("bill of materials: %s: %w", p, err)
			}
			owner, comment := "Image", n.Origin
			if id, ok := ids[n.Origin]; ok {
				owner, comment = id, ""
			}
			owners = append(owners, owner)
			out.file(p, len(owners), sum, comment)
			return ctx.Err()
		})
	})
	out.others(doc.OtherLicenses)
	out.list("relationships", func() error {
		for _, r := range doc.Relationships {
			out.relationship(string(r.RefA.ElementRefID), string(r.RefB.ElementRefID), r.Relationship)
		}
		for i, owner := range owners {
			out.relationship(owner, fileID(i+1), common.TypeRelationshipContains)
		}
		return nil
	})
	return out.close()
}

func fileID(number int) string { return "File-" + strconv.Itoa(number) }

// sorted are the components in the order of both documents, which is not the order they were given in.
func (d Document) sorted() []Component {
	components := slices.Clone(d.Components)
	slices.SortFunc(components, func(a, b Component) int {
		return strings.Compare(a.Name+"\x00"+a.Version+"\x00"+a.Arch+"\x00"+a.Origin,
			b.Name+"\x00"+b.Version+"\x00"+b.Arch+"\x00"+b.Origin)
	})
	return components
}

// packageID is what both documents call the i-th of the sorted components.
func packageID(i int, c Component) string { return "Package-" + strconv.Itoa(i) + "-" + idWord(c.Name) }

// idWord makes of a name what an SPDX identifier may hold: letters, digits, dots and dashes.
func idWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, s)
}

// maxCopyright bounds a copyright file that is read for its licences, in bytes.
const maxCopyright = 1 << 20

// licenseOf lists the licences of a component: its own, or the short names in the License fields of Debian's
// machine-readable copyright file (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/) where the tree
// still has it. Nil where nobody says.
func licenseOf(c Component, t *tree.Tree, files *tree.Opener) ([]string, error) {
	if c.License != "" {
		return []string{c.License}, nil
	}
	n, err := t.Resolve("/usr/share/doc/" + c.Name + "/copyright")
	if err != nil || n.Kind != tree.File || n.Content == nil || n.Content.Size() > maxCopyright {
		return nil, nil // slimmed away, or not a package of Debian's
	}
	data, err := files.ReadAll(n)
	if err != nil {
		return nil, fmt.Errorf("licences of %s: %w", c.Name, err)
	}
	return shortNames(data), nil
}

// shortNames are the first lines of License fields, each once, sorted. Nil for a text in no format.
func shortNames(data []byte) []string {
	if !bytes.HasPrefix(data, []byte("Format:")) {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		name, ok := strings.CutPrefix(line, "License:")
		if name = strings.TrimSpace(name); ok && name != "" && len(name) < 200 && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// spdxNames are Debian's short names that SPDX knows too, by its own name.
var spdxNames = map[string]string{
	"Apache-2.0": "Apache-2.0", "BSD-2-clause": "BSD-2-Clause", "BSD-3-clause": "BSD-3-Clause", "BSL-1.0": "BSL-1.0",
	"CC0-1.0": "CC0-1.0",
	"Expat":   "MIT", "MIT": "MIT", "ISC": "ISC", "Zlib": "Zlib", "zlib": "Zlib", "PSF-2": "PSF-2.0",
	"Artistic": "Artistic-1.0-Perl",
	"GPL-1":    "GPL-1.0-only", "GPL-1+": "GPL-1.0-or-later", "GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later",
	"GPL-3": "GPL-3.0-only", "GPL-3+": "GPL-3.0-or-later", "LGPL-2": "LGPL-2.0-only", "LGPL-2+": "LGPL-2.0-or-later",
	"LGPL-2.1": "LGPL-2.1-only", "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3": "LGPL-3.0-only",
	"LGPL-3+": "LGPL-3.0-or-later",
	"MPL-1.1": "MPL-1.1", "MPL-2.0": "MPL-2.0", "Unicode": "Unicode-DFS-2016", "bzip2-1.0.6": "bzip2-1.0.6",
	// What our own components say of themselves.
	"GPL-2.0-only": "GPL-2.0-only",
}

// extractedLicenses are names that SPDX does not know: LicenseRef-… and the name itself in the document.
type extractedLicenses struct{ names map[string]string }

// expression says that all of the licences hold, as a package's files may each be under another.
func (e *extractedLicenses) expression(names []string) string {
	if len(names) == 0 {
		return "NOASSERTION"
	}
	var out []string
	for _, n := range names {
		id, ok := spdxNames[n]
		if !ok {
			id = "LicenseRef-" + idWord(n)
			if e.names == nil {
				e.names = map[string]string{}
			}
			if _, seen := e.names[id]; !seen {
				e.names[id] = n
			}
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " AND ")
}

func (e *extractedLicenses) list() []*v2_3.OtherLicense {
	var out []*v2_3.OtherLicense
	for id, name := range e.names {
		out = append(out, &v2_3.OtherLicense{LicenseIdentifier: id, LicenseName: name, ExtractedText: name})
	}
	slices.SortFunc(out, func(a, b *v2_3.OtherLicense) int {
		return strings.Compare(a.LicenseIdentifier,
			b.LicenseIdentifier)
	})
	return out
}
