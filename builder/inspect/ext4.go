package inspect

import (
	"errors"
	"io"

	"github.com/katabuild/katabuild/rootfs/tree"
)

func openExt4(r io.ReaderAt, size int64) (*FileSystem, *tree.Tree, error) {
	return nil, nil, errors.New("TODO-EXT4")
}
