package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Explanation is where a file of an image comes from.
type Explanation struct {
	Path string `json:"path"` // as asked
	// Real is where the path leads, when it leads through links.
	Real string `json:"real,omitempty"`
	Kind string `json:"kind"`
	Size int64  `json:"size"` // bytes; of a folder, of all below it
	// By are the components that put it there: one for a file, several for a folder.
	By []Source `json:"by"`
}

// Source is a component, or what the recipe says.
type Source struct {
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	License  string   `json:"license,omitempty"`
	PURL     string   `json:"purl,omitempty"`
	NeededBy []string `json:"needed_by,omitempty"` // components that depend on it
	Size     int64    `json:"size"`                // bytes of it at or below the path
}

// errNoBill says that an image has no bill of materials beside it.
var errNoBill = errors.New("no bill of materials (" + rootfs.SBOMName +
	") lies beside the image, and only that says where its files come from")

// Explain says where what lies at a path comes from, by the bill of materials beside the image.
func (t *Artifact) Explain(at string) (*Explanation, error) {
	f, err := regular.Open(filepath.Join(filepath.Dir(t.Path), rootfs.SBOMName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoBill
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var doc v2_3.Document
	if err := spdxjson.ReadInto(f, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	n, err := t.Tree.Resolve(at)
	if err != nil {
		return nil, err
	}
	e := &Explanation{Path: tree.Clean(at), Kind: n.Kind.String(), By: []Source{}}
	bill := newBill(&doc)
	sources := map[string]*Source{}
	err = t.Tree.Walk(func(p string, m *tree.Node, _ bool) error {
		switch {
		case m == n && e.Real == "":
			e.Real = p
		case e.Real == "" || n.Kind != tree.Dir || e.Real != "/" && !strings.HasPrefix(p, e.Real+"/"):
			return nil
		}
		if m.Kind != tree.File {
			return nil
		}
		e.Size += m.Size()
		s := bill.source("." + p)
		if sources[s.Name] == nil {
			sources[s.Name] = &s
		}
		sources[s.Name].Size += m.Size()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		e.By = append(e.By, *s)
	}
	slices.SortFunc(e.By, func(a, b Source) int {
		if a.Size != b.Size {
			return int(min(max(b.Size-a.Size, -1), 1))
		}
		return strings.Compare(a.Name, b.Name)
	})
	if e.Real == e.Path {
		e.Real = ""
	}
	return e, nil
}

// bill is a document, turned round: from files to packages.
type bill struct {
	owner    map[string]*v2_3.Package // by file name
	comment  map[string]string        // by file name, where the image itself has it
	neededBy map[common.ElementID][]string
}

func newBill(doc *v2_3.Document) *bill {
	b := &bill{map[string]*v2_3.Package{}, map[string]string{}, map[common.ElementID][]string{}}
	packages := map[common.ElementID]*v2_3.Package{}
	for _, p := range doc.Packages {
		packages[p.PackageSPDXIdentifier] = p
	}
	files := map[common.ElementID]*v2_3.File{}
	for _, f := range doc.Files {
		files[f.FileSPDXIdentifier] = f
		b.comment[f.FileName] = f.FileComment
	}
	for _, r := range doc.Relationships {
		from, to := r.RefA.ElementRefID, r.RefB.ElementRefID
		switch r.Relationship {
		case common.TypeRelationshipContains:
			if f := files[to]; f != nil && packages[from] != nil {
				b.owner[f.FileName] = packages[from]
			}
		case common.TypeRelationshipDependsOn:
			if p := packages[from]; p != nil {
				b.neededBy[to] = append(b.neededBy[to], p.PackageName)
			}
		}
	}
	return b
}

func (b *bill) source(name string) Source {
	p := b.owner[name]
	switch {
	case p == nil:
		return Source{Name: "unknown to the bill of materials"}
	case b.comment[name] != "":
		return Source{Name: b.comment[name]}
	}
	s := Source{Name: p.PackageName, Version: p.PackageVersion, License: p.PackageLicenseDeclared,
		NeededBy: slices.Sorted(slices.Values(b.neededBy[p.PackageSPDXIdentifier]))}
	for _, r := range p.PackageExternalReferences {
		if r.RefType == common.TypePackageManagerPURL {
			s.PURL = r.Locator
		}
	}
	return s
}
