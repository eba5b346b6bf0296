package roles_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/roles"
)

// epoch is when the repositories of tests are made.
var epoch = time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// signer is a key that depends on its name alone; one that ends in P256 is drawn.
func signer(t testing.TB, name string) keys.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := keys.FromPrivate(ed25519.NewKeyFromSeed(seed[:]))
	if strings.HasSuffix(name, "p256") {
		var k *ecdsa.PrivateKey
		if k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			s, err = keys.FromPrivate(k)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// repository is one with two root keys, two for releases, and one for snapshots and timestamps.
type repository struct {
	t    testing.TB
	dir  string
	now  time.Time
	keys map[string]keys.Signer
}

func newRepository(t testing.TB) *repository {
	r := &repository{t: t, dir: t.TempDir(), now: epoch, keys: map[string]keys.Signer{}}
	c, err := ceremony.Create(t.Context(), r.dir)
	r.fine(err)
	r.fine(c.Init(map[string]ceremony.Party{
		roles.Root: r.party("alice", "bob-p256"), roles.Targets: r.party("carol", "dave"),
		roles.Snapshot: r.party("host"), roles.Timestamp: r.party("host")}, ceremony.When{Now: r.now}))
	r.fine(c.Close())
	r.sign("alice", "bob-p256", "carol", "dave")
	r.refresh()
	return r
}

func (r *repository) fine(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *repository) key(name string) keys.Signer {
	if r.keys[name] == nil {
		r.keys[name] = signer(r.t, name)
	}
	return r.keys[name]
}

func (r *repository) party(names ...string) ceremony.Party {
	var p ceremony.Party
	for _, n := range names {
		p.Keys = append(p.Keys, ceremony.Named{Name: n, Public: r.key(n).Public()})
	}
	return p
}

// do changes something.
func (r *repository) do(change func(*ceremony.Repository) error) {
	r.t.Helper()
	c, err := ceremony.Open(r.t.Context(), r.dir)
	r.fine(err)
	r.fine(change(c))
	r.fine(c.Close())
}

func (r *repository) when() ceremony.When { return ceremony.When{Now: r.now} }

func (r *repository) sign(names ...string) {
	r.t.Helper()
	for _, n := range names {
		r.do(func(c *ceremony.Repository) error {
			_, err := c.Sign(r.t.Context(), r.key(n))
			return err
		})
	}
}

func (r *repository) refresh() {
	r.t.Helper()
	r.do(func(c *ceremony.Repository) error {
		_, err := c.Refresh(r.t.Context(), r.now, nil, r.key("host"))
		return err
	})
}

// offer lists releases, and has them signed.
func (r *repository) offer(list ...[]byte) {
	r.t.Helper()
	for _, data := range list {
		r.do(func(c *ceremony.Repository) error {
			_, _, err := c.Add(data, r.when())
			return err
		})
	}
	r.sign("carol", "dave")
	r.refresh()
}

// read reads a file of the repository.
func (r *repository) read(name string) []byte {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, name))
	r.fine(err)
	return data
}

func (r *repository) write(name string, data []byte) {
	r.t.Helper()
	r.fine(os.WriteFile(filepath.Join(r.dir, name), data, 0o644))
}

// files are all files that clients may ask for.
func (r *repository) files() map[string][]byte {
	r.t.Helper()
	out := map[string][]byte{}
	list, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	r.fine(err)
	for _, f := range list {
		out[filepath.Base(f)] = r.read(filepath.Base(f))
	}
	return out
}

// put has files, and no others, in the repository.
func (r *repository) put(files map[string][]byte) {
	r.t.Helper()
	for name := range r.files() {
		r.fine(os.Remove(filepath.Join(r.dir, name)))
	}
	for name, data := range files {
		r.write(name, data)
	}
}

// forge changes a file, and has it signed by some keys anew.
func forge[T metadata.Roles](r *repository, name string, edit func(*metadata.Metadata[T]), by ...string) {
	r.t.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(r.read(name))
	r.fine(err)
	edit(m)
	resign(r, name, m, by...)
}

