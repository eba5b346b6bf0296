package release

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/admit"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/policy"
)

// origin is where a release came from.
type origin struct {
	place  string
	access registry.Access
}

// open opens the place, and reads what it says of its release.
func (at origin) open(ctx context.Context) (place.Source, folder.Head, error) {
	from, err := place.Open(ctx, at.place, at.access)
	if err != nil {
		return nil, folder.Head{}, err
	}
	head, err := from.Index(ctx)
	if err != nil {
		return nil, head, errors.Join(err, from.Close())
	}
	return from, head, nil
}

// asker asks a policy, with the memory of this host.
func (h *Host) asker(p *policy.Policy, at origin) *admit.Asker {
	return &admit.Asker{Policy: p, Now: h.Now, Access: at.access, Memory: func(root []byte) (string, error) {
		return h.stateFile(filepath.Join("roles", digest.Of(root).Hex()+".json"))
	}}
}
