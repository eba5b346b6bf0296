// Package partition lays out disks: where on an image the file system and its hash tree lie, and the tables that say
// so.
//
// Sizes come in and a Layout goes out, a value; then, with an identity, the bytes of the tables. What lies in the
// partitions is the caller's to write, before or after. The same layout and identity give the same bytes. The package
// knows nothing of file systems or dm-verity.
//
// Sources are named where their numbers are; docs/formats/disk.md says what is written and why.
package partition

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/manifest"
)

// Kind is a way to lay out a disk. Names are those of the manifest.
type Kind uint8

// The kinds there are.
const (
	Bare   Kind = iota // the file system from the first byte on, the hash tree right behind it, no tables
	MBR                // Kata's image for virtio-blk: a DOS partition table, the file system at 1 MiB
	MBRDAX             // Kata's image for NVDIMM with DAX, which works as virtio-blk too: the file system at 3 MiB
	GPT                // a GUID partition table with the types of the Discoverable Partitions Specification
)

var kindNames = [...]string{manifest.LayoutBare, manifest.LayoutMBR, manifest.LayoutMBRDAX, manifest.LayoutGPT}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ParseKind is the kind of a name as String prints it.
func ParseKind(name string) (Kind, error) {
	for i, n := range kindNames {
		if n == name {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("disk layout %q: want one of %s", name, strings.Join(kindNames[:], ", "))
}

// Sizes, in bytes.
const (
	sectorSize = gpt.SectorSize
	mib        = 1 << 20
	// blockSize is that of file systems and hash trees here: what is put on a disk must be a multiple.
	blockSize = 4096
	// align is where partitions begin, as all partitioning programs have it.
	align = mib
	// maxSize keeps all arithmetic here far from overflowing.
	maxSize = 1 << 50
)

// Options say what is to be laid out.
type Options struct {
	DataSize int64 // of the file system, a multiple of 4096, at least one
	HashSize int64 // of the hash tree, likewise; 0 is none
	// Arch is the guest's architecture, named as in uname -m; only GPT has it.
	Arch string
	// Align rounds the whole image up: a power of two of at least 1 MiB, or 2 MiB for MBRDAX. 0 is the least. Kata's
	// image builder rounds to 128 MiB (IMAGE_SIZE_ALIGNMENT_MB). Bare is never rounded.
	Align int64
}

// Extent is a part of a disk, in bytes.
type Extent struct{ Offset, Size int64 }

// end is the offset of the first byte behind it.
func (e Extent) end() int64 { return e.Offset + e.Size }

// Layout is where everything lies.
type Layout struct {
	Kind Kind
	Arch string // of GPT
	Size int64  // of the whole image
	Data Extent // the file system; partition 1, save on Bare
	Hash Extent // the hash tree; partition 2, save on Bare; empty where there is none
}

// Plan lays out a disk.
func Plan(kind Kind, o Options) (Layout, error) {
	l, err := plan(kind, o)
	if err != nil {
		return Layout{}, fmt.Errorf("disk layout %v: %w", kind, err)
	}
	return l, nil
}

func plan(kind Kind, o Options) (Layout, error) {
	l := Layout{Kind: kind, Arch: o.Arch}
	switch {
	case int(kind) >= len(kindNames):
		return l, errors.New("there is no such kind")
	case o.DataSize <= 0 || o.DataSize%blockSize != 0 || o.DataSize > maxSize:
		return l, fmt.Errorf("file system of %d bytes: want a multiple of %d, at least one", o.DataSize, blockSize)
	case o.HashSize < 0 || o.HashSize%blockSize != 0 || o.HashSize > maxSize:
		return l, fmt.Errorf("hash tree of %d bytes: want a multiple of %d", o.HashSize, blockSize)
	case kind != GPT && o.Arch != "":
		return l, fmt.Errorf("architecture %q: only GPT names one", o.Arch)
	case kind == Bare && o.Align != 0:
		return l, fmt.Errorf("alignment %d: such a disk is as long as what it holds", o.Align)
	}
	from, step, least := int64(align), int64(align), int64(align)
	switch kind {
	case Bare:
		from, step, least = 0, blockSize, blockSize
	case MBRDAX:
		from, least = daxOffset+align, pfnAlign
	case GPT:
		if _, err := rootTypes(o.Arch); err != nil {
			return l, err
		}
	}
	if o.Align == 0 {
		o.Align = least
	}
	if o.Align < least || o.Align > maxSize || o.Align&(o.Align-1) != 0 {
		return l, fmt.Errorf("alignment %d: want a power of two of at least %d", o.Align, least)
	}
	l.Data = Extent{from, o.DataSize}
	end := l.Data.end()
	if o.HashSize > 0 {
		l.Hash = Extent{roundUp(end, step), o.HashSize}
		end = l.Hash.end()
	}
	if kind == GPT {
		end += gpt.EndSize
	}
	l.Size = roundUp(end, o.Align)
	if (kind == MBR || kind == MBRDAX) && l.Size > maxMBR {
		return l, fmt.Errorf("%d bytes: a DOS partition table ends at 2 TiB; take gpt", l.Size)
	}
	return l, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// Devices are a guest's names for what holds the file system and the hash tree, and where on the latter the tree lies,
// when the guest's name for the whole disk is disk, such as /dev/vda or /dev/pmem0. hash is empty where there is no
// tree.
func (l Layout) Devices(disk string) (data, hash string, hashOffset int64) {
	switch {
	case l.Kind == Bare && l.Hash.Size == 0:
		return disk, "", 0
	case l.Kind == Bare:
		return disk, disk, l.Hash.Offset
	}
	// Linux, block/partitions/core.c: a name that ends in a digit has a p before the partition's number.
	if n := len(disk); n > 0 && disk[n-1] >= '0' && disk[n-1] <= '9' {
		disk += "p"
	}
	if l.Hash.Size == 0 {
		return disk + "1", "", 0
	}
	return disk + "1", disk + "2", 0
}

// partitions are the extents that the tables list.
func (l Layout) partitions() []Extent {
	if l.Hash.Size == 0 {
		return []Extent{l.Data}
	}
	return []Extent{l.Data, l.Hash}
}

// Identity tells one disk from another: the root hash, where there is a hash tree, and otherwise any digest of the
// content. All GUIDs and the disk signature of a DOS table are made of it.
type Identity [sha256.Size]byte

// Write writes the tables. Between them and the partitions the image must be zeros, as a new file is; a byte at the
// very end is written in any case where no partition is, so that a new file gets its length. Nothing inside the
// partitions is touched.
func (l Layout) Write(w io.WriterAt, id Identity) error {
	for _, p := range l.tables(id) {
		if _, err := w.WriteAt(p.bytes, p.offset); err != nil {
			return fmt.Errorf("disk tables at %d: %w", p.offset, err)
		}
	}
	return nil
}

// piece is bytes and where they go.
type piece struct {
	offset int64
	bytes  []byte
}

func (l Layout) tables(id Identity) (out []piece) {
	switch l.Kind {
	case MBR:
		out = []piece{{0, mbr(l.partitions(), 0, id)}}
	case MBRDAX:
		out = []piece{{0, mbr(l.partitions(), 0, id)}, {pfnOffset, pfnSuperblock()},
			{daxOffset, mbr(l.partitions(), daxOffset, id)}}
	case GPT:
		return l.gpt(id) // fills the end itself
	}
	if parts := l.partitions(); parts[len(parts)-1].end() < l.Size {
		out = append(out, piece{l.Size - 1, []byte{0}})
	}
	return out
}

// derive makes 16 bytes of an identity, others for every purpose.
func (id Identity) derive(purpose string) [16]byte {
	s := sha256.Sum256(append([]byte("katabuild disk "+purpose+"\n"), id[:]...))
	return [16]byte(s[:])
}

var le = binary.LittleEndian