func resign[T metadata.Roles](r *repository, name string, m *metadata.Metadata[T], by ...string) {
	r.t.Helper()
	m.Signatures = []metadata.Signature{}
	data, err := m.ToBytes(false)
	r.fine(err)
	h, err := roles.ReadHead(data)
	r.fine(err)
	for _, n := range by {
		sig, err := r.key(n).Sign(r.t.Context(), h.Payload)
		r.fine(err)
		_, id, err := roles.Key(r.key(n).Public())
		r.fine(err)
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: sig})
	}
	data, err = m.ToBytes(false)
	r.fine(err)
	r.write(name, data)
}

// folder is a source.
type folder string

func (f folder) File(ctx context.Context, name string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(string(f), name))
	if err == nil && int64(len(data)) > limit {
		return nil, refusal.New(refusal.Size, name, "more than the %d bytes that it may have", limit)
	}
	return data, err
}

// client is a host that trusts the first root.
func (r *repository) client() *roles.Client {
	return &roles.Client{Root: r.read("1.root.json"), From: folder(r.dir),
		Memory: filepath.Join(r.t.TempDir(), "state", "roles.json")}
}

func (r *repository) ask(c *roles.Client, data []byte) (*roles.Answer, error) {
	return c.Release(r.t.Context(), r.now, data)
}

// releases are the indices of three releases.
func releases(t testing.TB) (one, two, testing []byte) {
	t.Helper()
	_, one = releasetest.Release(t, "1.0.0", releasetest.Guest{})
	_, two = releasetest.Release(t, "1.1.0", releasetest.Guest{})
	x, err := index.Decode(two)
	if err != nil {
		t.Fatal(err)
	}
	x.Channel = "testing"
	if testing, err = x.Encode(); err != nil {
		t.Fatal(err)
	}
	return one, two, testing
}

func TestAReleaseIsAcceptedFromTheRolesThatOfferIt(t *testing.T) {
	one, two, experimental := releases(t)
	r := newRepository(t)
	r.offer(one)
	c := r.client()
	a, err := r.ask(c, one)
	if err != nil || a.Role != roles.Targets || a.Version != 2 || !slices.Equal(a.By, []string{"carol", "dave"}) {
		t.Fatalf("got %+v, %v", a, err)
	}
	// A channel is delegated to one more person.
	r.do(func(c *ceremony.Repository) error {
		return c.Delegate("testing", []string{"testing"}, r.party("erin"), r.when())
	})
	r.sign("carol", "dave", "erin")
	r.offer(two, experimental)
	r.sign("erin")
	r.refresh()
	if a, err = r.ask(c, experimental); err != nil || a.Role != "testing" || !slices.Equal(a.By, []string{"erin"}) {
		t.Fatalf("got %+v, %v", a, err)
	}
	if a, err = r.ask(c, one); err != nil || a.Newer != "1.1.0" {
		t.Fatalf("got %+v, %v", a, err)
	}
	// A host that never was there follows from the first root as well.
	if a, err = r.ask(r.client(), two); err != nil || a.Newer != "" {
		t.Fatalf("got %+v, %v", a, err)
	}
}

func TestWhatIsOfferedIsListed(t *testing.T) {
	one, two, experimental := releases(t)
	r := newRepository(t)
	r.offer(one)
	r.do(func(c *ceremony.Repository) error {
		return c.Delegate("testing", []string{"testing"}, r.party("erin"), r.when())
	})
	r.sign("carol", "dave", "erin")
	r.offer(two, experimental)
	r.sign("erin")
	r.refresh()
	c := r.client()
	want := []roles.Offer{
		{Channel: "stable", Version: "1.1.0", Role: roles.Targets, Index: digest.Of(two)},
		{Channel: "stable", Version: "1.0.0", Role: roles.Targets, Index: digest.Of(one)},
		{Channel: "testing", Version: "1.1.0", Role: "testing", Index: digest.Of(experimental)},
	}
	if got, err := c.Offered(t.Context(), r.now); err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	// Whoever offers releases of one channel offers none of another.
	forgeListOf(r, "testing", func(m *metadata.Metadata[metadata.TargetsType]) {
		m.Signed.Targets["stable/9.0.0"] = m.Signed.Targets["testing/1.1.0"]
		m.Signed.Targets["README"] = m.Signed.Targets["testing/1.1.0"]
	}, "erin")
	if got, err := c.Offered(t.Context(), r.now); err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	// A host that has listed remembers as one that has asked.
	if _, err := c.Offered(t.Context(), r.now.Add(30*day)); !refused(err, refusal.Expired) {
		t.Error(err)
	}
	if a, err := r.ask(c, one); err != nil || a.Newer != "1.1.0" {
		t.Errorf("got %+v, %v", a, err)
	}
}

