package ceremony

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/roles"
)

// When says at what time a change is made, and how long what it makes is good. A life of zero is lifetime of the role.
type When struct {
	Now  time.Time
	Life time.Duration
}

func (w When) good(role string) time.Time {
	if w.Life == 0 {
		return good(w.Now, lifetime(role))
	}
	return good(w.Now, w.Life)
}

// Init drafts the first root, and an empty list of releases. There must be a party for each of the four roles.
func (r *Repository) Init(parties map[string]Party, w When) error {
	m := metadata.Root(w.good(roles.Root))
	for _, role := range []string{roles.Root, roles.Targets, roles.Snapshot, roles.Timestamp} {
		if err := setRoot(&m.Signed, role, parties[role]); err != nil {
			return err
		}
	}
	data, err := encode(m)
	if err != nil {
		return err
	}
	list, err := encode(metadata.Targets(good(w.Now, lifetime(roles.Targets))))
	if err != nil {
		return err
	}
	return errors.Join(r.draft(roles.Root, data), r.draft(roles.Targets, list))
}

// setRoot makes a party that of one of root's roles.
func setRoot(root *metadata.RootType, role string, p Party) error {
	ids, err := p.check(role, root.Keys)
	if err != nil {
		return err
	}
	root.Roles[role] = &metadata.Role{KeyIDs: ids, Threshold: p.Threshold}
	if p.Threshold == 0 {
		root.Roles[role].Threshold = majority(len(ids))
	}
	var used []string
	for _, of := range root.Roles {
		used = append(used, of.KeyIDs...)
	}
	root.UnrecognizedFields = rename(root.UnrecognizedFields, p, root.Keys, used)
	return nil
}

// check makes sure that a party can speak for a role, and adds its keys to others.
func (p Party) check(role string, all map[string]*metadata.Key) ([]string, error) {
	var ids []string
	for _, k := range p.Keys {
		key, id, err := roles.Key(k.Public)
		if err != nil {
			return nil, err
		}
		if err := index.CheckWord("name of a key", k.Name); err != nil {
			return nil, err
		}
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("role %s: the key %s is named twice: each counts once", role, k.Name)
		}
		ids = append(ids, id)
		all[id] = key
	}
	if len(ids) == 0 || p.Threshold < 0 || p.Threshold > len(ids) {
		return nil, fmt.Errorf("role %s: threshold %d of %d keys: want at least one key, and no more than there "+
			"are", role, p.Threshold, len(ids))
	}
	return ids, nil
}

// rename notes what people call the keys of a party, and forgets keys that no role has.
func rename(fields map[string]any, p Party, all map[string]*metadata.Key, used []string) map[string]any {
	names := map[string]any{}
	if old, ok := fields[roles.NamesField].(map[string]any); ok {
		for id, n := range old {
			names[id] = n
		}
	}
	for _, k := range p.Keys {
		if _, id, err := roles.Key(k.Public); err == nil {
			names[id] = k.Name
		}
	}
	for id := range all {
		if !slices.Contains(used, id) {
			delete(all, id)
		}
	}
	for id := range names {
		if all[id] == nil {
			delete(names, id)
		}
	}
	out := map[string]any{}
	for f, v := range fields {
		out[f] = v
	}
	out[roles.NamesField] = names
	return out
}

// change drafts the next version of a role's metadata: from the draft that there is, or the newest complete one.
// Signatures that were on a draft are over other bytes then, and go.
func change[T metadata.Roles](r *Repository, role string, edit func(*T) error) error {
	base := r.drafts[role]
	if base == nil {
		base = r.current[role]
	}
	if base == nil {
		return fmt.Errorf("there is no metadata of %s", role)
	}
	m, err := decode[T](base)
	if err != nil {
		return err
	}
	if err := edit(&m.Signed); err != nil {
		return err
	}
	m.Signatures = []metadata.Signature{}
	data, err := encode(m)
	if err != nil {
		return err
	}
	return r.draft(role, data)
}

