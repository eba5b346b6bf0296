package dsse_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"strings"
	"testing"

	library "github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/keys"
)

func sample() *dsse.Envelope {
	e := &dsse.Envelope{Payload: []byte("hello world"), PayloadType: "http://example.com/HelloWorld"}
	for _, k := range []string{"b", "a", "b"} { // the writer sorts, and takes the last of one key
		e.Add(dsse.Signature{KeyID: digest.Of([]byte(k)), Sig: []byte("signature of " + k)})
	}
	return e
}

func encode(t testing.TB, e *dsse.Envelope) []byte {
	t.Helper()
	data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPAE has the example of the specification: protocol.md, "Test Vectors".
func TestPAE(t *testing.T) {
	got := string(dsse.PAE("http://example.com/HelloWorld", []byte("hello world")))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheEnvelopeKeepsItsForm(t *testing.T) {
	data := encode(t, sample())
	golden.Check(t, "envelope.json", data)
	for n := range data {
		if _, err := dsse.Decode(data[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(data))
		}
	}
	for name, text := range map[string]string{
		"an unknown field":       strings.Replace(string(data), `"sig"`, `"cert": "", "sig"`, 1),
		"a repeated field":       strings.Replace(string(data), `"payload"`, `"payload": "", "payload"`, 1),
		"a line break in Base64": strings.Replace(string(data), `aGVsbG8`, `aGVs\nbG8`, 1),
		"bytes behind the end":   string(data) + "x",
		"another alphabet":       strings.Replace(string(data), `=`, ``, 1),
	} {
		if _, err := dsse.Decode([]byte(text)); err == nil || text == string(data) {
			t.Errorf("%s is accepted", name)
		}
	}
	for want, spoil := range map[string]func(*dsse.Envelope){
		"no payload":   func(e *dsse.Envelope) { e.Payload = nil },
		"0 signatures": func(e *dsse.Envelope) { e.Signatures = nil },
		"stands twice": func(e *dsse.Envelope) { e.Signatures[1] = e.Signatures[0] },
		"want a key":   func(e *dsse.Envelope) { e.Signatures[0].KeyID = "" },
		"1 to 1024":    func(e *dsse.Envelope) { e.Signatures[0].Sig = make([]byte, 2000) },
	} {
		e := sample()
		spoil(e)
		if _, err := e.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// verifier lets the field's own library ask one of our keys.
type verifier struct{ key keys.Public }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !v.key.Verify(data, sig) {
		return context.Canceled // any error
	}
	return nil
}
func (v verifier) KeyID() (string, error)   { return string(v.key.ID), nil }
func (v verifier) Public() crypto.PublicKey { return nil }

// TestAnotherImplementationAgrees has go-securesystemslib read and verify an envelope of two keys.
func TestAnotherImplementationAgrees(t *testing.T) {
	e := &dsse.Envelope{Payload: []byte("{}\n"), PayloadType: "application/json"}
	var all []library.Verifier
	for _, kind := range []string{keys.Ed25519, keys.ECDSA} {
		path := t.TempDir() + "/key"
		if _, err := keys.Write(path, kind, nil); err != nil {
			t.Fatal(err)
		}
		s, err := keys.Read(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := s.Sign(t.Context(), dsse.PAE(e.PayloadType, e.Payload))
		if err != nil {
			t.Fatal(err)
		}
		e.Add(dsse.Signature{KeyID: s.Public().ID, Sig: sig})
		all = append(all, verifier{s.Public()})
	}
	of, err := library.NewMultiEnvelopeVerifier(2, all...)
	if err != nil {
		t.Fatal(err)
	}
	theirs := &library.Envelope{PayloadType: e.PayloadType}
	for _, s := range e.Signatures {
		theirs.Signatures = append(theirs.Signatures, library.Signature{KeyID: string(s.KeyID), Sig: base64Of(s.Sig)})
	}
	theirs.Payload = base64Of(e.Payload)
	if got, err := of.Verify(t.Context(), theirs); err != nil || len(got) != 2 {
		t.Errorf("%d keys, %v", len(got), err)
	}
	theirs.Payload = base64Of([]byte("[]\n"))
	if _, err := of.Verify(t.Context(), theirs); err == nil {
		t.Error("other bytes are accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(`{"payload": null, "signatures": [{"keyid": ""}]}`)) // what is missing
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := dsse.Decode(data)
		if err == nil && !bytes.Equal(encode(t, e), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
