// Package nodeimage makes the image that a cluster's nodes run: kata-deploy for each architecture, and beside it a
// release, or nothing at all. No base, no shell, no package manager.
//
// It writes a folder of the form that the OCI image specification calls an image layout, the same bytes every time.
package nodeimage

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	godigest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/unpack"
)

// Program is the image's program, and Release the folder of the release in it.
const (
	Program = "kata-deploy"
	Release = "release"
)

// Config says what goes into an image.
type Config struct {
	// Programs is a folder with a folder for each architecture, in which kata-deploy is.
	Programs string
	Arches   []string // names of internal/arch; none is every folder of Programs that has a kata-deploy
	Version  string   // of the image, for its labels and its name in the layout
	// Release is what lies in the image; nil is nothing. Each architecture gets its own part of it, and the whole index
	// with its signatures.
	Release *Source
	Out     string // a folder, which is made; one that is an image layout is replaced
}

// Source is a release that a policy accepts.
type Source struct {
	Head  folder.Head
	Index *index.Index // that of Head
	Files judge.Source
}

// Result is what was made.
type Result struct {
	Digest digest.Digest // of the index of all architectures
	Images []Image
}

// Image is that of one architecture.
type Image struct {
	Arch  string
	Bytes int64 // of its layers, as they are sent
}

// refName names a manifest in a layout. OCI image specification: image-layout.md, index.json file.
const refName = v1.AnnotationRefName

// Write makes the image.
func Write(ctx context.Context, cfg Config) (r *Result, err error) {
	arches, err := cfg.arches()
	if err != nil {
		return nil, err
	}
	if err := clear(cfg.Out); err != nil {
		return nil, err
	}
	tmp := cfg.Out + ".new"
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	l := &layout{dir: tmp, time: time.Unix(0, 0).UTC()}
	if cfg.Release != nil {
		l.time = time.Unix(cfg.Release.Index.Time, 0).UTC()
	}
	if err := os.MkdirAll(filepath.Join(tmp, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	all := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Annotations: cfg.labels()}
	r = &Result{}
	for _, a := range arches {
		d, size, err := cfg.image(ctx, l, a)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", a.Name, err)
		}
		all.Manifests = append(all.Manifests, d)
		r.Images = append(r.Images, Image{a.Name, size})
	}
	d, err := l.json(v1.MediaTypeImageIndex, all)
	if err != nil {
		return nil, err
	}
	r.Digest = digest.Digest(d.Digest.String())
	d.Annotations = map[string]string{refName: cmp.Or(cfg.Version, "latest")}
	if err := l.finish(d); err != nil {
		return nil, err
	}
	return r, os.Rename(tmp, cfg.Out)
}

// clear removes a layout that is to be replaced, and nothing else.
func clear(dir string) error {
	if err := os.RemoveAll(dir + ".new"); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(filepath.Dir(dir), 0o755)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, v1.ImageLayoutFile)); err != nil && len(names) > 0 {
		return fmt.Errorf("%s is there, and no image layout: name another folder", dir)
	}
	return os.RemoveAll(dir)
}

