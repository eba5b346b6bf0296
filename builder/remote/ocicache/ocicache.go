// Package ocicache keeps records and outputs of steps in a repository of a registry of OCI artefacts.
//
// A record is the first layer of an artefact whose tag is the record's address; its outputs are the other layers, so
// that a registry keeps them as long as the tag. docs/formats/remote-cache.md has the form.
package ocicache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	godigest "github.com/opencontainers/go-digest"
	orasremote "oras.land/oras-go/v2/registry/remote"

	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
)

// The types of the artefact and its layers.
const (
	stepType   = "application/vnd.katabuild.step.v1"
	recordType = "application/vnd.katabuild.step.record.v1+json"
	outputType = "application/octet-stream"
)

// maxManifest bounds a manifest, in bytes; registries take no larger ones.
const maxManifest = 4 << 20

// cache is a repository. It reaches the registry at the first call.
type cache struct {
	repository string // HOST[:PORT]/PATH
	access     registry.Access
	mirrors    bool

	mu sync.Mutex
	at []place // nil before the first call; mirrors first
}

type place struct {
	registry.Repository
	repo *orasremote.Repository
}

// Prefix is what the name of such a cache begins with.
const Prefix = "oci:"

// Reader is the repository HOST[:PORT]/PATH for reading, where mirrors of the registry are asked before it.
func Reader(repository string, access registry.Access) remote.Cache {
	return &cache{repository: repository, access: access, mirrors: true}
}

// Writer is the repository for writing.
func Writer(repository string, access registry.Access) remote.Cache {
	return &cache{repository: repository, access: access}
}

// Name implements remote.Cache.
func (c *cache) Name() string { return Prefix + c.repository }

// Close implements remote.Cache.
func (c *cache) Close() error {
	for _, p := range c.at {
		p.HTTP.CloseIdleConnections()
	}
	return nil
}

func (c *cache) places(ctx context.Context) ([]place, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != nil {
		return c.at, nil
	}
	all, err := (&registry.Client{Access: c.access}).Repositories(ctx, c.repository, c.mirrors)
	if err != nil {
		return nil, err
	}
	var at []place
	for _, r := range all {
		repo, err := r.Artifacts()
		if err != nil {
			return nil, err
		}
		at = append(at, place{r, repo})
	}
	c.at = at
	return at, nil
}

// anywhere asks each place until one has an answer.
func (c *cache) anywhere(ctx context.Context, ask func(p *place) error) error {
	at, err := c.places(ctx)
	if err != nil {
		return err
	}
	worst := remote.ErrNone
	for i := range at {
		err := at[i].explain(ask(&at[i]))
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, remote.ErrNone) {
			worst = err
		}
	}
	return worst
}

// explain names those errors that have a meaning here.
func (p *place) explain(err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return remote.ErrNone
	}
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return p.Explain(e.StatusCode, err)
	}
	return err
}

// tag is the tag of an address.
func tag(a remote.Address) string { return a.Digest.Hex() }

// Record implements remote.Cache.
func (c *cache) Record(ctx context.Context, a remote.Address) (data []byte, err error) {
	err = c.anywhere(ctx, func(p *place) error {
		data, err = p.record(ctx, tag(a))
		return err
	})
	return data, err
}

func (p *place) record(ctx context.Context, tag string) ([]byte, error) {
	d, body, err := p.repo.Manifests().FetchReference(ctx, tag)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	if got := remote.BlobOf(raw); got != (remote.Blob{Digest: digest.Digest(d.Digest), Size: d.Size}) {
		return nil, &remote.Lie{Err: fmt.Errorf("manifest: want %s of %d bytes, got %s of %d", d.Digest, d.Size,
			got.Digest, got.Size)}
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, &remote.Lie{Err: fmt.Errorf("manifest: %w", err)}
	}
	if m.ArtifactType != stepType || len(m.Layers) == 0 || m.Layers[0].MediaType != recordType ||
		m.Layers[0].Size < 0 || m.Layers[0].Size > store.MaxRecord {
		return nil, &remote.Lie{Err: errors.New("manifest: it is not that of a step")}
	}
	want := m.Layers[0]
	if _, err := digest.Parse(string(want.Digest)); err != nil {
		return nil, &remote.Lie{Err: err}
	}
	from, err := p.repo.Blobs().Fetch(ctx, want)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(from, want.Size+1))
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, err
	}
	if got := remote.BlobOf(data); got != (remote.Blob{Digest: digest.Digest(want.Digest), Size: want.Size}) {
		return nil, &remote.Lie{Err: fmt.Errorf("record: want %s of %d bytes, got %s of %d", want.Digest, want.Size,
			got.Digest, got.Size)}
	}
	return data, nil
}

