package provenance_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/releases/provenance"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
)

var of = digest.Of([]byte("manifest"))

func statement(t testing.TB) *provenance.Statement {
	t.Helper()
	return provenance.Of(documenttest.Manifest(), of, releasetest.Options())
}

func encode(t testing.TB, s *provenance.Statement) []byte {
	t.Helper()
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheStatementKeepsItsForm(t *testing.T) {
	data := encode(t, statement(t))
	golden.Check(t, "provenance.json", data)
	for n := range data {
		if _, err := provenance.Decode(data[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(data))
		}
	}
	for name, text := range map[string]string{
		"an unknown field":  strings.Replace(string(data), `"subject"`, `"extra": 1, "subject"`, 1),
		"a repeated field":  strings.Replace(string(data), `"name": "lock"`, `"name": "lock", "name": "lock"`, 1),
		"other white space": strings.Replace(string(data), `"_type": `, `"_type":`, 1),
		"bytes behind it":   string(data) + "x",
	} {
		if _, err := provenance.Decode([]byte(text)); err == nil || text == string(data) {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestAStatementThatMakesNoSenseIsRefused(t *testing.T) {
	for want, spoil := range map[string]func(*provenance.Statement){
		"want https://in-toto.io":       func(s *provenance.Statement) { s.Type = "https://in-toto.io/Statement/v0.1" },
		"no subject":                    func(s *provenance.Statement) { s.Subject = nil },
		"stands twice":                  func(s *provenance.Statement) { s.Subject[0] = s.Subject[1] },
		"first dependency":              func(s *provenance.Statement) { deps(s)[0].Name = "look" },
		"want a URI":                    func(s *provenance.Statement) { s.Predicate.RunDetails.Builder.ID = "me" },
		"no version of katabuild":       func(s *provenance.Statement) { s.Predicate.RunDetails.Builder.Version = nil },
		"want one of sha256, katabuild": func(s *provenance.Statement) { deps(s)[1].Digest = nil },
		`"": digest`:                    func(s *provenance.Statement) { deps(s)[1].Name = "" },
	} {
		s := statement(t)
		spoil(s)
		if _, err := s.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func deps(s *provenance.Statement) []provenance.Dependency {
	return s.Predicate.BuildDefinition.ResolvedDependencies
}

func TestAStatementAboutAnotherGuestIsRefused(t *testing.T) {
	for name, change := range map[string]func(*manifest.Manifest){
		"":              func(*manifest.Manifest) {},
		"not the files": func(m *manifest.Manifest) { m.Kernel.Image.Digest = of },
		"recipe":        func(m *manifest.Manifest) { m.Recipe = of },
		"for x86_64":    func(m *manifest.Manifest) { m.Arch = "aarch64" },
		"lock":          func(m *manifest.Manifest) { m.Lock = of },
	} {
		m := documenttest.Manifest()
		change(m)
		err := statement(t).About("x", m, of)
		r, refused := errors.AsType[*refusal.Error](err)
		if (name == "") != (err == nil) || err != nil && (!refused || r.Reason != refusal.Provenance ||
			!strings.Contains(r.Detail, name)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if statement(t).About("x", documenttest.Manifest(), digest.Of(nil)) == nil {
		t.Error("a statement about another manifest is accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, statement(f)))
	f.Add([]byte(`{"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": null}]}`)) // no digest
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := provenance.Decode(data)
		if err == nil && !bytes.Equal(encode(t, s), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}
