package tarfile

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// Write writes the tree as a POSIX pax tar: names in byte order, attributes as SCHILY.xattr records, holes as zeros.
// Sockets, which a tar cannot hold, are left out and returned.
// files opens the tree's files, each once.
//
// POSIX.1-2017, pax, "pax Interchange Format".
func Write(w io.Writer, t *tree.Tree, files *tree.Opener) (leftOut []string, err error) {
	out := tar.NewWriter(w)
	names := map[*tree.Node]string{}
	err = t.Walk(func(p string, n *tree.Node, first bool) error {
		h := &tar.Header{
			Format: tar.FormatPAX, Name: "." + p, Mode: int64(n.Mode), Uid: int(n.UID), Gid: int(n.GID),
			ModTime: time.Unix(n.Time.Sec, int64(n.Time.Nsec)), PAXRecords: map[string]string{},
		}
		if !first {
			h.Typeflag, h.Linkname = tar.TypeLink, names[n]
			return out.WriteHeader(h)
		}
		names[n] = h.Name
		for _, x := range n.Xattrs {
			h.PAXRecords["SCHILY.xattr."+x.Name] = string(x.Value)
		}
		switch n.Kind {
		case tree.Dir:
			h.Typeflag = tar.TypeDir
			h.Name = strings.TrimSuffix(h.Name, "/") + "/"
		case tree.File:
			h.Typeflag, h.Size = tar.TypeReg, n.Size()
		case tree.Symlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
		case tree.CharDevice, tree.BlockDevice:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.Major), int64(n.Minor)
			if n.Kind == tree.BlockDevice {
				h.Typeflag = tar.TypeBlock
			}
		case tree.FIFO:
			h.Typeflag = tar.TypeFifo
		case tree.Socket:
			leftOut = append(leftOut, p)
			return nil
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("tar of %s: %w", p, err)
		}
		if n.Kind != tree.File || n.Content == nil {
			return nil
		}
		r, err := files.Open(n)
		if err != nil {
			return fmt.Errorf("tar of %s: %w", p, err)
		}
		defer r.Close()
		if _, err := io.CopyN(out, r, n.Size()); err != nil {
			return fmt.Errorf("tar of %s: %w", p, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leftOut, out.Close()
}
