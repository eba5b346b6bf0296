// Package digest names bytes by their SHA-256.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/katabuild/katabuild/internal/regular"
)

const prefix = "sha256:"

// Digest is "sha256:" and 64 lower-case hexadecimal digits. The zero value is "no digest".
type Digest string

// Parse checks the form of a digest.
func Parse(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, prefix)
	if !ok || len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return "", fmt.Errorf("digest %q: want %q and 64 lower-case hexadecimal digits", s, prefix)
	}
	if _, err := hex.DecodeString(h); err != nil {
		return "", fmt.Errorf("digest %q: want %q and 64 lower-case hexadecimal digits", s, prefix)
	}
	return Digest(s), nil
}

// UnmarshalText checks the form on the way in; the empty string is no digest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = ""
		return nil
	}
	v, err := Parse(string(b))
	*d = v
	return err
}

// MarshalText is the digest itself.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d), nil }

// Hex is the part behind "sha256:".
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), prefix) }

// Short is the first 12 hexadecimal digits, for people.
func (d Digest) Short() string {
	h := d.Hex()
	return h[:min(12, len(h))]
}

// Of is the digest of b.
func Of(b []byte) Digest { return OfSum(sha256.Sum256(b)) }

// OfSum is the digest of bytes whose SHA-256 is known.
func OfSum(s [sha256.Size]byte) Digest { return Digest(prefix + hex.EncodeToString(s[:])) }

// Reader digests r to its end and counts its bytes.
func Reader(r io.Reader) (Digest, int64, error) {
	w := New()
	n, err := io.Copy(w, r)
	return w.Digest(), n, err
}

// File digests the plain file at path and counts its bytes. What is no plain file is a *regular.KindError, and not
// opened.
func File(path string) (Digest, int64, error) {
	f, err := regular.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	d, n, err := Reader(f)
	if err != nil {
		return "", 0, fmt.Errorf("digest of %s: %w", path, err)
	}
	return d, n, nil
}

// Writer digests what is written to it.
type Writer struct{ h hash.Hash }

// New starts an empty digest.
func New() *Writer { return &Writer{sha256.New()} }

// Write adds p; it never fails.
func (w *Writer) Write(p []byte) (int, error) { return w.h.Write(p) }

// Digest is the digest of everything written so far.
func (w *Writer) Digest() Digest { return Digest(prefix + hex.EncodeToString(w.h.Sum(nil))) }

// Mismatch says that bytes are not the bytes that were promised.
type Mismatch struct {
	Name      string // the file, or what else was read
	Want, Got Digest
}

func (m *Mismatch) Error() string {
	return fmt.Sprintf("%s: wrong digest: want %s, got %s", m.Name, m.Want, m.Got)
}

// Check digests the file at path and returns a *Mismatch unless it is want.
func Check(path string, want Digest) error {
	got, _, err := File(path)
	if err != nil {
		return err
	}
	if got != want {
		return &Mismatch{Name: path, Want: want, Got: got}
	}
	return nil
}
