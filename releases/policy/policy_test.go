package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/refusal"
)

// alice and bob are public keys that openssl made.
const (
	alice = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`
	bob = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
`
)

func indent(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n      ") }

func text() string {
	return "version: 1\nthreshold: 2\nchannels: [stable, testing]\nlowest_version: 1.4.0\nkeys:\n" +
		"  - name: alice\n    public_key: |\n      " + indent(alice) + "\n" +
		"  - name: bob\n    public_key: |\n      " + indent(bob) + "\n"
}

func TestAPolicyMayAskForOthersToReproduce(t *testing.T) {
	of := text() + "reproduced:\n  threshold: 1\n  keys:\n    - name: bob\n      public_key: |\n        " +
		strings.ReplaceAll(strings.TrimSpace(bob), "\n", "\n        ") + "\n"
	p, err := policy.Parse([]byte(of))
	if err != nil || p.Reproduced == nil || p.Reproduced.Threshold != 1 || p.Reproduced.Keys[0].Name != "bob" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, c := range []struct{ old, by, want string }{
		{"  threshold: 1", "  threshold: 2", "reproduced: threshold 2 of 1 keys"},
		{"  threshold: 1", "  threshold: 0", "reproduced: threshold 0 of 1 keys"},
		{"    - name: bob", "    - name: ''", `reproduced: key "" has no name`},
		{"  threshold: 1", "  treshold: 1", "unknown field"},
	} {
		if _, err := policy.Parse([]byte(strings.Replace(of, c.old, c.by, 1))); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestAPolicyIsReadStrictly(t *testing.T) {
	p, err := policy.Parse([]byte(text()))
	if err != nil {
		t.Fatal(err)
	}
	if p.Threshold != 2 || len(p.Keys) != 2 || p.Keys[1].Name != "bob" || p.Lowest != "1.4.0" || len(p.Channels) != 2 {
		t.Errorf("%+v", p)
	}
	for _, c := range []struct{ old, by, want string }{
		{"version: 1", "version: 2", "this katabuild reads version 1"},
		{"threshold: 2", "threshold: 3", "threshold 3 of 2 keys"},
		{"threshold: 2", "threshold: 0", "threshold 0 of 2 keys"},
		{"threshold: 2\n", "", "threshold 0 of 2 keys"},
		{"threshold: 2", "treshold: 2", "unknown field"},
		{"threshold: 2", "threshold: 2\nthreshold: 1", "already defined"},
		{"channels: [stable, testing]", "channels: []", "no channels"},
		{"channels: [stable, testing]", "channels: ['*']", `channel "*"`},
		{"lowest_version: 1.4.0", "lowest_version: 1.4", `version "1.4"`},
		{"name: bob", "name: ''", `key "" has no name`},
		{indent(bob), indent(alice), `or is the key "alice" once more`},
		{"BEGIN PUBLIC KEY", "BEGIN CERTIFICATE", "PEM"},
		{text(), text() + "extra: 1\n", "unknown field"},
		{text(), "", "version 0|EOF"},
	} {
		_, err := policy.Parse([]byte(strings.Replace(text(), c.old, c.by, 1)))
		found := false
		for w := range strings.SplitSeq(c.want, "|") {
			found = found || err != nil && strings.Contains(err.Error(), w)
		}
		if !found {
			t.Errorf("%q for %q: got %v, want %s", c.by, c.old, err, c.want)
		}
	}
}

func TestAPolicyInJSONIsReadToo(t *testing.T) {
	p, err := policy.Parse([]byte(`{"version": 1, "threshold": 1, "channels": ["stable"],
 "keys": [{"name": "alice", "public_key": "` + strings.ReplaceAll(alice, "\n", `\n`) + `"}]}`))
	if err != nil || len(p.Keys) != 1 {
		t.Error(p, err)
	}
}

func TestAPolicyThatOthersCouldHaveWrittenIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(path, []byte(text()), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.Read(path); err != nil {
		t.Fatal(err)
	}
	check := func(name, want string) {
		t.Helper()
		_, err := policy.Read(path)
		if r, ok := errors.AsType[*refusal.Error](err); !ok || r.Reason != refusal.Policy ||
			!strings.Contains(r.Detail, want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, mode := range []os.FileMode{0o666, 0o664} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		check("others may write", "other users may write to it")
	}
	if err := errors.Join(os.Chmod(path, 0o644), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	check("its folder is everybody's", "other users may write to it")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("another user's", func(t *testing.T) {
		testenv.Require(t, testenv.Root)
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		check("another user's", "belongs to user 65534")
	})
}

func TestChannelAndLowestVersion(t *testing.T) {
	p, err := policy.Parse([]byte(text()))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		channel, version string
		want             refusal.Reason
	}{
		{"stable", "1.4.0", ""},
		{"testing", "1.10.0", ""},
		{"nightly", "1.10.0", refusal.Channel},
		{"stable", "1.3.9", refusal.Lowest},
		{"stable", "1.4.0-rc.1", refusal.Lowest},
	} {
		err := p.Allows(&index.Index{Channel: c.channel, Guests: []index.Guest{{Name: "g", Version: "2.0.0"},
			{Name: "h", Version: c.version}}})
		r, _ := errors.AsType[*refusal.Error](err)
		if (err == nil) != (c.want == "") || r != nil && r.Reason != c.want {
			t.Errorf("%s %s: got %v", c.channel, c.version, err)
		}
	}
	k, err := keys.ParsePublic([]byte(alice))
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.Own(k).Allows(&index.Index{Channel: "any"}); err != nil {
		t.Errorf("a host's own release: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text()))
	f.Add([]byte("keys: &a [*a]")) // a list that holds itself
	f.Add([]byte("version: 1\nchannels: [stable]\nroles: {root: root.json, metadata: roles}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := policy.Parse(data); err == nil && p.Roles == nil &&
			(p.Threshold < 1 || p.Threshold > len(p.Keys)) {
			t.Errorf("threshold %d of %d", p.Threshold, len(p.Keys))
		}
	})
}
