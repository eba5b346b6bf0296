package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
)

// Registry reaches registries of container images. The zero value reaches them as nobody.
type Registry struct {
	Access
	// Transport makes requests; nil is one that Access decides about. It is for those who reach no network.
	Transport http.RoundTripper

	once sync.Once
	keys *keychain
	way  http.RoundTripper
}

// FoundImage is an image as a registry has it now.
type FoundImage struct {
	Digest digest.Digest // of the manifest for the architecture
	Size   int64         // of all there is to fetch, in bytes
}

// Bounds of what a registry may send, in bytes: registries take manifests of 4 MiB.
const (
	maxManifest = 4 << 20
	maxBlob     = 64 << 30
)

// Resolve asks what an image's name ("registry/repository:tag", or "@sha256:…") means for Linux on an architecture.
// arch is Go's name.
func (r *Registry) Resolve(ctx context.Context, image, arch string) (*FoundImage, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	var img v1.Image
	err = r.anywhere(ctx, ref.Context(), func(repo name.Repository, o []remote.Option) (err error) {
		var at name.Reference = repo.Tag(ref.Identifier())
		if _, byDigest := ref.(name.Digest); byDigest {
			at = repo.Digest(ref.Identifier())
		}
		img, err = remote.Image(at, append(o, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("image %s: manifest: %w", image, err)
	}
	blobs, err := blobsOf(raw)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	// A name without platforms stands for one image, whatever that is for.
	cfg, err := img.ConfigFile()
	if err == nil && (cfg.OS != "linux" || cfg.Architecture != arch) {
		err = fmt.Errorf("it is for %s/%s, want linux/%s", cfg.OS, cfg.Architecture, arch)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	f := &FoundImage{Digest: digest.Of(raw), Size: int64(len(raw))}
	for _, b := range blobs {
		f.Size += b.size
	}
	return f, nil
}

// anywhere calls ask for each place where a repository is looked for, until one has an answer. Every refusal is in the
// error.
func (r *Registry) anywhere(ctx context.Context, repo name.Repository, ask func(name.Repository,
	[]remote.Option) error) error {
	r.once.Do(func() {
		r.keys = &keychain{a: &r.Access}
		if r.way = r.Transport; r.way == nil {
			r.way = &hosts{a: &r.Access}
		}
	})
	places, err := r.places(repo)
	if err != nil {
		return err
	}
	o := []remote.Option{remote.WithContext(ctx), remote.WithTransport(r.way), remote.WithAuthFromKeychain(r.keys)}
	var errs []error
	for _, p := range places {
		err := ask(p, slices.Clone(o))
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, r.keys.explain(p.RegistryStr(), err))
	}
	return errors.Join(errs...)
}

// manifest fetches the manifest with a digest.
func (r *Registry) manifest(ctx context.Context, repo name.Repository, want digest.Digest) ([]byte, error) {
	var d *remote.Descriptor
	err := r.anywhere(ctx, repo, func(repo name.Repository, o []remote.Option) (err error) {
		// The library checks the digest; so does the store.
		d, err = remote.Get(repo.Digest(string(want)), o...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(d.Manifest) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes: want at most %d", len(d.Manifest), maxManifest)
	}
	return d.Manifest, nil
}

// blob begins to read a blob.
func (r *Registry) blob(ctx context.Context, repo name.Repository, d digest.Digest) (body io.ReadCloser, err error) {
	err = r.anywhere(ctx, repo, func(repo name.Repository, o []remote.Option) error {
		l, err := remote.Layer(repo.Digest(string(d)), o...)
		if err == nil {
			body, err = l.Compressed()
		}
		return err
	})
	return body, err
}

// blobsOf lists what a manifest names: its configuration, then its layers. OCI image specification, manifest.md.
func blobsOf(manifest []byte) ([]listed, error) {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
		Size   int64         `json:"size"`
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        *descriptor     `json:"config"`
		Layers        []descriptor    `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 || m.Config == nil || m.Manifests != nil {
		return nil, errors.New("no manifest of an image")
	}
	var out []listed
	for _, d := range append([]descriptor{*m.Config}, m.Layers...) {
		if d.Digest == "" || d.Size < 0 || d.Size > maxBlob {
			return nil, fmt.Errorf("manifest: %q of %d bytes", d.Digest, d.Size)
		}
		out = append(out, listed{d.Digest, d.Size})
	}
	return out, nil
}

// bringImage puts an image's manifest, configuration and layers into the store, each by its digest, as far as they are
// not there. Images share layers, so what is there may come from another.
func (f *Fetcher) bringImage(ctx context.Context, in lock.Input, report progress.Func) error {
	ref, err := name.ParseReference(in.Where)
	if err != nil {
		return fmt.Errorf("image %q: %w", in.Where, err)
	}
	reg := f.Registry
	if reg == nil {
		reg = &Registry{}
	}
	repo := ref.Context()
	if !f.Store.Has(in.Digest) {
		raw, err := reg.manifest(ctx, repo, in.Digest)
		if err != nil {
			return fmt.Errorf("image %s: %w", in.Where, err)
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
		if !f.Store.Has(b.digest) {
			r, err := reg.blob(ctx, repo, b.digest)
			if err != nil {
				return fmt.Errorf("image %s: %s: %w", in.Where, b.digest, err)
			}
			what := fmt.Sprintf("%s of image %s", b.digest, in.Where)
			_, _, err = f.Store.Put(what, &counter{r: r, n: done, limit: done + b.size, total: in.Size,
				report: report, name: what}, b.digest)
			if err = errors.Join(err, r.Close()); err != nil {
				return err
			}
		}
		done += b.size
	}
	return nil
}

// imageBlobs lists what the stored manifest of an image names.
func (f *Fetcher) imageBlobs(in lock.Input) ([]listed, error) {
	p, err := f.Store.Get(in.Digest)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(p)
	if err != nil {
		return nil, err
	}
	blobs, err := blobsOf(raw)
	if err != nil {
		return nil, fmt.Errorf("image %s at %s: %w", in.Where, in.Digest, err)
	}
	return blobs, nil
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
	for i, b := range append([]listed{{digest: in.Digest}}, blobs...) {
		p, err := f.Store.Get(b.digest)
		if err != nil {
			return err
		}
		to := filepath.Join(below, b.digest.Hex())
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
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, in.Digest, size)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o644),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
	)
}
