package roles

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Source is where metadata is read. Nothing it says is believed.
type Source interface {
	// File reads a file of at most limit bytes; a longer one is an error. One that is not there is an fs.ErrNotExist.
	File(ctx context.Context, name string, limit int64) ([]byte, error)
}

// Client asks roles about releases.
type Client struct {
	Root   []byte // root metadata that the user trusts
	From   Source
	Memory string // the file in which this host remembers what it has met
	// Patience is how long an update may take; zero is two minutes.
	Patience time.Duration
}

// Answer says who offers a release.
type Answer struct {
	Role    string   // that lists it
	Version int64    // of the role's list
	By      []string // what people call the keys that have signed the list
	// Newer is a higher version of the same channel that the same role offers; empty for none.
	Newer string
}

// patience is how long an update may take where nobody says.
const patience = 2 * time.Minute

// Release brings the metadata up to date and says who offers a release, whose index is data, at the time now. What is
// refused is a *refusal.Error. Whatever newer metadata was met is remembered, also where the release is refused.
func (c *Client) Release(ctx context.Context, now time.Time, data []byte) (*Answer, error) {
	x, err := index.Decode(data)
	if err != nil {
		return nil, refusal.New(refusal.Document, "release", "%v", err)
	}
	var a *Answer
	err = c.update(ctx, now, func(u *update) (err error) {
		a, err = u.find(ReleasePath(x), x, data)
		return err
	})
	return a, err
}

// update brings the metadata up to date, has it looked at, and remembers it.
func (c *Client) update(ctx context.Context, now time.Time, look func(*update) error) (err error) {
	wait := c.Patience
	if wait == 0 {
		wait = patience
	}
	slow := refusal.New(refusal.Slow, "metadata", "it did not come within %v", wait)
	ctx, cancel := context.WithTimeoutCause(ctx, wait, slow)
	defer cancel()
	lock, err := lockMemory(ctx, c.Memory)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	u, err := c.begin(ctx, now)
	if err != nil {
		return err
	}
	for _, step := range []func() error{u.roots, u.timestamp, u.snapshot, func() error { return look(u) }} {
		if err = step(); err != nil {
			break
		}
	}
	if u.changed {
		err = errors.Join(err, writeMemory(c.Memory, u.memory))
	}
	if errors.Is(context.Cause(ctx), slow) && err != nil {
		return slow
	}
	return err
}

// update is one run of the client's workflow. TUF specification, section 5.3 to 5.6.
type update struct {
	ctx     context.Context
	from    Source
	trusted *trustedmetadata.TrustedMetadata
	memory  *Memory
	changed bool // the memory is not what lies in its file
}

func (c *Client) begin(ctx context.Context, now time.Time) (*update, error) {
	u := &update{ctx: ctx, from: c.From}
	var err error
	if u.memory, err = readMemory(c.Memory); err != nil {
		return nil, err
	}
	if u.memory == nil {
		u.memory = &Memory{Version: MemoryVersion, Root: c.Root, Targets: []Kept{}, Revoked: []string{}}
	}
	if _, err := ReadHead(u.memory.Root); err != nil {
		return nil, refusal.New(refusal.Document, "trusted root", "%v", err)
	}
	err = careful(func() (err error) {
		u.trusted, err = trustedmetadata.New(u.memory.Root)
		return err
	})
	if err != nil {
		return nil, refusal.New(refusal.Document, "trusted root", "%v", err)
	}
	u.trusted.RefTime = now
	return u, nil
}

// careful calls go-tuf, which panics on some metadata that is not in its form.
func careful(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is not in the form of metadata: %v", r)
		}
	}()
	return call()
}

// fetch reads a file and makes sure that it is metadata of a type.
func (u *update) fetch(name, kind string, limit int64) ([]byte, error) {
	data, err := u.from.File(u.ctx, name, limit)
	if isRefusal(err) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("metadata %s: %w", name, err)
	}
	h, err := ReadHead(data)
	if err == nil && h.Type != kind {
		err = fmt.Errorf("it is of the type %q, want %s", h.Type, kind)
	}
	if err != nil {
		return nil, refusal.New(refusal.Document, name, "%v", err)
	}
	return data, nil
}

