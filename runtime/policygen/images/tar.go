package images

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path"
)

// openInTar opens a file in an archive.
func openInTar(file, name string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if err != nil {
			_ = f.Close() // only read from
			if err == io.EOF {
				return nil, fmt.Errorf("it has no file %s", name)
			}
			return nil, err
		}
		if path.Clean("/"+h.Name) == path.Clean("/"+name) && h.Typeflag == tar.TypeReg {
			return inTar{t, f}, nil
		}
	}
}

// inTar is a file in an archive.
type inTar struct {
	io.Reader
	io.Closer
}
