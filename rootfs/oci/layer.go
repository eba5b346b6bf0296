package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/flow"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
)

// layer is one layer as it is stored.
type layer struct {
	name      string        // in the source
	digest    digest.Digest // of the stored bytes; "" where nobody says
	size      int64         // of the stored bytes; not looked at without a digest
	mediaType string
}

// stack unpacks layers and puts them on each other, the lowest first.
func stack(ctx context.Context, s source, layers []layer, c *Config, o Options) (t *tree.Tree,
	replaces map[string]bool, err error) {
	if len(layers) != len(c.RootFS.DiffIDs) {
		return nil, nil, fmt.Errorf("%d layers, and %d in the configuration", len(layers), len(c.RootFS.DiffIDs))
	}
	t, replaces = tree.New(), map[string]bool{}
	done := map[digest.Digest]string{} // unpacked layers by diff id: some images have one several times
	for i, l := range layers {
		diff, err := digest.Parse(c.RootFS.DiffIDs[i])
		if err != nil {
			return nil, nil, fmt.Errorf("layer %d: diff id: %w", i, err)
		}
		file := done[diff]
		if file == "" {
			file = filepath.Join(o.Work, diff.Hex()+".tar")
			if err := l.unpack(ctx, s, file, diff, o.MaxLayer); err != nil {
				return nil, nil, fmt.Errorf("layer %d: %w", i, err)
			}
			done[diff] = file
		}
		if err := apply(ctx, t, file, "layer "+diff.Short(), replaces); err != nil {
			return nil, nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return t, replaces, nil
}

// unpack writes the uncompressed layer to a file and checks both digests.
func (l layer) unpack(ctx context.Context, s source, file string, diff digest.Digest, limit int64) error {
	if strings.HasSuffix(l.mediaType, "+encrypted") {
		return errors.New("it is encrypted")
	}
	in, err := s.Open(l.name)
	if err != nil {
		return err
	}
	defer in.Close()
	sum := digest.New()
	stored := &counter{r: io.TeeReader(flow.Until(ctx, in), sum)}
	got, _, err := compression.Decompress(stored, file, limit)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", l.name, err)
	}
	// A decompressor stops where its format ends; the digest is of all.
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return fmt.Errorf("read %s: %w", l.name, err)
	}
	switch {
	case l.digest != "" && sum.Digest() != l.digest:
		return &digest.Mismatch{Name: l.name, Want: l.digest, Got: sum.Digest()}
	case l.digest != "" && stored.n != l.size:
		return fmt.Errorf("%s: %d bytes, its descriptor says %d", l.name, stored.n, l.size)
	case got != diff:
		return &digest.Mismatch{Name: l.name + ", uncompressed", Want: diff, Got: got}
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// Names that say what of lower layers is gone. Image specification, layer.md, "Representing Changes".
const (
	whiteout = ".wh."                       // before a name: that name is gone
	opaque   = whiteout + whiteout + ".opq" // in a folder: what it held is gone
)

// apply puts an uncompressed layer on a tree. Whiteouts count for what was there before the layer only, wherever in it
// they stand. Paths that whiteouts name, and folders that took the place of links, are added to replaces.
//
// A name that begins with .wh..wh. is aufs's own business and is left out, with all below it.
func apply(ctx context.Context, t *tree.Tree, file, origin string, replaces map[string]bool) error {
	err := applyWhiteouts(t, file, replaces)
	if err == nil {
		err = applyFiles(ctx, t, file, origin)
	}
	if e, ok := errors.AsType[*tarfile.EntryError](err); ok {
		return fmt.Errorf("entry %q: %w", e.Name, e.Err) // the file is a temporary one
	}
	return err
}

func applyFiles(ctx context.Context, t *tree.Tree, file, origin string) error {
	skip := func(p string) bool { return strings.Contains(p, "/"+whiteout) }
	return tarfile.Apply(t, file, tarfile.Options{Origin: origin, Layering: &tree.Layering{ReplaceLinks: true},
		Skip: skip, Keep: func(p string, _ *tree.Node) (bool, error) {
			return !skip(p), ctx.Err()
		}})
}

func applyWhiteouts(t *tree.Tree, file string, replaces map[string]bool) error {
	var gone, emptied []string
	err := tarfile.Names(file, func(p string, k tree.Kind) error {
		dir, name := path.Split(p)
		if strings.Contains(dir, "/"+whiteout) {
			return nil
		}
		of, is := strings.CutPrefix(name, whiteout)
		switch {
		case !is:
			// A folder in place of a link, or of anything else, has nothing of what the link led to: that goes before
			// whiteouts are looked up, or they would be looked up through it.
			if n, err := t.Lookup(p); err == nil && k == tree.Dir && n.Kind != tree.Dir {
				replaces[p] = true
				return t.Remove(p)
			}
		case name == opaque:
			emptied = append(emptied, path.Clean(dir))
			replaces[path.Clean(dir)] = true
		case strings.HasPrefix(of, whiteout):
		case of == "" || of == "." || of == "..":
			return fmt.Errorf("a whiteout for %q", of)
		default:
			gone = append(gone, path.Join(dir, of))
			replaces[path.Join(dir, of)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range emptied {
		n, err := t.Resolve(p)
		if errors.Is(err, fs.ErrNotExist) || err == nil && n.Kind != tree.Dir {
			continue
		}
		if err != nil {
			return fmt.Errorf("opaque folder: %w", err)
		}
		for _, name := range n.Names() {
			if err := t.Remove(path.Join(p, name)); err != nil {
				return fmt.Errorf("opaque folder: %w", err)
			}
		}
	}
	for _, p := range gone {
		// What is not there is gone: tools write whiteouts for files that lower layers no longer have.
		if err := t.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, tree.ErrNotDir) {
			return fmt.Errorf("whiteout: %w", err)
		}
	}
	return nil
}
