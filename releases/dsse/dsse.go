// Package dsse is the envelope of signatures over a document: DSSE, version 1, by the specification alone.
//
// The envelope is written in one form (internal/document), and only that form is read, so that a signed release has
// one set of bytes. That is why the field's own Go library is not used here: it takes two alphabets of Base64 and keys
// that no signature names. Its verifier agrees with this package in a test. Specification:
// github.com/secure-systems-lab/dsse, protocol.md and envelope.md, version 1.0.2.
package dsse

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Envelope is a document and who has signed it.
type Envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []Signature `json:"signatures"` // sorted by key
}

// Signature is one over PAE of the payload.
type Signature struct {
	KeyID digest.Digest `json:"keyid"` // as package keys has it
	Sig   []byte        `json:"sig"`
}

// maxSignatures and maxSig bound what is read: how many, and bytes of each.
const (
	maxSignatures = 100
	maxSig        = 1024
)

// PAE are the bytes that a signature is over: protocol.md, "Signature Definition".
func PAE(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// Add puts a signature into its place, and takes the key's old one away.
func (e *Envelope) Add(s Signature) {
	e.Signatures = slices.DeleteFunc(e.Signatures, func(o Signature) bool { return o.KeyID == s.KeyID })
	e.Signatures = append(e.Signatures, s)
	slices.SortFunc(e.Signatures, func(a, b Signature) int { return strings.Compare(string(a.KeyID), string(b.KeyID)) })
}

// Encode is the canonical form.
func (e *Envelope) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return document.Encode(e)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Envelope, error) {
	var e Envelope
	if err := document.Decode("envelope", data, &e); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return &e, nil
}

func (e *Envelope) check() error {
	if e.PayloadType == "" || len(e.Payload) == 0 {
		return errors.New("no payload, or no type of it")
	}
	if len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures {
		return fmt.Errorf("%d signatures: want 1 to %d", len(e.Signatures), maxSignatures)
	}
	for i, s := range e.Signatures {
		if s.KeyID == "" || len(s.Sig) == 0 || len(s.Sig) > maxSig {
			return fmt.Errorf("signature of %q with %d bytes: want a key, and 1 to %d", s.KeyID, len(s.Sig), maxSig)
		}
		if i > 0 && e.Signatures[i-1].KeyID >= s.KeyID {
			return fmt.Errorf("signature of %s is not in order, or stands twice", s.KeyID)
		}
	}
	return nil
}

// Over says whether the envelope is over these bytes of this type.
func (e *Envelope) Over(payloadType string, payload []byte) bool {
	return e.PayloadType == payloadType && bytes.Equal(e.Payload, payload)
}
