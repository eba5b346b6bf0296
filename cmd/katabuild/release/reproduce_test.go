package release

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// host is one whose own key has signed what mine makes.
func host(t *testing.T, out *bytes.Buffer) *Host {
	t.Helper()
	state := t.TempDir()
	own := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	return &Host{Out: out, Err: out, Version: "1.0.0",
		HostKey: func() (crypto.Signer, error) { return own, nil },
		Getenv:  func(string) string { return state },
		Registries: func(*pflag.FlagSet) func() (registry.Access, error) {
			return func() (registry.Access, error) { return registry.Access{}, nil }
		}}
}

// mine is a release that the host itself has signed.
func mine(t *testing.T, h *Host, guests ...releasetest.Guest) string {
	t.Helper()
	return version(t, h, "1.4.0", guests...)
}

// version is mine of a version.
func version(t *testing.T, h *Host, of string, guests ...releasetest.Guest) string {
	t.Helper()
	dir, _ := releasetest.Release(t, of, guests...)
	own, err := h.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	by, err := keys.FromPrivate(own)
	if err != nil {
		t.Fatal(err)
	}
	f, err := folder.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	head, err := f.Index(t.Context())
	if err == nil {
		head.Envelope, err = judge.Sign(t.Context(), head.Index, nil, by)
	}
	if err == nil {
		err = f.Finish(t.Context(), head)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// flags reads flags as a user gives them.
func flags(t *testing.T, args ...string) AgainFlags {
	t.Helper()
	var f AgainFlags
	fl := pflag.NewFlagSet("verify", pflag.ContinueOnError)
	f.Add(fl)
	if err := fl.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAReleaseIsBuiltOnceMoreOfWhatItHas(t *testing.T) {
	var out bytes.Buffer
	h := host(t, &out)
	key := filepath.Join(t.TempDir(), "key")
	if _, err := keys.Write(key, keys.Ed25519, nil); err != nil {
		t.Fatal(err)
	}
	recipe, pinned := []byte("a recipe"), []byte("a lock")
	dir := mine(t, h, releasetest.Guest{Recipe: recipe, Lock: pinned},
		releasetest.Guest{Name: "disk", Mark: " of disk", Disk: true, Recipe: recipe})
	built := 0
	again := Again{Flags: flags(t, "--key", key, "--guest", "sample"),
		Build: func(_ context.Context, g *index.Guest, dir, of, lock string) error {
			built++
			a, err1 := os.ReadFile(of)
			b, err2 := os.ReadFile(lock)
			m, _, err3 := manifest.Read(dir, "")
			if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(a, recipe) || !bytes.Equal(b, pinned) ||
				m.Name != g.Name {
				t.Errorf("%s: %q, %q, %v", g.Label(), a, b, err)
			}
			return nil
		}}
	if err := h.Reproduce(t.Context(), dir, again, registry.Access{}); err != nil || built != 1 {
		t.Fatalf("%d built, %v", built, err)
	}
	if !strings.Contains(out.String(), "1 guests reproduced, signed with sha256:") {
		t.Errorf("it said %s", &out)
	}
	// The same in a registry, by another key.
	at := "oci:" + registrytest.Serve(t, nil) + "/guests:stable"
	move(t, dir, at)
	other := filepath.Join(t.TempDir(), "key")
	if _, err := keys.Write(other, keys.ECDSA, nil); err != nil {
		t.Fatal(err)
	}
	again.Flags = flags(t, "--key", other, "--guest", "sample-1.4.0-x86_64")
	if err := h.Reproduce(t.Context(), at, again, registry.Access{}); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	list := h.Commands()[1]
	list.SetArgs([]string{at})
	if err := list.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "by 2 keys") {
		t.Errorf("%s, %v", &out, err)
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	a, err := place.Open(t.Context(), from, registry.Access{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := place.Create(t.Context(), to, registry.Access{})
	if err == nil {
		_, err = place.Copy(t.Context(), a, b, place.Options{})
		err = errors.Join(err, b.Close())
	}
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestWhatDiffersIsNotStated(t *testing.T) {
	var out bytes.Buffer
	h := host(t, &out)
	key := filepath.Join(t.TempDir(), "key")
	if _, err := keys.Write(key, keys.Ed25519, nil); err != nil {
		t.Fatal(err)
	}
	dir := mine(t, h, releasetest.Guest{Recipe: []byte("recipe")}, releasetest.Guest{Name: "bare", Mark: " bare"})
	differs := errors.New("it differs")
	again := Again{Flags: flags(t, "--key", key, "--guest", "sample"),
		Build: func(context.Context, *index.Guest, string, string, string) error { return differs }}
	if err := h.Reproduce(t.Context(), dir, again, registry.Access{}); !errors.Is(err, differs) {
		t.Errorf("got %v", err)
	}
	again.Build = func(context.Context, *index.Guest, string, string, string) error { return nil }
	for name, want := range map[string]string{"bare": "does not have its recipe", "none": "has no guest none"} {
		again.Flags = flags(t, "--key", key, "--guest", name)
		if err := h.Reproduce(t.Context(), dir, again, registry.Access{}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	again.Flags = flags(t, "--key", key)
	if err := h.Reproduce(t.Context(), "bundle:"+dir+".tar", again, registry.Access{}); err == nil ||
		!strings.Contains(err.Error(), "in a folder or a registry") {
		t.Errorf("in a bundle: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, folder.ReproducedName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a statement: %v", err)
	}
}
