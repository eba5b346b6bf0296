package inspect

import (
	"io"

	"github.com/katabuild/katabuild/rootfs/ext4"
	"github.com/katabuild/katabuild/rootfs/tree"
)

func openExt4(r io.ReaderAt, size int64) (*FileSystem, *tree.Tree, error) {
	i, err := ext4.Open(r, size)
	if err != nil {
		return nil, nil, err
	}
	fs := &FileSystem{Kind: "ext4", UUID: uuid(i.UUID), Label: i.Label, Size: i.Size}
	if i.Journal {
		fs.Features = append(fs.Features, "journal")
	}
	if i.Checksums {
		fs.Features = append(fs.Features, "metadata checksums")
	}
	t, err := i.Tree()
	return fs, t, err
}
