package reproduced_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/reproduced"
)

var release = []byte("an index\n")

// signer is a key that is the same each time.
func signer(t testing.TB, seed byte) keys.Signer {
	t.Helper()
	s, err := keys.FromPrivate(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// guests are so many.
func guests(n int) (out []reproduced.Guest) {
	for _, name := range []string{"tiny", "default", "debug"}[:n] { // the writer sorts
		out = append(out, reproduced.Guest{Name: name, Version: "1.4.0", Arch: "x86_64",
			Manifest: digest.Of([]byte(name))})
	}
	return out
}

func envelope(t testing.TB, n int, seed byte) *dsse.Envelope {
	t.Helper()
	e, err := reproduced.Sign(t.Context(), release, guests(n), reproduced.Builder{Version: "1.0.0", Commit: "c0ffee"},
		signer(t, seed))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func encode(t testing.TB, all ...*dsse.Envelope) []byte {
	t.Helper()
	var l reproduced.List
	for _, e := range all {
		if err := l.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	data, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheDocumentsKeepTheirForm(t *testing.T) {
	payload := envelope(t, 2, 1).Payload
	golden.Check(t, "statement.json", payload)
	for n := range payload {
		if _, _, err := reproduced.Decode(payload[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(payload))
		}
	}
	list := encode(t, envelope(t, 2, 2), envelope(t, 1, 1))
	golden.Check(t, "reproduced.json", list)
	documenttest.Strict(t, list, func(b []byte) error { _, err := reproduced.DecodeList(b); return err })
}

func TestAStatementThatMakesNoSenseIsRefused(t *testing.T) {
	payload := string(envelope(t, 2, 1).Payload)
	for _, c := range []struct{ old, by, want string }{
		{"reproduced/v1", "reproduced/v2", "want https://in-toto.io"},
		{"Statement/v1", "Statement/v0.1", "want https://in-toto.io"},
		{`"index.json"`, `"index"`, "want one subject"},
		{"sha256\"", "sha512\"", "subject index.json"},
		{`"default"`, `"tiny"`, "is not in order, or stands twice"},
		{`"default"`, `"a/b"`, `name "a/b"`},
		{`"1.4.0"`, `"1.4"`, "MAJOR.MINOR.PATCH"},
		{`"katabuild": "1.0.0"`, `"katabuild": ""`, "no version of katabuild"},
		{"PUBLIC KEY", "PRIVATE KEY", "public key"},
		{"publicKey\": \"", "publicKey\": \" ", "public key"},
		{`"katabuild"`, `"extra": "a", "katabuild"`, "canonical"},
	} {
		if _, _, err := reproduced.Decode([]byte(strings.Replace(payload, c.old, c.by, 1))); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.by, err, c.want)
		}
	}
	for want, spoil := range map[string]func(*dsse.Envelope){
		"has signed it":     func(e *dsse.Envelope) { e.Signatures[0].KeyID = signer(t, 2).Public().ID },
		"with 2 signatures": func(e *dsse.Envelope) { e.Add(dsse.Signature{KeyID: digest.Of(nil), Sig: []byte("x")}) },
		"an envelope of":    func(e *dsse.Envelope) { e.PayloadType = "text/plain" },
	} {
		e := envelope(t, 1, 1)
		spoil(e)
		var l reproduced.List
		if err := l.Add(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAKeyCountsOnce(t *testing.T) {
	one, more, other := envelope(t, 1, 1), envelope(t, 2, 1), envelope(t, 1, 2)
	want := encode(t, more, other)
	for _, order := range [][]*dsse.Envelope{{one, more, other}, {other, more, one}, {more, one, other}} {
		if !bytes.Equal(encode(t, order...), want) {
			t.Error("the order in which statements come matters")
		}
	}
	merged, err := reproduced.Merge(encode(t, one), want)
	if err != nil || !bytes.Equal(merged, want) {
		t.Errorf("merged: %s, %v", merged, err)
	}
	by, err := reproduced.By(want, release, nil)
	if err != nil {
		t.Fatal(err)
	}
	both := []digest.Digest{signer(t, 1).Public().ID, signer(t, 2).Public().ID}
	slices.Sort(both)
	if !slices.Equal(by[digest.Of([]byte("tiny"))], both) || len(by[digest.Of([]byte("default"))]) != 1 {
		t.Errorf("%v", by)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(envelope(f, 2, 1).Payload)
	f.Add([]byte(`{"subject": [{"digest": null}], "predicate": {"guests": null}}`)) // lists that are null
	f.Fuzz(func(t *testing.T, data []byte) {
		s, _, err := reproduced.Decode(data)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted bytes that are not written again: %v", err)
		}
	})
}

func FuzzDecodeList(f *testing.F) {
	f.Add(encode(f, envelope(f, 1, 1), envelope(f, 1, 2)))
	f.Add([]byte(`{"version": 1, "envelopes": [{"signatures": []}]}`)) // an envelope without a signature
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := reproduced.DecodeList(data)
		if err != nil {
			return
		}
		if again, err := l.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted bytes that are not written again: %v", err)
		}
	})
}
