package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

func newKey(t *testing.T) Key {
	t.Helper()
	k, err := drawKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// record puts an action with one output into s and returns its key.
func record(t *testing.T, s *Store, name string) digest.Digest {
	t.Helper()
	a := &Action{Key: digest.Of([]byte("key of " + name)), Step: "image", Inputs: []artifact.Input{},
		Outputs: []Output{{"image.img", put(t, s, name), int64(len(name))}}}
	if err := s.PutAction(a); err != nil {
		t.Fatal(err)
	}
	return a.Key
}

func rewrite(t *testing.T, path, old, new string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s does not hold %q:\n%s", path, old, data)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), old, new)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestARecordIsBelievedOnlyFromATrustedWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	mine, theirs := newKey(t), newKey(t)
	as := func(o Options) *Store {
		t.Helper()
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	key := record(t, as(Options{Key: theirs}), "guest")
	unsigned := record(t, as(Options{}), "other")
	for _, c := range []struct {
		name string
		o    Options
		key  digest.Digest
		want string // in the error; empty is no error
	}{
		{"the writer itself", Options{Key: theirs}, key, ""},
		{"one who does not know the writer", Options{Key: mine}, key,
			"was written by " + string(theirs.Writer()) + ", which is not trusted"},
		{"one who trusts the writer", Options{Key: mine, Trusted: []Writer{theirs.Writer()}}, key, ""},
		{"a private store of which nobody has a key", Options{}, key, ""},
		{"an unsigned record", Options{Key: mine}, unsigned, "is not signed"},
	} {
		_, err := as(c.o).Complete(c.key)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrMissing) ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAChangedRecordIsNotBelieved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	k := newKey(t)
	s, err := Open(dir, Options{Key: k})
	if err != nil {
		t.Fatal(err)
	}
	key, other := record(t, s, "guest"), record(t, s, "evil!")
	if found, err := s.Verify(); err != nil || len(found) != 0 {
		t.Fatalf("a fresh store: %v, %v", found, err)
	}
	whole, err := os.ReadFile(s.action(key))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new string }{
		{"its output is another's", string(digest.Of([]byte("guest"))), string(digest.Of([]byte("evil!")))},
		{"it is said to be of another step", `"step": "image"`, `"step": "kernel"`},
		{"its writer is another", string(k.Writer()), string(newKey(t).Writer())},
		{"an output leads elsewhere", `"name": "image.img"`, `"name": "../image.img"`},
		{"an output is a folder", `"name": "image.img"`, `"name": ".."`},
		{"an output is absolute", `"name": "image.img"`, `"name": "/tmp/image.img"`},
	} {
		rewrite(t, s.action(key), c.old, c.new)
		if _, err := s.lookup(key); !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", c.name, err)
		}
		if found, err := s.Verify(); err != nil || len(found) != 1 || !strings.Contains(found[0].Path, key.Hex()) {
			t.Errorf("%s: verify says %v, %v", c.name, found, err)
		}
		if err := os.WriteFile(s.action(key), whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The record of another step, whole, under this one's name.
	data, err := os.ReadFile(s.action(other))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.action(key), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.lookup(key); !errors.Is(err, ErrMissing) {
		t.Errorf("a record under another name: %v", err)
	}
}

func TestANameThatLeavesTheOutputFolderIsNeverRecorded(t *testing.T) {
	s := open(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/x", "a\x00b"} {
		a := &Action{Key: digest.Of([]byte("k")), Step: "image", Inputs: []artifact.Input{},
			Outputs: []Output{{name, put(t, s, "x"), 1}}}
		if err := s.PutAction(a); err == nil {
			t.Errorf("output %q is recorded", name)
		}
	}
}

func TestAForgedNoteOfAPlacedFileIsNotBelieved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir, Options{Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "image.img")
	if err := os.WriteFile(out, []byte("good"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := digest.Of([]byte("good"))
	if err := s.Placed(out, d); err != nil || !s.IsPlaced(out, d) {
		t.Fatal("what was placed is not known", err)
	}
	was, err := stampOf(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	now, err := stampOf(out)
	if err != nil {
		t.Fatal(err)
	}
	if s.IsPlaced(out, d) {
		t.Error("a changed file counts as placed")
	}
	rewrite(t, s.placedFile(out), was, now)
	if s.IsPlaced(out, d) {
		t.Error("a note with another stamp is believed")
	}
}

func TestAStoreThatOthersCanWriteToIsRefusedUnlessItIsShared(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"group may write", "mode 0775", func(dir string) error { return os.Chmod(dir, 0o775) }},
		{"all may write to its records", "mode 0777",
			func(dir string) error { return os.Chmod(filepath.Join(dir, "actions"), 0o777) }},
		{"its blobs lie elsewhere", "symbolic link", func(dir string) error { return elsewhere(dir, "blobs") }},
		{"a folder above is everybody's", "something else in the place",
			func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) }},
		{"another user's", "belongs to user 65534", func(dir string) error { return os.Chown(dir, 65534, 65534) }},
		{"another user's records", "belongs to user 65534",
			func(dir string) error { return os.Chown(filepath.Join(dir, "actions"), 65534, 65534) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if _, err := Open(dir, Options{}); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.want, "belongs to") {
				testenv.Require(t, root)
			}
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir, Options{})
			var no *Unsafe
			if !errors.As(err, &no) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			_, err = Open(dir, Options{Shared: true, Key: newKey(t)})
			if linked := strings.Contains(c.want, "link"); linked != (err != nil) {
				t.Errorf("shared: %v", err)
			}
		})
	}
}

