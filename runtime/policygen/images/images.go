// Package images reads what container images say of how they run: from registries, image layouts, archives of docker
// and a containerd.
//
// A name goes in; the image's configuration and its lists of users and groups come out. Whatever was read has the
// digest that names it. It unpacks nothing.
package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/katabuild/katabuild/internal/digest"
)

// Image is what an image says.
type Image struct {
	Digest     digest.Digest // of its manifest; empty where it has none
	User       string        // NAME or UID, with :GROUP or :GID
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	Volumes    []string // sorted
	Layers     []string // digests of the uncompressed layers, the lowest first
	Passwd     []byte   // /etc/passwd; empty where there is none
	Group      []byte
}

// Source has images.
type Source interface {
	// Image reads an image by its name, as it stands in a pod.
	Image(ctx context.Context, name string) (*Image, error)
}

// Bounds of what is read, in bytes.
const (
	maxPaper = 4 << 20  // manifests and configurations: registries take no larger ones
	maxList  = 1 << 20  // lists of users and groups
	maxLayer = 64 << 30 // an uncompressed layer
)

// descriptor points at a blob. OCI image specification, descriptor.md.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	} `json:"platform"`
}

// paper is an index or a manifest.
type paper struct {
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// configuration is an image's. OCI image specification, config.md.
type configuration struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		User       string
		Env        []string
		Entrypoint []string
		Cmd        []string
		WorkingDir string
		Volumes    map[string]struct{}
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// blobs has blobs by their digest. Their bytes are not checked.
type blobs interface {
	open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
}

// paperOf reads a small blob, and checks it.
func paperOf(ctx context.Context, b blobs, name string) (_ []byte, err error) {
	d, err := digest.Parse(name)
	if err != nil {
		return nil, err
	}
	r, err := b.open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, maxPaper+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxPaper:
		return nil, fmt.Errorf("%s has more than %d bytes", d, maxPaper)
	case digest.Of(data) != d:
		return nil, &digest.Mismatch{Name: "blob", Want: d, Got: digest.Of(data)}
	}
	return data, nil
}

// maxNesting is how deep indexes stand in each other.
const maxNesting = 3

// fromBlobs reads the image whose manifest or index has a digest.
func fromBlobs(ctx context.Context, b blobs, name, arch string, depth int) (*Image, error) {
	data, err := paperOf(ctx, b, name)
	if err != nil {
		return nil, err
	}
	var p paper
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name, err)
	}
	if p.Config == nil {
		i := slices.IndexFunc(p.Manifests, func(d descriptor) bool {
			return d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == arch
		})
		if i < 0 || depth == maxNesting {
			return nil, fmt.Errorf("%s has no image for linux/%s", name, arch)
		}
		return fromBlobs(ctx, b, p.Manifests[i].Digest, arch, depth+1)
	}
	if data, err = paperOf(ctx, b, p.Config.Digest); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var layers []opener
	for _, l := range p.Layers {
		d, err := digest.Parse(l.Digest)
		if err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		layers = append(layers, func() (io.ReadCloser, error) { return b.open(ctx, d) })
	}
	img, err := imageOf(data, arch, layers)
	if err != nil {
		return nil, err
	}
	img.Digest = digest.Digest(name)
	return img, nil
}

// opener opens a layer, as it is stored.
type opener func() (io.ReadCloser, error)

// imageOf reads a configuration, and finds the lists in the layers, the lowest of which is first.
func imageOf(config []byte, arch string, layers []opener) (*Image, error) {
	var c configuration
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if c.OS != "linux" || c.Architecture != arch {
		return nil, fmt.Errorf("it is for %s/%s, want linux/%s", c.OS, c.Architecture, arch)
	}
	if len(c.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%d layers, and %d in the configuration", len(layers), len(c.RootFS.DiffIDs))
	}
	img := &Image{User: c.Config.User, Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
		WorkingDir: c.Config.WorkingDir, Layers: c.RootFS.DiffIDs}
	for v := range c.Config.Volumes {
		img.Volumes = append(img.Volumes, path.Clean("/"+v))
	}
	slices.Sort(img.Volumes)
	passwd, group := &wanted{path: "etc/passwd"}, &wanted{path: "etc/group"}
	for i, open := range slices.Backward(layers) {
		if passwd.done && group.done {
			break
		}
		if err := search(open, c.RootFS.DiffIDs[i], passwd, group); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	img.Passwd, img.Group = passwd.data, group.data
	return img, nil
}

// wanted is a file that is looked for, in the topmost layer that has it or takes it away.
type wanted struct {
	path string
	data []byte
	done bool
}

// entry looks at an entry of a layer. Whiteouts are those of the OCI image specification, layer.md.
func (w *wanted) entry(name string, h *tar.Header, r io.Reader) error {
	dir, base := path.Split(w.path)
	switch name {
	case w.path:
		w.done = true
		if h.Typeflag != tar.TypeReg {
			return nil // a link: its users are not known, and so named by number alone
		}
		data, err := io.ReadAll(io.LimitReader(r, maxList+1))
		if len(data) > maxList {
			err = fmt.Errorf("/%s has more than %d bytes", w.path, maxList)
		}
		w.data = data
		return err
	case dir + ".wh." + base, dir + ".wh..wh..opq", ".wh." + path.Clean(dir):
		w.done = true
	}
	return nil
}

// search reads a layer whole, and checks it.
func search(open opener, diffID string, files ...*wanted) (err error) {
	want, err := digest.Parse(diffID)
	if err != nil {
		return err
	}
	stored, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	plain, err := decompressed(stored)
	if err != nil {
		return err
	}
	defer plain.Close()
	sum := digest.New()
	bounded := io.TeeReader(io.LimitReader(plain, maxLayer), sum)
	t := tar.NewReader(bounded)
	looked := slices.DeleteFunc(slices.Clone(files), func(w *wanted) bool { return w.done })
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)[1:]
		for _, w := range looked {
			if err := w.entry(name, h, t); err != nil {
				return err
			}
		}
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil {
		return err
	}
	if got := sum.Digest(); got != want {
		return &digest.Mismatch{Name: "layer, uncompressed", Want: want, Got: got}
	}
	return nil
}

// decompressed reads what is stored, by how it begins: gzip (RFC 1952), zstd (RFC 8878), or a tar as it is.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// Names are the ways in which tools write an image's name: as it is, with the registry and the tag that are meant where
// none are said. Docker's own are docker.io and library/.
func Names(name string) []string {
	full := name
	first, rest, found := strings.Cut(name, "/")
	switch {
	case !found:
		full = "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		full = "docker.io/" + name
	case first == "docker.io" && !strings.Contains(rest, "/"):
		full = "docker.io/library/" + rest
	}
	repository, sum, byDigest := strings.Cut(full, "@")
	last := repository[strings.LastIndexByte(repository, '/')+1:]
	switch {
	case byDigest && strings.Contains(last, ":"): // a tag beside a digest means nothing
		full = repository[:strings.LastIndexByte(repository, ':')] + "@" + sum
	case !byDigest && !strings.Contains(last, ":"):
		full += ":latest"
	}
	if full == name {
		return []string{name}
	}
	return []string{name, full}
}