func refused(err error, reason refusal.Reason) bool {
	r, ok := errors.AsType[*refusal.Error](err)
	return ok && r.Reason == reason
}

func TestAnOldClientFollowsEveryRoot(t *testing.T) {
	one, _, _ := releases(t)
	r := newRepository(t)
	r.offer(one)
	old := r.client()
	if _, err := r.ask(old, one); err != nil {
		t.Fatal(err)
	}
	have := []string{"alice", "bob-p256"}
	for i, next := range []string{"frank", "grace-p256", "heidi", "ivan"} {
		// Root keys change one by one, each change signed by the old two and the new one.
		off := have[i%2]
		r.do(func(c *ceremony.Repository) error {
			return c.Rotate(roles.Root, ceremony.Rotation{Off: []string{off}, On: r.party(next).Keys}, r.when())
		})
		r.sign(have...)
		r.sign(next)
		have[i%2] = next
		r.now = r.now.Add(200 * day)
		r.do(func(c *ceremony.Repository) error { return c.Renew(roles.Root, r.when()) })
		r.sign(have...)
	}
	r.do(func(c *ceremony.Repository) error { return c.Renew(roles.Targets, r.when()) })
	r.sign("carol", "dave")
	r.refresh()
	if _, err := os.Stat(filepath.Join(r.dir, "9.root.json")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*roles.Client{old, r.client()} {
		if a, err := r.ask(c, one); err != nil || a.Version != 3 {
			t.Errorf("got %+v, %v", a, err)
		}
	}
	// With the newest root in its memory it needs the others no more.
	files := r.files()
	for v := range 9 {
		delete(files, roles.FileName(roles.Root, int64(v)))
	}
	r.put(files)
	if _, err := r.ask(old, one); err != nil {
		t.Error(err)
	}
}

// attacks are what somebody does to a repository that a host has asked before.
var attacks = []struct {
	name   string
	reason refusal.Reason
	// do attacks; before are the files as they were before the second release was offered.
	do func(r *repository, before map[string][]byte)
}{
	{"the timestamp has expired", refusal.Expired, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(day + 1)
	}},
	{"a mirror stands still", refusal.Expired, func(r *repository, _ map[string][]byte) {
		frozen := r.files()
		r.now = r.now.Add(2 * day)
		r.refresh()
		r.put(frozen)
	}},
	{"the snapshot has expired", refusal.Expired, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(8 * day)
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
			m.Signed.Version, m.Signed.Expires = m.Signed.Version+1, r.now.Add(day)
		}, "host")
	}},
	{"the list has expired", refusal.Expired, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(91 * day)
		r.refresh()
	}},
	{"root has expired", refusal.Expired, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(366 * day)
		r.do(func(c *ceremony.Repository) error { return c.Renew(roles.Targets, r.when()) })
		r.sign("carol", "dave")
		r.refresh()
	}},
	{"everything as it was before", refusal.Rollback, func(r *repository, before map[string][]byte) { r.put(before) }},
	{"an older snapshot in a newer timestamp", refusal.Rollback, func(r *repository, before map[string][]byte) {
		old, err := new(metadata.Metadata[metadata.TimestampType]).FromBytes(before["timestamp.json"])
		r.fine(err)
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
			m.Signed.Version, m.Signed.Meta = m.Signed.Version+1, old.Signed.Meta
		}, "host")
	}},
	{"an older list in a newer snapshot", refusal.Rollback, func(r *repository, before map[string][]byte) {
		forgeSnapshot(r, func(meta map[string]*metadata.MetaFiles) { meta["targets.json"].Version-- })
	}},
	{"a snapshot in which a role is gone", refusal.Rollback, func(r *repository, _ map[string][]byte) {
		forgeSnapshot(r, func(meta map[string]*metadata.MetaFiles) { delete(meta, "testing.json") })
	}},
	{"a timestamp of a stranger", refusal.UnknownKey, func(r *repository, _ map[string][]byte) {
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version++ }, "mallory")
	}},
	{"a timestamp without signatures", refusal.Unsigned, func(r *repository, _ map[string][]byte) {
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version++ })
	}},
	{"a timestamp that was changed", refusal.Signature, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(time.Hour)
		r.refresh()
		data := strings.Replace(string(r.read("timestamp.json")), "2026-12-02", "2036-12-02", 1)
		r.write("timestamp.json", []byte(data))
	}},
	{"one signature of two", refusal.Threshold, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {}, "carol")
	}},
	{"one signature of two, and that of a stranger", refusal.Threshold, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {}, "carol", "mallory")
	}},
	{"one key that signs twice", refusal.Document, func(r *repository, _ map[string][]byte) {
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
			m.Signed.Version++
		}, "host", "host")
	}},
	{"the host's key on a list", refusal.UnknownKey, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {}, "host")
	}},
	{"a key that was revoked", refusal.Revoked, func(r *repository, _ map[string][]byte) {
		r.do(func(c *ceremony.Repository) error {
			return c.Rotate(roles.Timestamp, ceremony.Rotation{Off: []string{"host"}, On: r.party("host2").Keys},
				r.when())
		})
		r.do(func(c *ceremony.Repository) error {
			return c.Rotate(roles.Snapshot, ceremony.Rotation{Off: []string{"host"}, On: r.party("host2").Keys},
				r.when())
		})
		r.sign("alice", "bob-p256")
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version++ }, "host")
	}},
	{"a list by a key that was revoked", refusal.Revoked, func(r *repository, _ map[string][]byte) {
		r.do(func(c *ceremony.Repository) error {
			return c.Rotate(roles.Targets, ceremony.Rotation{Off: []string{"dave"}, On: r.party("frank").Keys},
				r.when())
		})
		r.sign("alice", "bob-p256", "carol", "frank")
		r.refresh()
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {}, "carol", "dave")
	}},
	{"a release that was withdrawn", refusal.NotListed, func(r *repository, _ map[string][]byte) {
		r.do(func(c *ceremony.Repository) error {
			_, err := c.Withdraw("stable/1.1.0", r.when())
			return err
		})
		r.sign("carol", "dave")
		r.refresh()
	}},
	{"an index of another length", refusal.Size, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Targets["stable/1.1.0"].Length++ },
			"carol", "dave")
	}},
	{"an index of another digest", refusal.Digest, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {
			m.Signed.Targets["stable/1.1.0"].Hashes["sha256"][0] ^= 1
		}, "carol", "dave")
	}},
	{"another list than the snapshot names", refusal.Digest, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {}, "carol", "dave")
		forge(r, newest(r, "targets"), func(m *metadata.Metadata[metadata.TargetsType]) {
			m.Signed.Expires = m.Signed.Expires.Add(time.Hour)
		}, "carol", "dave")
	}},
	{"another snapshot than the timestamp names", refusal.Digest, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(6 * day)
		r.refresh()
		forge(r, newest(r, "snapshot"), func(m *metadata.Metadata[metadata.SnapshotType]) {
			m.Signed.Expires = m.Signed.Expires.Add(time.Hour)
		}, "host")
	}},
	{"a root that skips a version", refusal.Version, func(r *repository, _ map[string][]byte) {
		r.write("2.root.json", r.read("1.root.json"))
		forge(r, "2.root.json", func(m *metadata.Metadata[metadata.RootType]) { m.Signed.Version = 3 }, "alice",
			"bob-p256")
	}},
	{"the first root as the second", refusal.Version, func(r *repository, _ map[string][]byte) {
		r.write("2.root.json", r.read("1.root.json"))
	}},
	{"a root that only its own keys have signed", refusal.UnknownKey, func(r *repository, _ map[string][]byte) {
		takeover(r, "mallory", "mallory")
	}},
	{"a root that only one old key has signed", refusal.Threshold, func(r *repository, _ map[string][]byte) {
		takeover(r, "mallory", "alice", "mallory")
	}},
	{"a root that its own keys have not signed", refusal.UnknownKey, func(r *repository, _ map[string][]byte) {
		takeover(r, "mallory", "alice", "bob-p256")
	}},
	{"a timestamp without an end", refusal.Size, func(r *repository, _ map[string][]byte) {
		r.write("timestamp.json", []byte(strings.Repeat(" ", 1<<20)))
	}},
	{"a root without an end", refusal.Size, func(r *repository, _ map[string][]byte) {
		r.write("2.root.json", []byte(strings.Repeat(" ", 1<<20)))
	}},
	{"a snapshot longer than the timestamp says", refusal.Size, func(r *repository, _ map[string][]byte) {
		r.now = r.now.Add(6 * day)
		r.refresh()
		r.write(newest(r, "snapshot"), append(r.read(newest(r, "snapshot")), ' '))
	}},
	{"a list of another type", refusal.Document, func(r *repository, _ map[string][]byte) {
		r.write("timestamp.json", r.read("1.targets.json"))
	}},
	{"a target that is null, without signatures", refusal.Document, func(r *repository, _ map[string][]byte) {
		r.write("timestamp.json", []byte(`{"signed":{"_type":"timestamp","version":9,"meta":null},"signatures":[]}`))
	}},
	{"a timestamp that names no snapshot", refusal.Document, func(r *repository, _ map[string][]byte) {
		forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
			m.Signed.Version, m.Signed.Meta = m.Signed.Version+1, map[string]*metadata.MetaFiles{}
		}, "host")
	}},
	{"a role whose name leads elsewhere", refusal.Document, func(r *repository, _ map[string][]byte) {
		forgeList(r, func(m *metadata.Metadata[metadata.TargetsType]) {
			delete(m.Signed.Targets, "stable/1.1.0")
			m.Signed.Delegations.Roles[0].Name = "../x"
			m.Signed.Delegations.Roles[0].Paths = []string{"stable/*"}
		}, "carol", "dave")
	}},
	{"a channel that is somebody else's", refusal.NotListed, func(r *repository, _ map[string][]byte) {
		r.do(func(c *ceremony.Repository) error {
			_, err := c.Withdraw("stable/1.1.0", r.when())
			return err
		})
		r.sign("carol", "dave")
		r.refresh()
		list := newest(r, "testing")
		from := r.read(list)
		r.write(roles.FileName("testing", 9), from)
		_, two, _ := releases(r.t)
		sum := sha256.Sum256(two)
		forge(r, roles.FileName("testing", 9), func(m *metadata.Metadata[metadata.TargetsType]) {
			m.Signed.Version = 9
			m.Signed.Targets["stable/1.1.0"] = &metadata.TargetFiles{Length: int64(len(two)),
				Hashes: metadata.Hashes{"sha256": sum[:]}}
		}, "erin")
		r.refresh()
	}},
}

