package fetch

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/oci"
)

func imageOf(t testing.TB, arch string, files ...string) v1.Image {
	t.Helper()
	img := empty.Image
	for _, f := range files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		err := w.WriteHeader(&tar.Header{Name: f, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f))})
		if err == nil {
			_, err = io.WriteString(w, f)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser,
			error) {
			return io.NopCloser(bytes.NewReader(b.Bytes())), nil
		})
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// serveRegistry is go-containerregistry's registry on loopback. What spoil returns is sent in place of what is there,
// unless it is nil.
func serveRegistry(t testing.TB, spoil func(path string) []byte) string {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spoil != nil && r.Method == http.MethodGet {
			if data := spoil(r.URL.Path); data != nil {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				_, _ = w.Write(data)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestImagesComeByName(t *testing.T) {
	host := serveRegistry(t, nil)
	amd, arm := imageOf(t, "amd64", "a", "b", "a"), imageOf(t, "arm64", "c")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: "arm64"}}})
	ref, err := name.ParseReference(host + "/some/image:1")
	if err == nil {
		err = remote.WriteIndex(ref, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	one, err := name.ParseReference(host + "/some/one:1")
	if err == nil {
		err = remote.Write(one, arm)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := fetcher(t)
	r := &Registry{}
	found, err := r.Resolve(t.Context(), ref.String(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	want, err := amd.Digest()
	if err != nil || string(found.Digest) != want.String() || found.Size == 0 {
		t.Errorf("found %+v, want %s, %v", found, want, err)
	}
	in := lock.Input{Name: "image", Kind: lock.OCI, Where: ref.String(), Digest: found.Digest, Size: found.Size}
	if err := f.Bring(t.Context(), in, nil); err != nil {
		t.Fatal(err)
	}
	// The tag now means something else; the digest does not. What the store holds is not fetched again, what it has
	// lost is.
	if err := remote.Write(ref, imageOf(t, "amd64", "other")); err != nil {
		t.Fatal(err)
	}
	blobs, err := f.imageBlobs(in)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := f.Store.Get(blobs[2].digest)
	if err == nil {
		err = os.Remove(lost)
	}
	if err == nil {
		err = f.Bring(t.Context(), in, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, remove, err := f.Store.Temp("layout")
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	if err := f.ImageLayout(in, dir); err != nil {
		t.Fatal(err)
	}
	img, err := oci.Load(t.Context(), dir, oci.Options{Arch: "amd64", Work: t.TempDir(), Digest: found.Digest})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"a", "b"} {
		if _, err := img.Tree.Lookup(p); err != nil {
			t.Error(err)
		}
	}
	for image, want := range map[string]string{
		one.String():        "it is for linux/arm64, want linux/amd64",
		host + "/some/no:1": "NAME_UNKNOWN",
		"::":                "image \"::\"",
	} {
		if _, err := r.Resolve(t.Context(), image, "amd64"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", image, err, want)
		}
	}
}

func TestFalseRegistriesAreRefused(t *testing.T) {
	img := imageOf(t, "amd64", "a")
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		path string
		send []byte
	}{
		"another manifest": {"/v2/x/manifests/" + want.String(), append(raw, ' ')},
		"another layer":    {"/v2/x/blobs/" + layer.String(), []byte("other")},
		"a longer layer":   {"/v2/x/blobs/" + layer.String(), bytes.Repeat([]byte("x"), 1<<20)},
	} {
		on := false
		host := serveRegistry(t, func(path string) []byte {
			if on && path == c.path {
				return c.send
			}
			return nil
		})
		ref, err := name.ParseReference(host + "/x:1")
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		on = true
		f := fetcher(t)
		in := lock.Input{Name: "image", Kind: lock.OCI, Where: ref.String(), Digest: digest.Digest(want.String()),
			Size: 1}
		if err := f.Bring(t.Context(), in, nil); err == nil {
			t.Errorf("%s: accepted", what)
		}
		if f.Store.Has(digest.Of(c.send)) || c.path[len("/v2/x/"):][0] == 'b' &&
			f.Store.Has(digest.Digest(layer.String())) {
			t.Errorf("%s: in the store", what)
		}
	}
	for _, s := range []string{"", "{}", `{"schemaVersion":2,"manifests":[],"config":{}}`,
		`{"schemaVersion":2,"config":{"digest":"sha256:x"}}`, `{"schemaVersion":2,"config":{"size":1}}`} {
		if _, err := blobsOf([]byte(s)); err == nil {
			t.Errorf("%s is a manifest", s)
		}
	}
}
