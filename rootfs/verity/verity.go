// Package verity makes and checks the hash trees of dm-verity, with which Linux proves every block it reads from a
// disk.
//
// Data comes in; a tree of SHA-256 digests goes out, and the one digest, the root hash, that stands for all of it. The
// bytes are those that veritysetup makes of the same salt. The package knows nothing of file systems, partitions or
// device-mapper itself.
//
// The tree is Linux's Documentation/admin-guide/device-mapper/verity.rst, hash type 1; the superblock is the cryptsetup
// project's, from its wiki page DMVerity. docs/formats/verity.md says what of both is used.
package verity

import (
	"crypto/sha256"
	"fmt"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/dmverity"
)

// BlockSize is that of data and of hash blocks, in bytes.
const BlockSize = dmverity.BlockSize

const (
	digestSize = sha256.Size
	perBlock   = BlockSize / digestSize // digests in a hash block; each takes a power of two bytes, and 32 is one
)

// Tree is what there is to know of a hash area and the data it covers.
type Tree struct {
	dmverity.Params
	Root [digestSize]byte // the bytes of Params.RootHash
	// Superblock says that the hash area begins with a block that describes it; the tree lies behind it. Kata's has
	// none.
	Superblock bool
	// HashSize is the length of the hash area in bytes: the tree, and the superblock where there is one. One data block
	// needs no tree.
	HashSize int64
}

// HashSize is how long the hash area is for so many bytes of data: a caller can lay out a disk before it has the data.
func HashSize(dataSize int64, superblock bool) (int64, error) {
	n, err := countBlocks(dataSize)
	if err != nil {
		return 0, err
	}
	return hashSize(n, superblock), nil
}

func countBlocks(dataSize int64) (int64, error) {
	if dataSize <= 0 || dataSize%BlockSize != 0 || dataSize/BlockSize > dmverity.MaxBlocks {
		return 0, fmt.Errorf("verity: %d bytes of data: want a multiple of %d, at least one", dataSize, BlockSize)
	}
	return dataSize / BlockSize, nil
}

func hashSize(dataBlocks int64, superblock bool) int64 {
	size := treeStart(superblock)
	for _, n := range levels(dataBlocks) {
		size += n * BlockSize
	}
	return size
}

// treeStart is where in the hash area the tree begins.
func treeStart(superblock bool) int64 {
	if superblock {
		return BlockSize
	}
	return 0
}

// levels says how many hash blocks each level has, from the one that holds the digests of the data up to the one that
// is a single block. A single data block has none: the root hash is its own digest.
func levels(dataBlocks int64) (out []int64) {
	for n := dataBlocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		out = append(out, n)
	}
	return out
}

// Derive makes a salt and a superblock's UUID of a digest that names the data, or names what it is made from: the same
// digest gives the same, and another gives others. A salt need not be secret; it keeps one tree's digests from being of
// use for another.
func Derive(d digest.Digest) (salt []byte, uuid [16]byte) {
	s := sha256.Sum256([]byte("katabuild dm-verity salt\n" + d))
	u := sha256.Sum256([]byte("katabuild dm-verity uuid\n" + d))
	uuid = [16]byte(u[:])
	uuid[6] = uuid[6]&0x0f | 8<<4 // RFC 9562: version 8, made by rules of one's own
	uuid[8] = uuid[8]&0x3f | 0x80
	return s[:], uuid
}
