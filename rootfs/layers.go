package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Layer is one source of files.
type Layer interface {
	// Inputs is what decides the layer's files. It does no work.
	Inputs() []artifact.Input
	// Apply puts the files into a tree, over what is there, and says what came in. Files that had no time of their own get that of the build.
	Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error)
}

// File is one file, link or folder of a Files layer.
type File struct {
	Path     string // absolute
	Kind     tree.Kind
	Mode     uint16
	UID, GID uint32
	Source   string        // of a tree.File: a file of the host …
	Digest   digest.Digest // … with this content
	Size     int64         // … and length
	Data     []byte        // or the content itself, when Source is empty
	Target   string        // of a tree.Symlink
	Origin   string        // for people: the recipe's line
}

// Files is single files.
type Files []File

// Inputs implements Layer.
func (l Files) Inputs() []artifact.Input {
	var out []artifact.Input
	for _, f := range l {
		what := string(f.Digest)
		switch {
		case f.Kind == tree.Symlink:
			what = "-> " + f.Target
		case f.Kind == tree.File && f.Source == "":
			what = string(digest.Of(f.Data))
		}
		out = append(out, artifact.Input{Name: "file " + f.Path, Value: fmt.Sprintf("%v %04o %d:%d %s", f.Kind, f.Mode, f.UID, f.GID, what)})
	}
	return out
}

// Apply implements Layer.
func (l Files) Apply(_ context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	for _, f := range l {
		n := &tree.Node{Kind: f.Kind, Mode: f.Mode, UID: f.UID, GID: f.GID, Time: now, Target: f.Target, Origin: f.Origin}
		switch {
		case f.Kind == tree.Symlink:
			n.Mode = 0o777
		case f.Kind == tree.File && f.Source != "":
			if err := digest.Check(f.Source, f.Digest); err != nil {
				return nil, err
			}
			n.Content = &tree.Section{Path: f.Source, Length: f.Size}
		case f.Kind == tree.File:
			n.Content = tree.Bytes(f.Data)
		}
		if err := t.Put(f.Path, n); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Folder is a folder of the host, with its files owned by root.
type Folder struct {
	Path   string
	Digest digest.Digest // as the lock pinned it
	Origin string
	Check  func(ctx context.Context) error // compares the folder with the digest, just before it is read
}

// Inputs implements Layer.
func (l Folder) Inputs() []artifact.Input {
	return []artifact.Input{{Name: "folder " + l.Origin, Value: string(l.Digest)}}
}

// Apply implements Layer.
func (l Folder) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	if err := l.Check(ctx); err != nil {
		return nil, err
	}
	from, err := tree.FromDir(l.Path, tree.DirOptions{Owner: &tree.Owner{}, Time: &now, Origin: l.Origin, IgnoreHoles: true})
	if err != nil {
		return nil, err
	}
	return nil, overlay(t, from)
}

// overlay puts everything of one tree over another. The root folder itself stays.
func overlay(t, from *tree.Tree) error {
	names := map[*tree.Node]string{}
	return from.Walk(func(p string, n *tree.Node, first bool) error {
		if p == "/" {
			return nil
		}
		if !first {
			return t.Link(names[n], p)
		}
		names[n] = p
		return t.Put(p, n.Copy())
	})
}

// Tar is a tar with files, uncompressed.
type Tar struct {
	Path      string
	Digest    digest.Digest // of what it came as
	Origin    string
	Component *sbom.Component // what it counts as; nil is nothing
}

// Inputs implements Layer.
func (l Tar) Inputs() []artifact.Input {
	return []artifact.Input{{Name: l.Origin, Value: string(l.Digest)}}
}

// Apply implements Layer.
func (l Tar) Apply(_ context.Context, t *tree.Tree, _ tree.Time) ([]sbom.Component, error) {
	if err := tree.ApplyTar(t, l.Path, tree.TarOptions{Origin: l.Origin}); err != nil {
		return nil, err
	}
	if l.Component == nil {
		return nil, nil
	}
	return []sbom.Component{*l.Component}, nil
}

// User is a user to add.
type User struct {
	Name     string
	UID, GID uint32
	Home     string
	Shell    string
}

// Group is a group to add.
type Group struct {
	Name    string
	GID     uint32
	Members []string
}

// Accounts are users and groups, added to the files that list them. None has a password.
type Accounts struct {
	Users  []User
	Groups []Group
	Origin string
}

// Inputs implements Layer.
func (l Accounts) Inputs() []artifact.Input {
	var out []artifact.Input
	for _, u := range l.Users {
		out = append(out, artifact.Input{Name: "user " + u.Name, Value: fmt.Sprintf("%d:%d %s %s", u.UID, u.GID, u.Home, u.Shell)})
	}
	for _, g := range l.Groups {
		out = append(out, artifact.Input{Name: "group " + g.Name, Value: fmt.Sprintf("%d %s", g.GID, strings.Join(g.Members, ","))})
	}
	return out
}

// Apply implements Layer. passwd(5), group(5), shadow(5).
func (l Accounts) Apply(_ context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	var passwd, shadow, group []string
	for _, u := range l.Users {
		passwd = append(passwd, fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, u.UID, u.GID, u.Home, u.Shell))
		shadow = append(shadow, u.Name+":!:::::::")
	}
	for _, g := range l.Groups {
		group = append(group, fmt.Sprintf("%s:x:%d:%s", g.Name, g.GID, strings.Join(g.Members, ",")))
	}
	for _, f := range []struct {
		path  string
		mode  uint16
		lines []string
	}{{"/etc/passwd", 0o644, passwd}, {"/etc/group", 0o644, group}, {"/etc/shadow", 0o640, shadow}} {
		if len(f.lines) == 0 {
			continue
		}
		if err := addLines(t, f.path, f.mode, f.lines, l.Origin, now); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// maxAccounts bounds a file of accounts that lines are added to, in bytes.
const maxAccounts = 1 << 20

// addLines appends lines to a file of accounts; a line for a name that is there already takes its place.
func addLines(t *tree.Tree, path string, mode uint16, lines []string, origin string, now tree.Time) error {
	n := &tree.Node{Kind: tree.File, Mode: mode}
	var present []string
	old, err := t.Resolve(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.Kind != tree.File || old.Size() > maxAccounts:
		return fmt.Errorf("%s is a %v of %d bytes, which no list of accounts is", path, old.Kind, old.Size())
	default:
		data, err := tree.ReadAll(old)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			present = append(present, strings.TrimSuffix(line, "\n"))
		}
		n = old.Copy()
	}
	name := func(line string) string { s, _, _ := strings.Cut(line, ":"); return s }
	for _, add := range lines {
		i := slices.IndexFunc(present, func(l string) bool { return name(l) == name(add) })
		if i < 0 {
			present = append(present, add)
			continue
		}
		present[i] = add
	}
	n.Content = tree.Bytes([]byte(strings.Join(present, "\n") + "\n"))
	n.Time, n.Origin = now, origin
	return t.Put(path, n)
}
