// Package ceremony makes and changes the metadata of roles in a folder, which is then published as it is.
//
// What is not signed by enough keys yet is a draft, in a folder of its own that clients do not read: it can be carried
// from host to host until all who must have signed it. A draft that is complete gets the name that clients ask for.
// Private keys are only met as signers; whoever changes metadata needs none. docs/formats/roles.md owns the bytes.
package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/roles"
)

// draftsDir is the folder of drafts in that of the metadata. lockName is held by whoever changes something.
const (
	draftsDir = "drafts"
	lockName  = draftsDir + "/.lock"
	suffix    = ".json"
)

// maxFile bounds the files that are read, in bytes.
const maxFile = 1 << 20

// lifetime is how long metadata of a role is good where nobody says.
func lifetime(role string) time.Duration {
	const day = 24 * time.Hour
	switch role {
	case roles.Root:
		return 365 * day
	case roles.Snapshot:
		return 7 * day
	case roles.Timestamp:
		return day
	}
	return 90 * day
}

// majority is how many keys of n must sign where nobody says: more than half.
func majority(n int) int { return n/2 + 1 }

// Named is a public key, and what people call it.
type Named struct {
	Name string
	keys.Public
}

// Party are the keys of a role, and how many of them must sign. Zero is majority.
type Party struct {
	Keys      []Named
	Threshold int
}

// Repository is a folder of metadata. Close lets go of it.
type Repository struct {
	dir  string
	in   *regular.Folder
	lock *os.File

	current map[string][]byte // the newest complete metadata of each role
	drafts  map[string][]byte
}

// Create takes hold of a folder, which must have no metadata yet. It is made where it is not there.
func Create(ctx context.Context, dir string) (*Repository, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r, err := open(ctx, dir)
	if err == nil && len(r.current)+len(r.drafts) > 0 {
		err = errors.Join(fmt.Errorf("%s has metadata of roles already", dir), r.Close())
	}
	return r, err
}

// Open takes hold of a folder with metadata. It waits, until ctx ends, for others that change something there.
func Open(ctx context.Context, dir string) (*Repository, error) {
	r, err := open(ctx, dir)
	if err == nil && len(r.current)+len(r.drafts) == 0 {
		err = errors.Join(fmt.Errorf("%s has no metadata of roles", dir), r.Close())
	}
	return r, err
}

