package roles

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
)

// MemoryVersion is the only version of the document that this package reads and writes.
const MemoryVersion = 1

// Bounds of a host's memory: bytes of its file, and revoked keys.
const (
	maxMemory  = 16 << 20
	maxRevoked = 1000
)

// Memory is the metadata that a host has met by one policy, each file as it came.
type Memory struct {
	Version   int    `json:"version"`
	Root      []byte `json:"root"`
	Timestamp []byte `json:"timestamp,omitempty"`
	Snapshot  []byte `json:"snapshot,omitempty"`
	Targets   []Kept `json:"targets"` // sorted by role
	// Revoked are keys that had a role and have none any more, sorted.
	Revoked []string `json:"revoked"`
}

// Kept is the list of releases of a role.
type Kept struct {
	Role string `json:"role"`
	Data []byte `json:"data"`
}

// Encode is the canonical form.
func (m *Memory) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	return document.Encode(m)
}

// DecodeMemory reads the canonical form and nothing else.
func DecodeMemory(data []byte) (*Memory, error) {
	var m Memory
	if err := document.Decode("memory of roles", data, &m); err != nil {
		return nil, err
	}
	return &m, m.check()
}

func (m *Memory) check() error {
	switch {
	case m.Version != MemoryVersion:
		return fmt.Errorf("memory of roles: version %d, this katabuild reads version %d", m.Version, MemoryVersion)
	case len(m.Root) == 0 || m.Targets == nil || m.Revoked == nil:
		return errors.New("memory of roles: no root, or no list of targets or of revoked keys")
	case len(m.Revoked) > maxRevoked || !slices.IsSorted(m.Revoked):
		return fmt.Errorf("memory of roles: %d revoked keys: want at most %d, sorted", len(m.Revoked), maxRevoked)
	}
	for i, k := range m.Targets {
		if i > 0 && m.Targets[i-1].Role >= k.Role {
			return fmt.Errorf("memory of roles: %q is not in order, or stands twice", k.Role)
		}
	}
	return nil
}

// find is what is kept of a role; nil is nothing.
func (m *Memory) find(role string) []byte {
	for _, k := range m.Targets {
		if k.Role == role {
			return k.Data
		}
	}
	return nil
}

// keep puts the list of a role into its place.
func (m *Memory) keep(role string, data []byte) {
	m.Targets = slices.DeleteFunc(m.Targets, func(k Kept) bool { return k.Role == role })
	m.Targets = append(m.Targets, Kept{role, data})
	slices.SortFunc(m.Targets, func(a, b Kept) int { return strings.Compare(a.Role, b.Role) })
}

// revoke notes that a key has lost its role. One of an unlikely many is forgotten: it is for the name of a refusal.
func (m *Memory) revoke(id string) {
	if at, has := slices.BinarySearch(m.Revoked, id); !has && len(m.Revoked) < maxRevoked {
		m.Revoked = slices.Insert(m.Revoked, at, id)
	}
}

// readMemory reads a host's memory; nil is none. A file that others could have written is an *owned.Unsafe.
func readMemory(path string) (*Memory, error) {
	data, err := owned.Read(path, maxMemory+1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("memory of roles: %w", err)
	}
	m, err := DecodeMemory(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// lockMemory waits for others that use a memory, and makes its folder where it is not there.
func lockMemory(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return filelock.Exclusive(ctx, path+".lock")
}

func writeMemory(path string, m *Memory) error {
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}
