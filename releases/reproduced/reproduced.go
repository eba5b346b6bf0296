// Package reproduced is the statement that somebody has built the guests of a release once more, and got the same
// bytes: an in-toto statement, version 1, in an envelope of DSSE, and the list of those that lie with a release.
//
// A statement says with which key it is signed, so that everybody can tell whether it is whole. Whether that key counts
// for anything is for a policy to say. docs/formats/reproduced.md owns the bytes.
package reproduced

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/refusal"
)

// The names that the specifications give, and ours for what is said.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://github.com/katabuild/katabuild/reproduced/v1"
	// payloadType is what a statement is called in an envelope: in-toto attestation, spec/v1/envelope.md.
	payloadType = "application/vnd.in-toto+json"
	subjectName = "index.json"
)

// Statement says which guests of a release were reproduced.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // the index of the release, alone
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is the file that a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // sha256, hexadecimal
}

// Predicate is what is said.
type Predicate struct {
	// Guests are those that were built once more with the same bytes, sorted as the index sorts them.
	Guests []Guest `json:"guests"`
	// Builder is the version of katabuild that built, and where it is known its commit.
	Builder map[string]string `json:"builder"`
	// PublicKey is the key that signs, in PEM form.
	PublicKey string `json:"publicKey"`
}

// Guest is one guest.
type Guest struct {
	Name     string        `json:"name"`
	Version  string        `json:"version"`
	Arch     string        `json:"arch"`
	Variant  string        `json:"variant,omitempty"`
	Manifest digest.Digest `json:"manifest"` // which names every file of the guest by digest
}

// Of is what a statement says of a guest of an index.
func Of(g *index.Guest) Guest {
	return Guest{Name: g.Name, Version: g.Version, Arch: g.Arch, Variant: g.Variant, Manifest: g.Manifest.Digest}
}

func compare(a, b Guest) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), index.CompareVersions(a.Version, b.Version),
		strings.Compare(a.Arch, b.Arch), strings.Compare(a.Variant, b.Variant))
}

// maxKey bounds a public key in a statement, in bytes of PEM.
const maxKey = 4 << 10

// Encode is the canonical form; it sorts the guests.
func (s *Statement) Encode() ([]byte, error) {
	slices.SortFunc(s.Predicate.Guests, compare)
	if _, err := s.check(); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	return document.Encode(s)
}

// Decode reads the canonical form and nothing else, and the key that the statement names.
func Decode(data []byte) (*Statement, keys.Public, error) {
	var s Statement
	if err := document.Decode("statement", data, &s); err != nil {
		return nil, keys.Public{}, err
	}
	key, err := s.check()
	if err != nil {
		return nil, keys.Public{}, fmt.Errorf("statement: %w", err)
	}
	return &s, key, nil
}

func (s *Statement) check() (keys.Public, error) {
	var none keys.Public
	if s.Type != statementType || s.PredicateType != predicateType {
		return none, fmt.Errorf("a %s of %s: want %s of %s", s.Type, s.PredicateType, statementType, predicateType)
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != subjectName || len(s.Subject[0].Digest) != 1 {
		return none, errors.New("want one subject, " + subjectName + ", with a digest of the kind sha256")
	}
	if _, err := digest.Parse("sha256:" + s.Subject[0].Digest["sha256"]); err != nil {
		return none, fmt.Errorf("subject %s: %w", subjectName, err)
	}
	p := &s.Predicate
	if len(p.Guests) == 0 {
		return none, errors.New("no guests")
	}
	for i, g := range p.Guests {
		if err := errors.Join(index.CheckWord("name", g.Name), index.CheckVersion(g.Version)); err != nil {
			return none, err
		}
		if g.Manifest == "" || g.Arch == "" {
			return none, fmt.Errorf("guest %q has no manifest, or no architecture", g.Name)
		}
		if i > 0 && compare(p.Guests[i-1], g) >= 0 {
			return none, fmt.Errorf("guest %q is not in order, or stands twice", g.Name)
		}
	}
	if p.Builder["katabuild"] == "" {
		return none, errors.New("no version of katabuild")
	}
	if len(p.PublicKey) > maxKey {
		return none, fmt.Errorf("a public key of %d bytes: want at most %d", len(p.PublicKey), maxKey)
	}
	key, err := keys.ParsePublic([]byte(p.PublicKey))
	if err == nil && string(key.PEM()) != p.PublicKey {
		err = errors.New("the public key is not in its one form")
	}
	return key, err
}

// Builder is the katabuild that reproduced a release. The commit may be empty.
type Builder struct{ Version, Commit string }

// Sign makes the statement that guests of the release whose index is data were reproduced, and signs it.
func Sign(ctx context.Context, data []byte, guests []Guest, b Builder, by keys.Signer) (*dsse.Envelope, error) {
	s := &Statement{Type: statementType, PredicateType: predicateType,
		Subject: []Subject{{Name: subjectName, Digest: map[string]string{"sha256": digest.Of(data).Hex()}}},
		Predicate: Predicate{Guests: guests, Builder: map[string]string{"katabuild": b.Version},
			PublicKey: string(by.Public().PEM())}}
	if b.Commit != "" {
		s.Predicate.Builder["commit"] = b.Commit
	}
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	sig, err := by.Sign(ctx, dsse.PAE(payloadType, payload))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	e := &dsse.Envelope{Payload: payload, PayloadType: payloadType}
	e.Add(dsse.Signature{KeyID: by.Public().ID, Sig: sig})
	return e, nil
}

// version is the only version of the list that this package reads and writes.
const version = 1

// Bounds of a list: bytes, and statements.
const (
	MaxSize       = 8 << 20
	maxStatements = 100
)

// List is the statements that lie with a release, one for each key.
type List struct {
	Version   int             `json:"version"`
	Envelopes []dsse.Envelope `json:"envelopes"` // sorted by key; each has one signature
}

// Encode is the canonical form.
func (l *List) Encode() ([]byte, error) {
	l.Version = version
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("list of statements: %w", err)
	}
	return document.Encode(l)
}