// newest is the name of the newest file of a role.
func newest(r *repository, role string) string {
	var highest int64
	for name := range r.files() {
		if of, v, ok := roles.ParseName(name); ok && of == role {
			highest = max(highest, v)
		}
	}
	return roles.FileName(role, highest)
}

// forgeList makes a next list of releases, signed by some keys, and has snapshot and timestamp name it.
func forgeList(r *repository, edit func(*metadata.Metadata[metadata.TargetsType]), by ...string) {
	r.t.Helper()
	forgeListOf(r, roles.Targets, edit, by...)
}

func forgeListOf(r *repository, role string, edit func(*metadata.Metadata[metadata.TargetsType]), by ...string) {
	r.t.Helper()
	m, err := new(metadata.Metadata[metadata.TargetsType]).FromBytes(r.read(newest(r, role)))
	r.fine(err)
	m.Signed.Version++
	edit(m)
	resign(r, roles.FileName(role, m.Signed.Version), m, by...)
	r.refresh()
}

func forgeSnapshot(r *repository, edit func(map[string]*metadata.MetaFiles)) {
	r.t.Helper()
	m, err := new(metadata.Metadata[metadata.SnapshotType]).FromBytes(r.read(newest(r, "snapshot")))
	r.fine(err)
	m.Signed.Version++
	edit(m.Signed.Meta)
	name := roles.FileName("snapshot", m.Signed.Version)
	resign(r, name, m, "host")
	data := r.read(name)
	sum := sha256.Sum256(data)
	forge(r, "timestamp.json", func(t *metadata.Metadata[metadata.TimestampType]) {
		t.Signed.Version++
		t.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: m.Signed.Version, Length: int64(len(data)),
			Hashes: metadata.Hashes{"sha256": sum[:]}}
	}, "host")
}

