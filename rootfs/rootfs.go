// Package rootfs makes a root file system and a disk of it: without root, loop devices, mounts or any program of the
// host.
//
// Layers come in: packages, images, folders, files, the agent. Out come a tree, and an image of it with its tables and
// its hash tree, whose bytes depend on nothing but the request. It knows no store, no network and no virtual machine.
// The sub-packages own the formats.
package rootfs

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/rootfs/debian"
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

// format is part of every key: another number is another output. It grows when this component writes other bytes
// for the same request.
const format = "5"

// Inputs is everything that decides the tree.
func (r Request) Inputs() []artifact.Input {
	in := []artifact.Input{
		{Name: "rootfs format", Value: format}, {Name: "arch", Value: r.Arch.Name},
		{Name: "time", Value: fmt.Sprint(r.Time)},
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

// LayerError says which of a request's layers could not be applied. The agent counts as one behind them.
type LayerError struct {
	Layer int // from 0
	Err   error
}

func (e *LayerError) Error() string { return fmt.Sprintf("rootfs: %v", e.Err) }

func (e *LayerError) Unwrap() error { return e.Err }

// tree makes the root file system, and says what is in it.
func (r Request) tree(ctx context.Context) (*tree.Tree, []sbom.Component, error) {
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
		r.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: "layers", Current: int64(i),
			Total: int64(len(layers)), Unit: "layers"})
		var before map[string]there
		if i > 0 && i < len(r.Layers) { // the first layer hides nothing, and of the agent nothing is told
			before = paths(t)
		}
		database, err := debian.ReadDatabase(t)
		if err != nil {
			return nil, nil, fmt.Errorf("rootfs: %w", err)
		}
		c, err := l.Apply(ctx, t, now)
		if err != nil {
			return nil, nil, &LayerError{Layer: i, Err: err}
		}
		// An image, a tar or a folder may bring a database of its own, that knows nothing of what was there.
		if _, is := l.(Debian); !is && len(database) > 0 {
			if err := debian.KeepInstalled(t, database, now); err != nil {
				return nil, nil, fmt.Errorf("rootfs: %w", err)
			}
		}
		parts = append(parts, c...)
		if i < len(r.Layers) {
			r.remark(i, l, t.TakeRemarks(), before, t)
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	for _, l := range r.Layers {
		if a, ok := l.(Accounts); ok {
			if err := a.present(t); err != nil {
				return nil, nil, fmt.Errorf("rootfs: %w", err)
			}
		}
	}
	parts, err := installed(t, parts)
	if err != nil {
		return nil, nil, fmt.Errorf("rootfs: %w", err)
	}
	if err := r.slim(t); err != nil {
		return nil, nil, err
	}
	return t, parts, nil
}

// there is what a path of a tree is.
type there struct {
	node   *tree.Node
	kind   tree.Kind
	target string
}

// paths lists a tree.
func paths(t *tree.Tree) map[string]there {
	m := map[string]there{}
	// f never fails
	_ = t.Walk(func(p string, n *tree.Node, _ bool) error { m[p] = there{n, n.Kind, n.Target}; return nil })
	return m
}

// at is what a tree has at a path of it, no link followed. What is not there has the kind nothing.
func at(t *tree.Tree, p string) there {
	n := t.Root()
	if p == "/" {
		return there{n, n.Kind, ""}
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(p, "/"), "/") {
		if n = n.Child(name); n == nil {
			return there{kind: nothing}
		}
	}
	return there{n, n.Kind, n.Target}
}

// nothing is the kind of what is not there.
const nothing = tree.Kind(255)

// What is told of a layer that hides what layers before brought.
const (
	manyFiles = 100 // files that it replaces or takes away, from which on their number is told
	maxTold   = 10  // links and folders that are told one by one
)

// remark tells people what a layer left out, and what it hides of the layers before: each link or folder that became
// something else, and how many files it replaces where they are many.
func (r Request) remark(i int, l Layer, remarks map[string]int, before map[string]there, t *tree.Tree) {
	name := fmt.Sprintf("layer %d", i)
	if in := l.Inputs(); len(in) > 0 {
		switch l.(type) {
		case *Folder, Tar, OCI:
			name += " (" + in[0].Name + ")"
		}
	}
	say := func(format string, a ...any) {
		r.Progress.Send(progress.Event{Step: step, Kind: progress.Log, Message: name + ": " + fmt.Sprintf(format,
			a...)})
	}
	for _, what := range slices.Sorted(maps.Keys(remarks)) {
		if n := remarks[what]; n > 1 {
			say("%s (%d times)", what, n)
			continue
		}
		say("%s", what)
	}
	var changed []string
	replaced, gone := 0, 0
	for _, p := range slices.Sorted(maps.Keys(before)) {
		was, is := before[p], at(t, p)
		above := path.Dir(p)
		hidden := above != "/" && before[above].kind == tree.Dir && at(t, above).kind != tree.Dir
		switch {
		case is.node == nil:
			gone++
			if was.kind != tree.File && !hidden { // what is hidden with its folder is told with it
				changed = append(changed, fmt.Sprintf("takes away the %v %s", was.kind, was.name(p)))
			}
		case was.kind != is.kind && (was.kind == tree.Dir || was.kind == tree.Symlink || is.kind == tree.Dir):
			changed = append(changed, fmt.Sprintf("replaces the %v %s by a %v", was.kind, was.name(p), is.kind))
		case was.kind == tree.Symlink && was.target != is.target:
			changed = append(changed, fmt.Sprintf("replaces the %v %s by one to %s", was.kind, was.name(p), is.target))
		case was.node != is.node && was.kind == tree.File:
			replaced++
		}
	}
	for j, c := range changed {
		if j == maxTold {
			say("and replaces or takes away %d more links and folders", len(changed)-maxTold)
			break
		}
		say("%s", c)
	}
	if replaced >= manyFiles {
		say("replaces %d files", replaced)
	}
	if gone >= manyFiles {
		say("takes away %d files, links and folders", gone)
	}
}

func (t there) name(p string) string {
	if t.kind == tree.Symlink {
		return p + " (to " + t.target + ")"
	}
	return p
}

// installed makes the bill say of packages what dpkg's database says: each once, in the version that is there, also
// those that came with an image.
func installed(t *tree.Tree, parts []sbom.Component) ([]sbom.Component, error) {
	db, err := debian.ReadDatabase(t)
	if err != nil {
		return nil, err
	}
	type key struct{ name, version, arch string }
	left := map[key]debian.Installed{}
	for _, p := range db {
		if p.Whole {
			left[key{p.Name, p.Version, p.Arch}] = p
		}
	}
	var out []sbom.Component
	for _, c := range parts {
		k := key{c.Name, c.Version, c.Arch}
		if c.Arch == "" { // no package
			out = append(out, c)
		} else if _, ok := left[k]; ok {
			out = append(out, c)
			delete(left, k)
		}
	}
	vendor := osID(t)
	for _, p := range left {
		out = append(out, sbom.Component{
			Name: p.Name, Version: p.Version, Arch: p.Arch, PURL: debPURL(vendor, p.Name, p.Version, p.Arch),
			Homepage: p.Control.Get("Homepage"),
		})
	}
	return out, nil
}

// maxOSRelease bounds the file that names the operating system, in bytes.
const maxOSRelease = 64 << 10

// osID is the distribution that a tree says it is, in the word that package URLs have for it too. os-release(5).
func osID(t *tree.Tree) string {
	n, err := t.Resolve("/etc/os-release")
	if err != nil || n.Kind != tree.File || n.Size() > maxOSRelease {
		return "debian"
	}
	data, err := tree.ReadAll(n)
	if err != nil {
		return "debian"
	}
	for line := range strings.Lines(string(data)) {
		id, ok := strings.CutPrefix(strings.TrimSpace(line), "ID=")
		if id = strings.Trim(id, `"'`); ok && id != "" &&
			strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" {
			return id
		}
	}
	return "debian"
}

// debPURL is a package's URL. https://github.com/package-url/purl-spec, type deb: a version's special characters are
// percent-encoded.
func debPURL(vendor, name, version, arch string) string {
	s := "pkg:deb/" + vendor + "/" + name + "@" + strings.ReplaceAll(url.PathEscape(version), "+", "%2B")
	if arch != "" {
		s += "?arch=" + arch
	}
	return s
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
		if n.Kind == tree.Dir && (n.Len() > 0 || slices.ContainsFunc(kept,
			func(k string) bool { return strings.HasPrefix(k, p+"/") })) {
			continue
		}
		if err := t.Remove(p); err != nil {
			return err
		}
	}
	return nil
}
