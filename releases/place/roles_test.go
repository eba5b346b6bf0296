package place_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/roles"
)

// metadata is a folder with metadata of roles, all of whom are one key.
func metadata(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	by := signer(t)
	r, err := ceremony.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	p := ceremony.Party{Keys: []ceremony.Named{{Name: "one", Public: by.Public()}}}
	err = r.Init(map[string]ceremony.Party{roles.Root: p, roles.Targets: p, roles.Snapshot: p, roles.Timestamp: p},
		ceremony.When{Now: time.Now()})
	if err == nil {
		_, err = r.Sign(t.Context(), by)
	}
	if err == nil {
		_, err = r.Refresh(t.Context(), time.Now(), nil, by)
	}
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func collect(t testing.TB, name string) (*roles.Set, error) {
	t.Helper()
	from, err := place.OpenRoles(t.Context(), name, registry.Access{})
	if err != nil {
		return nil, err
	}
	s, err := roles.Collect(t.Context(), from)
	return s, errors.Join(err, from.Close())
}

func TestMetadataIsTheSameInEveryPlace(t *testing.T) {
	dir := metadata(t)
	s, err := collect(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(web.Close)
	other := filepath.Join(t.TempDir(), "new")
	tag := "oci:" + library(t, true) + "/roles/guests:roles"
	for _, to := range []string{other, tag, tag} {
		if err := place.PublishRoles(t.Context(), s, to, registry.Access{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{web.URL, other, "dir:" + other, tag} {
		got, err := collect(t, name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		data, err := got.Encode()
		if err != nil || string(data) != string(want) {
			t.Errorf("%s: other metadata, %v", name, err)
		}
		if _, err := got.File(t.Context(), "9.root.json", 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"bundle:x", "http://localhost/x"} {
		if err := place.PublishRoles(t.Context(), s, name, registry.Access{}); err == nil {
			t.Errorf("%s: it was published there", name)
		}
	}
}

func TestMetadataFromAServerThatLiesIsRefused(t *testing.T) {
	dir := metadata(t)
	elsewhere := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   refusal.Reason
	}{
		"another server": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		}, refusal.Redirect},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			for range 1 << 10 {
				if _, err := w.Write(make([]byte, 4<<10)); err != nil {
					return
				}
			}
		}, refusal.Size},
	} {
		s := httptest.NewServer(http.HandlerFunc(c.answer))
		_, err := collect(t, s.URL)
		s.Close()
		if r, ok := errors.AsType[*refusal.Error](err); !ok || r.Reason != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "timestamp.json"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := collect(t, dir)
	refused(t, err, refusal.Size)
}

func TestARegistryWithSomethingElseHasNoMetadata(t *testing.T) {
	at := "oci:" + library(t, true) + "/roles/guests:stable"
	mustCopy(t, signed(t), at)
	_, err := collect(t, at)
	refused(t, err, refusal.MediaType)
	lies := lying(t, metadataIn(t), func(path string, _ *http.Response, body []byte) []byte {
		if strings.Contains(path, "/blobs/") {
			return []byte(strings.Replace(string(body), "timestamp", "timestimp", 1))
		}
		return body
	})
	_, err = collect(t, "oci:"+lies+"/roles/guests:roles")
	refused(t, err, refusal.Digest)
}

// metadataIn is a registry with metadata.
func metadataIn(t testing.TB) string {
	t.Helper()
	s, err := collect(t, metadata(t))
	if err != nil {
		t.Fatal(err)
	}
	at := library(t, true)
	if err := place.PublishRoles(t.Context(), s, "oci:"+at+"/roles/guests:roles", registry.Access{}); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestABundleBringsMetadataAlong(t *testing.T) {
	dir := signed(t)
	s, err := collect(t, metadata(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	bundle := "bundle:" + filepath.Join(t.TempDir(), "b.tar")
	if _, err := copyTo(t, dir, bundle, place.Options{Roles: set}); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	mustCopy(t, bundle, back)
	web := httptest.NewServer(http.FileServer(http.Dir(back)))
	t.Cleanup(web.Close)
	for _, name := range []string{bundle, back, web.URL} {
		from, err := place.Open(t.Context(), name, registry.Access{})
		if err != nil {
			t.Fatal(err)
		}
		head, err := from.Index(t.Context())
		if err = errors.Join(err, from.Close()); err != nil || string(head.Roles) != string(set) {
			t.Errorf("%s: other metadata, %v", name, err)
			continue
		}
		m, err := place.RolesOf(head, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.File(t.Context(), "timestamp.json", 1<<20); err != nil {
			t.Error(err)
		}
	}
	// The next copy into the folder takes it away, as it does signatures.
	mustCopy(t, dir, back)
	if _, err := os.Stat(filepath.Join(back, "roles.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it stayed: %v", err)
	}
}
