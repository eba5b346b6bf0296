package e2e

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// committed are the recipes whose locks are kept with them: x86_64's, with the tool-chain of an x86_64 host.
var committed = []string{"tiny", "minimal"}

// TestCommittedLocksFitTheirRecipes keeps them so, and without an address or a path of the machine that made them.
func TestCommittedLocksFitTheirRecipes(t *testing.T) {
	for _, name := range committed {
		l, err := inputs.ReadLock(abs(t, "recipes/"+name+"/lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range l.Inputs {
			if in.Where != "" || in.Package == nil || strings.Contains(in.Package.Filename, ":") {
				t.Errorf("%s: %s is at %s: want packages of Debian, wherever they are", name, in.Name, in.Where)
			}
		}
		c := inputs.Config{Recipe: abs(t, "recipes/"+name+"/recipe.yaml")}
		r, _, err := c.ReadRecipe()
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOARCH != "amd64" {
			continue // whose tool-chain is another one
		}
		if err := inputs.Fits(l, r, c.LockPath(r), c); err != nil {
			t.Errorf("%v: run: katabuild lock recipes/%s", err, name)
		}
	}
}

// TestALockIsFetchedFromAReleaseThatHasItsSources makes a release with the inputs of the tiny and the minimal guest,
// serves it on loopback, and has an empty store filled from there alone. Where the committed lock's inputs are no
// longer in the store, as mirrors have dropped them, it takes the lock that the guest was built with.
func TestALockIsFetchedFromAReleaseThatHasItsSources(t *testing.T) {
	need(t)
	for _, name := range committed {
		t.Run(name, func(t *testing.T) {
			from := usersStore(t)
			pinned := abs(t, "recipes/"+name+"/lock.json")
			list, err := sources(from, pinned)
			if errors.Is(err, store.ErrMissing) {
				pinned = abs(t, "out/"+name+".lock.json")
				list, err = sources(from, pinned)
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(pinned)
			if err != nil {
				t.Fatal(err)
			}
			guest, dir := filepath.Join(t.TempDir(), "guest"), filepath.Join(t.TempDir(), "release")
			if err := (releasetest.Guest{Lock: data}).Write(guest); err != nil {
				t.Fatal(err)
			}
			to, err := folder.Create(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			_, err = assemble.Release(t.Context(), assemble.Config{Version: "1.4.0", Channel: "stable",
				Guests: []assemble.Guest{{Dir: guest}}, Origin: releasetest.Origin, Claims: releasetest.Claims,
				Sources: func([]byte) ([]assemble.Source, error) { return list, nil }}, to)
			if err := errors.Join(err, to.Close()); err != nil {
				t.Fatal(err)
			}
			s := httptest.NewServer(http.FileServer(http.Dir(dir)))
			t.Cleanup(s.Close)

			env := []string{"KATABUILD_STORE=" + filepath.Join(t.TempDir(), "store"), "KATABUILD_SNAPSHOT="}
			args := []string{"recipes/" + name, "--lock", pinned, "--archive", "http://127.0.0.1:1/debian"}
			katabuild(t, env, append([]string{"plan"}, args...)...).want(t, 0, "kernel", "miss")
			katabuild(t, env, append([]string{"fetch"}, args...)...).want(t, 1, "127.0.0.1:1")
			katabuild(t, env, append([]string{"fetch", "--sources", s.URL}, args...)...).want(t, 0)
			katabuild(t, env, append([]string{"plan"}, args...)...).want(t, 0, "kernel", "miss")
			filled, err := store.Open(strings.TrimPrefix(env[0], "KATABUILD_STORE="), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			l, err := lock.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			for _, in := range l.Inputs {
				if !filled.Has(in.Digest) {
					t.Errorf("%s is not in the store", in.Name)
				}
			}
		})
	}
}

// sources are the inputs of a lock in a store.
func sources(s *store.Store, path string) ([]assemble.Source, error) {
	l, err := inputs.ReadLock(path)
	if err != nil {
		return nil, err
	}
	var out []assemble.Source
	for _, in := range l.Inputs {
		files, err := fetch.Files(s, in)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			d, n, err := digest.File(f)
			if err != nil {
				return nil, err
			}
			out = append(out, assemble.Source{Path: f, Blob: index.Blob{Digest: d, Size: n}})
		}
	}
	return out, nil
}
