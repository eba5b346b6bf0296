package roles

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// maxListed bounds the roles whose lists are read to tell of all releases.
const maxListed = 64

// Offer is a release that a role lists.
type Offer struct {
	Channel string        `json:"channel"`
	Version string        `json:"version"`
	Role    string        `json:"role"`  // that lists it
	Index   digest.Digest `json:"index"` // of the release's index
}

// Offered brings the metadata up to date and says which releases are offered at the time now: sorted by channel, the
// highest version first. What is refused is a *refusal.Error. Whatever newer metadata was met is remembered.
func (c *Client) Offered(ctx context.Context, now time.Time) ([]Offer, error) {
	var all []Offer
	err := c.update(ctx, now, func(u *update) (err error) {
		all, err = u.offered()
		return err
	})
	return all, err
}

func (u *update) offered() ([]Offer, error) {
	paths, err := u.paths()
	if err != nil {
		return nil, err
	}
	all := []Offer{}
	for path := range paths {
		channel, version, _ := strings.Cut(path, "/")
		if index.CheckWord("channel", channel) != nil || index.CheckVersion(version) != nil {
			continue // a list may have files that are no releases
		}
		err := u.walk(path, func(s step, t *metadata.TargetsType) (bool, error) {
			target := t.Targets[path]
			if target == nil {
				return false, nil
			}
			sum, err := digest.Parse("sha256:" + hex.EncodeToString(target.Hashes["sha256"]))
			if err != nil {
				return false, refusal.New(refusal.Document, s.role, "%s: %v", path, err)
			}
			all = append(all, Offer{Channel: channel, Version: version, Role: s.role, Index: sum})
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Offer) int {
		return cmp.Or(strings.Compare(a.Channel, b.Channel), index.CompareVersions(b.Version, a.Version))
	})
	return all, nil
}

// paths are all that any role lists, whether it may speak for it or not.
func (u *update) paths() (map[string]bool, error) {
	ask := []step{{Targets, Root}}
	asked, paths := map[string]bool{}, map[string]bool{}
	for len(ask) > 0 {
		s := ask[0]
		ask = ask[1:]
		if asked[s.role] {
			continue
		}
		if len(asked) == maxListed {
			return nil, refusal.New(refusal.Document, "metadata", "more than %d roles have lists of releases",
				maxListed)
		}
		asked[s.role] = true
		t, err := u.targets(s.role, s.parent)
		if err != nil {
			return nil, err
		}
		for path := range t.Targets {
			paths[path] = true
		}
		if t.Delegations != nil {
			for _, r := range t.Delegations.Roles {
				ask = append(ask, step{r.Name, s.role})
			}
		}
	}
	u.forget(asked)
	return paths, nil
}
