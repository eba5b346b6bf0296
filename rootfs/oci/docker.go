package oci

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
)

// saved is an image in the manifest.json of `docker save`. Docker image specification 1.2, "Combined Image JSON +
// Filesystem Changeset Format".
type saved struct {
	Config   string // the configuration's file, named by its digest
	RepoTags []string
	Layers   []string // files, the lowest first
}

// loadDocker reads an archive that has no index of the newer kind. It names its configuration by digest, and that its
// layers, uncompressed.
func chooseDocker(s source, o Options) (*chosen, error) {
	data, err := readAll(s, "manifest.json")
	if err != nil {
		return nil, fmt.Errorf("neither an image layout nor saved by docker: %w", err)
	}
	var list []saved
	if err := unmarshal("manifest.json", data, &list); err != nil {
		return nil, err
	}
	var there offer
	var fit []saved
	for _, i := range list {
		sum, err := i.id()
		if err != nil {
			return nil, err
		}
		there.add(sum, i.RepoTags...)
		switch {
		case o.Ref != "" && !slices.ContainsFunc(i.RepoTags, o.called), o.Digest != "" && sum != o.Digest:
		// another tag of the same image
		case slices.ContainsFunc(fit, func(l saved) bool { return l.Config == i.Config }):
		default:
			fit = append(fit, i)
		}
	}
	switch {
	case len(fit) == 0 && o.Ref != "":
		return nil, fmt.Errorf("no image called %q in it; it holds %s", o.Ref, there)
	case len(fit) == 0 && o.Digest != "":
		return nil, fmt.Errorf("no image whose configuration has the digest %s in it; it holds %s", o.Digest, there)
	case len(fit) == 0:
		return nil, errors.New("no image in it")
	}
	// As of an index: the first.
	var fitting offer
	for _, i := range fit {
		sum, err := i.id()
		if err != nil {
			return nil, err
		}
		fitting.add(sum, i.RepoTags...)
	}
	name := fit[0].Config
	sum, err := fit[0].id()
	if err != nil {
		return nil, err
	}
	cfg, err := config(s, clean(name), descriptor{Digest: string(sum)}, o)
	if err != nil {
		return nil, err
	}
	var layers []layer
	for _, l := range fit[0].Layers {
		layers = append(layers, layer{name: clean(l)})
	}
	return &chosen{config: cfg, layers: layers, id: sum, fitting: fitting}, nil
}

// id is the digest of the image's configuration. Docker calls the file HEX.json, newer ones blobs/sha256/HEX,
// go-containerregistry sha256:HEX.
func (i saved) id() (digest.Digest, error) {
	sum, err := digest.Parse("sha256:" + strings.TrimPrefix(strings.TrimSuffix(path.Base(i.Config), ".json"),
		"sha256:"))
	if err != nil {
		return "", fmt.Errorf("configuration %q: %w", i.Config, err)
	}
	return sum, nil
}

func clean(name string) string { return path.Clean("/" + name)[1:] }