// takeover makes a second root whose root key is another one.
func takeover(r *repository, key string, by ...string) {
	r.t.Helper()
	r.write("2.root.json", r.read("1.root.json"))
	forge(r, "2.root.json", func(m *metadata.Metadata[metadata.RootType]) {
		k, id, err := roles.Key(r.key(key).Public())
		r.fine(err)
		m.Signed.Version = 2
		m.Signed.Keys[id] = k
		m.Signed.Roles["root"] = &metadata.Role{KeyIDs: []string{id}, Threshold: 1}
	}, by...)
}

func TestAttacksAreRefusedByName(t *testing.T) {
	one, two, _ := releases(t)
	made := newRepository(t)
	made.offer(one)
	made.do(func(c *ceremony.Repository) error {
		return c.Delegate("testing", []string{"testing"}, made.party("erin"), made.when())
	})
	made.sign("carol", "dave", "erin")
	made.refresh()
	before := made.files()
	made.offer(two)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			r := &repository{t: t, dir: t.TempDir(), now: made.now, keys: maps.Clone(made.keys)}
			r.fine(os.CopyFS(r.dir, os.DirFS(made.dir)))
			c := r.client()
			if _, err := r.ask(c, two); err != nil {
				t.Fatal(err)
			}
			a.do(r, before)
			_, err := r.ask(c, two)
			refused, ok := errors.AsType[*refusal.Error](err)
			if !ok || refused.Reason != a.reason {
				t.Errorf("got %v, want %s", err, a.reason)
			}
			t.Log(err)
		})
	}
}

