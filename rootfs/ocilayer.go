package rootfs

import (
	"context"
	"fmt"

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
	Ref      string // when not empty, the name under which it stands there
	At       string // the folder of the guest that it becomes; empty is the root
	Arch     string // Go's name
	Work     string // where layers are unpacked to
	// Check, when not nil, compares what lies at Path with Digest, once it has been read into Work.
	Check func(ctx context.Context) error
}

// Inputs implements Layer.
func (l OCI) Inputs() []artifact.Input {
	value := string(l.Digest)
	for _, more := range []string{l.Ref, l.At} {
		if more != "" || l.At != "" {
			value += fmt.Sprintf(" %q", more)
		}
	}
	if l.Manifest != "" && l.Manifest != l.Digest {
		value += " " + string(l.Manifest)
	}
	return []artifact.Input{{Name: "image " + l.Name, Value: value}}
}

// Apply implements Layer.
func (l OCI) Apply(ctx context.Context, t *tree.Tree, _ tree.Time) ([]sbom.Component, error) {
	img, err := oci.Load(ctx, l.Path, oci.Options{Arch: l.Arch, Digest: l.Manifest, Ref: l.Ref, Work: l.Work})
	if l.Check != nil {
		// Only now: what was read before it changed is what counts, and what changed before it was read is told as a
		// change.
		if cerr := l.Check(ctx); cerr != nil {
			return nil, cerr
		}
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", l.Name, err)
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
	for what, n := range img.Tree.TakeRemarks() {
		for range n {
			t.Remark(what)
		}
	}
	c := sbom.Component{Name: l.Name, Digest: l.Digest, Version: string(img.ID)}
	return []sbom.Component{c}, overlay(ctx, t, img.Tree, l.At, img.Replaces)
}