// root is needed to give files away.
var root = testenv.Root

// elsewhere moves a folder of a store away and leaves a link to it.
func elsewhere(dir, name string) error {
	away := dir + "-away"
	return errors.Join(os.Rename(filepath.Join(dir, name), away), os.Symlink(away, filepath.Join(dir, name)))
}

func TestNothingOutsideIsSweptThroughLinks(t *testing.T) {
	s := open(t)
	victim := filepath.Join(t.TempDir(), "precious")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.WriteFile(filepath.Join(victim, "file"), nil, 0o644),
		os.WriteFile(victim+".lock", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(s.dir, "tmp")
	if err := errors.Join(os.Symlink(victim, filepath.Join(tmp, "x")), os.WriteFile(filepath.Join(tmp, "x.lock"), nil,
		0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(tmp), os.Symlink(filepath.Dir(victim), tmp)); err != nil {
		t.Fatal(err)
	}
	for _, shared := range []bool{false, true} {
		if _, err := Open(s.dir, Options{Shared: shared}); err == nil {
			t.Errorf("shared %v: a store whose tmp is a link is opened", shared)
		}
	}
	s.sweep()
	if _, err := os.Stat(filepath.Join(victim, "file")); err != nil {
		t.Error("a file outside of the store is gone:", err)
	}
}

func TestABlobThatIsALinkIsSetAside(t *testing.T) {
	s := open(t)
	d := put(t, s, "hello")
	away := filepath.Join(t.TempDir(), "away")
	if err := errors.Join(os.Rename(s.blob(d), away), os.Symlink(away, s.blob(d))); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Verify(); err != nil || len(found) != 1 || found[0].What != "is no regular file" {
		t.Errorf("verify says %v, %v", found, err)
	}
	if _, err := s.Get(d); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestABlobThatOthersMayChangeIsCopiedBeforeItIsUsed(t *testing.T) {
	s := open(t)
	d := put(t, s, "hello")
	theirs, err := os.OpenFile(s.blob(d), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := os.Chmod(s.blob(d), 0o666); err != nil {
		t.Fatal(err)
	}
	p, err := s.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := theirs.Stat()
	b, err2 := os.Stat(p)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(a, b) || b.Mode().Perm() != 0o444 {
		t.Errorf("the file that others have open is used, mode %v", b.Mode())
	}
}

func TestGCWaitsForThoseWhoUseTheStore(t *testing.T) {
	s := open(t)
	key := record(t, s, "guest")
	done, err := s.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	later, err := Open(s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{})
	ended := make(chan error)
	go func() {
		_, err := later.GC(t.Context(), GCOptions{Now: time.Now().Add(time.Hour), UnusedFor: 1,
			Waiting: func() { close(waits) }})
		ended <- err
	}()
	<-waits
	// Another build may begin meanwhile, and finds everything.
	again, err := s.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(key); err != nil {
		t.Error("gc removed what a build uses:", err)
	}
	again()
	done()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(key); !errors.Is(err, ErrMissing) {
		t.Error("gc removed nothing:", err)
	}
}

func TestAGCThatWaitsCanBeEnded(t *testing.T) {
	s := open(t)
	if _, err := s.Use(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.GC(ctx, GCOptions{Now: time.Now(), Waiting: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestKeysAreDrawnOnceAndKeptPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "store.key")
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadKey(path)
	if err != nil || again.Writer() != k.Writer() || k.Writer() == "" {
		t.Fatalf("got %v, %v; want %v", again.Writer(), err, k.Writer())
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 0600 "+path) {
		t.Errorf("a key that all can read: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("short\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Errorf("a key that is none: %v", err)
	}
}

func TestTrustedWritersAreListedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "store.trusted")
	a, b := newKey(t).Writer(), newKey(t).Writer()
	for _, w := range []Writer{a, b, a} {
		if err := Trust(path, w, "build farm"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadTrusted(path)
	if err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("# comment\n\nnonsense x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTrusted(path); err == nil || !strings.Contains(err.Error(),
		"store.trusted:3: key of a writer \"nonsense\"") {
		t.Errorf("got %v", err)
	}
}
