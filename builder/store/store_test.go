package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, text string) digest.Digest {
	t.Helper()
	d, n, err := s.Put("text", strings.NewReader(text), "")
	if err != nil || n != int64(len(text)) {
		t.Fatal(n, err)
	}
	return d
}

func TestWrongBytesAreNotAdded(t *testing.T) {
	s := open(t)
	want := digest.Of([]byte("wanted"))
	_, _, err := s.Put("source.deb", strings.NewReader("other"), want)
	var m *digest.Mismatch
	if !errors.As(err, &m) || m.Name != "source.deb" || m.Want != want || m.Got != digest.Of([]byte("other")) {
		t.Fatalf("got %v", err)
	}
	if u, _ := s.DU(); u.Blobs != 0 || u.Temp != 0 {
		t.Errorf("something stayed: %+v", u)
	}
}

func TestARottenBlobIsSetAsideAndMissing(t *testing.T) {
	s := open(t)
	d := put(t, s, "hello")
	p, err := s.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("hellO"), 0o644); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Verify(); err != nil || len(found) != 1 || !strings.Contains(found[0].What,
		string(digest.Of([]byte("hellO")))) {
		t.Errorf("verify says %v, %v", found, err)
	}
	_, err = s.Get(d)
	var m *digest.Mismatch
	if !errors.Is(err, ErrMissing) || !errors.As(err, &m) {
		t.Fatalf("got %v", err)
	}
	if s.Has(d) {
		t.Error("the rotten blob is still there")
	}
	put(t, s, "hello")
	if _, err := s.Get(d); err != nil {
		t.Error(err)
	}
	if r, err := s.GC(t.Context(), GCOptions{Now: time.Now()}); err != nil || r.Blobs != 1 {
		t.Errorf("gc removed %+v, %v; want the one set aside", r, err)
	}
}

