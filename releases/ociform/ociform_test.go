package ociform_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/ociform"
	"github.com/katabuild/katabuild/releases/releasetest"
)

func program(arch, name string) *index.Program {
	text := []byte(arch + name)
	return &index.Program{Name: name, Version: "1.4.0", Arch: arch, Blob: index.Blob{Digest: digest.Of(text),
		Size: int64(len(text))}}
}

func TestTheFormInARegistryStaysWhatItIs(t *testing.T) {
	_, data := releasetest.Release(t, "1.4.0", append(releasetest.Two(), releasetest.Guest{Name: "again",
		Recipe: []byte("recipe")})...)
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	x.Programs = []index.Program{*program("aarch64", "kata-runtime"), *program("x86_64", "kata-runtime"),
		*program("x86_64", "katabuild")}
	x.Sources = []index.Blob{program("", "a source").Blob}
	x.Guests[0].Artefacts[0].Chunks = &program("", "a list of chunks").Blob
	f, err := ociform.Of(x, data)
	if err != nil {
		t.Fatal(err)
	}
	signature, err1 := ociform.Envelope(ociform.SignatureType, f.Index.Descriptor, []byte("envelope"))
	statement, err2 := ociform.Envelope(ociform.ReproducedType, f.Index.Descriptor, []byte("statement"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, o := range append(f.Manifests, f.Index, signature, statement) {
		if err := json.Indent(&all, o.Data, "", "  "); err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n")
	}
	golden.Check(t, "form.json", all.Bytes())
	// Whatever the index of the release names, something in the registry names too, so that it is kept.
	for _, b := range x.Blobs() {
		if !bytes.Contains(all.Bytes(), []byte(b.Digest)) {
			t.Errorf("nothing names %s", b.Digest)
		}
	}
}
