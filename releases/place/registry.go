package place

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/ociform"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/reproduced"
)

// Bounds of what a registry may say, in bytes and in numbers.
const (
	maxManifest  = 4 << 20
	maxReferrers = 200 // artefacts that refer to a release as signatures and statements
	maxPages     = 10  // of lists
)

// defaultTag is the tag of a place that names none.
const defaultTag = "latest"

// oci is a release in a repository of a registry, by a tag or a digest.
type oci struct {
	name string
	ref  string
	at   []reached // where the repository is looked for: mirrors first

	mu   sync.Mutex
	used int // which of them has the release
}

// reached is a repository and how it is reached.
type reached struct {
	registry.Repository
	repo *remote.Repository
}

func openRegistry(ctx context.Context, name string, access registry.Access, mirrors bool) (*oci, error) {
	repository, ref := name, defaultTag
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		repository, ref = name[:i], name[i+1:]
	} else if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		repository, ref = name[:i], name[i+1:]
	}
	if !strings.Contains(repository, "/") {
		return nil, fmt.Errorf("%s%s: want oci:HOST/REPOSITORY[:TAG]", ociPrefix, name)
	}
	places, err := (&registry.Client{Access: access}).Repositories(ctx, repository, mirrors)
	if err != nil {
		return nil, err
	}
	o := &oci{name: ociPrefix + repository + ":" + ref, ref: ref}
	for _, p := range places {
		r, err := reach(p)
		if err != nil {
			return nil, err
		}
		o.at = append(o.at, *r)
	}
	return o, nil
}

func reach(p registry.Repository) (*reached, error) {
	repo, err := p.Artifacts()
	if err != nil {
		return nil, err
	}
	repo.ReferrerListMaxPages = maxPages
	return &reached{p, repo}, nil
}

// explain says as whom a registry was asked that refuses.
func (r *reached) explain(err error) error {
	if e, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return r.Explain(e.StatusCode, err)
	}
	if s, ok := errors.AsType[*status](err); ok {
		return r.Explain(s.code, err)
	}
	return err
}

func (o *oci) Close() error {
	for _, r := range o.at {
		r.HTTP.CloseIdleConnections()
	}
	return nil
}

func (o *oci) current() *reached {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &o.at[o.used]
}

// Index finds the release, in the first of the repository's places that has it, and what others say of it.
func (o *oci) Index(ctx context.Context) (folder.Head, error) {
	var errs []error
	for i := range o.at {
		r := &o.at[i]
		h, err := o.read(ctx, r)
		if err == nil {
			o.mu.Lock()
			o.used = i
			o.mu.Unlock()
			return h, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.name, r.explain(err)))
	}
	return folder.Head{}, errors.Join(errs...)
}

func (o *oci) read(ctx context.Context, r *reached) (h folder.Head, err error) {
	d, raw, err := o.tagged(ctx, r)
	if err != nil {
		return h, err
	}
	if h.Index, err = o.index(ctx, r, raw); err != nil {
		return h, err
	}
	x, err := index.Decode(h.Index)
	if err != nil {
		return h, err
	}
	form, err := ociform.Of(x, h.Index)
	if err != nil {
		return h, err
	}
	if !bytes.Equal(form.Index.Data, raw) {
		return h, refusal.New(refusal.OCIIndex, o.name, "what the registry lists is not what the release makes"+
			": want the index %s, got %s", form.Index.Descriptor.Digest, d.Digest)
	}
	return h, o.referrers(ctx, r, form.Index.Descriptor, &h)
}

// tagged reads the index of OCI that the tag points to.
func (o *oci) tagged(ctx context.Context, r *reached) (v1.Descriptor, []byte, error) {
	d, body, err := r.repo.Manifests().FetchReference(ctx, o.ref)
	if err != nil {
		return d, nil, err
	}
	defer body.Close()
	if d.MediaType != v1.MediaTypeImageIndex {
		return d, nil, refusal.New(refusal.MediaType, o.name, "it is of the type %s, want %s", d.MediaType,
			v1.MediaTypeImageIndex)
	}
	raw, err := readSmall(o.name, body, maxManifest)
	if err == nil && digest.Of(raw) != digest.Digest(d.Digest) {
		err = refusal.New(refusal.Digest, o.name, "the registry says %s, its bytes have %s", d.Digest, digest.Of(raw))
	}
	return d, raw, err
}

// index reads the release's own index, by way of the artefact that has it. What it is, the caller checks.
func (o *oci) index(ctx context.Context, r *reached, raw []byte) ([]byte, error) {
	var list v1.Index
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, refusal.New(refusal.Document, o.name, "%v", err)
	}
	if len(list.Manifests) == 0 || list.Manifests[0].ArtifactType != ociform.ReleaseType {
		return nil, refusal.New(refusal.OCIIndex, o.name, "it is not a release of guests: its first entry is not of "+
			"the type %s", ociform.ReleaseType)
	}
	m, err := o.manifest(ctx, r, list.Manifests[0])
	if err != nil {
		return nil, err
	}
	if len(m.Layers) == 0 || m.Layers[0].MediaType != index.MediaType {
		return nil, refusal.New(refusal.MediaType, o.name, "the release has no file of the type %s", index.MediaType)
	}
	return o.blob(ctx, r, m.Layers[0], index.MaxSize)
}

