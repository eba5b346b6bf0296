// Package accepted remembers the highest versions that were accepted on a host, so that nobody can bring back an older
// release, however well it is signed. docs/formats/release-policy.md owns the bytes.
package accepted

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/filelock"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// Version is the only version of the document that this package reads and writes.
const Version = 1

// maxFile bounds the file, in bytes.
const maxFile = 4 << 20

// Memory is what a host has accepted.
type Memory struct {
	Version int     `json:"version"`
	Guests  []Guest `json:"guests"` // sorted by channel, name, arch, variant
}

// Guest is the highest version of one that was accepted.
type Guest struct {
	Channel string `json:"channel"`
	Name    string `json:"name"`
	Arch    string `json:"arch"`
	Variant string `json:"variant,omitempty"`
	Version string `json:"version"`
}

func (g Guest) key() string {
	return strings.Join([]string{g.Channel, g.Name, g.Arch, g.Variant}, "\x00")
}

// Encode is the canonical form.
func (m *Memory) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("accepted releases: %w", err)
	}
	return document.Encode(m)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Memory, error) {
	var m Memory
	if err := document.Decode("accepted releases", data, &m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("accepted releases: %w", err)
	}
	return &m, nil
}

func (m *Memory) check() error {
	if m.Version != Version {
		return fmt.Errorf("version %d, this katabuild reads version %d", m.Version, Version)
	}
	if m.Guests == nil {
		return errors.New("guests may be empty but not null")
	}
	for i, g := range m.Guests {
		if err := errors.Join(index.CheckWord("channel", g.Channel), index.CheckWord("name", g.Name),
			index.CheckVersion(g.Version)); err != nil {
			return err
		}
		if i > 0 && m.Guests[i-1].key() >= g.key() {
			return fmt.Errorf("guest %q is not in order, or stands twice", g.Name)
		}
	}
	return nil
}

// Read reads what a host has accepted. No file is nothing. One that others could have written is an *owned.Unsafe.
func Read(path string) (*Memory, error) {
	data, err := owned.Read(path, maxFile+1)
	if errors.Is(err, fs.ErrNotExist) {
		return &Memory{Version: Version, Guests: []Guest{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("accepted releases: %w", err)
	}
	m, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Check refuses a release with a guest of whom a higher version was accepted before than the release has.
func (m *Memory) Check(x *index.Index) error {
	highest := map[string]Guest{}
	for i := range x.Guests {
		g := of(x, &x.Guests[i])
		if h, ok := highest[g.key()]; !ok || index.CompareVersions(g.Version, h.Version) > 0 {
			highest[g.key()] = g
		}
	}
	for i := range x.Guests {
		g := of(x, &x.Guests[i])
		old := m.find(g)
		if old != nil && index.CompareVersions(highest[g.key()].Version, old.Version) < 0 {
			return refusal.New(refusal.Rollback, x.Guests[i].Label(), "version %s was accepted on this host before",
				old.Version)
		}
	}
	return nil
}

func of(x *index.Index, g *index.Guest) Guest {
	return Guest{Channel: x.Channel, Name: g.Name, Arch: g.Arch, Variant: g.Variant, Version: g.Version}
}

func (m *Memory) find(g Guest) *Guest {
	i := slices.IndexFunc(m.Guests, func(o Guest) bool { return o.key() == g.key() })
	if i < 0 {
		return nil
	}
	return &m.Guests[i]
}

// Accept checks a release and remembers it, in the file at path, whose folder is made where it is not there. Other
// processes that accept one meanwhile are waited for, until ctx ends.
func Accept(ctx context.Context, path string, x *index.Index) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	lock, err := filelock.Exclusive(ctx, path+".lock")
	if err != nil {
		return fmt.Errorf("accepted releases: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	m, err := Read(path)
	if err != nil {
		return err
	}
	if err := m.Check(x); err != nil {
		return err
	}
	for i := range x.Guests {
		g := of(x, &x.Guests[i])
		if old := m.find(g); old == nil {
			m.Guests = append(m.Guests, g)
		} else if index.CompareVersions(g.Version, old.Version) > 0 {
			old.Version = g.Version
		}
	}
	slices.SortFunc(m.Guests, func(a, b Guest) int { return strings.Compare(a.key(), b.key()) })
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}
