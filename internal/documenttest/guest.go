package documenttest

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/manifest"
)

// WriteGuest makes dir the folder of a guest: Manifest and its files, each of which holds its own path. It boots
// nowhere.
func WriteGuest(dir string) error {
	m := Manifest()
	for _, f := range m.Files() {
		p := filepath.Join(dir, f.Path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(f.Path), 0o644)); err != nil {
			return err
		}
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return manifest.Write(dir, data)
}