// arches are the architectures, sorted by name.
func (c *Config) arches() ([]arch.Arch, error) {
	var out []arch.Arch
	for _, a := range arch.All() {
		_, err := os.Stat(c.program(a))
		switch {
		case len(c.Arches) > 0 && slices.Contains(c.Arches, a.Name), len(c.Arches) == 0 && err == nil:
			out = append(out, a)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no program in %s: want %s, as make dist leaves them", c.Programs,
			filepath.Join(c.Programs, "ARCH", Program))
	}
	slices.SortFunc(out, func(a, b arch.Arch) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (c *Config) program(a arch.Arch) string { return filepath.Join(c.Programs, a.Name, Program) }

// labels are those of the image. OCI image specification: annotations.md.
func (c *Config) labels() map[string]string {
	out := map[string]string{v1.AnnotationTitle: Program, v1.AnnotationVersion: c.Version,
		v1.AnnotationDescription: "puts katabuild's runtime on nodes of Kubernetes"}
	if c.Release != nil {
		out["katabuild.io/release"] = string(digest.Of(c.Release.Head.Index))
	}
	return out
}

// image makes that of one architecture, and says how many bytes its layers have.
func (c *Config) image(ctx context.Context, l *layout, a arch.Arch) (v1.Descriptor, int64, error) {
	if err := static(c.program(a), a); err != nil {
		return v1.Descriptor{}, 0, err
	}
	layers := []func(*tar.Writer) error{func(t *tar.Writer) error {
		in, err := regular.Open(c.program(a))
		if err != nil {
			return err
		}
		defer in.Close()
		fi, err := in.Stat()
		if err != nil {
			return err
		}
		return l.file(t, Program, 0o755, fi.Size(), in)
	}}
	if c.Release != nil {
		part, err := unpack.ForNode(c.Release.Index, a.Name)
		if err != nil {
			return v1.Descriptor{}, 0, err
		}
		layers = append(layers, func(t *tar.Writer) error { return c.release(ctx, l, t, part) })
	}
	config := v1.Image{Created: &l.time, Platform: v1.Platform{OS: "linux", Architecture: a.Go},
		Config: v1.ImageConfig{Entrypoint: []string{"/" + Program}, WorkingDir: "/", Labels: c.labels()},
		RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Annotations: c.labels()}
	var size int64
	for _, fill := range layers {
		d, diff, err := l.layer(fill)
		if err != nil {
			return v1.Descriptor{}, 0, err
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
		config.History = append(config.History, v1.History{Created: &l.time, CreatedBy: "katabuild node-image"})
		size += d.Size
	}
	var err error
	if m.Config, err = l.json(v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, 0, err
	}
	d, err := l.json(v1.MediaTypeImageManifest, m)
	d.Platform = &v1.Platform{OS: "linux", Architecture: a.Go}
	return d, size, err
}

// release puts a release into a layer: its index with what others say of it, and those files that a part names.
func (c *Config) release(ctx context.Context, l *layout, t *tar.Writer, part *index.Index) error {
	for _, d := range []string{Release, Release + "/blobs", Release + "/blobs/sha256"} {
		if err := l.folder(t, d); err != nil {
			return err
		}
	}
	for _, b := range part.Blobs() {
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(judge.Copy(ctx, c.Release.Files, b.Digest.Short(), b, pw)) }()
		err := l.file(t, path.Join(Release, folder.BlobName(b.Digest)), 0o644, b.Size, pr)
		if err = errors.Join(err, pr.Close()); err != nil {
			return err
		}
	}
	h := c.Release.Head
	for _, f := range []struct {
		name string
		data []byte
	}{{folder.IndexName, h.Index}, {folder.EnvelopeName, h.Envelope}, {folder.ReproducedName, h.Reproduced},
		{folder.RolesName, h.Roles}} {
		if f.data == nil {
			continue
		}
		err := l.file(t, path.Join(Release, f.name), 0o644, int64(len(f.data)), strings.NewReader(string(f.data)))
		if err != nil {
			return err
		}
	}
	return nil
}

// static refuses a program that is not for an architecture, or that asks for a loader which the image has not.
func static(program string, a arch.Arch) error {
	in, err := regular.Open(program)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no program %s: make dist", program)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	head := make([]byte, index.ProgramHeader)
	if _, err := io.ReadFull(in, head); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	if err := index.CheckProgram(program, a.Name, head); err != nil {
		return err
	}
	f, err := elf.NewFile(in)
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static, and the image has no loader: build it with CGO_ENABLED=0", program)
		}
	}
	return nil
}

// layout is one that is being written.
type layout struct {
	dir  string
	time time.Time // of every file
}

func (l *layout) blob(d godigest.Digest) string {
	return filepath.Join(l.dir, v1.ImageBlobsDir, "sha256", d.Encoded())
}

// json writes a document.
func (l *layout) json(kind string, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: kind, Digest: godigest.FromBytes(data), Size: int64(len(data))}
	return d, os.WriteFile(l.blob(d.Digest), data, 0o644)
}

// layer writes one, and returns it with the digest of what it is when it is unpacked.
func (l *layout) layer(fill func(*tar.Writer) error) (d v1.Descriptor, diff godigest.Digest, err error) {
	tmp := filepath.Join(l.dir, "layer")
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return d, "", err
	}
	packed, plain := godigest.SHA256.Digester(), godigest.SHA256.Digester()
	var size counter
	// Its header has neither a time nor a name.
	z, err := gzip.NewWriterLevel(io.MultiWriter(out, packed.Hash(), &size), gzip.BestCompression)
	if err == nil {
		t := tar.NewWriter(io.MultiWriter(z, plain.Hash()))
		if err = fill(t); err == nil {
			err = t.Close()
		}
		err = errors.Join(err, z.Close())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return d, "", err
	}
	d = v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: int64(size)}
	return d, plain.Digest(), os.Rename(tmp, l.blob(d.Digest))
}

// counter counts bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (l *layout) folder(t *tar.Writer, name string) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: l.time})
}

func (l *layout) file(t *tar.Writer, name string, mode, size int64, in io.Reader) error {
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, ModTime: l.time})
	if err != nil {
		return err
	}
	n, err := io.Copy(t, in)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, want %d: it changed meanwhile", name, n, size)
	}
	return err
}

// finish writes what makes the folder a layout.
func (l *layout) finish(d v1.Descriptor) error {
	for name, v := range map[string]any{
		v1.ImageIndexFile: v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
			Manifests: []v1.Descriptor{d}},
		v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion},
	} {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(l.dir, name), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
