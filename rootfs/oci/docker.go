package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
)

// saved is an image in the manifest.json of `docker save`. Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".
type saved struct {
	Config   string // the configuration's file, named by its digest
	RepoTags []string
	Layers   []string // files, the lowest first
}

// loadDocker reads an archive that has no index of the newer kind. It names its configuration by digest, and that its layers, uncompressed.
func loadDocker(s source, o Options) (*Image, error) {
	data, err := readAll(s, "manifest.json")
	if err != nil {
		return nil, fmt.Errorf("neither an image layout nor saved by docker: %w", err)
	}
	var list []saved
	if err := unmarshal("manifest.json", data, &list); err != nil {
		return nil, err
	}
	if o.Ref != "" {
		list = slices.DeleteFunc(list, func(i saved) bool { return !slices.Contains(i.RepoTags, o.Ref) })
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%d images called %q in it, want one", len(list), o.Ref)
	}
	if o.Digest != "" {
		return nil, fmt.Errorf("an archive without manifests: none has the digest %s", o.Digest)
	}
	name := list[0].Config
	// Docker calls it HEX.json, newer ones blobs/sha256/HEX, go-containerregistry sha256:HEX.
	sum, err := digest.Parse("sha256:" + strings.TrimPrefix(strings.TrimSuffix(path.Base(name), ".json"), "sha256:"))
	if err != nil {
		return nil, fmt.Errorf("configuration %q: %w", name, err)
	}
	cfg, err := config(s, clean(name), descriptor{Digest: string(sum)}, o)
	if err != nil {
		return nil, err
	}
	var layers []layer
	for _, l := range list[0].Layers {
		layers = append(layers, layer{name: clean(l)})
	}
	t, err := stack(s, layers, cfg, o)
	if err != nil {
		return nil, err
	}
	return &Image{Tree: t, Config: *cfg, ID: sum}, nil
}

func clean(name string) string { return path.Clean("/" + name)[1:] }
