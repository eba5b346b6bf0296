// Package chunks splits a file where its content says so, so that two files which share most of their bytes share most
// of their chunks, wherever in them those lie. A host that has an older file fetches of a newer one what it lacks.
//
// The places are found by a rolling hash (Gear) with two masks, as "FastCDC: a Fast and Efficient Content-Defined
// Chunking Approach for Data Deduplication" describes it (Xia and others, USENIX ATC 2016, section 3): no cut before a
// least size, a harder mask before the usual size and an easier one behind it. docs/formats/chunks.md owns the
// constants and the bytes of the list.
package chunks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/katabuild/katabuild/internal/digest"
)

// Sizes of chunks, in bytes. The last one of a file may be smaller.
const (
	minChunk   = 512
	usualChunk = 2 << 10
	maxChunk   = 16 << 10
)

// Least is the size of the smallest file that is worth a list, in bytes.
const Least = 1 << 20

// MaxSize bounds a list, in bytes.
const MaxSize = 256 << 20

// The masks look at the highest bits of the hash, which depend on the last 64 bytes. Before the usual size a cut is
// found once in 8 KiB, behind it once in 512 bytes.
const (
	hardMask = (1<<13 - 1) << (64 - 13)
	easyMask = (1<<9 - 1) << (64 - 9)
)

// A group of chunks ends with one whose ID ends in five zero bits, or with the most that it may have.
const (
	groupBits = 5
	maxGroup  = 128
)

// gear has a number for each byte: the first eight bytes, big-endian, of the SHA-256 of gearSeed and that byte.
var gear = makeGear()

const gearSeed = "katabuild chunks, version 1"

func makeGear() (t [256]uint64) {
	for i := range t {
		sum := sha256.Sum256(append([]byte(gearSeed), byte(i)))
		t[i] = binary.BigEndian.Uint64(sum[:])
	}
	return t
}

// cut is how long the first chunk of data is. data is all that is left of a file, or at least maxChunk bytes of it.
func cut(data []byte) int {
	n := min(len(data), maxChunk)
	if n <= minChunk {
		return n
	}
	var h uint64
	at := minChunk
	for usual := min(n, usualChunk); at < usual; at++ {
		if h = h<<1 + gear[data[at]]; h&hardMask == 0 {
			return at + 1
		}
	}
	for ; at < n; at++ {
		if h = h<<1 + gear[data[at]]; h&easyMask == 0 {
			return at + 1
		}
	}
	return n
}

// ID tells chunks apart: the first half of their SHA-256. Whoever puts a file together checks the file's own digest,
// so that nothing rests on it.
type ID [16]byte

// Of is the ID of a chunk.
func Of(data []byte) (id ID) {
	sum := sha256.Sum256(data)
	copy(id[:], sum[:])
	return id
}

// Chunk is a part of a file.
type Chunk struct {
	ID   ID
	Size int // bytes
}

// Group is some chunks that follow each other: whoever has it need not know which they are.
type Group struct {
	ID ID // of what the list says of its chunks
	N  int
}

// groupOf is the group of some chunks.
func groupOf(list []Chunk) Group {
	b := make([]byte, 0, len(list)*EntrySize)
	for _, c := range list {
		b = appendEntry(b, c.Size, c.ID)
	}
	return Group{Of(b), len(list)}
}

// ends says whether a chunk is the last one of a group, which has n chunks with it.
func ends(c Chunk, n int) bool { return c.ID[len(c.ID)-1]&(1<<groupBits-1) == 0 || n == maxGroup }

// Groups are the groups of a whole file's chunks.
func Groups(list []Chunk) (out []Group) {
	begin := 0
	for i, c := range list {
		if ends(c, i+1-begin) || i == len(list)-1 {
			out = append(out, groupOf(list[begin:i+1]))
			begin = i + 1
		}
	}
	return out
}

// List is what a file is made of, from its beginning to its end.
type List struct {
	Digest digest.Digest // of the file
	Size   int64         // of the file, in bytes
	Chunks []Chunk
}

// Splitter splits what is written into it. Nothing fails but what each says.
type Splitter struct {
	sum  *digest.Writer
	size int64
	buf  []byte
	each func(offset int64, c Chunk) error
	done int64 // bytes that were split
}

// NewSplitter calls each for every chunk, in order.
func NewSplitter(each func(offset int64, c Chunk) error) *Splitter {
	return &Splitter{sum: digest.New(), each: each}
}

// Write takes more of the file in.
func (s *Splitter) Write(p []byte) (int, error) {
	if _, err := s.sum.Write(p); err != nil {
		return 0, err
	}
	s.size += int64(len(p))
	s.buf = append(s.buf, p...)
	return len(p), s.split(maxChunk)
}

// split cuts chunks off as long as there are so many bytes.
func (s *Splitter) split(least int) error {
	data := s.buf
	for len(data) >= least && len(data) > 0 {
		n := cut(data)
		if err := s.each(s.done, Chunk{Of(data[:n]), n}); err != nil {
			return err
		}
		s.done, data = s.done+int64(n), data[n:]
	}
	s.buf = append(s.buf[:0], data...)
	return nil
}

// Close ends the file.
func (s *Splitter) Close() error { return s.split(0) }

// Lister makes the list of what is written into it.
type Lister struct {
	*Splitter
	list List
}

// NewLister begins with an empty file.
func NewLister() *Lister {
	l := &Lister{}
	l.Splitter = NewSplitter(func(_ int64, c Chunk) error {
		l.list.Chunks = append(l.list.Chunks, c)
		return nil
	})
	return l
}

// List ends the file and tells its list.
func (l *Lister) List() (*List, error) {
	err := l.Close()
	l.list.Size, l.list.Digest = l.size, l.sum.Digest()
	return &l.list, err
}

