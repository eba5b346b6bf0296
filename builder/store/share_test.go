package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// foreign is a record that a key has signed, whatever it says.
func foreign(t *testing.T, k Key, a Action) []byte {
	t.Helper()
	a.Version, a.Writer = actionVersion, k.Writer()
	if a.Inputs == nil {
		a.Inputs = []artifact.Input{}
	}
	data, err := a.sealedBytes()
	if err != nil {
		t.Fatal(err)
	}
	a.Seal = k.seal(recordKind, data)
	if data, err = document.Encode(a); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRecordsFromElsewhereCountByTheirWriter(t *testing.T) {
	var keys [3]Key
	for i := range keys {
		var err error
		if keys[i], err = drawKey(); err != nil {
			t.Fatal(err)
		}
	}
	mine, friend, stranger := keys[0], keys[1], keys[2]
	s, err := Open(t.TempDir()+"/store", Options{Key: mine, Trusted: []Writer{friend.Writer()}})
	if err != nil {
		t.Fatal(err)
	}
	key, other := digest.Of([]byte("key")), digest.Of([]byte("other"))
	whole := Action{Key: key, Step: "kernel", Outputs: []Output{{Name: "vmlinux", Digest: key, Size: 3}}}
	named := func(names ...string) Action {
		a := whole
		a.Outputs = nil
		for _, n := range names {
			a.Outputs = append(a.Outputs, Output{Name: n, Digest: key, Size: 3})
		}
		return a
	}
	for name, c := range map[string]struct {
		key  digest.Digest
		data []byte
		want string // of the error; empty for none
	}{
		"mine":                      {key, foreign(t, mine, whole), ""},
		"a friend's":                {key, foreign(t, friend, whole), ""},
		"a stranger's":              {key, foreign(t, stranger, whole), "which is not trusted"},
		"a friend's of another key": {other, foreign(t, friend, whole), "its record is damaged"},
		"a changed one": {key, []byte(strings.Replace(string(foreign(t, friend, whole)), "vmlinux", "vmlinuz", 1)),
			"its signature is wrong"},
		"a name that leads out": {key, foreign(t, friend, named("../vmlinux")), "want the name of a file"},
		"an absolute name":      {key, foreign(t, friend, named("/etc/passwd")), "want the name of a file"},
		"the folder itself":     {key, foreign(t, friend, named("..")), "want the name of a file"},
		"the same name twice":   {key, foreign(t, friend, named("a", "a")), "stands there twice"},
		"nothing":               {key, nil, "its record is damaged"},
		"too much":              {key, make([]byte, MaxRecord+1), "want at most"},
	} {
		_, err := s.Believe(c.key, c.data)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrMissing) ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if _, err := s.Accept(c.key, c.data); (err == nil) != (c.want == "") {
			t.Errorf("%s: accepted %v", name, err)
		}
	}
	got, err := s.Signed(key)
	if err != nil || got.Action.Step != "kernel" {
		t.Errorf("%v %v", got, err)
	}
	if keys, err := s.Keys(); err != nil || len(keys) != 1 || keys[0] != key {
		t.Errorf("%v %v", keys, err)
	}
	if w := s.Writers(); len(w) != 2 || w[0] != mine.Writer() || w[1] != friend.Writer() {
		t.Errorf("%v", w)
	}
	// Where nobody signs, nobody from elsewhere is believed.
	open, err := Open(t.TempDir()+"/store", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Believe(key, foreign(t, mine, whole)); !errors.Is(err, ErrSignsNothing) || open.Writers() != nil {
		t.Error(err)
	}
}