// roots follows root metadata from version to version.
func (u *update) roots() error {
	for range maxRotations {
		old := &u.trusted.Root.Signed
		name := FileName(Root, old.Version+1)
		data, err := u.fetch(name, Root, maxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			return u.expiredRoot()
		}
		if err != nil {
			return err
		}
		err = careful(func() error {
			_, err := u.trusted.UpdateRoot(data)
			return err
		})
		if err != nil {
			return u.refuseRoot(name, data, old, err)
		}
		u.lost(old.Keys, u.trusted.Root.Signed.Keys)
		u.memory.Root, u.changed = data, true
	}
	return refusal.New(refusal.Version, "root", "there are more than %d newer ones", maxRotations)
}

// refuseRoot names why a root is not taken that both the old keys and its own must have signed.
func (u *update) refuseRoot(name string, data []byte, old *metadata.RootType, err error) error {
	if errors.Is(err, &metadata.ErrUnsignedMetadata{}) {
		if err := u.unsigned(name, data, OfRoot(old, Root)); err != nil {
			return err
		}
		if next, err := metadata.Root().FromBytes(data); err == nil {
			return u.refuse(name, data, OfRoot(&next.Signed, Root), &metadata.ErrUnsignedMetadata{})
		}
	}
	return u.refuse(name, data, nil, err)
}

func (u *update) expiredRoot() error {
	r := &u.trusted.Root.Signed
	if r.IsExpired(u.trusted.RefTime) {
		return expired(FileName(Root, r.Version), r.Expires)
	}
	return nil
}

// lost notes the keys that a newer version does not have any more.
func (u *update) lost(old, now map[string]*metadata.Key) {
	for id := range old {
		if now[id] == nil {
			u.memory.revoke(id)
		}
	}
}

func expired(what string, at time.Time) error {
	return refusal.New(refusal.Expired, what, "it was good until %s: nobody has renewed it, or somebody keeps newer "+
		"metadata from this host", at.Format(time.RFC3339))
}

