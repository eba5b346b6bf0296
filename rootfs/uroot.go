package rootfs

import (
	"context"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// URoot is commands of the u-root project: one program, and a link to it for each.
type URoot struct {
	Files
	// Key is what decides the program's bytes, which are not known before it is built.
	Key     []artifact.Input
	Version string // of u-root, such as v0.16.0
}

// Inputs implements Layer.
func (l URoot) Inputs() []artifact.Input { return l.Key }

// Apply implements Layer.
func (l URoot) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	if _, err := l.Files.Apply(ctx, t, now); err != nil {
		return nil, err
	}
	return []sbom.Component{{
		Name: "u-root", Version: l.Version, PURL: "pkg:golang/github.com/u-root/u-root@" + l.Version,
		Supplier: "The u-root project", Homepage: "https://u-root.org", License: "BSD-3-Clause",
		Origin: l.Files[0].Origin,
	}}, nil
}
