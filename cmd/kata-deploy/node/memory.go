package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/install"
)

// maxMemory is how much of metadata of roles can be remembered, in bytes.
const maxMemory = 4 << 20

// recall is the file of the work folder that remembers metadata of roles. The work folder ends with the pod: what the
// host has kept comes back into it, or whoever serves the metadata could offer a new pod what was withdrawn.
func (n *node) recall(name string) (string, error) {
	file := filepath.Join(n.Work, name)
	if n.memory == name {
		return file, nil
	}
	i, err := install.Open(n.Host, n.Prefix, false)
	if err != nil {
		return "", err
	}
	data, err := i.Kept(name)
	if err = errors.Join(err, i.Close()); err == nil && data != nil {
		err = atomicfile.Write(file, data, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("what this host remembers of roles: %w", err)
	}
	n.memory, n.kept = name, data
	return file, nil
}

// remember has the host keep what is remembered of roles, where there is an installation for it to go with.
func (n *node) remember(ctx context.Context) error {
	if n.memory == "" {
		return nil
	}
	data, err := regular.ReadFile(filepath.Join(n.Work, n.memory), maxMemory)
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(data, n.kept) {
		return nil
	}
	if err != nil {
		return err
	}
	i, err := n.hold(ctx)
	if err != nil {
		return err
	}
	_, ok, err := i.Options()
	if ok && err == nil {
		if err = i.Keep(n.memory, data); err == nil {
			n.kept = data
		}
	}
	if err = errors.Join(err, i.Close()); err != nil {
		return fmt.Errorf("what this host remembers of roles: %w", err)
	}
	return nil
}