// timestamp takes the newest timestamp: none that is older than the one that is remembered.
func (u *update) timestamp() error {
	take := func(data []byte) error {
		if err := meta(data, Snapshot); err != nil {
			return err
		}
		return careful(func() error {
			_, err := u.trusted.UpdateTimestamp(data)
			return err
		})
	}
	if u.memory.Timestamp != nil {
		if err := u.remembered(take(u.memory.Timestamp)); err != nil {
			return err
		}
	}
	name := FileName(Timestamp, 0)
	data, err := u.fetch(name, Timestamp, maxTimestamp)
	if err != nil {
		return err
	}
	err = take(data)
	switch {
	case errors.Is(err, &metadata.ErrEqualVersionNumber{}):
		// The one that is remembered stays in force; it may have expired.
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return refusal.New(refusal.Rollback, name, "a newer one was met before: %v", err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
	case err != nil:
		return u.refuse(name, data, OfRoot(&u.trusted.Root.Signed, Timestamp), err)
	}
	if t := &u.trusted.Timestamp.Signed; t.IsExpired(u.trusted.RefTime) {
		return expired(name, t.Expires)
	}
	if err == nil {
		u.memory.Timestamp, u.changed = data, true
	}
	return nil
}

// remembered judges what was said of metadata that was met before. What has expired still says which versions there
// have been. What its keepers' successors have not signed says nothing any more: this is how a key's owner recovers
// from versions that a thief has set too high (section 5.3.11).
func (u *update) remembered(err error) error {
	if errors.Is(err, &metadata.ErrExpiredMetadata{}) || errors.Is(err, &metadata.ErrUnsignedMetadata{}) ||
		errors.Is(err, &metadata.ErrBadVersionNumber{}) || errors.Is(err, &metadata.ErrLengthOrHashMismatch{}) {
		return nil
	}
	return err
}

// snapshot takes the snapshot that the timestamp names.
func (u *update) snapshot() error {
	take := func(data []byte, trusted bool) error {
		if err := meta(data, Targets); err != nil {
			return err
		}
		return careful(func() error {
			_, err := u.trusted.UpdateSnapshot(data, trusted)
			return err
		})
	}
	if u.memory.Snapshot != nil {
		err := take(u.memory.Snapshot, true)
		if err == nil {
			return nil
		}
		if err := u.remembered(err); err != nil {
			return err
		}
	}
	before := u.trusted.Snapshot
	named := u.trusted.Timestamp.Signed.Meta[Snapshot+suffix]
	name := FileName(Snapshot, named.Version)
	data, err := u.fetch(name, Snapshot, length(named, maxSnapshot))
	if err != nil {
		return err
	}
	if err := take(data, false); err != nil {
		if before != nil && before == u.trusted.Snapshot && !errors.Is(err, &metadata.ErrUnsignedMetadata{}) &&
			!errors.Is(err, &metadata.ErrLengthOrHashMismatch{}) && errors.Is(err, &metadata.ErrRepository{}) {
			return refusal.New(refusal.Rollback, name, "it has less than one that was met before: %v", err)
		}
		return u.refuse(name, data, OfRoot(&u.trusted.Root.Signed, Snapshot), err)
	}
	u.memory.Snapshot, u.changed = data, true
	return nil
}

// length is how many bytes a file has that metadata names, at most limit.
func length(named *metadata.MetaFiles, limit int64) int64 {
	if named.Length > 0 && named.Length < limit {
		return named.Length
	}
	return limit
}

// meta makes sure that a snapshot or timestamp names a role, and all roles by a version.
func meta(data []byte, role string) error {
	all, err := named(data)
	if err == nil && all[role] == 0 {
		err = fmt.Errorf("it does not name %s", role)
	}
	return err
}

// targets takes the list of releases of a role, which the snapshot names.
func (u *update) targets(role, parent string) (*metadata.TargetsType, error) {
	keepers := OfRoot(&u.trusted.Root.Signed, Targets)
	if parent != Root {
		keepers = OfTargets(&u.trusted.Targets[parent].Signed, role)
	}
	take := func(data []byte) error {
		return careful(func() error {
			_, err := u.trusted.UpdateDelegatedTargets(data, role, parent)
			return err
		})
	}
	if err := index.CheckWord("role", role); err != nil {
		return nil, refusal.New(refusal.Document, parent, "%v", err)
	}
	old := u.memory.find(role)
	if old != nil {
		err := take(old)
		if err == nil {
			return &u.trusted.Targets[role].Signed, nil
		}
		if err := u.remembered(err); err != nil {
			return nil, err
		}
	}
	named := u.trusted.Snapshot.Signed.Meta[role+suffix]
	if named == nil {
		return nil, refusal.New(refusal.NotListed, role, "the snapshot does not name it")
	}
	name := FileName(role, named.Version)
	data, err := u.fetch(name, Targets, length(named, maxTargets))
	if err != nil {
		return nil, err
	}
	if err := take(data); err != nil {
		return nil, u.refuse(name, data, keepers, err)
	}
	got := &u.trusted.Targets[role].Signed
	if was, err := metadata.Targets().FromBytes(old); err == nil && was.Signed.Delegations != nil {
		now := map[string]*metadata.Key{}
		if got.Delegations != nil {
			now = got.Delegations.Keys
		}
		u.lost(was.Signed.Delegations.Keys, now)
	}
	u.memory.keep(role, data)
	u.changed = true
	return got, nil
}

// step is a role that is asked about a release.
type step struct{ role, parent string }

// find asks the roles that may speak for a release, in the order in which they are delegated. Section 5.6.7.
func (u *update) find(path string, x *index.Index, data []byte) (a *Answer, err error) {
	asked := map[string]bool{}
	err = u.walk(path, func(s step, t *metadata.TargetsType) (bool, error) {
		asked[s.role] = true
		target := t.Targets[path]
		if target == nil {
			return false, nil
		}
		a, err = u.answer(s, target, path, x, data)
		return true, err
	})
	if a != nil || err != nil {
		return a, err
	}
	u.forget(asked)
	return nil, refusal.New(refusal.NotListed, path, "no role that may speak for it lists this release: it was "+
		"withdrawn, or never offered")
}

// walk shows the lists of the roles that may speak for a path, in the order in which they are delegated, until one is
// what was looked for.
func (u *update) walk(path string, look func(step, *metadata.TargetsType) (found bool, err error)) error {
	ask := []step{{Targets, Root}}
	asked := map[string]bool{}
	for len(ask) > 0 && len(asked) < maxRoles {
		s := ask[0]
		ask = ask[1:]
		if asked[s.role] {
			continue
		}
		asked[s.role] = true
		t, err := u.targets(s.role, s.parent)
		if err != nil {
			return err
		}
		if found, err := look(s, t); found || err != nil {
			return err
		}
		var more []step
		if t.Delegations != nil {
			for _, r := range t.Delegations.GetRolesForTarget(path) {
				more = append(more, step{r.Name, s.role})
				if r.Terminating {
					ask = nil
					break
				}
			}
		}
		ask = append(more, ask...)
	}
	return nil
}

// forget lets go of lists of roles that were not asked: what the snapshot says is enough to notice older ones.
func (u *update) forget(asked map[string]bool) {
	before := len(u.memory.Targets)
	u.memory.Targets = slices.DeleteFunc(u.memory.Targets, func(k Kept) bool { return !asked[k.Role] })
	u.changed = u.changed || before != len(u.memory.Targets)
}

// answer compares a release with what a role lists.
func (u *update) answer(s step, target *metadata.TargetFiles, path string, x *index.Index,
	data []byte) (*Answer, error) {
	sum := digest.Of(data)
	switch want := target.Hashes["sha256"]; {
	case target.Length != int64(len(data)):
		return nil, refusal.New(refusal.Size, path, "%s lists a release whose index has %d bytes, this one has %d",
			s.role, target.Length, len(data))
	case want == nil || want.String() != sum.Hex():
		return nil, refusal.New(refusal.Digest, path, "%s lists a release whose index has the digest %s, this one "+
			"has %s", s.role, want, sum.Hex())
	}
	m := u.trusted.Targets[s.role]
	keepers := OfRoot(&u.trusted.Root.Signed, Targets)
	if s.parent != Root {
		keepers = OfTargets(&u.trusted.Targets[s.parent].Signed, s.role)
	}
	a := &Answer{Role: s.role, Version: m.Signed.Version}
	h, err := ReadHead(u.memory.find(s.role))
	if err != nil {
		return nil, err
	}
	fit, _, _ := keepers.Signed(h)
	for _, id := range fit {
		a.By = append(a.By, keepers.Name(id))
	}
	slices.Sort(a.By)
	_, newest, _ := strings.Cut(path, "/")
	for other := range m.Signed.Targets {
		v, same := strings.CutPrefix(other, x.Channel+"/")
		if same && index.CheckVersion(v) == nil && index.CompareVersions(v, newest) > 0 {
			newest, a.Newer = v, v
		}
	}
	return a, nil
}

func isRefusal(err error) bool {
	_, refused := errors.AsType[*refusal.Error](err)
	return refused
}

// refuse names why go-tuf does not take metadata.
func (u *update) refuse(name string, data []byte, keepers *Keepers, err error) error {
	switch {
	case isRefusal(err):
		return err
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}) && keepers != nil:
		if err := u.unsigned(name, data, keepers); err != nil {
			return err
		}
		return refusal.New(refusal.Signature, name, "%v", err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return refusal.New(refusal.Expired, name, "%v", err)
	case errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		return refusal.New(refusal.Digest, name, "it is not the file that the metadata above it names: %v", err)
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		return refusal.New(refusal.Version, name, "%v", err)
	}
	return refusal.New(refusal.Document, name, "%v", err)
}

