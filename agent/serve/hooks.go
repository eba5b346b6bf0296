package serve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks are the programs in the guest's hook folder, by the names of Kata's folders. The host's own hooks never come
// here. Links and what is not executable are left out, as with Kata.
func (f *full) hooks() (*specs.Hooks, error) {
	f.mu.Lock()
	dir := f.hookDir
	f.mu.Unlock()
	if dir == "" {
		return nil, nil
	}
	var h specs.Hooks
	//lint:ignore SA1019 prestart hooks are deprecated, and in use
	for name, list := range map[string]*[]specs.Hook{"prestart": &h.Prestart, "poststart": &h.Poststart,
		"poststop": &h.Poststop} {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return nil, err
			}
			if info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				*list = append(*list, specs.Hook{Path: filepath.Join(dir, name, e.Name()), Args: []string{e.Name(),
					name}})
			}
		}
	}
	return &h, nil
}
