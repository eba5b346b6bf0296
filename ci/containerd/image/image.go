// Package image makes small container images in memory and serves them from a registry on loopback.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// host is the registry's name in references. Daemons are told that every name is served on loopback.
const host = "registry.test"

// NodeInstaller is where tests push installers.
const NodeInstaller = host + "/kata-deploy"

// The images, as references.
const (
	Pause = host + "/pause:1" // the toolbox alone; its entrypoint waits
	Tools = host + "/tools:1" // busybox and the toolbox, no entrypoint
	User  = host + "/user:1"  // Tools with a user, variables, a working folder, an entrypoint and a volume
	// Layered is Tools with two layers more: one changes /data/of-image and adds /data/of-layer-1, the next takes
	// /data/of-layer-1 away again and adds /data/of-layer-2.
	Layered = host + "/layered:1"
)

// busybox is Debian's static one.
const busybox = "/bin/busybox"

// file is one entry of a layer. One that ends in a slash is a folder.
type file struct {
	name string
	mode int64
	data []byte
	link string // the name of the entry that this is a hard link to
	uid  int
}

// layer is a layer of files, with all times zero.
func layer(files []file) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0),
			Typeflag: tar.TypeReg, Uid: f.uid, Gid: f.uid}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, f.link, 0
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())),
			nil
	})
}

// tree is the files of Tools. Applets are hard links, because a symbolic link to the root looks odd where a test binds
// over one.
func tree(toolbox []byte) ([]file, error) {
	box, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	files := []file{
		{name: "bin/", mode: 0o755}, {name: "etc/", mode: 0o755}, {name: "root/", mode: 0o700},
		{name: "home/", mode: 0o755},
		{name: "home/worker/", mode: 0o755, uid: 1234}, {name: "tmp/", mode: 0o1777}, {name: "var/", mode: 0o755},
		{name: "data/", mode: 0o755},
		{name: "proc/", mode: 0o555}, {name: "sys/", mode: 0o555}, {name: "dev/", mode: 0o755},
		{name: "data/of-image", mode: 0o644, data: []byte("of the image\n")},
		{name: "etc/passwd", mode: 0o644, data: []byte(
			"root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1234:worker:/home/worker:/bin/sh\n")},
		{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\nworker:x:1234:\nwheel:x:77:worker\n")},
		{name: "bin/toolbox", mode: 0o755, data: toolbox},
		{name: "bin/busybox", mode: 0o755, data: box},
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			files = append(files, file{name: path.Join("bin", applet), mode: 0o755, link: "bin/busybox"})
		}
	}
	return files, nil
}

func build(layers [][]file, cfg v1.Config) (v1.Image, error) {
	img := empty.Image
	for _, files := range layers {
		l, err := layer(files)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.Architecture, c.OS, c.Config = "amd64", "linux", cfg
	return mutate.ConfigFile(img, c)
}

// Set is all images and the registry that serves them.
type Set struct {
	Toolbox []byte // the program
	images  map[string]v1.Image
	server  *http.Server
	addr    string
}

// NewSet builds the toolbox from its source in dir, makes the images and serves them on loopback until Close.
func NewSet(ctx context.Context, dir string) (*Set, error) {
	bin, err := os.CreateTemp("", "toolbox")
	if err != nil {
		return nil, err
	}
	bin.Close()
	defer os.Remove(bin.Name())
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin.Name(),
		".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the toolbox: %w: %s", err, out)
	}
	toolbox, err := os.ReadFile(bin.Name())
	if err != nil {
		return nil, err
	}
	files, err := tree(toolbox)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=/bin"}
	s := &Set{Toolbox: toolbox, images: map[string]v1.Image{}}
	for _, i := range []struct {
		name   string
		files  []file
		cfg    v1.Config
		layers [][]file
	}{
		{Pause, []file{{name: "toolbox", mode: 0o755, data: toolbox}},
			v1.Config{Entrypoint: []string{"/toolbox", "pause"}}, nil},
		{Tools, files, v1.Config{Env: env}, nil},
		{Layered, files, v1.Config{Env: env}, [][]file{
			{{name: "data/", mode: 0o755}, {name: "data/of-image", mode: 0o644, data: []byte("changed\n")},
				{name: "data/of-layer-1", mode: 0o644, data: []byte("1\n")}},
			// OCI image-spec, layer.md, "Whiteouts".
			{{name: "data/", mode: 0o755}, {name: "data/.wh.of-layer-1", mode: 0o644}, {name: "data/of-layer-2",
				mode: 0o644, data: []byte("2\n")}},
		}},
		{User, files, v1.Config{
			Env: append(slices.Clone(env), "COLOUR=green", "SHAPE=round"), User: "worker", WorkingDir: "/home/worker",
			Entrypoint: []string{"/bin/toolbox"}, Cmd: []string{"self"}, Volumes: map[string]struct{}{"/data": {}},
		}, nil},
	} {
		if s.images[i.name], err = build(append([][]file{i.files}, i.layers...), i.cfg); err != nil {
			return nil, fmt.Errorf("image %s: %w", i.name, err)
		}
	}
	return s, s.serve()
}

func (s *Set) serve() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0)
	s.server = &http.Server{Handler: registry.New(registry.Logger(quiet)), ErrorLog: quiet}
	s.addr = l.Addr().String()
	go func() { _ = s.server.Serve(l) }() // ends with Close
	for ref, img := range s.images {
		r, err := name.ParseReference(s.addr+strings.TrimPrefix(ref, host), name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(r, img); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
	}
	return nil
}

// Push pushes what an image layout has, which must be one image or one index, and returns its digest.
func (s *Set) Push(dir, ref string) (string, error) {
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", err
	}
	m, err := all.IndexManifest()
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	if len(m.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d images, want one, or one index", dir, len(m.Manifests))
	}
	r, err := name.ParseReference(s.addr+strings.TrimPrefix(ref, host), name.Insecure)
	if err != nil {
		return "", err
	}
	d := m.Manifests[0]
	if d.MediaType.IsIndex() {
		var i v1.ImageIndex
		if i, err = all.ImageIndex(d.Digest); err == nil {
			err = remote.WriteIndex(r, i)
		}
	} else {
		var i v1.Image
		if i, err = all.Image(d.Digest); err == nil {
			err = remote.Write(r, i)
		}
	}
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return d.Digest.String(), nil
}

// WriteHosts writes below dir what tells containerd that every registry is this one.
func (s *Set) WriteHosts(dir string) error {
	d := filepath.Join(dir, "_default")
	if err := os.MkdirAll(d, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+s.addr)
	return os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(text), 0o644)
}

// Save writes an image as an archive that "ctr images import" reads.
func (s *Set) Save(ref, file string) error {
	r, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, r, s.images[ref])
}
