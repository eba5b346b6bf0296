// Package oci makes a root file system of a container image: it reads an image layout or an archive of one, or what `docker save` writes,
// checks the digest of everything it reads, and stacks the layers in a tree.
//
// Files of the host come in, hostile; a tree and the image's configuration go out. It knows no registry. Formats are those of the OCI Image
// Format Specification 1.1 (image-layout, image-index, manifest, config, layer) and of Docker's image specification 1.2 for its archives.
package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Options says which image is meant, and where layers are unpacked to.
type Options struct {
	// Arch is Go's name of the architecture, as images have it.
	Arch string
	// Variant is of the architecture, such as "v7"; empty takes any.
	Variant string
	// Ref is the name under which the image stands in the layout, or its tag in Docker's archive; empty is for files that hold one image only.
	Ref string
	// Digest, when not empty, is that of the manifest or index to take, and of no other.
	Digest digest.Digest
	// Work is a folder for uncompressed layers, which the tree's contents point into.
	Work string
	// MaxLayer bounds a layer's uncompressed size, in bytes; 0 stands for 64 GiB.
	MaxLayer int64
}

const defaultMaxLayer = 64 << 30

// maxPaper bounds indexes, manifests and configurations, in bytes: registries take 4 MiB.
const maxPaper = 4 << 20

// Image is what an image says and holds.
type Image struct {
	Tree     *tree.Tree
	Config   Config
	Manifest digest.Digest // "" for Docker's archives without one
	ID       digest.Digest // of the configuration
}

