package place

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/ociform"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/roles"
)

// Roles is where metadata of roles is read.
type Roles interface {
	roles.Source
	Close() error
}

// OpenRoles opens a place with metadata of roles for reading: its files in a folder or below an address, or a set of
// them in a registry. Releases in bundles bring a set of their own, which RolesOf opens.
func OpenRoles(ctx context.Context, name string, access registry.Access) (Roles, error) {
	switch {
	case strings.HasPrefix(name, ociPrefix):
		o, err := openRegistry(ctx, name[len(ociPrefix):], access, true)
		if err != nil {
			return nil, err
		}
		data, err := o.roles(ctx)
		return rolesSet(name, data, errors.Join(err, o.Close()))
	case strings.HasPrefix(name, "https://"), strings.HasPrefix(name, "http://"):
		from, err := openWeb(name, access)
		if w, ok := from.(*web); ok {
			return rolesWeb{w}, nil
		}
		return nil, err
	}
	dir, err := folderOf(name)
	if err != nil {
		return nil, err
	}
	in, err := regular.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	return rolesFolder{in}, nil
}

// set is a set of metadata that is read already.
type set struct{ *roles.Set }

func (set) Close() error { return nil }

// RolesOf opens the metadata that a release brings.
func RolesOf(h folder.Head, name string) (Roles, error) { return rolesSet(name, h.Roles, nil) }

func rolesSet(name string, data []byte, err error) (Roles, error) {
	if err != nil {
		return nil, err
	}
	s, err := roles.DecodeSet(data)
	if err != nil {
		return nil, refusal.New(refusal.Document, name, "%v", err)
	}
	return set{s}, nil
}

// rolesFolder is a folder with metadata.
type rolesFolder struct{ in *regular.Folder }

func (f rolesFolder) Close() error { return f.in.Close() }

func (f rolesFolder) File(_ context.Context, name string, limit int64) ([]byte, error) {
	data, err := f.in.ReadFile(name, limit)
	if s, ok := errors.AsType[*regular.SizeError](err); ok {
		return nil, refusal.New(refusal.Size, name, "%v", s)
	}
	return data, err
}

// rolesWeb is metadata below an address.
type rolesWeb struct{ *web }

// File reads a file. The server must have it itself: a redirect to another one would let whoever answers there decide
// how old metadata is, and for how many hosts.
func (w rolesWeb) File(ctx context.Context, name string, limit int64) ([]byte, error) {
	home, err := url.Parse(w.base)
	if err != nil {
		return nil, err
	}
	c := *w.client
	follow := c.CheckRedirect
	c.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		if to.URL.Host != home.Host {
			return refusal.New(refusal.Redirect, w.base+name, "the server sends us to %s", to.URL.Host)
		}
		return follow(to, via)
	}
	data, err := (&web{base: w.base, client: &c}).small(ctx, name, limit)
	if s, ok := errors.AsType[*status](err); ok && s.code == http.StatusNotFound {
		return nil, &fs.PathError{Op: "get", Path: s.address, Err: fs.ErrNotExist}
	}
	return data, err
}

// roles reads a set of metadata, from the first of the repository's places that has it.
func (o *oci) roles(ctx context.Context) ([]byte, error) {
	var errs []error
	for i := range o.at {
		r := &o.at[i]
		data, err := o.readRoles(ctx, r)
		if err == nil {
			return data, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.name, r.explain(err)))
	}
	return nil, errors.Join(errs...)
}

func (o *oci) readRoles(ctx context.Context, r *reached) ([]byte, error) {
	d, body, err := r.repo.Manifests().FetchReference(ctx, o.ref)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := readSmall(o.name, body, maxManifest)
	if err != nil {
		return nil, err
	}
	if digest.Of(raw) != digest.Digest(d.Digest) {
		return nil, refusal.New(refusal.Digest, o.name, "the registry says %s, its bytes have %s", d.Digest,
			digest.Of(raw))
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, refusal.New(refusal.Document, o.name, "%v", err)
	}
	if m.ArtifactType != ociform.RolesType || len(m.Layers) != 1 || m.Layers[0].MediaType != roles.SetType {
		return nil, refusal.New(refusal.MediaType, o.name, "it is of the type %q, want %s with one file",
			m.ArtifactType, ociform.RolesType)
	}
	return o.blob(ctx, r, m.Layers[0], roles.MaxSet)
}

// PublishRoles copies metadata of roles to a folder or a registry. What clients ask for first comes last.
func PublishRoles(ctx context.Context, s *roles.Set, name string, access registry.Access) error {
	switch {
	case strings.HasPrefix(name, ociPrefix):
		return publishSet(ctx, s, name[len(ociPrefix):], access)
	case strings.HasPrefix(name, bundlePrefix), strings.HasPrefix(name, "https://"), strings.HasPrefix(name, "http://"):
		return fmt.Errorf("%s: metadata is published to a folder or a registry; a bundle gets it with its release, "+
			"and a web server serves a folder", name)
	}
	dir, err := folderOf(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, last := range []bool{false, true} {
		for _, f := range s.Files {
			if (f.Name == roles.FileName(roles.Timestamp, 0)) != last {
				continue
			}
			if err := atomicfile.Write(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func publishSet(ctx context.Context, s *roles.Set, name string, access registry.Access) (err error) {
	data, err := s.Encode()
	if err != nil {
		return err
	}
	m, err := ociform.Roles(data)
	if err != nil {
		return err
	}
	o, err := openRegistry(ctx, name, access, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	r := o.current()
	for _, f := range [][]byte{data, v1.DescriptorEmptyJSON.Data} {
		d := content.NewDescriptorFromBytes("application/octet-stream", f)
		if err := push(ctx, r.repo.Blobs(), d, f); err != nil {
			return r.explain(err)
		}
	}
	if err := push(ctx, r.repo.Manifests(), m.Descriptor, m.Data); err != nil {
		return r.explain(err)
	}
	return r.explain(r.repo.Tag(ctx, m.Descriptor, o.ref))
}
