// Package golden compares bytes with a file under testdata, and rewrites that file when asked.
package golden

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// variable, when set, makes Check write the files instead of comparing them; `make golden` sets it.
const variable = "KATABUILD_GOLDEN_UPDATE"

// Check fails the test unless got is what testdata/name holds.
func Check(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv(variable) != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (make golden writes it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, got, want)
	}
}
