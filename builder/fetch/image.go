package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/registry"
)

// bringImage puts an image's manifest, configuration and layers into the store, each by its digest, as far as they are
// not there. Images share layers, so what is there may come from another.
func (f *Fetcher) bringImage(ctx context.Context, in lock.Input, report progress.Func) error {
	reg := f.Registry
	if reg == nil {
		reg = &registry.Client{}
	}
	if !f.Store.Has(in.Digest) {
		if _, err := f.fromMirror(ctx, "manifest of "+in.Where, in.Digest, report); err != nil {
			return err
		}
	}
	if !f.Store.Has(in.Digest) {
		raw, err := reg.Manifest(ctx, in.Where, in.Digest)
		if err != nil {
			return err
		}
		if _, _, err := f.Store.Put("manifest of "+in.Where, bytes.NewReader(raw), in.Digest); err != nil {
			return err
		}
	}
	blobs, err := f.imageBlobs(in)
	if err != nil {
		return err
	}
	var done int64
	for _, b := range blobs {
		if !f.Store.Has(b.Digest) {
			if _, err := f.fromMirror(ctx, in.Where, b.Digest, report); err != nil {
				return err
			}
		}
		if !f.Store.Has(b.Digest) {
			r, err := reg.Blob(ctx, in.Where, b.Digest)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("%s of image %s", b.Digest, in.Where)
			_, _, err = f.Store.Put(what, &counter{r: r, n: done, limit: done + b.Size, total: in.Size,
				report: report, name: what}, b.Digest)
			if err = errors.Join(err, r.Close()); err != nil {
				return err
			}
		}
		done += b.Size
	}
	return nil
}

// imageBlobs lists what the stored manifest of an image names.
func (f *Fetcher) imageBlobs(in lock.Input) ([]registry.Blob, error) {
	p, err := f.Store.Get(in.Digest)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(p)
	if err != nil {
		return nil, err
	}
	blobs, err := registry.Blobs(raw)
	if err != nil {
		return nil, fmt.Errorf("image %s at %s: %w", in.Where, in.Digest, err)
	}
	return blobs, nil
}

// Files are the stored files of an input: one, or of an image its manifest, configuration and layers.
func Files(s *store.Store, in lock.Input) ([]string, error) {
	all := []registry.Blob{{Digest: in.Digest}}
	if in.Kind == lock.OCI {
		f := Fetcher{Store: s}
		blobs, err := f.imageBlobs(in)
		if err != nil {
			return nil, err
		}
		all = append(all, blobs...)
	}
	var out []string
	for _, b := range all {
		p, err := s.Get(b.Digest)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// ImageLayout makes an OCI image layout of an image that Bring has put into the store, in the folder dir, which must be
// there and on the store's file system: blobs are further names of the store's.
func (f *Fetcher) ImageLayout(in lock.Input, dir string) error {
	blobs, err := f.imageBlobs(in)
	if err != nil {
		return err
	}
	below := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(below, 0o755); err != nil {
		return err
	}
	size := int64(0)
	for i, b := range append([]registry.Blob{{Digest: in.Digest}}, blobs...) {
		p, err := f.Store.Get(b.Digest)
		if err != nil {
			return err
		}
		to := filepath.Join(below, b.Digest.Hex())
		if err := os.Link(p, to); err != nil && !errors.Is(err, os.ErrExist) {
			return err // a layer may stand in it twice
		}
		if i == 0 {
			fi, err := os.Stat(to)
			if err != nil {
				return err
			}
			size = fi.Size()
		}
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		"application/vnd.oci.image.manifest.v1+json", in.Digest, size)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o644),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
	)
}
