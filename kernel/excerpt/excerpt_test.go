package excerpt

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestWhatWasReadIsPackedAndNothingElse(t *testing.T) {
	r := Of(fstest.MapFS{"b/Makefile": {Data: []byte("b")}, "a": {Data: []byte("a")}, "c": {Data: []byte("c")}})
	for _, name := range []string{"b/Makefile", "a", "a"} {
		if _, err := fs.ReadFile(r, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fs.ReadFile(r, "missing"); err == nil {
		t.Error("a file that is not there was read")
	}
	packed, err := r.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Pack(); err != nil || !bytes.Equal(again, packed) {
		t.Errorf("packed twice, it is not the same: %v", err)
	}
	z, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil || len(z.File) != 2 || z.File[0].Name != "a" || z.File[1].Name != "b/Makefile" {
		t.Fatalf("%+v, %v", z, err)
	}
	if data, err := fs.ReadFile(z, "b/Makefile"); err != nil || string(data) != "b" {
		t.Errorf("%q, %v", data, err)
	}
}
