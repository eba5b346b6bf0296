package judge

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/reproduced"
)

// Signed checks the signatures over an index by a policy, and returns the names of those who count. envelope is nil
// where nobody has signed. What is refused is a *refusal.Error. Nothing in data is read before.
func Signed(data, envelope []byte, p *policy.Policy) ([]string, error) {
	if envelope == nil {
		return nil, refusal.New(refusal.Unsigned, "release", "it has no signatures%s", p.Otherwise)
	}
	e, err := dsse.Decode(envelope)
	if err != nil {
		return nil, refusal.New(refusal.Document, "release", "%v", err)
	}
	if !e.Over(index.MediaType, data) {
		return nil, refusal.New(refusal.Signature, "release", "its signatures are over other bytes")
	}
	message := dsse.PAE(e.PayloadType, e.Payload)
	var names []string
	var unknown []string
	for _, s := range e.Signatures {
		k := find(p, s.KeyID)
		if k == nil {
			unknown = append(unknown, string(s.KeyID))
			continue
		}
		if !k.Verify(message, s.Sig) {
			return nil, refusal.New(refusal.Signature, "release", "the signature of %s does not fit", k.Name)
		}
		names = append(names, k.Name)
	}
	switch {
	case len(names) == 0:
		return nil, refusal.New(refusal.UnknownKey, "release", "it is signed by %s, and the policy has none of them%s",
			strings.Join(unknown, ", "), p.Otherwise)
	case len(names) < p.Threshold:
		return nil, refusal.New(refusal.Threshold, "release", "it is signed by %s; the policy asks for %d of its keys",
			strings.Join(names, ", "), p.Threshold)
	}
	return names, nil
}

func find(p *policy.Policy, id digest.Digest) *policy.Key {
	for i := range p.Keys {
		if p.Keys[i].ID == id {
			return &p.Keys[i]
		}
	}
	return nil
}

// Sign adds a signature over an index to an envelope, which may be nil. One that the key has made already stays.
func Sign(ctx context.Context, data, envelope []byte, by keys.Signer) ([]byte, error) {
	e := &dsse.Envelope{Payload: data, PayloadType: index.MediaType}
	if envelope != nil {
		old, err := dsse.Decode(envelope)
		if err != nil {
			return nil, err
		}
		if old.Over(index.MediaType, data) { // signatures over an older release are worth nothing
			e = old
		}
	}
	message := dsse.PAE(e.PayloadType, e.Payload)
	id := by.Public().ID
	for _, s := range e.Signatures {
		if s.KeyID == id && by.Public().Verify(message, s.Sig) {
			return e.Encode()
		}
	}
	sig, err := by.Sign(ctx, message)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	e.Add(dsse.Signature{KeyID: id, Sig: sig})
	return e.Encode()
}

// Reproduced checks what others say of having reproduced a release, whose index is data, by a policy. statements is nil
// where nobody says anything. What is refused is a *refusal.Error.
func Reproduced(data []byte, x *index.Index, statements []byte, p *policy.Policy) error {
	by, err := reproduced.By(statements, data, x)
	if err != nil || p.Reproduced == nil {
		return err
	}
	for i := range x.Guests {
		g := &x.Guests[i]
		var names []string
		for _, k := range p.Reproduced.Keys {
			if slices.Contains(by[g.Manifest.Digest], k.ID) {
				names = append(names, k.Name)
			}
		}
		if len(names) < p.Reproduced.Threshold {
			return refusal.New(refusal.Reproduced, g.Label(), "the policy asks for %d of its keys to have reproduced "+
				"it, and %d have: %q", p.Reproduced.Threshold, len(names), names)
		}
	}
	return nil
}
