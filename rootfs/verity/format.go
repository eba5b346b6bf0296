package verity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

// Options say how a tree is made. The zero value has no salt and no superblock, and uses every processor.
type Options struct {
	Salt []byte // at most MaxSalt bytes; Derive makes one
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
func Format(ctx context.Context, data io.ReaderAt, dataSize int64, w io.WriterAt, offset int64, o Options) (Params,
	error) {
	p, err := o.params(dataSize)
	if err != nil {
		return Params{}, err
	}
	leaves := make([]byte, p.leafSize())
	err = each(ctx, o.Jobs, (p.DataBlocks+chunk-1)/chunk, func() func(int64) error {
		h, buf := newHasher(p.Salt), make([]byte, chunk*BlockSize)
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
		return Params{}, err
	}
	return p.finish(leaves, w, offset, o)
}

// Writer makes a tree of data that passes through it from front to back, for who has it in hand anyway. It hashes in
// the caller's goroutine.
type Writer struct {
	o      Options
	p      Params
	h      *hasher
	leaves []byte
	at     int64  // bytes written so far
	part   []byte // of a block that is not yet whole
}

// NewWriter starts a tree of dataSize bytes, a multiple of BlockSize.
func NewWriter(dataSize int64, o Options) (*Writer, error) {
	p, err := o.params(dataSize)
	if err != nil {
		return nil, err
	}
	return &Writer{o: o, p: p, h: newHasher(p.Salt), leaves: make([]byte, p.leafSize()),
		part: make([]byte, 0, BlockSize)}, nil
}

// Write hashes the next bytes of the data.
func (w *Writer) Write(b []byte) (int, error) {
	if int64(len(b)) > w.p.DataSize()-w.at {
		return 0, fmt.Errorf("verity: data beyond the %d bytes announced", w.p.DataSize())
	}
	total := len(b)
	for len(b) > 0 {
		n := min(BlockSize-len(w.part), len(b))
		if len(w.part) == 0 && n == BlockSize { // straight from the caller's buffer
			n = len(b) &^ (BlockSize - 1)
			w.h.blocks(w.leaves[w.at/BlockSize*digestSize:], b[:n])
		} else if w.part = append(w.part, b[:n]...); len(w.part) == BlockSize {
			w.h.blocks(w.leaves[w.at/BlockSize*digestSize:], w.part)
			w.part = w.part[:0]
		}
		b = b[n:]
		w.at += int64(n)
	}
	return total, nil
}

// Finish writes the hash area to out at offset, once all data has passed.
func (w *Writer) Finish(out io.WriterAt, offset int64) (Params, error) {
	if w.at != w.p.DataSize() {
		return Params{}, fmt.Errorf("verity: data ends at %d of %d bytes: %w", w.at, w.p.DataSize(),
			io.ErrUnexpectedEOF)
	}
	return w.p.finish(w.leaves, out, offset, w.o)
}

func (o Options) params(dataSize int64) (Params, error) {
	n, err := countBlocks(dataSize)
	if err != nil {
		return Params{}, err
	}
	p := newParams(n, o.Salt, o.Superblock)
	return p, p.check()
}

// leafSize is the length of the digests of all data blocks, filled up to whole hash blocks, except that a single digest
// stands alone.
func (p Params) leafSize() int64 {
	if p.DataBlocks == 1 {
		return digestSize
	}
	return levels(p.DataBlocks)[0] * BlockSize
}

// finish makes the upper levels of the digests of the data and writes everything: superblock, then levels from the top
// down.
func (p Params) finish(leaves []byte, w io.WriterAt, offset int64, o Options) (Params, error) {
	if offset < 0 || offset%BlockSize != 0 {
		return Params{}, fmt.Errorf("verity: hash area at %d: want a multiple of %d", offset, BlockSize)
	}
	var tree [][]byte
	h := newHasher(p.Salt)
	for range levels(p.DataBlocks) {
		tree = append(tree, leaves)
		above := make([]byte, max(digestSize, (len(leaves)/BlockSize+perBlock-1)/perBlock*BlockSize))
		h.blocks(above, leaves)
		leaves = above
	}
	p.RootHash = [digestSize]byte(leaves[:digestSize])
	write := func(b []byte) error {
		if _, err := w.WriteAt(b, offset); err != nil {
			return fmt.Errorf("verity: hash area at %d: %w", offset, err)
		}
		offset += int64(len(b))
		return nil
	}
	if p.Superblock {
		b := make([]byte, BlockSize)
		copy(b, p.superblock(o.UUID))
		if err := write(b); err != nil {
			return Params{}, err
		}
	}
	for i := len(tree) - 1; i >= 0; i-- {
		if err := write(tree[i]); err != nil {
			return Params{}, err
		}
	}
	return p, nil
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
