package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Signed is a record as its writer signed it, to be taken to other stores.
type Signed struct {
	Action *Action
	Data   []byte // its canonical form, with writer and signature
}

// Signed returns the record of the step with this key, if this user believes it; otherwise it is ErrMissing. It does
// not look at the outputs' bytes.
func (s *Store) Signed(key digest.Digest) (*Signed, error) {
	data, err := readSmall(s.action(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("action %s: %w", key, ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("action %s: %w: %w", key, ErrMissing, err)
	}
	a, err := s.parse(key, data)
	if err != nil {
		return nil, err
	}
	return &Signed{Action: a, Data: data}, nil
}

// ErrSignsNothing says that a store without a key of its own believes no record from elsewhere: it could not tell whose
// it is.
var ErrSignsNothing = errors.New("a store that signs nothing believes no record from elsewhere")

// Believe reads a record that came from elsewhere as that of the step with this key. Only one that the user, or a
// writer whom the user trusts, has signed is believed; any other is ErrMissing.
func (s *Store) Believe(key digest.Digest, data []byte) (*Action, error) {
	if s.o.Key.private == nil {
		return nil, ErrSignsNothing
	}
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("action %s: %w: a record of %d bytes; want at most %d", key, ErrMissing, len(data),
			MaxRecord)
	}
	return s.parse(key, data)
}

// Accept keeps a record from elsewhere, if it is one to Believe, as its writer signed it. Its outputs must be in the
// store already.
func (s *Store) Accept(key digest.Digest, data []byte) (*Action, error) {
	a, err := s.Believe(key, data)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(s.action(key), data, 0o644); err != nil {
		return nil, s.wrap("write to", err)
	}
	return a, nil
}

// Writers are those whose records this user believes: the user, then the others. It is empty for a store that signs
// nothing.
func (s *Store) Writers() []Writer {
	if s.o.Key.private == nil {
		return nil
	}
	return append([]Writer{s.o.Key.Writer()}, s.o.Trusted...)
}

// Keys lists the keys of all records, believed or not, sorted.
func (s *Store) Keys() ([]digest.Digest, error) {
	keys, _, err := s.actionKeys()
	if err != nil {
		return nil, s.wrap("list", err)
	}
	return keys, nil
}

// HasSize says, without reading the blob, whether the store holds d with a size in bytes.
func (s *Store) HasSize(d digest.Digest, size int64) bool {
	fi, err := os.Lstat(s.blob(d))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// parse reads a record of the step with this key. One that cannot be read, or is not to be believed (a *distrusted
// beside ErrMissing), counts as missing.
func (s *Store) parse(key digest.Digest, data []byte) (*Action, error) {
	var a Action
	if err := document.Decode("action "+key.Short(), data, &a); err != nil || a.Key != key ||
		a.Version != actionVersion {
		return nil, fmt.Errorf("action %s: %w (its record is damaged)", key, ErrMissing)
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("action %s: %w: %w", key, ErrMissing, err)
	}
	if err := s.believe(&a); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return &a, nil
}