func describe(mediaType string, b remote.Blob) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: godigest.Digest(b.Digest), Size: b.Size}
}

// Open implements remote.Cache.
func (c *cache) Open(ctx context.Context, b remote.Blob, offset int64) (body io.ReadCloser, err error) {
	err = c.anywhere(ctx, func(p *place) error {
		if body, err = p.repo.Blobs().Fetch(ctx, describe(outputType, b)); err != nil || offset == 0 {
			return err
		}
		if s, ok := body.(io.Seeker); ok { // the registry sends parts
			_, err = s.Seek(offset, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, body, offset)
		}
		if err != nil {
			return errors.Join(err, body.Close())
		}
		return nil
	})
	return body, err
}

// Missing implements remote.Cache.
func (c *cache) Missing(ctx context.Context, blobs []remote.Blob) (missing []remote.Blob, err error) {
	err = c.anywhere(ctx, func(p *place) error {
		missing = nil
		for _, b := range blobs {
			has, err := p.repo.Blobs().Exists(ctx, describe(outputType, b))
			if err != nil {
				return err
			}
			if !has {
				missing = append(missing, b)
			}
		}
		return nil
	})
	return missing, err
}

// Put implements remote.Cache.
func (c *cache) Put(ctx context.Context, files []remote.File, moved func(int64)) error {
	return c.anywhere(ctx, func(p *place) error {
		for _, f := range files {
			if err := p.put(ctx, f, moved); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		return nil
	})
}

func (p *place) put(ctx context.Context, f remote.File, moved func(int64)) error {
	from, err := f.Open(0)
	if err != nil {
		return err
	}
	err = p.repo.Blobs().Push(ctx, describe(outputType, f.Blob), &counted{from, moved})
	if errors.Is(err, errdef.ErrAlreadyExists) {
		err = nil
	}
	return errors.Join(err, from.Close())
}

// counted tells how many bytes are read. Its reader is closed by somebody else.
type counted struct {
	io.Reader
	moved func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if n > 0 {
		c.moved(int64(n))
	}
	return n, err
}

// Publish implements remote.Cache.
func (c *cache) Publish(ctx context.Context, a remote.Address, r *store.Signed) error {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: stepType, Config: v1.DescriptorEmptyJSON,
		Layers: []v1.Descriptor{describe(recordType, remote.BlobOf(r.Data))}}
	for _, o := range r.Action.Outputs {
		if o.Size == 0 {
			continue
		}
		d := describe(outputType, remote.Blob{Digest: o.Digest, Size: o.Size})
		d.Annotations = map[string]string{v1.AnnotationTitle: o.Name}
		m.Layers = append(m.Layers, d)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return c.anywhere(ctx, func(p *place) error {
		for _, b := range [][]byte{v1.DescriptorEmptyJSON.Data, r.Data} {
			has, err := p.repo.Blobs().Exists(ctx, describe(outputType, remote.BlobOf(b)))
			if err != nil {
				return err
			}
			if has {
				continue
			}
			if err := p.put(ctx, remote.Bytes("record", b), func(int64) {}); err != nil {
				return err
			}
		}
		d := content.NewDescriptorFromBytes(v1.MediaTypeImageManifest, raw)
		return p.repo.Manifests().PushReference(ctx, d, bytes.NewReader(raw), tag(a))
	})
}
