package rootfs

import (
	"context"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/oci"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// OCI is a container image.
type OCI struct {
	Name   string        // as the recipe has it
	Digest digest.Digest // as the lock pinned it: of the manifest, the archive or the folder
	Path   string        // a folder in OCI layout, or an archive
	// Manifest, when not empty, is the digest of the manifest to take from it.
	Manifest digest.Digest
	Arch     string // Go's name
	Work     string // where layers are unpacked to
	// Check, when not nil, compares what lies at Path with Digest, just before it is read.
	Check func(ctx context.Context) error
}

// Inputs implements Layer.
func (l OCI) Inputs() []artifact.Input {
	return []artifact.Input{{Name: "image " + l.Name, Value: string(l.Digest)}}
}

// Apply implements Layer.
func (l OCI) Apply(ctx context.Context, t *tree.Tree, _ tree.Time) ([]sbom.Component, error) {
	if l.Check != nil {
		if err := l.Check(ctx); err != nil {
			return nil, err
		}
	}
	img, err := oci.Load(l.Path, oci.Options{Arch: l.Arch, Digest: l.Manifest, Work: l.Work})
	if err != nil {
		return nil, err
	}
	err = img.Tree.Walk(func(_ string, n *tree.Node, first bool) error {
		if first {
			n.Origin = "image " + l.Name + ", " + n.Origin
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c := sbom.Component{Name: l.Name, Digest: l.Digest, Version: string(img.ID)}
	return []sbom.Component{c}, overlay(t, img.Tree)
}
