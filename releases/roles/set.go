package roles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/releases/refusal"
)

// SetVersion is the only version of the document that this package reads and writes.
const SetVersion = 1

// SetType is what a set is called where kinds of content have names.
const SetType = "application/vnd.katabuild.roles.v1+json"

// MaxSet bounds a set, in bytes.
const MaxSet = 16 << 20

// Set is all the metadata that clients need, in one document: for registries, and for hosts without a network. It is a
// Source.
type Set struct {
	Version int    `json:"version"`
	Files   []File `json:"files"` // sorted by name
}

// File is a file of metadata.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Encode is the canonical form.
func (s *Set) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return document.Encode(s)
}

// DecodeSet reads the canonical form and nothing else. What it holds is not believed.
func DecodeSet(data []byte) (*Set, error) {
	var s Set
	if err := document.Decode("set of roles", data, &s); err != nil {
		return nil, err
	}
	return &s, s.check()
}

func (s *Set) check() error {
	if s.Version != SetVersion {
		return fmt.Errorf("set of roles: version %d, this katabuild reads version %d", s.Version, SetVersion)
	}
	if len(s.Files) == 0 {
		return errors.New("set of roles: no files")
	}
	for i, f := range s.Files {
		role, _, ok := ParseName(f.Name)
		if !ok || int64(len(f.Data)) > limit(role) {
			return fmt.Errorf("set of roles: %q with %d bytes is no metadata", f.Name, len(f.Data))
		}
		if i > 0 && s.Files[i-1].Name >= f.Name {
			return fmt.Errorf("set of roles: %s is not in order, or stands twice", f.Name)
		}
	}
	return nil
}

// File implements Source.
func (s *Set) File(_ context.Context, name string, limit int64) ([]byte, error) {
	for _, f := range s.Files {
		if f.Name == name {
			if int64(len(f.Data)) > limit {
				return nil, refusal.New(refusal.Size, name, "more than the %d bytes that it may have", limit)
			}
			return f.Data, nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Collect gathers what clients need of a repository: every root, the timestamp, and what it and the snapshot name.
// Nothing is judged: that is for clients.
func Collect(ctx context.Context, from Source) (*Set, error) {
	s := &Set{Version: SetVersion}
	take := func(role string, version int64) ([]byte, error) {
		name := FileName(role, version)
		data, err := from.File(ctx, name, limit(role))
		if err == nil {
			s.Files = append(s.Files, File{name, data})
		}
		return data, err
	}
	for v := int64(1); ; v++ {
		if _, err := take(Root, v); errors.Is(err, fs.ErrNotExist) && v > 1 {
			break
		} else if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	data, err := take(Timestamp, 0)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	above, err := named(data)
	if err != nil {
		return nil, err
	}
	if data, err = take(Snapshot, above[Snapshot]); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if above, err = named(data); err != nil {
		return nil, err
	}
	for role, version := range above {
		if _, err := take(role, version); err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	slices.SortFunc(s.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return s, s.check()
}

// named are the roles that a timestamp or a snapshot names, and their versions.
func named(data []byte) (map[string]int64, error) {
	var m struct {
		Signed struct {
			Meta map[string]metadata.MetaFiles `json:"meta"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, refusal.New(refusal.Document, "metadata", "%v", err)
	}
	out := map[string]int64{}
	for name, of := range m.Signed.Meta {
		role, found := strings.CutSuffix(name, suffix)
		if _, _, ok := ParseName(FileName(role, of.Version)); !ok || !found {
			return nil, refusal.New(refusal.Document, "metadata", "it names %q of version %d", name, of.Version)
		}
		out[role] = of.Version
	}
	return out, nil
}
