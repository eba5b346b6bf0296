package modsign

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/kernel/modsign/modsigntest"
)

func TestAKeyForModulesIsReadByItsOwnerAlone(t *testing.T) {
	until := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	good := modsigntest.Key(t, until)
	path := filepath.Join(t.TempDir(), "key.pem")
	for name, c := range map[string]struct {
		text []byte
		mode os.FileMode
		at   time.Time
		want string // empty is a key
	}{
		"a key":     {good, 0o600, until, ""},
		"read-only": {good, 0o400, until, ""},
		"everybody may read it": {good, 0o644, until,
			"key.pem holds a private key, and its mode 0644 lets others at it: chmod 600 " + path},
		"a group may write it": {good, 0o620, until, "mode 0620"},
		"no key":               {[]byte("hello\n"), 0o600, until, path + ": no private key in PEM form"},
		"its certificate expired": {good, 0o600, until.Add(time.Second),
			path + ": the certificate was valid until 2030-01-01T00:00:00Z"},
		"endless": {bytes.Repeat(good, 100), 0o600, until, "more than 65536 bytes"},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path, c.at)
		if c.want == "" && (err != nil || !bytes.Equal(got, good)) || c.want != "" && (err == nil ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Read(path, until); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing one: %v", err)
	}
	if _, err := Read(filepath.Dir(path), until); err == nil || !strings.Contains(err.Error(), "a folder") {
		t.Errorf("a folder: %v", err)
	}
}
