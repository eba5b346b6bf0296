// Package admit asks a policy whether a release is taken: who has signed it, or which roles offer it now, for whom it
// is, and who has built it once more.
//
// It reads no more of a release than what is known before its files, and remembers nothing but metadata of roles.
package admit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/roles"
)

// Asker asks one policy.
type Asker struct {
	Policy *policy.Policy
	Now    func() time.Time // only called where the policy has roles
	// Memory is the file that remembers metadata below a root. It is only asked for where the policy has roles.
	Memory func(root []byte) (string, error)
	// Access says how registries are reached, for metadata of roles.
	Access registry.Access
}

// Answer is that of a policy which takes a release.
type Answer struct {
	Index *index.Index
	By    []string // names of those who have signed or offer it
	Newer string   // a higher version that roles offer; empty for none
}

// Ask asks about a release by what is known of it before its files, and the place that it came from. Where the policy
// does not take it, that is a *refusal.Error.
func (a *Asker) Ask(ctx context.Context, at string, head folder.Head) (out Answer, err error) {
	if a.Policy.Roles == nil {
		out.By, err = judge.Signed(head.Index, head.Envelope, a.Policy)
	} else {
		err = a.offered(ctx, at, head, &out)
	}
	if err != nil {
		return Answer{}, err
	}
	if out.Index, err = index.Decode(head.Index); err != nil {
		return Answer{}, err
	}
	return out, a.Policy.Allows(out.Index)
}

// Reproduced asks whether as many have built the release once more as the policy wants.
func (a *Asker) Reproduced(head folder.Head, x *index.Index) error {
	return judge.Reproduced(head.Index, x, head.Reproduced, a.Policy)
}

// offered asks roles whether they offer a release.
func (a *Asker) offered(ctx context.Context, at string, head folder.Head, out *Answer) (err error) {
	r := a.Policy.Roles
	memory, err := a.Memory(r.Root)
	if err != nil {
		return err
	}
	from, err := a.metadata(ctx, at, head)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	said, err := (&roles.Client{Root: r.Root, From: from, Memory: memory}).Release(ctx, a.Now(), head.Index)
	if err != nil {
		return err
	}
	out.Newer = said.Newer
	for _, name := range said.By {
		out.By = append(out.By, fmt.Sprintf("%s (%s %d)", name, said.Role, said.Version))
	}
	return nil
}

// Offered are the releases that the policy's roles offer now, sorted by channel, the highest version first: those that
// the policy takes by their channels and versions, or all. What is refused is a *refusal.Error.
func (a *Asker) Offered(ctx context.Context, all bool) (out []roles.Offer, err error) {
	r := a.Policy.Roles
	if r == nil {
		return nil, errors.New("the policy names keys: nobody but roles says which releases there are")
	}
	memory, err := a.Memory(r.Root)
	if err != nil {
		return nil, err
	}
	from, err := a.metadata(ctx, "", folder.Head{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	out, err = (&roles.Client{Root: r.Root, From: from, Memory: memory}).Offered(ctx, a.Now())
	if !all {
		out = slices.DeleteFunc(out, func(o roles.Offer) bool { return !a.Policy.Takes(o.Channel, o.Version) })
	}
	return out, err
}

// metadata opens the metadata that is asked about a release: what a bundle brings, as it is for hosts without a
// network; otherwise that of the policy; otherwise what the release brings.
func (a *Asker) metadata(ctx context.Context, at string, head folder.Head) (place.Roles, error) {
	r := a.Policy.Roles
	if head.Roles != nil && (r.Metadata == "" || place.IsBundle(at)) {
		return place.RolesOf(head, at)
	}
	if r.Metadata == "" {
		return nil, errors.New("the policy does not say where metadata of its roles is, and the release brings none")
	}
	return place.OpenRoles(ctx, r.Metadata, a.Access)
}