// unsigned says what is wrong with signatures; nil is nothing.
func (u *update) unsigned(name string, data []byte, keepers *Keepers) error {
	h, err := ReadHead(data)
	if err != nil {
		return refusal.New(refusal.Document, name, "%v", err)
	}
	fit, unfit, strangers := keepers.Signed(h)
	revoked := slices.DeleteFunc(slices.Clone(strangers), func(id string) bool {
		return !slices.Contains(u.memory.Revoked, id)
	})
	switch {
	case len(fit) >= keepers.Threshold:
		return nil
	case len(unfit) > 0:
		return refusal.New(refusal.Signature, name, "the signature of %s does not fit", keepers.Name(unfit[0]))
	case len(revoked) > 0:
		return refusal.New(refusal.Revoked, name, "it is signed with a key that has lost its role: %s", revoked[0])
	case len(h.Signatures) == 0:
		return refusal.New(refusal.Unsigned, name, "it has no signatures")
	case len(fit) == 0:
		return refusal.New(refusal.UnknownKey, name, "it is signed by %s, and none of them has this role",
			strings.Join(strangers, ", "))
	}
	var by []string
	for _, id := range fit {
		by = append(by, keepers.Name(id))
	}
	return refusal.New(refusal.Threshold, name, "it is signed by %s; the role asks for %d of its keys",
		strings.Join(by, ", "), keepers.Threshold)
}