// Config is how the image wants to be run. Image specification, config.md.
type Config struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant"`
	Config       struct {
		User       string
		Env        []string
		Entrypoint []string
		Cmd        []string
		WorkingDir string
		Labels     map[string]string
		StopSignal string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// descriptor points at a blob. Image specification, descriptor.md.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

// paper is an index or a manifest: which one, its fields say.
type paper struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
	Config        *descriptor  `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// The annotations that name an image in a layout: the specification's (annotations.md), and containerd's own with the whole name.
const (
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
)

// Load reads the image at path, a layout's folder or an archive, and stacks its layers.
func Load(path string, o Options) (*Image, error) {
	s, err := open(path, o.Work)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if o.MaxLayer == 0 {
		o.MaxLayer = defaultMaxLayer
	}
	img, err := load(s, o)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return img, nil
}

func load(s source, o Options) (*Image, error) {
	data, err := readAll(s, "index.json")
	if errors.Is(err, errNoFile) {
		return loadDocker(s, o)
	}
	if err != nil {
		return nil, err
	}
	var top paper
	if err := unmarshal("index.json", data, &top); err != nil {
		return nil, err
	}
	list := top.Manifests
	if o.Ref != "" {
		list = slices.DeleteFunc(list, func(d descriptor) bool {
			return d.Annotations[refName] != o.Ref && d.Annotations[containerdName] != o.Ref
		})
		if len(list) == 0 {
			return nil, fmt.Errorf("no image called %q in it", o.Ref)
		}
	}
	d, m, err := choose(s, list, o, 0)
	if err != nil {
		return nil, err
	}
	cfg, err := config(s, blobName(digest.Digest(m.Config.Digest)), *m.Config, o)
	if err != nil {
		return nil, err
	}
	var layers []layer
	for _, l := range m.Layers {
		sum, err := l.check()
		if err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		layers = append(layers, layer{name: blobName(sum), digest: sum, size: l.Size, mediaType: l.MediaType})
	}
	t, err := stack(s, layers, cfg, o)
	if err != nil {
		return nil, err
	}
	return &Image{Tree: t, Config: *cfg, Manifest: digest.Digest(d.Digest), ID: digest.Digest(m.Config.Digest)}, nil
}

// maxNesting is how deep indexes may lie in indexes: tools write one in the layout's own.
const maxNesting = 3

// choose finds the one manifest for the platform, through indexes.
func choose(s source, list []descriptor, o Options, depth int) (descriptor, *paper, error) {
	type found struct {
		descriptor
		*paper
	}
	var all []found
	var others []string
	for _, d := range list {
		if depth == 0 && o.Digest != "" && d.Digest != string(o.Digest) && len(list) > 1 {
			continue
		}
		if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != o.Arch || o.otherVariant(p.Variant)) {
			others = append(others, p.OS+"/"+p.Architecture)
			continue
		}
		sum, err := d.check()
		if err != nil {
			return descriptor{}, nil, err
		}
		data, err := readBlob(s, sum, d.Size)
		if err != nil {
			return descriptor{}, nil, err
		}
		var p paper
		if err := unmarshal(string(sum), data, &p); err != nil {
			return descriptor{}, nil, err
		}
		switch {
		case p.SchemaVersion != 2:
			return descriptor{}, nil, fmt.Errorf("%s: schema version %d, want 2", sum, p.SchemaVersion)
		case p.Config != nil && p.Manifests == nil:
			if d.Platform == nil && len(list) > 1 { // then only the configuration tells images apart
				if other, err := platform(s, *p.Config); err != nil {
					return descriptor{}, nil, err
				} else if other != "linux/"+o.Arch {
					others = append(others, other)
					continue
				}
			}
			all = append(all, found{d, &p})
		case p.Manifests != nil && p.Config == nil && depth < maxNesting:
			e, q, err := choose(s, p.Manifests, o, depth+1)
			if err != nil {
				return e, q, err
			}
			all = append(all, found{e, q})
		default:
			return descriptor{}, nil, fmt.Errorf("%s: neither a manifest nor an index, or indexes deeper than %d", sum, maxNesting)
		}
		if depth == 0 && o.Digest != "" {
			if sum != o.Digest && all[len(all)-1].Digest != string(o.Digest) {
				return descriptor{}, nil, &digest.Mismatch{Name: "manifest", Want: o.Digest, Got: sum}
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.Digest, b.Digest) })
	all = slices.CompactFunc(all, func(a, b found) bool { return a.Digest == b.Digest })
	switch len(all) {
	case 0:
		if len(others) > 0 {
			return descriptor{}, nil, fmt.Errorf("no image for linux/%s in it, only for %s", o.Arch, strings.Join(others, ", "))
		}
		return descriptor{}, nil, errors.New("no such image in it")
	case 1:
		return all[0].descriptor, all[0].paper, nil
	}
	return descriptor{}, nil, fmt.Errorf("%d images for linux/%s in it: give a name, a digest or a variant", len(all), o.Arch)
}

// check says what keeps a descriptor from being followed.
func (d descriptor) check() (digest.Digest, error) {
	sum, err := digest.Parse(d.Digest)
	if err != nil {
		return "", err // sha512 is allowed by the specification, and seen nowhere
	}
	if d.Size < 0 {
		return "", fmt.Errorf("%s: size %d", sum, d.Size)
	}
	return sum, nil
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Hex() }

func (o Options) otherVariant(v string) bool { return o.Variant != "" && v != "" && v != o.Variant }

// platform is what a configuration says that it is for.
func platform(s source, d descriptor) (string, error) {
	sum, err := d.check()
	if err != nil {
		return "", err
	}
	data, err := readBlob(s, sum, d.Size)
	if err != nil {
		return "", err
	}
	var c Config
	err = unmarshal("configuration", data, &c)
	return c.OS + "/" + c.Architecture, err
}

// config reads and checks a configuration.
func config(s source, name string, d descriptor, o Options) (*Config, error) {
	sum, err := d.check()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	data, err := readAll(s, name)
	if err == nil && digest.Of(data) != sum {
		err = &digest.Mismatch{Name: name, Want: sum, Got: digest.Of(data)}
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var c Config
	if err := unmarshal("configuration", data, &c); err != nil {
		return nil, err
	}
	if c.OS != "linux" || c.Architecture != o.Arch || o.otherVariant(c.Variant) {
		return nil, fmt.Errorf("it is for %s/%s, want linux/%s", c.OS, c.Architecture, o.Arch)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("root file system of type %q, want layers (is it an image?)", c.RootFS.Type)
	}
	return &c, nil
}

// readBlob reads a small blob and checks it.
func readBlob(s source, d digest.Digest, size int64) ([]byte, error) {
	data, err := readAll(s, blobName(d))
	if err != nil {
		return nil, err
	}
	if got := digest.Of(data); got != d {
		return nil, &digest.Mismatch{Name: blobName(d), Want: d, Got: got}
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("%s: %d bytes, its descriptor says %d", d, len(data), size)
	}
	return data, nil
}

func readAll(s source, name string) ([]byte, error) {
	r, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxPaper+1))
	if err == nil && len(data) > maxPaper {
		err = fmt.Errorf("%s: more than %d bytes", name, maxPaper)
	}
	return data, err
}

func unmarshal(name string, data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%s: more than one value", name)
	}
	return nil
}
