package inspect

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// Initrd is what an initial RAM disk is.
type Initrd struct {
	Compression string `json:"compression"` // none, gzip or zstd
	Entries     int    `json:"entries"`
}

// maxInitrd bounds what an initrd unpacks to, in bytes.
const maxInitrd = 2 << 30

// initrdOf reads an initrd into a tree. Contents are kept in a temporary file below dir.
func initrdOf(path, dir string) (*Initrd, *tree.Tree, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	head, err := in.Peek(6)
	if err != nil {
		return nil, nil, err
	}
	i := &Initrd{Compression: "none"}
	var r io.Reader = in
	switch {
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		i.Compression = "zstd"
		z, err := zstd.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		defer z.Close()
		r = z
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		i.Compression = "gzip"
		if r, err = gzip.NewReader(in); err != nil {
			return nil, nil, err
		}
	}
	spool, err := os.CreateTemp(dir, "initrd-")
	if err != nil {
		return nil, nil, err
	}
	defer spool.Close()
	t := tree.New()
	if i.Entries, err = readCPIO(t, io.LimitReader(r, maxInitrd), spool); err != nil {
		return nil, nil, err
	}
	return i, t, nil
}

// readCPIO puts an archive into a tree. As in the kernel, the bytes of hard links come with one of them.
func readCPIO(t *tree.Tree, r io.Reader, spool *os.File) (entries int, err error) {
	c := cpio.NewReader(r)
	links := map[uint32]*tree.Node{}
	names := map[uint32]string{}
	at := int64(0)
	for {
		h, err := c.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		entries++
		n := &tree.Node{Mode: uint16(h.Mode & cpio.PermMask), UID: h.UID, GID: h.GID, Time: tree.Time{Sec: h.Time}}
		switch h.Mode & cpio.TypeMask {
		case cpio.TypeDir:
			n.Kind = tree.Dir
		case cpio.TypeRegular:
			n.Kind = tree.File
		case cpio.TypeSymlink:
			n.Kind = tree.Symlink
			var b strings.Builder
			if _, err := io.Copy(&b, c); err != nil {
				return entries, err
			}
			n.Target = b.String()
		case cpio.TypeChar, cpio.TypeBlock:
			n.Kind, n.Major, n.Minor = tree.CharDevice, h.DeviceMajor, h.DeviceMinor
			if h.Mode&cpio.TypeMask == cpio.TypeBlock {
				n.Kind = tree.BlockDevice
			}
		case cpio.TypeFIFO:
			n.Kind = tree.FIFO
		default:
			n.Kind = tree.Socket
		}
		if n.Kind == tree.File && h.Size > 0 {
			if _, err := io.Copy(spool, c); err != nil {
				return entries, fmt.Errorf("%s: %w", h.Name, err)
			}
			n.Content = &tree.Section{Path: spool.Name(), Offset: at, Length: h.Size}
			at += h.Size
		}
		if h.Links > 1 && n.Kind != tree.Dir {
			if first := links[h.Inode]; first != nil {
				if n.Content != nil {
					first.Content = n.Content
				}
				if err := t.Link(names[h.Inode], h.Name); err != nil {
					return entries, err
				}
				continue
			}
			links[h.Inode], names[h.Inode] = n, h.Name
		}
		if err := t.Put(h.Name, n); err != nil {
			return entries, err
		}
	}
}
