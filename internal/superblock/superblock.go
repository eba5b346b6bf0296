// Package superblock tells file systems apart by their superblocks, for everybody who must know which one lies
// somewhere before it is read.
package superblock

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/katabuild/katabuild/internal/manifest"
)

// Where superblocks lie in their file systems, and the numbers by which they are known. Linux: fs/erofs/erofs_fs.h,
// struct erofs_super_block; Documentation/filesystems/ext4/super.rst and globals.rst.
const (
	At = 1024 // of both kinds, in bytes

	EROFS = 0xe0f5e1e2 // 32 bits, the first of the superblock
	Ext4  = 0xef53     // 16 bits, at ext4MagicAt of it

	ext4MagicAt    = 0x38
	erofsLabelAt   = 64 // volume_name
	erofsLabelSize = 16
)

// HeadSize is how many bytes of a file system Kind wants.
const HeadSize = At + ext4MagicAt + 2

// Kind is the file system that begins with b: manifest.EROFS, manifest.Ext4, or nothing where it is neither.
func Kind(b []byte) string {
	switch {
	case len(b) < HeadSize:
		return ""
	case binary.LittleEndian.Uint32(b[At:]) == EROFS:
		return manifest.EROFS
	case binary.LittleEndian.Uint16(b[At+ext4MagicAt:]) == Ext4:
		return manifest.Ext4
	}
	return ""
}

// EROFSLabel is the label of the EROFS that begins at an offset, in bytes.
func EROFSLabel(r io.ReaderAt, at int64) (string, error) {
	var b [At + erofsLabelAt + erofsLabelSize]byte
	if _, err := r.ReadAt(b[:], at); err != nil {
		return "", fmt.Errorf("file system at %d: %w", at, err)
	}
	if Kind(b[:]) != manifest.EROFS {
		return "", fmt.Errorf("file system at %d: not erofs", at)
	}
	name, _, _ := bytes.Cut(b[At+erofsLabelAt:], []byte{0})
	return string(name), nil
}
