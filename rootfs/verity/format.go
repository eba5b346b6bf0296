package verity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"

	"github.com/katabuild/katabuild/internal/dmverity"
)

// Options say how a tree is made. The zero value has no salt and no superblock, and uses every processor.
type Options struct {
	Salt []byte // at most dmverity.MaxSalt bytes; Derive makes one
	// Superblock puts one before the tree, for people with veritysetup at hand; UUID is its.
	Superblock bool
	UUID       [16]byte
	// Jobs is how many goroutines hash; 0 is one a processor. The tree does not depend on it.
	Jobs int
}

// chunk is how many data blocks are read and hashed at a time. Their digests fill just one hash block, so that
// goroutines share none.
const chunk = perBlock

// Format reads dataSize bytes of data, which must be a multiple of BlockSize, and writes the hash area to w at offset.
// It holds the tree in memory: a 127th of the data.
func Format(ctx context.Context, data io.ReaderAt, dataSize int64, w io.WriterAt, offset int64, o Options) (Tree,
	error) {
	blocks, err := countBlocks(dataSize)
	switch {
	case err != nil:
		return Tree{}, err
	case len(o.Salt) > dmverity.MaxSalt:
		return Tree{}, fmt.Errorf("verity: salt of %d bytes: want at most %d", len(o.Salt), dmverity.MaxSalt)
	}
	leaves := make([]byte, leafSize(blocks))
	err = each(ctx, o.Jobs, (blocks+chunk-1)/chunk, func() func(int64) error {
		h, buf := newHasher(o.Salt), make([]byte, chunk*BlockSize)
		return func(i int64) error {
			at := i * chunk * BlockSize
			b := buf[:min(int64(len(buf)), dataSize-at)]
			if n, err := data.ReadAt(b, at); n < len(b) {
				return readError("data", at+int64(n), err)
			}
			h.blocks(leaves[i*chunk*digestSize:], b)
			return nil
		}
	})
	if err != nil {
		return Tree{}, err
	}
	return finish(blocks, leaves, w, offset, o)
}

// leafSize is the length of the digests of all data blocks, filled up to whole hash blocks, except that a single digest
// stands alone.
func leafSize(dataBlocks int64) int64 {
	if dataBlocks == 1 {
		return digestSize
	}
	return levels(dataBlocks)[0] * BlockSize
}

// finish makes the upper levels of the digests of the data and writes everything: superblock, then levels from the top
// down.
func finish(dataBlocks int64, leaves []byte, w io.WriterAt, offset int64, o Options) (Tree, error) {
	if offset < 0 || offset%BlockSize != 0 {
		return Tree{}, fmt.Errorf("verity: hash area at %d: want a multiple of %d", offset, BlockSize)
	}
	var tree [][]byte
	h := newHasher(o.Salt)
	for range levels(dataBlocks) {
		tree = append(tree, leaves)
		above := make([]byte, max(digestSize, (len(leaves)/BlockSize+perBlock-1)/perBlock*BlockSize))
		h.blocks(above, leaves)
		leaves = above
	}
	t := Tree{Root: [digestSize]byte(leaves[:digestSize]), Superblock: o.Superblock,
		HashSize: hashSize(dataBlocks, o.Superblock),
		Params: dmverity.Params{RootHash: hex.EncodeToString(leaves[:digestSize]), Salt: dmverity.SaltText(o.Salt),
			DataBlocks: dataBlocks, DataBlockSize: BlockSize, HashBlockSize: BlockSize}}
	write := func(b []byte) error {
		if _, err := w.WriteAt(b, offset); err != nil {
			return fmt.Errorf("verity: hash area at %d: %w", offset, err)
		}
		offset += int64(len(b))
		return nil
	}
	if o.Superblock {
		b := make([]byte, BlockSize)
		copy(b, t.Table(0).Superblock(o.UUID).Bytes())
		if err := write(b); err != nil {
			return Tree{}, err
		}
	}
	for i := len(tree) - 1; i >= 0; i-- {
		if err := write(tree[i]); err != nil {
			return Tree{}, err
		}
	}
	return t, nil
}

// hasher digests blocks behind a salt without allocating. One goroutine uses it.
type hasher struct {
	h    hash.Hash
	salt []byte
	zero [digestSize]byte // digest of a block of zeros
}

var zeroBlock [BlockSize]byte

func newHasher(salt []byte) *hasher {
	h := &hasher{h: sha256.New(), salt: salt}
	h.one(h.zero[:0], zeroBlock[:])
	return h
}

func (h *hasher) one(dst, block []byte) {
	h.h.Reset()
	h.h.Write(h.salt)
	h.h.Write(block)
	h.h.Sum(dst)
}

// blocks puts the digest of each block of b into dst. Images are full of zeros, and to see them costs less than to hash
// them.
func (h *hasher) blocks(dst, b []byte) {
	for ; len(b) > 0; b, dst = b[BlockSize:], dst[digestSize:] {
		if [BlockSize]byte(b) == zeroBlock {
			copy(dst, h.zero[:])
			continue
		}
		h.one(dst[:0:digestSize], b[:BlockSize])
	}
}

// each calls what worker returns, in a goroutine of its own each, with every number below n, and returns the error of
// the lowest number that failed. Numbers are given out in order, so that a reader ahead of a disk sees one stream.
func each(ctx context.Context, jobs int, n int64, worker func() func(int64) error) error {
	if jobs < 0 {
		return fmt.Errorf("verity: %d jobs", jobs)
	}
	if jobs == 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	var (
		mu     sync.Mutex // guards the rest
		next   int64
		failed = n
		cause  error
	)
	take := func() (int64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= failed {
			return 0, false
		}
		next++
		return next - 1, true
	}
	fail := func(i int64, err error) {
		mu.Lock()
		defer mu.Unlock()
		if i < failed {
			failed, cause = i, err
		}
	}
	var wg sync.WaitGroup
	for range min(int64(jobs), n) {
		wg.Go(func() {
			do := worker()
			for {
				i, ok := take()
				if !ok {
					return
				}
				err := ctx.Err()
				if err == nil {
					err = do(i)
				}
				if err != nil {
					fail(i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return cause
}

func readError(what string, at int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("verity: %s at %d: %w", what, at, err)
}
