package chunks

import (
	"io/fs"
	"os"
	"path/filepath"
)

// MaxSeeds is how many files of a host are looked through for parts of a release.
const MaxSeeds = 200

// Seeds are paths of files of this host that may have parts of a release: plain ones that are as large as a part may
// be, at most MaxSeeds.
type Seeds []string

// Add takes a file among them, if it is one of that kind.
func (s *Seeds) Add(path string) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Size() >= Least && len(*s) < MaxSeeds {
		*s = append(*s, path)
	}
}

// AddBelow takes the files at or below a path. What cannot be read is passed over, and links to folders are, too.
func (s *Seeds) AddBelow(path string) {
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			s.Add(p)
		}
		return nil
	})
}
