package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/accepted"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/refusal"
)

// PolicyHelp is about --policy.
const PolicyHelp = "`file` that says whose releases are accepted (default release-policy.yaml in katabuild's folder " +
	"of the user's configuration, then /etc/katabuild/release-policy.yaml; without any, only this host's own are)"

// IsRelease says whether a name is that of a place of releases, or of a folder with one.
func IsRelease(dir string) bool {
	if place.IsRemote(dir) {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, folder.IndexName))
	return err == nil
}

// policy is the one that the user names, or that there is.
func (h *Host) policy(named string) (*policy.Policy, error) {
	if named != "" {
		return policy.Read(named)
	}
	for _, file := range h.Policies {
		p, err := policy.Read(file)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	own, err := h.own()
	if err != nil {
		return nil, err
	}
	return policy.Own(own.Public()), nil
}

// memory is the file that remembers what was accepted on this host.
func (h *Host) memory() (string, error) { return h.stateFile("accepted-releases.json") }

// stateFile is a file that remembers something. XDG Base Directory Specification: the state of a program.
func (h *Host) stateFile(name string) (string, error) {
	state := h.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place to remember what was accepted: %w; set XDG_STATE_HOME", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "katabuild", name), nil
}

// accept checks all of an index that can be known without the files: who has signed it, for whom it is, and that
// nobody brings back an older one. That others have reproduced it is checked by acceptReproduced.
func (h *Host) accept(ctx context.Context, named string, at origin, head folder.Head) (*index.Index, []string,
	error) {
	p, err := h.policy(named)
	if err != nil {
		return nil, nil, err
	}
	a, err := h.asker(p, at).Ask(ctx, at.place, head)
	if err != nil {
		return nil, nil, err
	}
	if a.Newer != "" {
		fmt.Fprintf(h.Err, "a higher version of this channel is offered: %s\n", a.Newer)
	}
	memory, err := h.memory()
	if err != nil {
		return nil, nil, err
	}
	before, err := accepted.Read(memory)
	if err != nil {
		return nil, nil, err
	}
	return a.Index, a.By, before.Check(a.Index)
}

// acceptReproduced is accept, and checks that as many have reproduced the release as the policy asks for.
func (h *Host) acceptReproduced(ctx context.Context, named string, at origin, head folder.Head) (*index.Index,
	[]string, error) {
	x, by, err := h.accept(ctx, named, at, head)
	if err != nil {
		return nil, nil, err
	}
	p, err := h.policy(named)
	if err != nil {
		return nil, nil, err
	}
	return x, by, h.asker(p, at).Reproduced(head, x)
}

// hasArch refuses a release without a guest for an architecture. Any has one for the empty name.
func hasArch(x *index.Index, arch string) error {
	var has []string
	for _, g := range x.Guests {
		if !slices.Contains(has, g.Arch) {
			has = append(has, g.Arch)
		}
	}
	if arch == "" || slices.Contains(has, arch) {
		return nil
	}
	return refusal.New(refusal.Architecture, "release", "want a guest for %s, it has some for %s", arch,
		strings.Join(has, ", "))
}

// Verify says whether a release in a place is accepted, and is whole. policy is a file, or empty for that of the host.
func (h *Host) Verify(ctx context.Context, dir, policy string, access registry.Access) (err error) {
	from, head, err := (origin{dir, access}).open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	x, by, err := h.acceptReproduced(ctx, policy, origin{dir, access}, head)
	if err != nil {
		return err
	}
	if err := judge.Contents(ctx, x, from, claims); err != nil {
		return err
	}
	_, err = fmt.Fprintf(h.Out, "%s: accepted, signed by %s: %d guests, all attested, %d files as they should be\n",
		dir, strings.Join(by, ", "), len(x.Guests), len(x.Blobs()))
	return err
}