// DecodeList reads the canonical form and nothing else.
func DecodeList(data []byte) (*List, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("list of statements: %d bytes, more than the %d it may have", len(data), MaxSize)
	}
	var l List
	if err := document.Decode("list of statements", data, &l); err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("list of statements: %w", err)
	}
	return &l, nil
}

func (l *List) check() error {
	if l.Version != version {
		return fmt.Errorf("version %d, this katabuild reads version %d", l.Version, version)
	}
	if len(l.Envelopes) == 0 || len(l.Envelopes) > maxStatements {
		return fmt.Errorf("%d statements: want 1 to %d", len(l.Envelopes), maxStatements)
	}
	for i := range l.Envelopes {
		e := &l.Envelopes[i]
		_, err := e.Encode()
		if err == nil {
			_, err = open(e)
		}
		if err != nil {
			return err
		}
		if i > 0 && keyOf(&l.Envelopes[i-1]) >= keyOf(e) {
			return fmt.Errorf("the statement of %s is not in order, or there are two", keyOf(e))
		}
	}
	return nil
}

// keyOf is the key of an envelope that has one signature.
func keyOf(e *dsse.Envelope) digest.Digest { return e.Signatures[0].KeyID }

// open reads the statement in an envelope.
func open(e *dsse.Envelope) (*Statement, error) {
	if len(e.Signatures) != 1 || e.PayloadType != payloadType {
		return nil, fmt.Errorf("an envelope of the type %q with %d signatures: want %s, and one", e.PayloadType,
			len(e.Signatures), payloadType)
	}
	s, key, err := Decode(e.Payload)
	if err != nil {
		return nil, err
	}
	if key.ID != keyOf(e) {
		return nil, fmt.Errorf("the statement names the key %s, and %s has signed it", key.ID, keyOf(e))
	}
	return s, nil
}

// Add puts an envelope into its place. Of two of one key that which says more stays.
func (l *List) Add(e *dsse.Envelope) error {
	s, err := open(e)
	if err != nil {
		return err
	}
	at, found := slices.BinarySearchFunc(l.Envelopes, keyOf(e), func(o dsse.Envelope, k digest.Digest) int {
		return strings.Compare(string(keyOf(&o)), string(k))
	})
	if !found {
		l.Envelopes = slices.Insert(l.Envelopes, at, *e)
		return nil
	}
	old, err := open(&l.Envelopes[at])
	if err != nil {
		return err
	}
	// What is left to bytes is left to them so that no order of adding matters.
	more := cmp.Or(len(s.Predicate.Guests)-len(old.Predicate.Guests), bytes.Compare(e.Payload, l.Envelopes[at].Payload))
	if more > 0 {
		l.Envelopes[at] = *e
	}
	return nil
}

// Merge makes one list of two, each of which may be nil.
func Merge(a, b []byte) ([]byte, error) {
	if a == nil || b == nil {
		return append(bytes.Clone(a), b...), nil
	}
	to, err := DecodeList(a)
	if err != nil {
		return nil, err
	}
	from, err := DecodeList(b)
	if err != nil {
		return nil, err
	}
	for i := range from.Envelopes {
		if err := to.Add(&from.Envelopes[i]); err != nil {
			return nil, err
		}
	}
	return to.Encode()
}

// About says whether all statements of a list, which may be nil, are about the release whose index is data.
func About(list, data []byte) bool {
	_, err := By(list, data, nil)
	return err == nil
}

// By is who has reproduced which guest of a release: the keys whose statements say so, by the digest of the guest's
// manifest, each sorted. data is the release's index, list may be nil. A statement that is about another release, or
// whose signature does not fit, is a *refusal.Error.
func By(list, data []byte, x *index.Index) (map[digest.Digest][]digest.Digest, error) {
	by := map[digest.Digest][]digest.Digest{}
	if list == nil {
		return by, nil
	}
	l, err := DecodeList(list)
	if err != nil {
		return nil, refusal.New(refusal.Document, "release", "%v", err)
	}
	for i := range l.Envelopes {
		e := &l.Envelopes[i]
		s, key, err := Decode(e.Payload)
		if err != nil {
			return nil, refusal.New(refusal.Document, "release", "%v", err)
		}
		what := "statement of " + string(key.ID)
		if got := s.Subject[0].Digest["sha256"]; got != digest.Of(data).Hex() {
			return nil, refusal.New(refusal.Statement, what, "it is about the release sha256:%s, and this one is %s",
				got, digest.Of(data))
		}
		if !key.Verify(dsse.PAE(e.PayloadType, e.Payload), e.Signatures[0].Sig) {
			return nil, refusal.New(refusal.Signature, what, "its signature does not fit")
		}
		for _, g := range s.Predicate.Guests {
			if x != nil && !slices.ContainsFunc(x.Guests, func(o index.Guest) bool { return Of(&o) == g }) {
				return nil, refusal.New(refusal.Statement, what, "the release has no guest %s %s %s with the manifest "+
					"%s", g.Name, g.Version, g.Arch, g.Manifest)
			}
			by[g.Manifest] = append(by[g.Manifest], key.ID)
		}
	}
	for d := range by {
		slices.Sort(by[d])
		by[d] = slices.Compact(by[d])
	}
	return by, nil
}
