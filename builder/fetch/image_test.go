package fetch

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/rootfs/oci"
)

func TestImagesComeByName(t *testing.T) {
	host := registrytest.Serve(t, nil)
	amd, arm := registrytest.Image(t, "amd64", "a", "b", "a"), registrytest.Image(t, "arm64", "c")
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
	r := &registry.Client{}
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
	if err := remote.Write(ref, registrytest.Image(t, "amd64", "other")); err != nil {
		t.Fatal(err)
	}
	blobs, err := f.imageBlobs(in)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := f.Store.Get(blobs[2].Digest)
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
	img := registrytest.Image(t, "amd64", "a")
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
		host := registrytest.Serve(t, func(path string) []byte {
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
		if _, err := registry.Blobs([]byte(s)); err == nil {
			t.Errorf("%s is a manifest", s)
		}
	}
}
