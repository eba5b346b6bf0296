package sealed

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSealedCopiesAreWhatWasDigested(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, sum, err := Copy(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sum.Hex() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" { // FIPS 180-2, B.1
		t.Error(sum)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the copy can be changed")
	}
}
