package ceremony_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/roles"
)

var when = ceremony.When{Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}

func signer(t *testing.T, name string) keys.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := keys.FromPrivate(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func party(t *testing.T, names ...string) ceremony.Party {
	t.Helper()
	var p ceremony.Party
	for _, n := range names {
		p.Keys = append(p.Keys, ceremony.Named{Name: n, Public: signer(t, n).Public()})
	}
	return p
}

// fresh is a folder with a root and a list of releases that nobody has signed.
func fresh(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c, err := ceremony.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Init(map[string]ceremony.Party{
		roles.Root: party(t, "alice", "bob"), roles.Targets: party(t, "carol", "dave"),
		roles.Snapshot: party(t, "host"), roles.Timestamp: party(t, "host")}, when)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// in does something in a folder.
func in(t *testing.T, dir string, do func(c *ceremony.Repository) error) {
	t.Helper()
	if err := try(t, dir, do); err != nil {
		t.Fatal(err)
	}
}

func try(t *testing.T, dir string, do func(c *ceremony.Repository) error) error {
	t.Helper()
	c, err := ceremony.Open(t.Context(), dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// sign signs by keys, and returns which roles became complete with the last one.
func sign(t *testing.T, dir string, names ...string) (complete []string) {
	t.Helper()
	for _, n := range names {
		in(t, dir, func(c *ceremony.Repository) error {
			r, err := c.Sign(t.Context(), signer(t, n))
			if err == nil {
				complete = r.Complete
			}
			return err
		})
	}
	return complete
}

// copied is another folder with the same files.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "carried")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// files are all files below a folder but the lock, with what is in them.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		data, err := os.ReadFile(p)
		out[strings.TrimPrefix(p, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func exists(t *testing.T, path string, want bool) {
	t.Helper()
	if _, err := os.Lstat(path); (err == nil) != want {
		t.Errorf("%s: %v", path, err)
	}
}

func TestADraftIsSeenWhenEnoughKeysHaveSigned(t *testing.T) {
	dir := fresh(t)
	root, draft := filepath.Join(dir, "1.root.json"), filepath.Join(dir, "drafts/root.json")
	if done := sign(t, dir, "alice", "mallory", "alice"); len(done) > 0 {
		t.Errorf("one key of two, a stranger's and the first once more complete %q", done)
	}
	exists(t, root, false)
	if done := sign(t, dir, "bob"); !slices.Equal(done, []string{roles.Root}) {
		t.Errorf("the second key completes %q", done)
	}
	exists(t, root, true)
	exists(t, draft, false)
}

func TestDraftsAreSignedInSeveralPlaces(t *testing.T) {
	dir := fresh(t)
	one, other := copied(t, dir), copied(t, dir)
	sign(t, one, "alice", "carol")
	sign(t, other, "bob", "dave")
	in(t, dir, func(c *ceremony.Repository) error {
		r, err := c.Merge(t.Context(), one)
		if err == nil && len(r.Complete) > 0 {
			t.Errorf("half of the signatures complete %q", r.Complete)
		}
		return err
	})
	in(t, dir, func(c *ceremony.Repository) error {
		r, err := c.Merge(t.Context(), other)
		if err == nil && !slices.Equal(r.Complete, []string{roles.Root, roles.Targets}) {
			t.Errorf("all signatures complete %q", r.Complete)
		}
		return err
	})
	// In whatever order signatures come, the bytes are the same.
	sign(t, other, "carol", "alice")
	same := files(t, other)
	for name, data := range files(t, dir) {
		if same[name] != data {
			t.Errorf("%s differs", name)
		}
	}
}

func TestAnotherDraftIsNotMerged(t *testing.T) {
	dir := fresh(t)
	sign(t, dir, "alice", "bob", "carol", "dave")
	carried := copied(t, dir)
	_, data := releasetest.Release(t, "1.0.0", releasetest.Guest{})
	_, more := releasetest.Release(t, "1.1.0", releasetest.Guest{})
	for folder, release := range map[string][]byte{dir: data, carried: more} {
		in(t, folder, func(c *ceremony.Repository) error {
			_, _, err := c.Add(release, when)
			return err
		})
	}
	before := files(t, dir)
	err := try(t, dir, func(c *ceremony.Repository) error {
		_, err := c.Merge(t.Context(), carried)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "the draft of targets in "+carried+" is another one") {
		t.Errorf("%v", err)
	}
	for name, data := range files(t, dir) {
		if before[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
}

func TestADraftIsGivenUp(t *testing.T) {
	dir := fresh(t)
	sign(t, dir, "alice", "bob", "carol", "dave")
	before := files(t, dir)
	in(t, dir, func(c *ceremony.Repository) error { return c.Renew(roles.Root, when) })
	if len(files(t, dir)) == len(before) {
		t.Error("no draft was made")
	}
	in(t, dir, func(c *ceremony.Repository) error { return c.Discard(roles.Root) })
	after := files(t, dir)
	if len(after) != len(before) {
		t.Errorf("%d files, %d before", len(after), len(before))
	}
	err := try(t, dir, func(c *ceremony.Repository) error { return c.Discard(roles.Root) })
	if err == nil || !strings.Contains(err.Error(), "there is no draft of root") {
		t.Errorf("%v", err)
	}
}

func TestAChangeTakesSignaturesOffADraft(t *testing.T) {
	dir := fresh(t)
	sign(t, dir, "alice", "bob", "carol", "dave")
	in(t, dir, func(c *ceremony.Repository) error { return c.Renew(roles.Targets, when) })
	sign(t, dir, "carol")
	_, data := releasetest.Release(t, "1.0.0", releasetest.Guest{})
	in(t, dir, func(c *ceremony.Repository) error {
		_, _, err := c.Add(data, when)
		return err
	})
	// Carol has signed other bytes: her signature does not count for these.
	if done := sign(t, dir, "dave"); len(done) > 0 {
		t.Errorf("%q are complete with one signature", done)
	}
	if done := sign(t, dir, "carol"); !slices.Equal(done, []string{roles.Targets}) {
		t.Errorf("%q are complete", done)
	}
}

func TestAKeyWithoutWhichNobodyCouldSignIsKept(t *testing.T) {
	dir := fresh(t)
	sign(t, dir, "alice", "bob", "carol", "dave")
	before := files(t, dir)
	for word, want := range map[string]string{
		"alice":   "role root: 1 keys would be left, of which 2 must sign",
		"dave":    "role targets: 1 keys would be left, of which 2 must sign",
		"host":    "role snapshot: 0 keys would be left, of which 1 must sign",
		"mallory": `no role has a key "mallory"`,
	} {
		err := try(t, dir, func(c *ceremony.Repository) error {
			_, err := c.Revoke(word, when)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", word, err, want)
		}
	}
	for name := range files(t, dir) {
		if _, there := before[name]; !there {
			t.Errorf("%s was drafted", name)
		}
	}
}

func TestAReleaseIsNotListedTwiceWithOtherBytes(t *testing.T) {
	dir := fresh(t)
	sign(t, dir, "alice", "bob", "carol", "dave")
	for i, mark := range []string{"", " other"} {
		_, data := releasetest.Release(t, "1.0.0", releasetest.Guest{Mark: mark})
		err := try(t, dir, func(c *ceremony.Repository) error {
			_, _, err := c.Add(data, when)
			return err
		})
		if i == 0 && err != nil || i == 1 && (err == nil || !strings.Contains(err.Error(), "is listed already")) {
			t.Errorf("release %d: %v", i, err)
		}
	}
}

func TestWhatIsNoMetadataIsNamed(t *testing.T) {
	whole := fresh(t)
	sign(t, whole, "alice", "bob", "carol", "dave")
	for name, spoil := range map[string]func(data []byte) []byte{
		"cut off":         func(d []byte) []byte { return d[:len(d)/2] },
		"another role's":  func(d []byte) []byte { return []byte(strings.Replace(string(d), `"root"`, `"targets"`, 1)) },
		"nothing":         func([]byte) []byte { return nil },
		"longer than any": func([]byte) []byte { return make([]byte, 2<<20) },
	} {
		dir := copied(t, whole)
		path := filepath.Join(dir, "1.root.json")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, spoil(data), 0o644); err != nil {
			t.Fatal(err)
		}
		err = try(t, dir, func(*ceremony.Repository) error { return nil })
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "1.root.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