func open(ctx context.Context, dir string) (r *Repository, err error) {
	in, err := regular.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	r = &Repository{dir: dir, in: in, current: map[string][]byte{}, drafts: map[string][]byte{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := in.Root().Mkdir(draftsDir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if r.lock, err = in.Root().OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	if err := filelock.Lock(ctx, r.lock); err != nil {
		return nil, err
	}
	return r, r.read()
}

// Close lets go of the folder.
func (r *Repository) Close() error {
	err := r.in.Close()
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
	}
	return err
}

// read finds the newest metadata of each role, and the drafts.
func (r *Repository) read() error {
	newest := map[string]int64{}
	names, err := r.list(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		role, version, ok := roles.ParseName(name)
		if ok && (version > newest[role] || role == roles.Timestamp) {
			newest[role] = version
		}
	}
	for role, version := range newest {
		if r.current[role], err = r.metadata(roles.FileName(role, version), role); err != nil {
			return err
		}
	}
	if names, err = r.list(draftsDir); err != nil {
		return err
	}
	for _, name := range names {
		role, ok := strings.CutSuffix(name, suffix)
		if !ok || index.CheckWord("role", role) != nil {
			continue
		}
		if r.drafts[role], err = r.metadata(draftsDir+"/"+name, role); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) list(dir string) ([]string, error) {
	f, err := r.in.Root().Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// metadata reads a file, which must be metadata of a role's type.
func (r *Repository) metadata(name, role string) ([]byte, error) {
	data, err := r.in.ReadFile(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("metadata %s: %w", r.dir, err)
	}
	switch role {
	case roles.Root:
		_, err = decode[metadata.RootType](data)
	case roles.Snapshot:
		_, err = decode[metadata.SnapshotType](data)
	case roles.Timestamp:
		_, err = decode[metadata.TimestampType](data)
	default:
		_, err = decode[metadata.TargetsType](data)
	}
	if err != nil {
		return nil, fmt.Errorf("metadata %s: %w", filepath.Join(r.dir, name), err)
	}
	return data, nil
}

// decode reads metadata of a type.
func decode[T metadata.Roles](data []byte) (*metadata.Metadata[T], error) {
	if _, err := roles.ReadHead(data); err != nil {
		return nil, err
	}
	return new(metadata.Metadata[T]).FromBytes(data)
}

// encode writes metadata: JSON without white space, keys sorted, a line break at the end.
func encode[T metadata.Roles](m *metadata.Metadata[T]) ([]byte, error) {
	data, err := m.ToBytes(false)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// version is that of metadata; none is 0.
func version(data []byte) int64 {
	h, err := roles.ReadHead(data)
	if err != nil {
		return 0
	}
	return h.Version
}

// good says until when something is good that is made now.
func good(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}

// root is the newest root, a draft before a complete one where drafts is said; nil is none.
func (r *Repository) root(from map[string][]byte) *metadata.RootType {
	data := from[roles.Root]
	if data == nil {
		data = r.current[roles.Root]
	}
	m, err := decode[metadata.RootType](data)
	if err != nil {
		return nil
	}
	return &m.Signed
}

// targets is the list of a role; nil is none.
func (r *Repository) targets(from map[string][]byte, role string) *metadata.TargetsType {
	data := from[role]
	if data == nil {
		data = r.current[role]
	}
	m, err := decode[metadata.TargetsType](data)
	if err != nil {
		return nil
	}
	return &m.Signed
}

// keepers are those who must sign a role's draft: all of these. from is drafts, for who will have to, or current, for
// who has to.
func (r *Repository) keepers(from map[string][]byte, role string) []*roles.Keepers {
	root := r.root(from)
	if role == roles.Root {
		var all []*roles.Keepers
		for _, version := range []map[string][]byte{r.current, r.drafts} {
			if version[role] != nil {
				all = append(all, roles.OfRoot(r.root(version), role))
			}
		}
		return all
	}
	if root == nil {
		return nil
	}
	if topLevel(role) {
		return []*roles.Keepers{roles.OfRoot(root, role)}
	}
	if t := r.targets(from, roles.Targets); t != nil {
		if k := roles.OfTargets(t, role); k != nil {
			return []*roles.Keepers{k}
		}
	}
	return nil
}

func topLevel(role string) bool {
	return slices.Contains([]string{roles.Root, roles.Targets, roles.Snapshot, roles.Timestamp}, role)
}

// order puts roles before those that depend on them.
func order(list []string) []string {
	rank := func(role string) int {
		if i := slices.Index([]string{roles.Root, roles.Targets}, role); i >= 0 {
			return i
		}
		if i := slices.Index([]string{roles.Snapshot, roles.Timestamp}, role); i >= 0 {
			return 3 + i
		}
		return 2
	}
	slices.SortFunc(list, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return list
}

// drafted are the roles with drafts.
func (r *Repository) drafted() []string {
	var list []string
	for role := range r.drafts {
		list = append(list, role)
	}
	return order(list)
}

// draft keeps metadata that is to be signed.
func (r *Repository) draft(role string, data []byte) error {
	r.drafts[role] = data
	return atomicfile.Write(filepath.Join(r.dir, draftsDir, role+suffix), data, 0o644)
}

// settle gives drafts that enough keys have signed the names that clients ask for, and says of which roles.
func (r *Repository) settle() (done []string, err error) {
	for _, role := range r.drafted() {
		h, err := roles.ReadHead(r.drafts[role])
		if err != nil {
			return done, err
		}
		all := r.keepers(r.current, role)
		if role != roles.Root && r.current[roles.Root] == nil || len(all) == 0 {
			continue
		}
		complete := true
		for _, k := range all {
			fit, _, _ := k.Signed(h)
			complete = complete && k.Threshold > 0 && len(fit) >= k.Threshold
		}
		if !complete {
			continue
		}
		path := filepath.Join(r.dir, roles.FileName(role, h.Version))
		if err := atomicfile.Write(path, r.drafts[role], 0o644); err != nil {
			return done, err
		}
		if err := os.Remove(filepath.Join(r.dir, draftsDir, role+suffix)); err != nil {
			return done, err
		}
		r.current[role] = r.drafts[role]
		delete(r.drafts, role)
		done = append(done, role)
	}
	return done, nil
}

// Result is what signing did.
type Result struct {
	Signed   []string // roles whose drafts the key has signed, or had before
	Complete []string // roles whose drafts are complete with that
}

// Sign signs every draft for which a key counts.
func (r *Repository) Sign(ctx context.Context, by keys.Signer) (*Result, error) {
	return r.sign(ctx, by, r.drafted())
}

func (r *Repository) sign(ctx context.Context, by keys.Signer, list []string) (*Result, error) {
	_, id, err := roles.Key(by.Public())
	if err != nil {
		return nil, err
	}
	out := &Result{}
	for _, role := range list {
		all := append(r.keepers(r.drafts, role), r.keepers(r.current, role)...)
		if !slices.ContainsFunc(all, func(k *roles.Keepers) bool { return slices.Contains(k.IDs, id) }) {
			continue
		}
		h, err := roles.ReadHead(r.drafts[role])
		if err != nil {
			return nil, err
		}
		sig, err := by.Sign(ctx, h.Payload)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", role, err)
		}
		if err := r.add(role, metadata.Signature{KeyID: id, Signature: sig}); err != nil {
			return nil, err
		}
		out.Signed = append(out.Signed, role)
	}
	out.Complete, err = r.settle()
	return out, err
}

// add puts signatures on a draft, in the place of older ones of their keys.
func (r *Repository) add(role string, sigs ...metadata.Signature) error {
	var data []byte
	var err error
	switch role {
	case roles.Root:
		data, err = signed[metadata.RootType](r.drafts[role], sigs)
	case roles.Snapshot:
		data, err = signed[metadata.SnapshotType](r.drafts[role], sigs)
	case roles.Timestamp:
		data, err = signed[metadata.TimestampType](r.drafts[role], sigs)
	default:
		data, err = signed[metadata.TargetsType](r.drafts[role], sigs)
	}
	if err != nil {
		return err
	}
	return r.draft(role, data)
}

func signed[T metadata.Roles](data []byte, sigs []metadata.Signature) ([]byte, error) {
	m, err := decode[T](data)
	if err != nil {
		return nil, err
	}
	for _, s := range sigs {
		m.Signatures = slices.DeleteFunc(m.Signatures, func(o metadata.Signature) bool { return o.KeyID == s.KeyID })
		m.Signatures = append(m.Signatures, s)
	}
	slices.SortFunc(m.Signatures, func(a, b metadata.Signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	return encode(m)
}

// Merge takes the signatures that others have put on the same drafts in another folder, such as one that was carried
// to another host. Drafts that differ are an error.
func (r *Repository) Merge(ctx context.Context, dir string) (*Result, error) {
	other, err := Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer other.Close()
	out := &Result{}
	for _, role := range r.drafted() {
		data, drafted := other.drafts[role]
		if !drafted {
			data = other.current[role] // it may be complete there
		}
		theirs, err := roles.ReadHead(data)
		if err != nil {
			continue
		}
		ours, err := roles.ReadHead(r.drafts[role])
		if err != nil {
			return nil, err
		}
		if string(theirs.Payload) != string(ours.Payload) {
			if drafted {
				return nil, fmt.Errorf("the draft of %s in %s is another one than in %s: one of them has to be "+
					"given up", role, dir, r.dir)
			}
			continue
		}
		if err := r.add(role, theirs.Signatures...); err != nil {
			return nil, err
		}
		out.Signed = append(out.Signed, role)
	}
	out.Complete, err = r.settle()
	return out, err
}

// Discard gives up a draft.
func (r *Repository) Discard(role string) error {
	if r.drafts[role] == nil {
		return fmt.Errorf("there is no draft of %s", role)
	}
	delete(r.drafts, role)
	return os.Remove(filepath.Join(r.dir, draftsDir, role+suffix))
}
