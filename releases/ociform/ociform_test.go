package ociform_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/ociform"
	"github.com/katabuild/katabuild/releases/releasetest"
)

func TestTheFormInARegistryStaysWhatItIs(t *testing.T) {
	_, data := releasetest.Release(t, "1.4.0", releasetest.Two()...)
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ociform.Of(x, data)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := ociform.Signature(f.Index.Descriptor, []byte("envelope"))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, o := range append(f.Manifests, f.Index, signature) {
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
