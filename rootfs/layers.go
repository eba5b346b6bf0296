package rootfs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// Layer is one source of files.
type Layer interface {
	// Inputs is what decides the layer's files. It does no work.
	Inputs() []artifact.Input
	// Apply puts the files into a tree, over what is there, and says what came in. Files that had no time of their own
	// get that of the build.
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
		out = append(out, artifact.Input{Name: "file " + f.Path, Value: fmt.Sprintf("%v %04o %d:%d %s", f.Kind,
			f.Mode, f.UID, f.GID, what)})
	}
	return out
}

// Apply implements Layer.
func (l Files) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	for _, f := range l {
		n := &tree.Node{Kind: f.Kind, Mode: f.Mode, UID: f.UID, GID: f.GID, Time: now, Target: f.Target,
			Origin: f.Origin}
		switch {
		case f.Kind == tree.Symlink:
			n.Mode = 0o777
		case f.Kind == tree.File && f.Source != "":
			if err := check(ctx, f.Source, f.Digest); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			n.Content = &tree.Live{Path: f.Source, Length: f.Size, Digest: f.Digest}
		case f.Kind == tree.File:
			n.Content = tree.Bytes(f.Data)
		}
		if behind, err := t.Resolve(f.Path); err == nil && n.Kind == tree.Dir && behind.Kind == tree.Dir {
			// What the recipe says of a folder holds for the one that a link leads to.
			behind.Mode, behind.UID, behind.GID, behind.Time, behind.Origin = n.Mode, n.UID, n.GID, n.Time, n.Origin
			continue
		}
		if err := t.Lay(f.Path, n, tree.Layering{}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// check is digest.Check that ends with its context.
func check(ctx context.Context, path string, want digest.Digest) error {
	f, err := regular.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, _, err := digest.Reader(flow.Until(ctx, f))
	if err == nil && got != want {
		err = &digest.Mismatch{Name: path, Want: want, Got: got}
	}
	return err
}

// Folder is a folder of the host as a checkout makes it (package checkout): its files belong to root, and have mode
// 0755 where they may be executed and 0644 elsewhere. A folder that is there keeps its mode and its owner.
//
// The files are read where they lie, while the image is written, so somebody may be changing them. WriteImage and
// WriteTar compare what was read with Digest, and fail where it is something else.
type Folder struct {
	Digest  digest.Digest // as the lock pinned it
	Origin  string
	Entries []checkout.Entry // as checkout.List has them
	// Changed makes the error for a folder that is not the one which the lock pinned. Nil is the error as it is.
	Changed func(error) error

	files []*tree.Node // those of Entries as they came into the tree; nil for what is no file
}

// Inputs implements Layer.
func (l *Folder) Inputs() []artifact.Input {
	return []artifact.Input{{Name: l.Origin, Value: string(l.Digest)}}
}

// Apply implements Layer.
func (l *Folder) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	l.files = make([]*tree.Node, len(l.Entries))
	var lost []string
	for i, e := range l.Entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e.Lost != "" {
			lost = append(lost, e.Name+" ("+e.Lost+")")
		}
		if e.Name == "." {
			continue
		}
		n := &tree.Node{Mode: 0o755, Time: now, Origin: l.Origin + "/" + e.Name}
		switch e.Kind {
		case checkout.Symlink:
			n.Kind, n.Mode, n.Target = tree.Symlink, 0o777, e.Target
		case checkout.File, checkout.Executable:
			n.Kind, n.Content = tree.File, &tree.Live{Path: e.Path, Length: e.Size}
			if e.Kind == checkout.File {
				n.Mode = 0o644
			}
			l.files[i] = n
		}
		if err := t.Lay("/"+e.Name, n, tree.Layering{KeepFolders: true}); err != nil {
			return nil, err
		}
	}
	if len(lost) > 0 {
		t.Remark(fmt.Sprintf("of files in it counts whether they may be executed, and no other right, so these lose "+
			"what they had: %s; say what the guest "+
			"needs in a layer permissions", some(lost)))
	}
	return nil, nil
}

// verify compares what was read of the folder with its digest. What nobody read, since it is not in the tree or another
// layer changed it, is read now.
func (l *Folder) verify(ctx context.Context, files *tree.Opener) error {
	if l.files == nil {
		return nil // nobody came so far
	}
	err := l.compare(ctx, files)
	if err != nil && ctx.Err() == nil && l.Changed != nil {
		err = l.Changed(err)
	}
	return err
}

func (l *Folder) compare(ctx context.Context, files *tree.Opener) error {
	whole := checkout.NewSummer()
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.Kind != checkout.File && e.Kind != checkout.Executable {
			whole.Add(e, "")
			continue
		}
		n := l.files[i]
		if n == nil || !isLive(n, e.Path) {
			n = &tree.Node{Kind: tree.File, Content: &tree.Live{Path: e.Path, Length: e.Size}}
		}
		sum, err := files.Sum(ctx, n)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		whole.Add(e, digest.OfSum(sum.SHA256))
	}
	if got := whole.Digest(); got != l.Digest {
		return &digest.Mismatch{Name: l.Origin, Want: l.Digest, Got: got}
	}
	return nil
}

func isLive(n *tree.Node, path string) bool {
	live, ok := n.Content.(*tree.Live)
	return ok && live.Path == path
}

// some is a few of many words, for people.
func some(words []string) string {
	const most = 5
	if len(words) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
	}
	return strings.Join(words, ", ")
}

// overlay puts everything of one tree over another, below a folder of it. The root folder itself stays, and so does a
// link to a folder where from has a folder, but for those in replaces.
func overlay(ctx context.Context, t, from *tree.Tree, below string, replaces map[string]bool) error {
	names := map[*tree.Node]string{}
	return from.Walk(func(p string, n *tree.Node, first bool) error {
		at := path.Join("/", below, p)
		if at == "/" {
			return ctx.Err()
		}
		if !first {
			return t.LayLink(names[n], at)
		}
		names[n] = at
		return errors.Join(ctx.Err(), t.Lay(at, n.Copy(), tree.Layering{ReplaceLinks: replaces[p]}))
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
func (l Tar) Apply(ctx context.Context, t *tree.Tree, _ tree.Time) ([]sbom.Component, error) {
	going := func(string, *tree.Node) (bool, error) { return true, ctx.Err() }
	err := tarfile.Apply(t, l.Path, tarfile.Options{Origin: l.Origin, Layering: &tree.Layering{}, Keep: going})
	if e, ok := errors.AsType[*tarfile.EntryError](err); ok {
		return nil, fmt.Errorf("%s: entry %q: %w", l.Origin, e.Name, e.Err) // the file is a copy in the store
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.Origin, err)
	}
	if l.Component == nil {
		return nil, nil
	}
	return []sbom.Component{*l.Component}, nil
}
