// Package excerpt keeps those files of a tree that somebody reads, and packs them, so that the same can be read again
// without the tree.
package excerpt

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"path"
	"slices"
)

// Recorder is a tree that remembers which of its files were read.
type Recorder struct {
	fs.FS
	files map[string][]byte
}

// Of is a recorder of a tree.
func Of(tree fs.FS) *Recorder { return &Recorder{FS: tree, files: map[string][]byte{}} }

// ReadFile reads a file and remembers it.
func (r *Recorder) ReadFile(name string) ([]byte, error) {
	data, err := fs.ReadFile(r.FS, name)
	if err == nil {
		r.files[path.Clean(name)] = data
	}
	return data, err
}

// Pack is a zip archive of what was read, sorted by name.
func (r *Recorder) Pack() ([]byte, error) {
	var names []string
	for name := range r.files {
		names = append(names, name)
	}
	slices.Sort(names)
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	for _, name := range names {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(r.files[name]); err != nil {
			return nil, err
		}
	}
	err := z.Close()
	return packed.Bytes(), err
}
