// Package oci makes a root file system of a container image: it reads an image layout or an archive of one, or what
// `docker save` writes, checks the digest of everything it reads, and stacks the layers in a tree.
//
// Files of the host come in, hostile; a tree and the image's configuration go out. It knows no registry. Formats are
// those of the OCI Image Format Specification 1.1 (image-layout, image-index, manifest, config, layer) and of Docker's
// image specification 1.2 for its archives.
package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
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
	// Ref is the name under which the image stands in the layout, or its tag in Docker's archive; empty is for files
	// that hold one image only.
	Ref string
	// Digest, when not empty, is that of the manifest or index to take, and of no other; of the configuration, where
	// there are no manifests.
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
	// Replaces are paths, absolute and clean, where the image wants nothing of what it is put on: a whiteout names
	// them, or they were links that became folders.
	Replaces map[string]bool
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

// document is an index or a manifest: which one, its fields say.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
	Config        *descriptor  `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// The annotations that name an image in a layout: the specification's (annotations.md), and containerd's own with the
// whole name.
const (
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
)

// Load reads the image at path, a layout's folder or an archive, and stacks its layers.
func Load(ctx context.Context, path string, o Options) (*Image, error) {
	s, err := open(ctx, path, o.Work)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if o.MaxLayer == 0 {
		o.MaxLayer = defaultMaxLayer
	}
	c, err := find(s, o)
	if err != nil {
		return nil, err
	}
	t, replaces, err := stack(ctx, s, c.layers, c.config, o)
	if err != nil {
		return nil, err
	}
	return &Image{Tree: t, Config: *c.config, Manifest: c.manifest, ID: c.id, Replaces: replaces}, nil
}

// Check says what would keep Load from finding the image and its layers at path. It unpacks no layer. fitting lists,
// for people, the images that fit, the one that Load takes first; it is empty where only one does.
func Check(ctx context.Context, path string, o Options) (fitting string, err error) {
	s, err := open(ctx, path, o.Work)
	if err != nil {
		return "", err
	}
	defer s.Close()
	c, err := find(s, o)
	if err != nil {
		return "", err
	}
	if len(c.layers) != len(c.config.RootFS.DiffIDs) {
		return "", fmt.Errorf("%d layers, and %d in the configuration", len(c.layers), len(c.config.RootFS.DiffIDs))
	}
	for i, l := range c.layers {
		r, err := s.Open(l.name)
		if err != nil {
			return "", fmt.Errorf("layer %d: %w", i, err)
		}
		if err := r.Close(); err != nil {
			return "", err
		}
	}
	if len(c.fitting) > 1 {
		fitting = c.fitting.String()
	}
	return fitting, nil
}

// chosen is the one image that is meant.
type chosen struct {
	manifest digest.Digest // "" where there is none
	id       digest.Digest
	config   *Config
	layers   []layer
	fitting  offer // all that fit, this one first
}

func find(s source, o Options) (*chosen, error) {
	data, err := readAll(s, "index.json")
	if errors.Is(err, errNoFile) {
		return chooseDocker(s, o)
	}
	if err != nil {
		return nil, err
	}
	var top document
	if err := unmarshal("index.json", data, &top); err != nil {
		return nil, err
	}
	d, m, fitting, err := choose(s, top.Manifests, o)
	if err != nil {
		return nil, err
	}
	cfg, err := config(s, blobName(digest.Digest(m.Config.Digest)), *m.Config, o)
	if err != nil {
		return nil, err
	}
	c := &chosen{manifest: digest.Digest(d.Digest), id: digest.Digest(m.Config.Digest), config: cfg,
		fitting: fitting}
	for _, l := range m.Layers {
		sum, err := l.check()
		if err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		c.layers = append(c.layers, layer{name: blobName(sum), digest: sum, size: l.Size, mediaType: l.MediaType})
	}
	return c, nil
}

// Bounds of a layout's indexes.
const (
	maxNesting   = 3       // indexes in indexes: tools write one in the layout's own
	maxDocuments = 1_000   // indexes, manifests and configurations that are read to find the image
	maxListed    = 100_000 // descriptors in all indexes together
)

// choose finds the manifest for the platform, through indexes. Where several fit, it is the first. Image specification,
// image-index.md: "When multiple manifests match a client or runtime's requirements, the first matching entry SHOULD be
// used."
func choose(s source, list []descriptor, o Options) (descriptor, *document, offer, error) {
	c := chooser{s: s, o: o, seen: map[string]bool{}}
	top := list
	if o.Ref != "" {
		top = slices.DeleteFunc(slices.Clone(list), func(d descriptor) bool {
			return !o.called(d.Annotations[refName]) && !o.called(d.Annotations[containerdName])
		})
		if len(top) == 0 {
			return descriptor{}, nil, nil, fmt.Errorf("no image called %q in it; it holds %s", o.Ref, offerOf(list))
		}
	}
	if err := c.gather(top, 0, o.Digest == ""); err != nil {
		return descriptor{}, nil, nil, err
	}
	switch {
	case len(c.all) > 0:
		var there offer
		for _, f := range c.all {
			there.add(digest.Digest(f.Digest), f.Annotations[refName], f.Annotations[containerdName])
		}
		return c.all[0].descriptor, c.all[0].document, there, nil
	case o.Digest != "" && len(list) == 1:
		return descriptor{}, nil, nil, &digest.Mismatch{Name: "manifest", Want: o.Digest,
			Got: digest.Digest(list[0].Digest)}
	case o.Digest != "":
		return descriptor{}, nil, nil, fmt.Errorf("no image with the digest %s in it; it holds %s", o.Digest,
			offerOf(list))
	case len(c.others) > 0:
		slices.Sort(c.others)
		return descriptor{}, nil, nil, fmt.Errorf("no image for linux/%s in it, only for %s", o.Arch,
			strings.Join(slices.Compact(c.others), ", "))
	}
	return descriptor{}, nil, nil, errors.New("no such image in it")
}

// called says whether a name in a file is the wanted one, also where Docker has written it out in full.
func (o Options) called(name string) bool {
	return name != "" && (name == o.Ref || name == "docker.io/"+o.Ref || name == "docker.io/library/"+o.Ref)
}

// offer is what a file holds, for people to choose from.
type offer []string

func (l *offer) add(sum digest.Digest, names ...string) {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	if len(names) == 0 {
		*l = append(*l, string(sum))
		return
	}
	*l = append(*l, fmt.Sprintf("%q (%s)", names, sum))
}

func offerOf(list []descriptor) (l offer) {
	for _, d := range list {
		l.add(digest.Digest(d.Digest), d.Annotations[refName], d.Annotations[containerdName])
	}
	return l
}

func (l offer) String() string {
	const most = 20
	switch {
	case len(l) == 0:
		return "nothing"
	case len(l) > most:
		return strings.Join(l[:most], ", ") + fmt.Sprintf(" and %d more", len(l)-most)
	}
	return strings.Join(l, ", ")
}

// chooser looks through indexes.
type chooser struct {
	s         source
	o         Options
	seen      map[string]bool // digests of what has been looked at: an index may name one a million times
	documents int             // that were read
	listed    int
	all       []found
	others    []string // platforms of what does not fit
}

type found struct {
	descriptor
	*document
}

// gather adds the manifests that fit. picked says that what is above them has the wanted digest.
func (c *chooser) gather(list []descriptor, depth int, picked bool) error {
	if c.listed += len(list); c.listed > maxListed {
		return fmt.Errorf("indexes with more than %d images", maxListed)
	}
	for _, d := range list {
		if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != c.o.Arch || c.o.otherVariant(p.Variant)) {
			c.others = append(c.others, p.OS+"/"+p.Architecture)
			continue
		}
		sum, err := d.check()
		if err != nil {
			return err
		}
		picked := picked || sum == c.o.Digest
		if key := fmt.Sprint(sum, picked); c.seen[key] {
			continue
		} else {
			c.seen[key] = true
		}
		if depth == 0 && !picked && len(list) > 1 && !c.deep(d) {
			continue
		}
		var p document
		if err := c.read(sum, d.Size, &p); err != nil {
			return err
		}
		switch {
		case p.SchemaVersion != 2:
			return fmt.Errorf("%s: schema version %d, want 2", sum, p.SchemaVersion)
		case p.Config != nil && p.Manifests == nil:
			if !picked {
				continue
			}
			if d.Platform == nil && len(list) > 1 { // then only the configuration tells images apart
				if other, err := c.platform(*p.Config); err != nil {
					return err
				} else if other != "linux/"+c.o.Arch {
					c.others = append(c.others, other)
					continue
				}
			}
			if !slices.ContainsFunc(c.all, func(f found) bool { return f.Digest == d.Digest }) {
				c.all = append(c.all, found{d, &p})
			}
		case p.Manifests != nil && p.Config == nil && depth < maxNesting:
			if err := c.gather(p.Manifests, depth+1, picked); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: neither a manifest nor an index, or indexes deeper than %d", sum, maxNesting)
		}
	}
	return nil
}

// deep says whether a descriptor may lead to an index.
func (c *chooser) deep(d descriptor) bool {
	return d.MediaType == "" || strings.Contains(d.MediaType, "index") || strings.Contains(d.MediaType, "manifest.list")
}

// read reads a blob and counts it.
func (c *chooser) read(sum digest.Digest, size int64, v any) error {
	if c.documents++; c.documents > maxDocuments {
		return fmt.Errorf("more than %d indexes and manifests have to be read to find the image: choose it by name "+
			"or digest", maxDocuments)
	}
	data, err := readBlob(c.s, sum, size)
	if err != nil {
		return err
	}
	return unmarshal(string(sum), data, v)
}

// platform is what a configuration says that it is for. What is not the configuration of an image is for nothing.
func (c *chooser) platform(d descriptor) (string, error) {
	sum, err := d.check()
	if err != nil {
		return "", err
	}
	if c.documents++; c.documents > maxDocuments {
		return "", fmt.Errorf(
			"more than %d indexes and manifests have to be read to find the image: choose it by name or digest",
			maxDocuments)
	}
	data, err := readBlob(c.s, sum, d.Size)
	if err != nil {
		return "", err
	}
	var cfg Config
	if err := unmarshal("configuration", data, &cfg); err != nil {
		return "something else than an image", nil // such as a signature
	}
	return cfg.OS + "/" + cfg.Architecture, nil
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

// blobs is the folder of what is named by its digest.
const blobs = "blobs/sha256/"

func blobName(d digest.Digest) string { return blobs + d.Hex() }

func (o Options) otherVariant(v string) bool { return o.Variant != "" && v != "" && v != o.Variant }

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
	if err := exact(json.NewDecoder(bytes.NewReader(data)), reflect.TypeOf(v).Elem()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// exact refuses objects whose keys are ours in other letters' case, or twice: encoding/json takes both, and the last
// wins, so that another reader of the same file would see another image.
func exact(d *json.Decoder, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return err
	}
	raw = bytes.TrimSpace(raw)
	isList := t.Kind() == reflect.Slice && bytes.HasPrefix(raw, []byte("["))
	isObject := t.Kind() == reflect.Struct && bytes.HasPrefix(raw, []byte("{"))
	if !isList && !isObject {
		return nil
	}
	in := json.NewDecoder(bytes.NewReader(raw))
	if _, err := in.Token(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for in.More() {
		if isList {
			if err := exact(in, t.Elem()); err != nil {
				return err
			}
			continue
		}
		tok, err := in.Token()
		if err != nil {
			return err
		}
		key, _ := tok.(string)
		of := reflect.TypeFor[int]() // whose values are not looked into
		for i := range t.NumField() {
			f := t.Field(i)
			want := cmp.Or(f.Tag.Get("json"), f.Name)
			switch {
			case key == want && seen[key]:
				return fmt.Errorf("the key %q stands twice in one object", key)
			case key == want:
				seen[key], of = true, f.Type
			case strings.EqualFold(key, want):
				return fmt.Errorf("the key %q: want %q, or programs would read different things", key, want)
			}
		}
		if err := exact(in, of); err != nil {
			return err
		}
	}
	return nil
}