// Make makes the list of a file.
func Make(r io.Reader) (*List, error) {
	l := NewLister()
	if _, err := io.Copy(l, r); err != nil {
		return nil, err
	}
	return l.List()
}

// What a list begins with, and the lengths of its parts in bytes.
const (
	magic     = "KBCHUNKS"
	version   = 1
	HeadSize  = len(magic) + 4 + 4 + 8 + 32 + 4 + 4 // 64: magic, version, zero, size, digest, groups, chunks
	EntrySize = 4 + 16                              // of a group: chunks, ID; of a chunk: size, ID
)

func appendEntry(b []byte, n int, id ID) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(n)), id[:]...)
}

// Encode is the list as bytes. All numbers are little-endian.
func (l *List) Encode() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("chunk list: %w", err)
	}
	sum, err := hex.DecodeString(l.Digest.Hex())
	if err != nil {
		return nil, fmt.Errorf("chunk list: %w", err)
	}
	groups := Groups(l.Chunks)
	size := HeadSize + (len(groups)+len(l.Chunks))*EntrySize
	if size > MaxSize {
		return nil, fmt.Errorf("chunk list: %d bytes, more than the %d it may have", size, MaxSize)
	}
	b := append(make([]byte, 0, size), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.Size))
	b = append(b, sum...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(groups)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.Chunks)))
	for _, g := range groups {
		b = appendEntry(b, g.N, g.ID)
	}
	for _, c := range l.Chunks {
		b = appendEntry(b, c.Size, c.ID)
	}
	return b, nil
}

// Head is what a list begins with.
type Head struct {
	Digest         digest.Digest // of the file
	Size           int64         // of the file, in bytes
	Groups, Chunks int
}

// DecodeHead reads the first HeadSize bytes of a list that has so many bytes.
func DecodeHead(data []byte, size int64) (Head, error) {
	var h Head
	if size > MaxSize {
		return h, fmt.Errorf("chunk list: %d bytes, more than the %d it may have", size, MaxSize)
	}
	if len(data) < HeadSize || !bytes.HasPrefix(data, []byte(magic)) {
		return h, fmt.Errorf("chunk list: it does not begin with %s", magic)
	}
	at := data[len(magic):]
	if v := binary.LittleEndian.Uint32(at); v != version || binary.LittleEndian.Uint32(at[4:]) != 0 {
		return h, fmt.Errorf("chunk list: version %d, this katabuild reads version %d", v, version)
	}
	of := binary.LittleEndian.Uint64(at[8:])
	groups, n := int64(binary.LittleEndian.Uint32(at[48:])), int64(binary.LittleEndian.Uint32(at[52:]))
	if of > 1<<62 || groups > n || int64(HeadSize)+(groups+n)*int64(EntrySize) != size {
		return h, fmt.Errorf("chunk list: %d bytes, %d groups and %d chunks of a file of %d bytes", size, groups, n, of)
	}
	return Head{digest.OfSum([sha256.Size]byte(at[16:48])), int64(of), int(groups), int(n)}, nil
}

// entries reads what a list says of groups or chunks.
func entries(data []byte, each func(n int, id ID)) {
	for ; len(data) >= EntrySize; data = data[EntrySize:] {
		each(int(binary.LittleEndian.Uint32(data)), ID(data[4:EntrySize]))
	}
}

// DecodeGroups reads what a list says of its groups, which is behind its head.
func DecodeGroups(data []byte, h Head) ([]Group, error) {
	var out []Group
	total := 0
	entries(data, func(n int, id ID) {
		out = append(out, Group{id, n})
		total += min(n, maxGroup+1)
	})
	if len(data) != h.Groups*EntrySize || total != h.Chunks {
		return nil, fmt.Errorf("chunk list: its groups have %d chunks, it says %d", total, h.Chunks)
	}
	return out, nil
}

// DecodeChunks reads what a list says of the chunks of a group.
func DecodeChunks(data []byte, g Group) ([]Chunk, error) {
	if len(data) != g.N*EntrySize || Of(data) != g.ID {
		return nil, errors.New("chunk list: a group has other chunks")
	}
	var out []Chunk
	entries(data, func(n int, id ID) { out = append(out, Chunk{id, n}) })
	for _, c := range out {
		if c.Size < 1 || c.Size > maxChunk {
			return nil, fmt.Errorf("chunk list: a chunk of %d bytes", c.Size)
		}
	}
	return out, nil
}

// Decode reads what Encode writes and nothing else.
func Decode(data []byte) (*List, error) {
	h, err := DecodeHead(data, int64(len(data)))
	if err != nil {
		return nil, err
	}
	l := &List{Digest: h.Digest, Size: h.Size}
	entries(data[HeadSize+h.Groups*EntrySize:], func(n int, id ID) { l.Chunks = append(l.Chunks, Chunk{id, n}) })
	again, err := l.Encode()
	if err == nil && !bytes.Equal(again, data) {
		err = errors.New("chunk list: its groups are not those of its chunks")
	}
	return l, err
}

func (l *List) check() error {
	var sum int64
	for i, c := range l.Chunks {
		if last := i == len(l.Chunks)-1; c.Size < 1 || c.Size > maxChunk || c.Size < minChunk && !last {
			return fmt.Errorf("chunk %d has %d bytes: want %d to %d", i, c.Size, minChunk, maxChunk)
		}
		sum += int64(c.Size)
	}
	if l.Digest == "" {
		return errors.New("no digest")
	}
	if sum != l.Size {
		return fmt.Errorf("its chunks have %d bytes, the file has %d", sum, l.Size)
	}
	return nil
}
