// Package keys signs and checks signatures: Ed25519, and ECDSA with the curve P-256 over SHA-256.
//
// Private keys lie in files (PKCS#8 in PEM form, encrypted or not), or behind a command that somebody else wrote for a
// key service or a token. docs/formats/keys.md and docs/formats/signer.md own the bytes.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/katabuild/katabuild/internal/digest"
)

// Public is a public key.
type Public struct {
	// ID is the digest of the key as DER of the kind SubjectPublicKeyInfo.
	ID  digest.Digest
	der []byte
	key crypto.PublicKey // ed25519.PublicKey or *ecdsa.PublicKey
}

// Of makes one of a key; only the two kinds are taken.
func Of(key crypto.PublicKey) (Public, error) {
	if e, ok := key.(*ecdsa.PublicKey); ok && e.Curve != elliptic.P256() {
		return Public{}, fmt.Errorf("public key: the curve is %s: want P-256", e.Curve.Params().Name)
	}
	switch key.(type) {
	case ed25519.PublicKey, *ecdsa.PublicKey:
	default:
		return Public{}, fmt.Errorf("public key: a %T: want Ed25519, or ECDSA with P-256", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Public{}, fmt.Errorf("public key: %w", err)
	}
	return Public{ID: digest.Of(der), der: der, key: key}, nil
}

// The types of PEM blocks.
const (
	publicType    = "PUBLIC KEY"
	privateType   = "PRIVATE KEY"
	encryptedType = "ENCRYPTED PRIVATE KEY"
)

// ParsePublic reads a public key in PEM form, and nothing beside it.
func ParsePublic(text []byte) (Public, error) {
	der, err := block(text, publicType)
	if err != nil {
		return Public{}, fmt.Errorf("public key: %w", err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Public{}, fmt.Errorf("public key: %w", err)
	}
	return Of(key)
}

// block reads the one block that text is, of one of types.
func block(text []byte, types ...string) ([]byte, error) {
	b, rest := pem.Decode(text)
	if b == nil {
		return nil, errors.New("it is not in PEM form")
	}
	for _, t := range types {
		if b.Type == t && len(b.Headers) == 0 && len(rest) == 0 {
			return b.Bytes, nil
		}
	}
	return nil, fmt.Errorf("it is a %q with %d bytes behind it: want one %q in PEM form and nothing else", b.Type,
		len(rest), types)
}

// PEM is the key as ParsePublic reads it.
func (p Public) PEM() []byte { return pem.EncodeToMemory(&pem.Block{Type: publicType, Bytes: p.der}) }

// Kind is ed25519 or ecdsa-p256.
func (p Public) Kind() string {
	if _, ok := p.key.(ed25519.PublicKey); ok {
		return Ed25519
	}
	return ECDSA
}

// Verify says whether sig is the key's signature over message. ECDSA's are in DER.
func (p Public) Verify(message, sig []byte) bool {
	switch k := p.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// Signer signs messages with one key.
type Signer interface {
	Public() Public
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

type local struct {
	public Public
	key    crypto.Signer
}

// FromPrivate signs with a key in memory.
func FromPrivate(key crypto.Signer) (Signer, error) {
	p, err := Of(key.Public())
	if err != nil {
		return nil, err
	}
	return &local{p, key}, nil
}

func (l *local) Public() Public { return l.public }

func (l *local) Sign(_ context.Context, message []byte) ([]byte, error) {
	if l.public.Kind() == Ed25519 {
		return l.key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return l.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// The kinds of keys.
const (
	Ed25519 = "ed25519"
	ECDSA   = "ecdsa-p256"
)

// generate draws a key of a kind.
func generate(kind string) (crypto.Signer, error) {
	switch kind {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case ECDSA:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return nil, fmt.Errorf("key of kind %q: want %s or %s", kind, Ed25519, ECDSA)
}
