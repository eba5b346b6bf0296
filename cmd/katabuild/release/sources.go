package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/place"
)

// sources finds what locks name in the builder's store.
func (h *Host) sources() (func(pinned []byte) ([]assemble.Source, error), error) {
	s, err := h.Store()
	if err != nil {
		return nil, err
	}
	return func(pinned []byte) ([]assemble.Source, error) {
		l, err := lock.Decode(pinned)
		if err != nil {
			return nil, err
		}
		var out []assemble.Source
		for _, in := range l.Inputs {
			if in.Kind == lock.Local || in.Kind == lock.Tree {
				continue // the recipe's own tar has what lies beside it
			}
			files, err := fetch.Files(s, in)
			if errors.Is(err, store.ErrMissing) {
				return nil, fmt.Errorf("%s is not in the store: run: katabuild fetch RECIPE", in.Name)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", in.Name, err)
			}
			for _, f := range files {
				d, size, err := digest.File(f)
				if err != nil {
					return nil, err
				}
				out = append(out, assemble.Source{Path: f, Blob: index.Blob{Digest: d, Size: size}})
			}
		}
		return out, nil
	}, nil
}

// Sources has the sources of a release in a place by their digests, for package fetch. A folder need not be a whole
// release: what lies below its blobs/sha256/ counts. Nothing is believed, as whoever reads has the digests.
func Sources(ctx context.Context, at string, access registry.Access) (fetch.Mirror, error) {
	from, err := place.Open(ctx, at, access)
	if err != nil {
		return nil, err
	}
	m := &mirror{from: from, sizes: map[digest.Digest]int64{}}
	head, err := from.Index(ctx)
	if f, ok := from.(*folder.Folder); ok && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(f.Dir(), filepath.Dir(folder.BlobName(digest.Of(nil))))); err != nil {
			return nil, errors.Join(err, from.Close())
		}
		m.dir = f.Dir()
		return m, nil
	}
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	for _, b := range x.Sources {
		m.sizes[b.Digest] = b.Size
	}
	if len(m.sizes) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has no sources: it was not made --with-sources", at), from.Close())
	}
	return m, nil
}

// mirror is a place as package fetch asks it.
type mirror struct {
	from  place.Source
	sizes map[digest.Digest]int64
	dir   string // of a folder without an index
}

// Open begins to read a source.
func (m *mirror) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	size, has := m.sizes[d]
	if m.dir != "" {
		fi, err := os.Stat(filepath.Join(m.dir, folder.BlobName(d)))
		if err != nil {
			return nil, 0, err
		}
		size, has = fi.Size(), true
	}
	if !has {
		return nil, 0, fs.ErrNotExist
	}
	r, err := m.from.Open(ctx, index.Blob{Digest: d, Size: size}, 0)
	return r, size, err
}