func (o *oci) manifest(ctx context.Context, r *reached, d v1.Descriptor) (*v1.Manifest, error) {
	if d.MediaType != v1.MediaTypeImageManifest {
		return nil, refusal.New(refusal.MediaType, o.name, "%s is of the type %s, want %s", d.Digest, d.MediaType,
			v1.MediaTypeImageManifest)
	}
	body, err := r.repo.Manifests().Fetch(ctx, d)
	if err != nil {
		return nil, o.lies(d, err)
	}
	defer body.Close()
	raw, err := o.exactly(body, d, maxManifest)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, refusal.New(refusal.Document, o.name, "%s: %v", d.Digest, err)
	}
	return &m, nil
}

// lies makes a refusal of what the library says of a manifest that is not the one that was asked for.
func (o *oci) lies(d v1.Descriptor, err error) error {
	text := err.Error()
	for words, reason := range map[string]refusal.Reason{"mismatch Content-Length": refusal.Size,
		"mismatch response Content-Type": refusal.MediaType, "mismatch digest": refusal.Digest,
		"mismatch Content-Digest": refusal.Digest} {
		if strings.Contains(text, words) {
			return refusal.New(reason, o.name, "%s: %v", d.Digest, err)
		}
	}
	return err
}

func (o *oci) blob(ctx context.Context, r *reached, d v1.Descriptor, limit int64) ([]byte, error) {
	body, err := o.open(ctx, r, index.Blob{Digest: digest.Digest(d.Digest), Size: d.Size}, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return o.exactly(body, d, limit)
}

// exactly reads what a descriptor promises.
func (o *oci) exactly(body io.Reader, d v1.Descriptor, limit int64) ([]byte, error) {
	raw, err := readSmall(o.name, body, limit)
	switch {
	case err != nil:
		return nil, err
	case int64(len(raw)) != d.Size:
		return nil, refusal.New(refusal.Size, o.name, "%s has %d bytes, want %d", d.Digest, len(raw), d.Size)
	case digest.Of(raw) != digest.Digest(d.Digest):
		return nil, refusal.New(refusal.Digest, o.name, "want %s, got %s", d.Digest, digest.Of(raw))
	}
	return raw, nil
}

// referrers gathers what refers to a release: the signatures of all such artefacts in one envelope, and statements in
// one list; nil is none.
func (o *oci) referrers(ctx context.Context, r *reached, of v1.Descriptor, h *folder.Head) error {
	var list []v1.Descriptor
	// All are asked for: some registries list the type of an artefact's configuration in the place of its own.
	err := r.repo.Referrers(ctx, of, "", func(more []v1.Descriptor) error {
		for _, d := range more {
			switch d.ArtifactType {
			case ociform.SignatureType, ociform.ReproducedType, "", v1.MediaTypeEmptyJSON:
				list = append(list, d)
			}
		}
		if len(list) > maxReferrers {
			return fmt.Errorf("%s: more than %d artefacts refer to it", o.name, maxReferrers)
		}
		return nil
	})
	if err != nil {
		return err
	}
	all := &dsse.Envelope{Payload: h.Index, PayloadType: index.MediaType}
	var says reproduced.List
	for _, d := range list {
		kind, e, err := o.envelope(ctx, r, d)
		if err != nil {
			return err
		}
		switch kind {
		case ociform.SignatureType:
			if !e.Over(index.MediaType, h.Index) {
				return refusal.New(refusal.Signature, o.name, "%s is over another release", d.Digest)
			}
			for _, s := range e.Signatures {
				all.Add(s)
			}
		case ociform.ReproducedType:
			if err := says.Add(e); err != nil {
				return refusal.New(refusal.Document, o.name, "%s: %v", d.Digest, err)
			}
		}
	}
	if len(all.Signatures) > 0 {
		if h.Envelope, err = all.Encode(); err != nil {
			return err
		}
	}
	if len(says.Envelopes) > 0 {
		h.Reproduced, err = says.Encode()
	}
	return err
}

// envelope reads what refers to a release, and its type; of another type than those that are envelopes it is nil.
func (o *oci) envelope(ctx context.Context, r *reached, d v1.Descriptor) (string, *dsse.Envelope, error) {
	m, err := o.manifest(ctx, r, d)
	if err != nil {
		return "", nil, err
	}
	if m.ArtifactType != ociform.SignatureType && m.ArtifactType != ociform.ReproducedType {
		return m.ArtifactType, nil, nil
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != ociform.EnvelopeType {
		return "", nil, refusal.New(refusal.MediaType, o.name, "the envelope %s has no file of the type %s", d.Digest,
			ociform.EnvelopeType)
	}
	raw, err := o.blob(ctx, r, m.Layers[0], folder.MaxEnvelope)
	if err != nil {
		return "", nil, err
	}
	e, err := dsse.Decode(raw)
	if err != nil {
		return "", nil, refusal.New(refusal.Document, o.name, "%v", err)
	}
	return m.ArtifactType, e, nil
}

// Open begins to read a file from an offset on.
func (o *oci) Open(ctx context.Context, b index.Blob, offset int64) (io.ReadCloser, error) {
	return o.open(ctx, o.current(), b, offset)
}

// OpenRange begins to read a part of a file.
func (o *oci) OpenRange(ctx context.Context, b index.Blob, offset, n int64) (io.ReadCloser, error) {
	r := o.current()
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull)
	body, err := getRange(ctx, r.address(b), b, offset, n, r.repo.Client.Do)
	return body, r.explain(err)
}

// address is that of a file.
func (r *reached) address(b index.Blob) string {
	scheme := "https"
	if r.Plain {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, r.Host, r.Path, b.Digest)
}

func (o *oci) open(ctx context.Context, r *reached, b index.Blob, offset int64) (io.ReadCloser, error) {
	ctx = auth.AppendRepositoryScope(ctx, r.repo.Reference, auth.ActionPull)
	body, err := get(ctx, r.address(b), b, offset, r.repo.Client.Do)
	return body, r.explain(err)
}

// Begin does nothing: nobody sees files that no tag leads to.
func (o *oci) Begin(context.Context, folder.Head) error { return nil }

func (o *oci) Has(ctx context.Context, b index.Blob) (bool, error) {
	r := o.current()
	has, err := r.repo.Blobs().Exists(ctx, ociform.Describe("", b))
	return has, r.explain(err)
}

// Put uploads a file. An upload that breaks off is begun anew.
func (o *oci) Put(ctx context.Context, b index.Blob, open folder.Opener) error {
	from, err := open(0)
	if err != nil {
		return err
	}
	r := o.current()
	err = r.repo.Blobs().Push(ctx, ociform.Describe("application/octet-stream", b), io.NopCloser(from))
	return errors.Join(r.explain(err), from.Close())
}

// Finish writes what names the files, then what others say of the release, and the tag last: whoever reads the tag
// finds all of it.
func (o *oci) Finish(ctx context.Context, h folder.Head) error {
	x, err := index.Decode(h.Index)
	if err != nil {
		return err
	}
	form, err := ociform.Of(x, h.Index)
	if err != nil {
		return err
	}
	r := o.current()
	files := [][]byte{h.Index, v1.DescriptorEmptyJSON.Data}
	objects := append(form.Manifests, form.Index)
	add := func(artifactType string, envelope []byte) error {
		m, err := ociform.Envelope(artifactType, form.Index.Descriptor, envelope)
		files, objects = append(files, envelope), append(objects, m)
		return err
	}
	if h.Envelope != nil {
		if err := add(ociform.SignatureType, h.Envelope); err != nil {
			return err
		}
	}
	if h.Reproduced != nil {
		l, err := reproduced.DecodeList(h.Reproduced)
		if err != nil {
			return refusal.New(refusal.Document, o.name, "%v", err)
		}
		for i := range l.Envelopes {
			e, err := l.Envelopes[i].Encode()
			if err != nil {
				return err
			}
			if err := add(ociform.ReproducedType, e); err != nil {
				return err
			}
		}
	}
	for _, f := range files {
		d := content.NewDescriptorFromBytes("application/octet-stream", f)
		if err := push(ctx, r.repo.Blobs(), d, f); err != nil {
			return r.explain(err)
		}
	}
	for _, m := range objects {
		// What refers to another one is written anew: a registry without an interface for it has a list of its own, and
		// a push that was killed may have left the one without the other.
		put := push
		if m.Refers {
			put = pushAnew
		}
		if err := put(ctx, r.repo.Manifests(), m.Descriptor, m.Data); err != nil {
			return r.explain(err)
		}
	}
	if strings.Contains(o.ref, ":") { // a digest: there is nothing to point at it
		return nil
	}
	return r.explain(r.repo.Tag(ctx, form.Index.Descriptor, o.ref))
}

// storage is what has blobs, or manifests.
type storage interface {
	Exists(ctx context.Context, d v1.Descriptor) (bool, error)
	Push(ctx context.Context, d v1.Descriptor, r io.Reader) error
}

// push writes what is not there.
func push(ctx context.Context, to storage, d v1.Descriptor, data []byte) error {
	has, err := to.Exists(ctx, d)
	if err != nil || has {
		return err
	}
	return pushAnew(ctx, to, d, data)
}

// pushAnew writes what may be there.
func pushAnew(ctx context.Context, to storage, d v1.Descriptor, data []byte) error {
	err := to.Push(ctx, d, bytes.NewReader(data))
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return err
}

func (o *oci) Parallel() int { return 4 }
