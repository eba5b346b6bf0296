package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/roles"
)

// origin is where a release came from.
type origin struct {
	place  string
	access registry.Access
}

// signed asks those whom a policy believes about a release: keys that have signed it, or roles that offer it. It
// returns their names.
func (h *Host) signed(ctx context.Context, p *policy.Policy, at origin, head folder.Head) ([]string, error) {
	if p.Roles == nil {
		return judge.Signed(head.Index, head.Envelope, p)
	}
	return h.offered(ctx, p.Roles, at, head)
}

// offered asks roles whether they offer a release.
func (h *Host) offered(ctx context.Context, r *policy.Roles, at origin, head folder.Head) (by []string,
	err error) {
	memory, err := h.stateFile(filepath.Join("roles", digest.Of(r.Root).Hex()+".json"))
	if err != nil {
		return nil, err
	}
	from, err := h.metadata(ctx, r, at, head)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	a, err := (&roles.Client{Root: r.Root, From: from, Memory: memory}).Release(ctx, h.Now(), head.Index)
	if err != nil {
		return nil, err
	}
	if a.Newer != "" {
		fmt.Fprintf(h.Err, "a higher version of this channel is offered: %s\n", a.Newer)
	}
	for _, name := range a.By {
		by = append(by, fmt.Sprintf("%s (%s %d)", name, a.Role, a.Version))
	}
	return by, nil
}

// metadata opens the metadata that is asked about a release: what a bundle brings, as it is for hosts without a
// network; otherwise that of the policy; otherwise what the release brings.
func (h *Host) metadata(ctx context.Context, r *policy.Roles, at origin, head folder.Head) (place.Roles, error) {
	if head.Roles != nil && (r.Metadata == "" || place.IsBundle(at.place)) {
		return place.RolesOf(head, at.place)
	}
	if r.Metadata == "" {
		return nil, errors.New("the policy does not say where metadata of its roles is, and the release brings none")
	}
	return place.OpenRoles(ctx, r.Metadata, at.access)
}
