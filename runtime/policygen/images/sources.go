package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
)

// Registry has images as registries offer them now.
type Registry struct {
	Client *registry.Client
	Arch   string // Go's name
}

// Image is Source's.
func (r *Registry) Image(ctx context.Context, name string) (*Image, error) {
	found, err := r.Client.Resolve(ctx, name, r.Arch)
	if err != nil {
		return nil, err
	}
	img, err := fromBlobs(ctx, &offered{r.Client, name, found.Digest}, string(found.Digest), r.Arch, 0)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	return img, nil
}

// offered are the blobs of an image in a registry.
type offered struct {
	client   *registry.Client
	name     string
	manifest digest.Digest
}

func (r *offered) open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	if d != r.manifest {
		return r.client.Blob(ctx, r.name, d)
	}
	data, err := r.client.Manifest(ctx, r.name, d)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(string(data))), nil
}

// folder has blobs in files: those of an image layout, and of containerd's content store.
type folder string

func (f folder) open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), "blobs", "sha256", d.Hex()))
}

// Layout is a folder with images, as the OCI image specification lays them out (image-layout.md).
type Layout struct {
	Path string
	Arch string // Go's name
}

// The annotations that name an image in a layout: the specification's (annotations.md), and containerd's own with the
// whole name.
const (
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
)

// Image is Source's. ErrNoImage says that the layout does not have it. An image that stands alone and without a name is
// any.
func (l *Layout) Image(ctx context.Context, name string) (*Image, error) {
	data, err := os.ReadFile(filepath.Join(l.Path, "index.json"))
	if err != nil {
		return nil, err
	}
	var top paper
	if len(data) > maxPaper {
		return nil, fmt.Errorf("%s: its index has more than %d bytes", l.Path, maxPaper)
	}
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", l.Path, err)
	}
	names := Names(name)
	_, sum, _ := strings.Cut(name, "@")
	tag := names[len(names)-1]
	tag = tag[strings.LastIndexByte(tag, ':')+1:]
	for _, d := range top.Manifests {
		ref, whole := d.Annotations[refName], d.Annotations[containerdName]
		alone := len(top.Manifests) == 1 && ref == "" && whole == ""
		// skopeo and others write the tag alone
		if d.Digest == sum || slices.Contains(names, ref) || slices.Contains(names, whole) ||
			sum == "" && whole == "" && ref == tag && len(top.Manifests) == 1 || sum == "" && alone {
			img, err := fromBlobs(ctx, folder(l.Path), d.Digest, l.Arch, 0)
			if err != nil {
				return nil, fmt.Errorf("image %s in %s: %w", name, l.Path, err)
			}
			return img, nil
		}
	}
	return nil, fmt.Errorf("%w: %s in %s", ErrNoImage, name, l.Path)
}

// ErrNoImage says that a source does not have an image.
var ErrNoImage = errors.New("no such image")

// Store is the folder of containerd's content store, such as /var/lib/containerd/io.containerd.content.v1.content. It
// knows images by their digests only: NAME@sha256:….
type Store struct {
	Path string
	Arch string // Go's name
}

// Image is Source's.
func (s *Store) Image(ctx context.Context, name string) (*Image, error) {
	_, sum, ok := strings.Cut(name, "@")
	if !ok {
		return nil, fmt.Errorf("%w: %s: a content store knows no names, want NAME@sha256:DIGEST", ErrNoImage, name)
	}
	img, err := fromBlobs(ctx, folder(s.Path), sum, s.Arch, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s in %s: %v", ErrNoImage, name, s.Path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s in %s: %w", name, s.Path, err)
	}
	return img, nil
}

// Archive is a file that `docker save` has written.
type Archive struct {
	Path string
	Arch string // Go's name
}

// Image is Source's. ErrNoImage says that the archive does not have it.
func (a *Archive) Image(_ context.Context, name string) (*Image, error) {
	open := func() (io.ReadCloser, error) { return os.Open(a.Path) }
	m, err := tarball.LoadManifest(open)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Path, err)
	}
	names := Names(name)
	for i := range m {
		if !slices.ContainsFunc(m[i].RepoTags, func(t string) bool {
			full := Names(t)
			return slices.Contains(names, full[len(full)-1]) || slices.Contains(names, t)
		}) {
			continue
		}
		img, err := a.read(m[i])
		if err != nil {
			return nil, fmt.Errorf("image %s in %s: %w", name, a.Path, err)
		}
		return img, nil
	}
	return nil, fmt.Errorf("%w: %s in %s", ErrNoImage, name, a.Path)
}

func (a *Archive) read(d tarball.Descriptor) (*Image, error) {
	config, err := a.file(d.Config)
	if err != nil {
		return nil, err
	}
	defer config.Close()
	data, err := io.ReadAll(io.LimitReader(config, maxPaper+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPaper {
		return nil, fmt.Errorf("a configuration of more than %d bytes", maxPaper)
	}
	var layers []opener
	for _, l := range d.Layers {
		layers = append(layers, func() (io.ReadCloser, error) { return a.file(l) })
	}
	return imageOf(data, a.Arch, layers)
}

// file opens a file in the archive.
func (a *Archive) file(name string) (io.ReadCloser, error) { return openInTar(a.Path, name) }

// Several asks sources in their order: the first that has an image gives it.
type Several []Source

// Image is Source's.
func (s Several) Image(ctx context.Context, name string) (*Image, error) {
	var errs []error
	for _, one := range s {
		img, err := one.Image(ctx, name)
		if err == nil || !errors.Is(err, ErrNoImage) {
			return img, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%w: %s: there is nowhere to look", ErrNoImage, name)
	}
	return nil, errors.Join(errs...)
}