// endless is a source that never comes to an end.
type endless struct{}

func (endless) File(ctx context.Context, _ string, _ int64) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestASourceThatIsTooSlowIsGivenUp(t *testing.T) {
	one, _, _ := releases(t)
	r := newRepository(t)
	c := r.client()
	c.From, c.Patience = endless{}, time.Millisecond
	_, err := r.ask(c, one)
	if refused, ok := errors.AsType[*refusal.Error](err); !ok || refused.Reason != refusal.Slow {
		t.Errorf("got %v", err)
	}
}

// A thief of the timestamp's key sets the version as high as it goes. Another key for it gives hosts a way back.
func TestAnotherKeyRecoversFromVersionsThatAThiefHasSet(t *testing.T) {
	one, _, _ := releases(t)
	r := newRepository(t)
	r.offer(one)
	c := r.client()
	true1 := r.files()
	forge(r, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version = 1 << 40 },
		"host")
	if _, err := r.ask(c, one); err != nil {
		t.Fatal(err)
	}
	r.put(true1)
	r.now = r.now.Add(time.Hour)
	r.refresh()
	if _, err := r.ask(c, one); err == nil {
		t.Fatal("an older timestamp was taken")
	}
	for _, role := range []string{roles.Snapshot, roles.Timestamp} {
		r.do(func(c *ceremony.Repository) error {
			return c.Rotate(role, ceremony.Rotation{Off: []string{"host"}, On: r.party("host2").Keys}, r.when())
		})
	}
	r.sign("alice", "bob-p256")
	r.do(func(c *ceremony.Repository) error {
		_, err := c.Refresh(t.Context(), r.now, nil, r.key("host2"))
		return err
	})
	if _, err := r.ask(c, one); err != nil {
		t.Error(err)
	}
}

func TestAMemoryThatOthersCouldHaveWrittenIsNotBelieved(t *testing.T) {
	one, _, _ := releases(t)
	r := newRepository(t)
	r.offer(one)
	c := r.client()
	if _, err := r.ask(c, one); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Memory, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ask(c, one); err == nil || !strings.Contains(err.Error(), "other users may write to it") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(c.Memory, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Memory, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ask(c, one); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
