package rootfs

import (
	"context"
	"fmt"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Permission is what to change of one file.
type Permission struct {
	Path     string // links in it are followed, also at its end
	Mode     *uint32
	UID, GID *uint32
	At       string // the recipe's line, for errors
}

// Permissions change modes and owners of what layers before brought.
type Permissions []Permission

// Inputs implements Layer.
func (l Permissions) Inputs() []artifact.Input {
	var out []artifact.Input
	for _, p := range l {
		mode := "-"
		if p.Mode != nil {
			mode = fmt.Sprintf("%04o", *p.Mode)
		}
		out = append(out, artifact.Input{Name: "permissions of " + p.Path, Value: fmt.Sprintf("%s %s:%s", mode,
			number(p.UID), number(p.GID))})
	}
	return out
}

// Apply implements Layer. As chown(2) does, a change of the owner takes set-id bits and capabilities away, unless the
// same entry gives a mode.
func (l Permissions) Apply(_ context.Context, t *tree.Tree, _ tree.Time) ([]sbom.Component, error) {
	for _, p := range l {
		n, err := t.Resolve(p.Path)
		if err != nil {
			return nil, fmt.Errorf("%s: permissions: %w: no layer before brought it", p.At, err)
		}
		if n.Kind == tree.File && (p.UID != nil && *p.UID != n.UID || p.GID != nil && *p.GID != n.GID) {
			n.Mode &^= 0o6000
			n.RemoveXattr("security.capability")
		}
		if p.UID != nil {
			n.UID = *p.UID
		}
		if p.GID != nil {
			n.GID = *p.GID
		}
		if p.Mode != nil {
			n.Mode = uint16(*p.Mode)
		}
	}
	return nil, nil
}