func (r *Repository) changeRoot(w When, edit func(*metadata.RootType) error) error {
	return change(r, roles.Root, func(m *metadata.RootType) error {
		m.Version, m.Expires = version(r.current[roles.Root])+1, w.good(roles.Root)
		return edit(m)
	})
}

func (r *Repository) changeTargets(role string, w When, edit func(*metadata.TargetsType) error) error {
	return change(r, role, func(m *metadata.TargetsType) error {
		m.Version, m.Expires = version(r.current[role])+1, w.good(role)
		return edit(m)
	})
}

// Renew drafts the next version of root or of a list of releases with nothing changed but its expiry.
func (r *Repository) Renew(role string, w When) error {
	switch role {
	case roles.Root:
		return r.changeRoot(w, func(*metadata.RootType) error { return nil })
	case roles.Snapshot, roles.Timestamp:
		return fmt.Errorf("%s is made anew by a refresh", role)
	}
	return r.changeTargets(role, w, func(*metadata.TargetsType) error { return nil })
}

// roleFor is the role that speaks for a release: the first one to which its channel is delegated, or targets.
func (r *Repository) roleFor(path string) string {
	if t := r.targets(r.drafts, roles.Targets); t != nil && t.Delegations != nil {
		for _, d := range t.Delegations.GetRolesForTarget(path) {
			return d.Name
		}
	}
	return roles.Targets
}

// Add lists a release, whose index is data, and says by which role and as what.
func (r *Repository) Add(data []byte, w When) (role, path string, err error) {
	x, err := index.Decode(data)
	if err != nil {
		return "", "", err
	}
	path = roles.ReleasePath(x)
	role = r.roleFor(path)
	sum, err := hex.DecodeString(digest.Of(data).Hex())
	if err != nil {
		return "", "", err
	}
	return role, path, r.changeTargets(role, w, func(m *metadata.TargetsType) error {
		if old := m.Targets[path]; old != nil && string(old.Hashes["sha256"]) != string(sum) {
			return fmt.Errorf("%s is listed already, with another index: withdraw that first, or make a higher version",
				path)
		}
		m.Targets[path] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum}}
		return nil
	})
}

// Withdraw takes a release off the list that it is on.
func (r *Repository) Withdraw(path string, w When) (role string, err error) {
	for _, role := range append([]string{roles.Targets}, r.delegated()...) {
		if t := r.targets(r.drafts, role); t != nil && t.Targets[path] != nil {
			return role, r.changeTargets(role, w, func(m *metadata.TargetsType) error {
				delete(m.Targets, path)
				return nil
			})
		}
	}
	return "", fmt.Errorf("no role lists %s", path)
}

// delegated are the roles that targets has delegated channels to, in its order.
func (r *Repository) delegated() []string {
	var out []string
	if t := r.targets(r.drafts, roles.Targets); t != nil && t.Delegations != nil {
		for _, d := range t.Delegations.Roles {
			out = append(out, d.Name)
		}
	}
	return out
}

// Delegate has a party speak for channels by a role of its own.
func (r *Repository) Delegate(role string, channels []string, p Party, w When) error {
	if err := index.CheckWord("role", role); err != nil {
		return err
	}
	if topLevel(role) || slices.Contains(r.delegated(), role) {
		return fmt.Errorf("there is a role %s already: give it other keys with a rotation", role)
	}
	d := metadata.DelegatedRole{Name: role, Terminating: true}
	for _, c := range channels {
		if err := index.CheckWord("channel", c); err != nil {
			return err
		}
		d.Paths = append(d.Paths, roles.Path(c, "*"))
	}
	err := r.changeTargets(roles.Targets, w, func(m *metadata.TargetsType) error {
		if m.Delegations == nil {
			m.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		}
		m.Delegations.Roles = append(m.Delegations.Roles, d)
		return setDelegated(m, role, p)
	})
	if err != nil {
		return err
	}
	list := metadata.Targets(good(w.Now, lifetime(role)))
	list.Signed.Version = version(r.current[role]) + 1
	data, err := encode(list)
	if err != nil {
		return err
	}
	return r.draft(role, data)
}