func TestActionsRememberAndNoticeLoss(t *testing.T) {
	s := open(t)
	d := put(t, s, "out")
	a := &Action{Key: digest.Of([]byte("key")), Step: "kernel", Inputs: []artifact.Input{{Name: "a", Value: "1"}},
		Outputs: []Output{{"bzImage", d, 3}}}
	if err := s.PutAction(a); err != nil {
		t.Fatal(err)
	}
	if err := s.SetLast("guest", "kernel", a.Key); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Complete(a.Key); err != nil || got.Outputs[0].Digest != d {
		t.Fatal(got, err)
	}
	if l := s.Last("guest", "kernel"); l == nil || l.Inputs[0].Value != "1" {
		t.Errorf("last is %+v", l)
	}
	if err := os.Remove(s.blob(d)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(a.Key); !errors.Is(err, ErrMissing) {
		t.Errorf("an action without its output is complete: %v", err)
	}
	if found, _ := s.Verify(); len(found) != 1 || !strings.Contains(found[0].What, "bzImage") {
		t.Errorf("verify says %v", found)
	}
	if err := os.WriteFile(s.action(a.Key), []byte(`{"version": 1}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.lookup(a.Key); !errors.Is(err, ErrMissing) {
		t.Errorf("a damaged record is accepted: %v", err)
	}
}

func TestGCRemovesOldActionsAndWhatOnlyTheyMade(t *testing.T) {
	s := open(t)
	old, shared, fresh := put(t, s, "old"), put(t, s, "shared"), put(t, s, "fresh")
	now := time.Now()
	for _, a := range []*Action{
		{Key: digest.Of([]byte("1")), Inputs: []artifact.Input{}, Outputs: []Output{{"a", old, 3}, {"b", shared, 6}}},
		{Key: digest.Of([]byte("2")), Inputs: []artifact.Input{}, Outputs: []Output{{"a", fresh, 5}, {"b", shared, 6}}},
	} {
		if err := s.PutAction(a); err != nil {
			t.Fatal(err)
		}
	}
	s.Touch(digest.Of([]byte("1")), now.Add(-31*24*time.Hour))
	r, err := s.GC(t.Context(), GCOptions{Now: now, UnusedFor: 30 * 24 * time.Hour})
	if err != nil || r.Actions != 1 || r.Blobs != 1 || r.Bytes != 3 {
		t.Errorf("gc removed %+v, %v", r, err)
	}
	if s.Has(old) || !s.Has(shared) || !s.Has(fresh) {
		t.Error("gc removed the wrong blobs")
	}
}

func TestOpenSweepsWhatTheDeadLeft(t *testing.T) {
	s := open(t)
	held, remove, err := s.Temp("kernel")
	if err != nil {
		t.Fatal(err)
	}
	// What a killed process leaves: a folder and a lock file nobody holds, with a folder inside that may not be
	// written.
	dead := filepath.Join(s.dir, "tmp", "initrd-dead")
	if err := os.MkdirAll(filepath.Join(dir(t, dead), "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, "sub", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dead, "sub"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dead+".lock", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Error("the dead folder stayed")
	}
	if _, err := os.Stat(held); err != nil {
		t.Error("a folder in use was removed")
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

func dir(t *testing.T, p string) string {
	t.Helper()
	if err := os.MkdirAll(p, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOneHolderOfAKeyAtATime(t *testing.T) {
	s := open(t)
	key := digest.Of([]byte("k"))
	var mu sync.Mutex
	inside, waited := 0, make(chan struct{}, 8)
	var wg sync.WaitGroup
	var first sync.Once
	for range 8 {
		wg.Go(func() {
			unlock, err := s.Lock(key, func() { waited <- struct{}{} })
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			if inside++; inside > 1 {
				t.Error("two inside")
			}
			mu.Unlock()
			first.Do(func() { // until all others are where they could come in
				for range 7 {
					select {
					case <-waited:
					case <-time.After(10 * time.Second):
						t.Error("somebody does not wait")
					}
				}
			})
			mu.Lock()
			inside--
			mu.Unlock()
			unlock()
		})
	}
	wg.Wait()
}

func TestManyPutTheSameBytes(t *testing.T) {
	s := open(t)
	data := bytes.Repeat([]byte("x"), 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := s.Put("x", bytes.NewReader(data), digest.Of(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if u, _ := s.DU(); u.Blobs != 1 || u.Temp != 0 {
		t.Errorf("%+v", u)
	}
}

func TestANewerLayoutIsRefused(t *testing.T) {
	s := open(t)
	if err := os.WriteFile(filepath.Join(s.dir, "version"), []byte("2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var other *OtherLayout
	if _, err := Open(s.dir, Options{}); !errors.As(err, &other) || other.Layout != "2" {
		t.Errorf("got %v", err)
	}
}

// What a step left in the store's own temporary folder becomes a blob by a new name, not by a copy.
func TestAFileOfTheStoresOwnIsMovedIn(t *testing.T) {
	s := open(t)
	tmp, remove, err := s.Temp("step")
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(tmp, "out")
	if err := os.WriteFile(p, []byte("made"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PutFile(p, digest.Of([]byte("other"))); err == nil {
		t.Error("wrong bytes were moved in")
	}
	d, n, err := s.PutFile(p, "")
	if err != nil || d != digest.Of([]byte("made")) || n != 4 {
		t.Fatal(d, n, err)
	}
	blob, err := s.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(blob)
	if err != nil || !os.SameFile(before, after) || after.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v", after, err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

// A blob that this Store wrote is trusted until anybody touches it.
func TestABlobIsReadThroughOnce(t *testing.T) {
	s := open(t)
	d := put(t, s, "hello")
	stamp, err := stampOf(s.blob(d))
	if err != nil {
		t.Fatal(err)
	}
	if !s.knows(d, stamp) {
		t.Error("what was just written is not known")
	}
	if err := os.Chmod(s.blob(d), 0o600); err != nil { // moves the change time
		t.Fatal(err)
	}
	now, err := stampOf(s.blob(d))
	if err != nil || now == stamp || s.knows(d, now) {
		t.Errorf("a touched blob is still trusted: %s, %v", now, err)
	}
	if _, err := s.Get(d); err != nil || !s.knows(d, now) {
		t.Errorf("a blob that was read through again is not known: %v", err)
	}
}
