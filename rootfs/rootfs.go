// Package rootfs makes a root file system and a disk of it: without root, loop devices, mounts or any program of the host.
//
// Layers come in: packages, images, folders, files, the agent. Out come a tree, and an image of it with its tables and its hash tree, whose
// bytes depend on nothing but the request. It knows no store, no network and no virtual machine. The sub-packages own the formats.
package rootfs

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// step is what progress events call this step.
const step = "image"

// Request is one root file system.
type Request struct {
	Arch   arch.Arch
	Name   string // of the guest
	Layers []Layer
	Remove []string // patterns of paths to take away at the end; see tree.Match
	Keep   []string // patterns of paths that stay all the same
	Agent  Agent    // the last layer; the zero value is none
	Time   int64    // seconds since 1970, of whatever has no time of its own

	Progress progress.Func
}

// format is part of every key: another number is another output. It grows when this room writes other bytes for the same request.
const format = "3"

// Inputs is everything that decides the tree.
func (r Request) Inputs() []artifact.Input {
	in := []artifact.Input{
		{Name: "rootfs format", Value: format}, {Name: "arch", Value: r.Arch.Name}, {Name: "time", Value: fmt.Sprint(r.Time)},
	}
	for i, l := range r.Layers {
		for _, one := range l.Inputs() {
			one.Name = fmt.Sprintf("layer %d %s", i, one.Name)
			in = append(in, one)
		}
	}
	for i, p := range r.Remove {
		in = append(in, artifact.Input{Name: fmt.Sprintf("remove %d", i), Value: p})
	}
	for i, p := range r.Keep {
		in = append(in, artifact.Input{Name: fmt.Sprintf("keep %d", i), Value: p})
	}
	if r.Agent != (Agent{}) {
		in = append(in, r.Agent.Inputs()...)
	}
	return in
}

// Tree makes the root file system, and says what is in it.
func (r Request) Tree(ctx context.Context) (*tree.Tree, []sbom.Component, error) {
	t := tree.New()
	now := tree.Time{Sec: r.Time}
	t.Root().Time = now
	t.Implied = tree.Node{Mode: 0o755, Time: now}
	var parts []sbom.Component
	layers := slices.Clone(r.Layers)
	if r.Agent != (Agent{}) {
		layers = append(layers, r.Agent)
	}
	for i, l := range layers {
		r.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: "layers", Current: int64(i), Total: int64(len(layers)), Unit: "layers"})
		c, err := l.Apply(ctx, t, now)
		if err != nil {
			return nil, nil, fmt.Errorf("rootfs: %w", err)
		}
		parts = append(parts, c...)
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	if err := r.slim(t); err != nil {
		return nil, nil, err
	}
	return t, parts, nil
}

// slim takes away what Remove says and Keep does not.
func (r Request) slim(t *tree.Tree) error {
	if len(r.Remove) == 0 {
		return nil
	}
	matches := func(patterns []string, p string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool { return tree.Match(pattern, p) })
	}
	used := make([]bool, len(r.Remove))
	var gone, kept []string
	hits := map[string]bool{}
	err := t.Walk(func(p string, n *tree.Node, _ bool) error {
		hit := hits[path.Dir(p)] && p != "/" // a folder goes with all it holds
		for i, pattern := range r.Remove {
			if tree.Match(pattern, p) {
				used[i], hit = true, true
			}
		}
		hits[p] = hit && p != "/"
		switch {
		case p == "/":
		case matches(r.Keep, p):
			kept = append(kept, p)
		case hit:
			gone = append(gone, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, u := range used {
		if !u {
			return fmt.Errorf("rootfs: remove %q: nothing in the tree matches it", r.Remove[i])
		}
	}
	// From the leaves up: a folder stays where something in it is kept.
	slices.Reverse(gone)
	for _, p := range gone {
		n, err := t.Lookup(p)
		if err != nil {
			return err
		}
		if n.Kind == tree.Dir && (n.Len() > 0 || slices.ContainsFunc(kept, func(k string) bool { return strings.HasPrefix(k, p+"/") })) {
			continue
		}
		if err := t.Remove(p); err != nil {
			return err
		}
	}
	return nil
}
