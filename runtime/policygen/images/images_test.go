package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
)

// layerOf is a layer of files, by pairs of name and content.
func layerOf(t *testing.T, pairs ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for p := range slices.Chunk(pairs, 2) {
		if err := w.WriteHeader(&tar.Header{Name: p[0], Mode: 0o644, Size: int64(len(p[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, p[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageWith(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64",
		Config: v1.Config{User: "worker", Entrypoint: []string{"/a"}, Volumes: map[string]struct{}{"/data/": {}}}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layers...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func someImage(t *testing.T) v1.Image {
	t.Helper()
	return imageWith(t, layerOf(t, "etc/passwd", "old", "etc/group", "g"), layerOf(t, "./etc/passwd", "new"),
		layerOf(t, "bin/a", "a"))
}

func inLayout(t *testing.T, img v1.Image, ref string) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: ref}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Each source reads the same of an image.
func TestAllSourcesReadTheSame(t *testing.T) {
	img := someImage(t)
	sum, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := inLayout(t, img, "example.test/app:1")
	archive := filepath.Join(t.TempDir(), "app.tar")
	tag, err := name.NewTag("example.test/app:1")
	if err == nil {
		err = tarball.WriteToFile(archive, tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	served := strings.TrimPrefix(s.URL, "http://") + "/app:1"
	ref, err := name.ParseReference(served)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		from Source
		name string
	}{
		"a layout":        {&Layout{dir, "amd64"}, "example.test/app:1"},
		"a layout, again": {&Layout{dir, "amd64"}, "other.test/x@" + sum.String()},
		"an archive":      {&Archive{archive, "amd64"}, "example.test/app:1"},
		"a store":         {&Store{dir, "amd64"}, "example.test/app@" + sum.String()},
		"a registry":      {&Registry{&registry.Client{}, "amd64"}, served},
		"several":         {Several{&Layout{dir, "amd64"}, &Registry{&registry.Client{}, "amd64"}}, served},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := c.from.Image(t.Context(), c.name)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Passwd) != "new" || string(got.Group) != "g" || got.User != "worker" ||
				!slices.Equal(got.Volumes, []string{"/data"}) || len(got.Layers) != 3 ||
				what != "an archive" && got.Digest != digest.Digest(sum.String()) {
				t.Errorf("%+v", got)
			}
		})
	}
	for _, from := range []Source{&Layout{dir, "amd64"}, &Archive{archive, "amd64"}, &Store{dir, "amd64"}, Several{}} {
		if _, err := from.Image(t.Context(), "example.test/other:1"); !errors.Is(err, ErrNoImage) {
			t.Errorf("%T: %v", from, err)
		}
	}
	if _, err := (&Layout{dir, "arm64"}).Image(t.Context(), "example.test/app:1"); err == nil ||
		!strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("for another machine: %v", err)
	}
}

func TestListsAreThoseOfTheTopmostLayer(t *testing.T) {
	base := layerOf(t, "etc/passwd", "base", "etc/group", "g")
	for what, c := range map[string]struct {
		top  v1.Layer
		want string
	}{
		"it takes the file away":   {layerOf(t, "etc/.wh.passwd", ""), ""},
		"it takes the folder away": {layerOf(t, ".wh.etc", ""), ""},
		"it begins the folder":     {layerOf(t, "etc/.wh..wh..opq", ""), ""},
		"it has another":           {layerOf(t, "/etc/passwd", "top"), "top"},
		"it has none":              {layerOf(t, "usr/etc/passwd", "no"), "base"},
	} {
		dir := inLayout(t, imageWith(t, base, c.top), "a:1")
		got, err := (&Layout{dir, "amd64"}).Image(t.Context(), "a:1")
		if err != nil || string(got.Passwd) != c.want {
			t.Errorf("%s: %v, %v, want %q", what, got, err, c.want)
		}
	}
}

// A byte that was changed anywhere is found.
func TestChangedBlobsAreFound(t *testing.T) {
	dir := inLayout(t, someImage(t), "a:1")
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil || len(blobs) != 5 {
		t.Fatal(blobs, err)
	}
	read := 0
	for _, b := range blobs {
		was, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		// Manifest and configuration are JSON, where a space more changes nothing else; a layer gets other bytes.
		changed := append(slices.Clone(was), ' ')
		if was[0] != '{' {
			changed, err = os.ReadFile(blobs[0])
		}
		if err != nil || bytes.Equal(changed, was) {
			continue
		}
		if err := os.Chmod(b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b, changed, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Layout{dir, "amd64"}).Image(t.Context(), "a:1"); err == nil {
			t.Errorf("%s: the change is not found", filepath.Base(b))
		}
		read++
		if err := os.WriteFile(b, was, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read < 4 {
		t.Errorf("%d blobs were changed", read)
	}
}

func TestNamesThatAreMeant(t *testing.T) {
	for in, want := range map[string]string{
		"busybox":                    "docker.io/library/busybox:latest",
		"a/b:1":                      "docker.io/a/b:1",
		"docker.io/x":                "docker.io/library/x:latest",
		"localhost/x:1":              "localhost/x:1",
		"r.test:5000/x":              "r.test:5000/x:latest",
		"r.test/x:1@sha256:aa":       "r.test/x@sha256:aa",
		"registry.test/pause:3.10":   "registry.test/pause:3.10",
		"r.test/x@sha256:0123456789": "r.test/x@sha256:0123456789",
	} {
		if got := Names(in); got[len(got)-1] != want || got[0] != in {
			t.Errorf("%s: %q, want %s", in, got, want)
		}
	}
}
