package verity

import (
	"context"
	"fmt"
	"io"
)

// corrupt is a block that is not what the root hash promises.
type corrupt struct {
	// Level is the block's height in the tree: 0 for hash blocks over the data, 1 for those over them. A data block has
	// dataLevel.
	Level  int
	Block  int64 // number within its level, from 0
	Offset int64 // in bytes, from the start of the data or of the hash area
}

// dataLevel is the Level of a data block.
const dataLevel = -1

func (c *corrupt) Error() string {
	if c.Level == dataLevel {
		return fmt.Sprintf("verity: data block %d at %d is not what was hashed", c.Block, c.Offset)
	}
	return fmt.Sprintf("verity: hash block %d of level %d at %d of the hash area is not what was hashed", c.Block,
		c.Level, c.Offset)
}

// area is where a hash area lies: Size bytes of R from Offset on.
type area struct {
	R            io.ReaderAt
	Offset, Size int64
}

// verifyTree checks the tree against the root hash, from the top down, and then the data against the tree. The first
// block that differs is a *corrupt; hash blocks come before data, and lower numbers before higher. Of a superblock only
// the salt and sizes in t count: the kernel does not read it either.
func verifyTree(ctx context.Context, data io.ReaderAt, dataSize int64, hashes area, t Tree, jobs int) error {
	if err := t.Check(); err != nil {
		return fmt.Errorf("verity: %w", err)
	}
	if t.DataBlocks > dataSize/BlockSize {
		return fmt.Errorf("verity: %d bytes of data, but the parameters cover %d blocks of %d", dataSize,
			t.DataBlocks, BlockSize)
	}
	if want := hashSize(t.DataBlocks, t.Superblock); hashes.Size < want {
		return fmt.Errorf("verity: hash area of %d bytes, but the parameters need %d", hashes.Size, want)
	}
	salt := t.SaltBytes()
	digests := append([]byte(nil), t.Root[:]...) // what the blocks of the next level must have
	at := treeStart(t.Superblock)
	counts := levels(t.DataBlocks)
	for level := len(counts) - 1; level >= 0; level-- {
		blocks := make([]byte, counts[level]*BlockSize)
		if n, err := hashes.R.ReadAt(blocks, hashes.Offset+at); n < len(blocks) {
			return readError("hash area", at+int64(n), err)
		}
		if i := mismatch(newHasher(salt), digests, blocks); i >= 0 {
			return &corrupt{level, i, at + i*BlockSize}
		}
		at += int64(len(blocks))
		digests = blocks
	}
	return each(ctx, jobs, (t.DataBlocks+chunk-1)/chunk, func() func(int64) error {
		h, buf := newHasher(salt), make([]byte, chunk*BlockSize)
		return func(c int64) error {
			first := c * chunk
			b := buf[:min(chunk, t.DataBlocks-first)*BlockSize]
			if n, err := data.ReadAt(b, first*BlockSize); n < len(b) {
				return readError("data", first*BlockSize+int64(n), err)
			}
			if i := mismatch(h, digests[first*digestSize:], b); i >= 0 {
				return &corrupt{dataLevel, first + i, (first + i) * BlockSize}
			}
			return nil
		}
	})
}

// mismatch is the number of the first block that has not its digest, or -1.
func mismatch(h *hasher, digests, blocks []byte) int64 {
	var got [digestSize]byte
	for i := int64(0); len(blocks) > 0; i, blocks, digests = i+1, blocks[BlockSize:], digests[digestSize:] {
		h.blocks(got[:], blocks[:BlockSize])
		if got != [digestSize]byte(digests) {
			return i
		}
	}
	return -1
}
