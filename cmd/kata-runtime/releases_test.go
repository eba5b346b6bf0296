package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/roles"
)

// offering is a web server with metadata of roles that offer releases, and a policy that trusts them.
func offering(t *testing.T, versions ...string) (policy string) {
	t.Helper()
	dir, served := t.TempDir(), t.TempDir()
	fine := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "key")
	_, err := keys.Write(file, keys.Ed25519, nil)
	fine(err)
	key, err := keys.Read(file, nil)
	fine(err)
	us := ceremony.Party{Keys: []ceremony.Named{{Name: "us", Public: key.Public()}}}
	when := ceremony.When{Now: time.Now()}
	c, err := ceremony.Create(t.Context(), served)
	fine(err)
	fine(c.Init(map[string]ceremony.Party{roles.Root: us, roles.Targets: us, roles.Snapshot: us, roles.Timestamp: us},
		when))
	for _, v := range versions {
		_, data := releasetest.Release(t, v, releasetest.Guest{})
		_, _, err := c.Add(data, when)
		fine(err)
	}
	_, err = c.Sign(t.Context(), key)
	fine(err)
	_, err = c.Refresh(t.Context(), when.Now, nil, key)
	fine(err)
	fine(c.Close())
	root, err := os.ReadFile(filepath.Join(served, "1.root.json"))
	fine(err)
	fine(os.WriteFile(filepath.Join(dir, "root.json"), root, 0o600))
	web := httptest.NewServer(http.FileServer(http.Dir(served)))
	t.Cleanup(web.Close)
	policy = filepath.Join(dir, "policy.yaml")
	fine(os.WriteFile(policy, []byte("version: 1\nroles:\n  root: root.json\n  metadata: "+web.URL+
		"\nchannels: [stable]\nlowest_version: 1.0.0\n"), 0o600))
	return policy
}

func TestReleasesAreAskedFor(t *testing.T) {
	policy := offering(t, "0.9.0", "1.0.0", "1.2.0")
	defer func(was string) { version = was }(version)
	ask := func(is string, flags ...string) string {
		t.Helper()
		version = is
		var out bytes.Buffer
		a := &app{out: &out, err: &out, getenv: func(string) string { return "" }}
		c := a.root()
		c.SetArgs(append([]string{"check", "--policy", policy}, flags...))
		if err := c.Execute(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for is, want := range map[string]string{
		"1.0.0": "kata-runtime 1.0.0: channel stable offers 1.2.0\n",
		"1.2.0": "kata-runtime 1.2.0: no newer release is offered\n",
		"2.0.0": "kata-runtime 2.0.0: no newer release is offered\n",
		"dev":   "kata-runtime dev: channel stable offers 1.2.0\n",
	} {
		if got := ask(is, "--check-version-only"); got != want {
			t.Errorf("%s: got %q", is, got)
		}
	}
	list := ask("1.0.0", "--only-list-releases")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 ||
		!strings.HasPrefix(lines[1], "stable   1.2.0    targets  sha256:") ||
		!strings.HasSuffix(lines[2], "  this kata-runtime's") {
		t.Errorf("got\n%s", list)
	}
	if list := ask("1.0.0", "--only-list-releases", "--include-all-releases"); !strings.Contains(list, "0.9.0") {
		t.Errorf("got\n%s", list)
	}
	if said := ask("1.0.0", "--check-version-only", "--json"); !strings.Contains(said, `"version": "1.0.0"`) ||
		!strings.Contains(said, `"version": "1.2.0"`) || strings.Contains(said, `"releases"`) {
		t.Errorf("got %s", said)
	}
}