// setDelegated makes a party that of a delegated role.
func setDelegated(m *metadata.TargetsType, role string, p Party) error {
	ids, err := p.check(role, m.Delegations.Keys)
	if err != nil {
		return err
	}
	var used []string
	for i := range m.Delegations.Roles {
		d := &m.Delegations.Roles[i]
		if d.Name == role {
			d.KeyIDs, d.Threshold = ids, p.Threshold
			if p.Threshold == 0 {
				d.Threshold = majority(len(ids))
			}
		}
		used = append(used, d.KeyIDs...)
	}
	m.UnrecognizedFields = rename(m.UnrecognizedFields, p, m.Delegations.Keys, used)
	return nil
}

// Rotation changes the keys of a role.
type Rotation struct {
	Off       []string // names or identifiers of keys that lose the role
	On        []Named  // keys that get it
	Threshold int      // zero leaves it
}

// Rotate drafts the change of a role's keys, and the next version of what the role itself says, for its keys to sign.
func (r *Repository) Rotate(role string, c Rotation, w When) error {
	rotate := func(k *roles.Keepers) (Party, error) {
		if k == nil || len(k.IDs) == 0 {
			return Party{}, fmt.Errorf("there is no role %s", role)
		}
		return rotated(role, k, c)
	}
	if topLevel(role) {
		err := r.changeRoot(w, func(m *metadata.RootType) error {
			p, err := rotate(roles.OfRoot(m, role))
			if err != nil {
				return err
			}
			return setRoot(m, role, p)
		})
		if err != nil || role != roles.Targets {
			return err
		}
		return r.Renew(role, When{Now: w.Now})
	}
	err := r.changeTargets(roles.Targets, w, func(m *metadata.TargetsType) error {
		p, err := rotate(roles.OfTargets(m, role))
		if err != nil {
			return err
		}
		return setDelegated(m, role, p)
	})
	if err != nil {
		return err
	}
	return r.Renew(role, When{Now: w.Now})
}

// rotated is a role's party after a change.
func rotated(role string, k *roles.Keepers, c Rotation) (Party, error) {
	p := Party{Threshold: k.Threshold}
	if c.Threshold > 0 {
		p.Threshold = c.Threshold
	}
	off := map[string]bool{}
	for _, word := range c.Off {
		id, err := k.Find(word)
		if err != nil {
			return p, fmt.Errorf("role %s: %w", role, err)
		}
		off[id] = true
	}
	for _, id := range k.IDs {
		if off[id] {
			continue
		}
		public, err := k.Public(id)
		if err != nil {
			return p, err
		}
		p.Keys = append(p.Keys, Named{k.Name(id), public})
	}
	p.Keys = append(p.Keys, c.On...)
	if p.Threshold > len(p.Keys) {
		return p, fmt.Errorf("role %s: %d keys would be left, of which %d must sign: rotate the role to another key, "+
			"or to another threshold", role, len(p.Keys), p.Threshold)
	}
	return p, nil
}

// Revoke drafts that a key loses every role that it has, and says which those are. Where a role would be left with too
// few keys, nothing is drafted.
func (r *Repository) Revoke(word string, w When) (lost []string, err error) {
	off := Rotation{Off: []string{word}}
	list := append([]string{roles.Root, roles.Targets, roles.Snapshot, roles.Timestamp}, r.delegated()...)
	for _, role := range list {
		var k *roles.Keepers
		if root := r.root(r.drafts); topLevel(role) && root != nil {
			k = roles.OfRoot(root, role)
		} else if t := r.targets(r.drafts, roles.Targets); t != nil {
			k = roles.OfTargets(t, role)
		}
		if k == nil {
			continue
		}
		if _, err := k.Find(word); err != nil {
			continue
		}
		if _, err := rotated(role, k, off); err != nil {
			return nil, err
		}
		lost = append(lost, role)
	}
	if len(lost) == 0 {
		return nil, fmt.Errorf("no role has a key %q", word)
	}
	for _, role := range lost {
		if err := r.Rotate(role, off, w); err != nil {
			return nil, err
		}
	}
	return lost, nil
}

