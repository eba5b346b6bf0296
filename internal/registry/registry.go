// Package registry reaches registries of container images: with docker's and podman's logins, private certificate
// authorities and mirrors, by https only unless the user says otherwise.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/katabuild/katabuild/internal/digest"
)

// Client reaches registries. The zero value reaches them as nobody.
type Client struct {
	Access
	// Transport makes requests; nil is one that Access decides about. It is for those who reach no network.
	Transport http.RoundTripper

	once sync.Once
	keys *keychain
	way  http.RoundTripper
}

// Image is an image as a registry has it now.
type Image struct {
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
func (c *Client) Resolve(ctx context.Context, image, arch string) (*Image, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	var img v1.Image
	err = c.anywhere(ctx, ref.Context(), func(repo name.Repository, o []remote.Option) (err error) {
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
	blobs, err := Blobs(raw)
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
	found := &Image{Digest: digest.Of(raw), Size: int64(len(raw))}
	for _, b := range blobs {
		found.Size += b.Size
	}
	return found, nil
}

// anywhere calls ask for each place where a repository is looked for, until one has an answer. Every refusal is in the
// error.
func (c *Client) anywhere(ctx context.Context, repo name.Repository, ask func(name.Repository,
	[]remote.Option) error) error {
	c.once.Do(func() {
		c.keys = &keychain{a: &c.Access}
		if c.way = c.Transport; c.way == nil {
			c.way = &hosts{a: &c.Access}
		}
	})
	places, err := c.places(repo)
	if err != nil {
		return err
	}
	o := []remote.Option{remote.WithContext(ctx), remote.WithTransport(c.way), remote.WithAuthFromKeychain(c.keys)}
	var errs []error
	for _, p := range places {
		err := ask(p, slices.Clone(o))
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, c.keys.explain(p.RegistryStr(), err))
	}
	return errors.Join(errs...)
}

// Manifest fetches the manifest that an image's name, as Resolve takes it, has under a digest. It has at most 4 MiB.
func (c *Client) Manifest(ctx context.Context, image string, want digest.Digest) ([]byte, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	var d *remote.Descriptor
	err = c.anywhere(ctx, ref.Context(), func(repo name.Repository, o []remote.Option) (err error) {
		// The library checks the digest; so does the store.
		d, err = remote.Get(repo.Digest(string(want)), o...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	if len(d.Manifest) > maxManifest {
		return nil, fmt.Errorf("image %s: manifest of %d bytes: want at most %d", image, len(d.Manifest), maxManifest)
	}
	return d.Manifest, nil
}

// Blob begins to read a blob of an image by its digest. The bytes are not checked; the caller closes the reader.
func (c *Client) Blob(ctx context.Context, image string, d digest.Digest) (body io.ReadCloser, err error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	err = c.anywhere(ctx, ref.Context(), func(repo name.Repository, o []remote.Option) error {
		l, err := remote.Layer(repo.Digest(string(d)), o...)
		if err == nil {
			body, err = l.Compressed()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %s: %w", image, d, err)
	}
	return body, nil
}

// Blob is what a manifest names.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // in bytes, at most 64 GiB
}

// Blobs lists what a manifest names: its configuration, then its layers. OCI image specification, manifest.md.
func Blobs(manifest []byte) ([]Blob, error) {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        *Blob           `json:"config"`
		Layers        []Blob          `json:"layers"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 || m.Config == nil || m.Manifests != nil {
		return nil, errors.New("no manifest of an image")
	}
	out := append([]Blob{*m.Config}, m.Layers...)
	for _, b := range out {
		if b.Digest == "" || b.Size < 0 || b.Size > maxBlob {
			return nil, fmt.Errorf("manifest: %q of %d bytes", b.Digest, b.Size)
		}
	}
	return out, nil
}