// Refresh drafts the next snapshot, where one is due, and the next timestamp, and signs both with a key as far as it
// counts for them. life is by role.
func (r *Repository) Refresh(ctx context.Context, now time.Time, life map[string]time.Duration,
	by keys.Signer) (*Result, error) {
	if r.current[roles.Root] == nil {
		return nil, errors.New("the first root is not complete yet")
	}
	if r.current[roles.Targets] == nil {
		return nil, errors.New("the first list of releases is not complete yet")
	}
	lives := func(role string) time.Duration {
		if l := life[role]; l != 0 {
			return l
		}
		return lifetime(role)
	}
	out := &Result{}
	if r.snapshotDue(now, lives(roles.Snapshot)) {
		m := metadata.Snapshot(good(now, lives(roles.Snapshot)))
		m.Signed.Version, m.Signed.Meta = version(r.current[roles.Snapshot])+1, r.meta()
		if err := draftAndSign(ctx, r, roles.Snapshot, m, by, out); err != nil {
			return nil, err
		}
	}
	if r.current[roles.Snapshot] == nil {
		return out, nil
	}
	m := metadata.Timestamp(good(now, lives(roles.Timestamp)))
	m.Signed.Version = version(r.current[roles.Timestamp]) + 1
	m.Signed.Meta = map[string]*metadata.MetaFiles{roles.Snapshot + suffix: named(r.current[roles.Snapshot])}
	return out, draftAndSign(ctx, r, roles.Timestamp, m, by, out)
}

func draftAndSign[T metadata.Roles](ctx context.Context, r *Repository, role string, m *metadata.Metadata[T],
	by keys.Signer, out *Result) error {
	data, err := encode(m)
	if err != nil {
		return err
	}
	if err := r.draft(role, data); err != nil {
		return err
	}
	did, err := r.sign(ctx, by, []string{role})
	if err != nil {
		return err
	}
	out.Signed, out.Complete = append(out.Signed, did.Signed...), append(out.Complete, did.Complete...)
	return nil
}

// named is how a file is named by another one.
func named(data []byte) *metadata.MetaFiles {
	sum, err := hex.DecodeString(digest.Of(data).Hex())
	if err != nil {
		panic(err) // a digest is always in this form
	}
	return &metadata.MetaFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum}, Version: version(data)}
}

// meta is what the next snapshot has: the newest list of each role. What was in one stays for ever: clients refuse a
// snapshot in which a role is gone.
func (r *Repository) meta() map[string]*metadata.MetaFiles {
	out := map[string]*metadata.MetaFiles{}
	if old, err := decode[metadata.SnapshotType](r.current[roles.Snapshot]); err == nil {
		for name, m := range old.Signed.Meta {
			out[name] = m
		}
	}
	for role, data := range r.current {
		if role == roles.Targets || !topLevel(role) {
			out[role+suffix] = named(data)
		}
	}
	return out
}

// snapshotDue says whether there must be a next snapshot: something has changed, it is past the middle of its life, or
// other keys have the role now.
func (r *Repository) snapshotDue(now time.Time, life time.Duration) bool {
	old, err := decode[metadata.SnapshotType](r.current[roles.Snapshot])
	if err != nil || old.Signed.Expires.Sub(now) < life/2 || r.problem(roles.Snapshot) != "" {
		return true
	}
	next := r.meta()
	if len(next) != len(old.Signed.Meta) {
		return true
	}
	for name, m := range next {
		o := old.Signed.Meta[name]
		if o == nil || o.Version != m.Version || !o.Hashes.Equal(m.Hashes) {
			return true
		}
	}
	return false
}
