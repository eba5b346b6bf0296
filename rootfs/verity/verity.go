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
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
)

// Sizes of the format, in bytes.
const (
	// BlockSize is that of data and of hash blocks: the default of veritysetup and what Kata expects. Linux takes
	// nothing above its page size.
	BlockSize = 4096
	// MaxSalt is the longest salt that the superblock holds.
	MaxSalt = 256

	digestSize = sha256.Size
	perBlock   = BlockSize / digestSize // digests in a hash block; each takes a power of two bytes, and 32 is one
	sectorSize = 512                    // device-mapper counts in these, whatever the disk
	superSize  = 512                    // of the superblock, which takes a whole hash block
)

// maxBlocks keeps every size in this package far from overflowing an int64.
const maxBlocks = 1 << 48

// Params are what a kernel must know of a tree. RootHash must reach it by a way that is trusted; nothing else need be
// secret or trusted.
type Params struct {
	RootHash      [digestSize]byte
	Salt          []byte // hashed before every block; at most MaxSalt bytes
	DataBlocks    int64
	DataBlockSize int // BlockSize
	HashBlockSize int // BlockSize
	// Superblock says that the hash area begins with a block that describes it; the tree lies behind it. Kata's has
	// none.
	Superblock bool
	// HashSize is the length of the hash area in bytes: the tree, and the superblock where there is one. One data block
	// needs no tree.
	HashSize int64
}

// DataSize is how many bytes are covered.
func (p Params) DataSize() int64 { return p.DataBlocks * int64(p.DataBlockSize) }

// HashSize is how long the hash area is for so many bytes of data: a caller can lay out a disk before it has the data.
func HashSize(dataSize int64, superblock bool) (int64, error) {
	n, err := countBlocks(dataSize)
	if err != nil {
		return 0, err
	}
	return newParams(n, nil, superblock).HashSize, nil
}

func countBlocks(dataSize int64) (int64, error) {
	if dataSize <= 0 || dataSize%BlockSize != 0 || dataSize/BlockSize > maxBlocks {
		return 0, fmt.Errorf("verity: %d bytes of data: want a multiple of %d, at least one", dataSize, BlockSize)
	}
	return dataSize / BlockSize, nil
}

func newParams(dataBlocks int64, salt []byte, superblock bool) Params {
	p := Params{Salt: salt, DataBlocks: dataBlocks, DataBlockSize: BlockSize, HashBlockSize: BlockSize,
		Superblock: superblock}
	for _, n := range levels(dataBlocks) {
		p.HashSize += n * BlockSize
	}
	p.HashSize += p.treeStart()
	return p
}

// treeStart is where in the hash area the tree begins.
func (p Params) treeStart() int64 {
	if p.Superblock {
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

// check holds what every use of parameters insists on.
func (p Params) check() error {
	switch {
	case p.DataBlockSize != BlockSize || p.HashBlockSize != BlockSize:
		return fmt.Errorf("verity: blocks of %d and %d bytes: want %d", p.DataBlockSize, p.HashBlockSize, BlockSize)
	case p.DataBlocks < 1 || p.DataBlocks > maxBlocks:
		return fmt.Errorf("verity: %d data blocks", p.DataBlocks)
	case len(p.Salt) > MaxSalt:
		return fmt.Errorf("verity: salt of %d bytes: want at most %d", len(p.Salt), MaxSalt)
	}
	return nil
}

// saltText is the salt as veritysetup and the kernel write it.
func (p Params) saltText() string {
	if len(p.Salt) == 0 {
		return "-"
	}
	return hex.EncodeToString(p.Salt)
}

// RootHashLine is what Kata Containers keeps in root_hash_<variant>.txt and in kernel_verity_params, without the line
// break.
func (p Params) RootHashLine() string {
	return fmt.Sprintf("root_hash=%x,salt=%s,data_blocks=%d,data_block_size=%d,hash_block_size=%d",
		p.RootHash, p.saltText(), p.DataBlocks, p.DataBlockSize, p.HashBlockSize)
}

// ParseRootHashLine reads what RootHashLine writes, and nothing else, save one line break at the end. There is no
// superblock then.
func ParseRootHashLine(line string) (Params, error) {
	p, err := parseRootHashLine(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return Params{}, fmt.Errorf("root hash line: %w", err)
	}
	return p, nil
}

func parseRootHashLine(line string) (p Params, err error) {
	keys := [...]string{"root_hash", "salt", "data_blocks", "data_block_size", "hash_block_size"}
	var values [len(keys)]string
	fields := strings.Split(line, ",")
	if len(fields) != len(keys) {
		return p, fmt.Errorf("%d fields: want %s", len(fields), strings.Join(keys[:], ", "))
	}
	for i, f := range fields {
		var ok bool
		if values[i], ok = strings.CutPrefix(f, keys[i]+"="); !ok {
			return p, fmt.Errorf("field %q: want %s", f, keys[i])
		}
	}
	root, err := parseHex(values[0], digestSize)
	if err != nil {
		return p, fmt.Errorf("root_hash: %w", err)
	}
	var salt []byte
	if values[1] != "-" {
		if salt, err = parseHex(values[1], len(values[1])/2); err != nil || len(salt) == 0 {
			return p, fmt.Errorf("salt %q: want hexadecimal digits, or -", values[1])
		}
	}
	var numbers [3]int64
	for i := range numbers {
		v := values[2+i]
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != v {
			return p, fmt.Errorf("%s %q: want a decimal number", keys[2+i], v)
		}
		numbers[i] = n
	}
	if numbers[1] != BlockSize || numbers[2] != BlockSize {
		return p, fmt.Errorf("blocks of %d and %d bytes: want %d", numbers[1], numbers[2], BlockSize)
	}
	if numbers[0] < 1 || numbers[0] > maxBlocks {
		return p, fmt.Errorf("%d data blocks", numbers[0])
	}
	p = newParams(numbers[0], salt, false)
	p.RootHash = [digestSize]byte(root)
	return p, p.check()
}

// parseHex wants just so many bytes in lower-case digits.
func parseHex(s string, size int) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size || strings.ToLower(s) != s {
		return nil, fmt.Errorf("%q: want %d lower-case hexadecimal digits", s, 2*size)
	}
	return b, nil
}

// Devices are where a guest finds data and hash area. Names are as the kernel takes them: a path, or major:minor.
type Devices struct {
	Data, Hash string
	// HashOffset is where on Hash the hash area begins, in bytes, a multiple of BlockSize: 0 on a partition of its own.
	HashOffset int64
}

// Table is the device-mapper table that opens the tree, as dmsetup and dm-mod.create= take it.
func (p Params) Table(d Devices) (string, error) {
	if err := p.check(); err != nil {
		return "", err
	}
	for _, name := range []string{d.Data, d.Hash} {
		// Documentation/admin-guide/device-mapper/dm-init.rst: commas part fields, semicolons devices, and spaces
		// arguments.
		if name == "" || strings.ContainsAny(name, " ,;\"\\\t\n") {
			return "", fmt.Errorf("verity: device %q: no name that a table can hold", name)
		}
	}
	if d.HashOffset < 0 || d.HashOffset%BlockSize != 0 {
		return "", fmt.Errorf("verity: hash area at %d: want a multiple of %d", d.HashOffset, BlockSize)
	}
	return fmt.Sprintf("0 %d verity 1 %s %s %d %d %d %d sha256 %x %s", p.DataSize()/sectorSize, d.Data, d.Hash,
		p.DataBlockSize, p.HashBlockSize, p.DataBlocks, (d.HashOffset+p.treeStart())/BlockSize, p.RootHash,
		p.saltText()), nil
}

// DMModCreate is the parameter of the kernel's command line that opens the tree as /dev/dm-0 before the root is
// mounted, in the words of Kata's runtime. The kernel needs CONFIG_DM_INIT.
func (p Params) DMModCreate(d Devices) (string, error) {
	table, err := p.Table(d)
	if err != nil {
		return "", err
	}
	return `dm-mod.create="dm-verity,,,ro,` + table + `"`, nil
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

var le = binary.LittleEndian

// superblock is the 512 bytes that veritysetup puts before a tree: signature, version 1, hash type 1, UUID, algorithm,
// sizes, salt.
func (p Params) superblock(uuid [16]byte) []byte {
	b := make([]byte, 0, superSize)
	b = append(b, "verity\x00\x00"...)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 1)
	b = append(b, uuid[:]...)
	b = append(b, "sha256"...)
	b = append(b, make([]byte, 64-len(b))...) // the algorithm's name has 32 bytes, up to here
	b = le.AppendUint32(b, uint32(p.DataBlockSize))
	b = le.AppendUint32(b, uint32(p.HashBlockSize))
	b = le.AppendUint64(b, uint64(p.DataBlocks))
	b = le.AppendUint16(b, uint16(len(p.Salt)))
	b = append(b, make([]byte, 6)...)
	b = append(b, p.Salt...)
	return append(b, make([]byte, superSize-len(b))...)
}

// ErrSuperblock says that there is no superblock this package would write.
var ErrSuperblock = errors.New("no dm-verity superblock")

// ReadSuperblock reads the superblock at an offset. The root hash is not in it: that must come from somewhere trusted.
func ReadSuperblock(r io.ReaderAt, offset int64) (Params, [16]byte, error) {
	var uuid [16]byte
	b := make([]byte, superSize)
	if n, err := r.ReadAt(b, offset); n < len(b) {
		return Params{}, uuid, fmt.Errorf("verity: superblock at %d: %w", offset, err)
	}
	n, salt := le.Uint64(b[72:]), int(le.Uint16(b[80:]))
	if salt > MaxSalt || n < 1 || n > maxBlocks {
		return Params{}, uuid, fmt.Errorf("verity: superblock at %d: %w", offset, ErrSuperblock)
	}
	p := newParams(int64(n), append([]byte(nil), b[88:88+salt]...), true)
	uuid = [16]byte(b[16:])
	if string(p.superblock(uuid)) != string(b) {
		return Params{}, uuid, fmt.Errorf("verity: superblock at %d: %w", offset, ErrSuperblock)
	}
	return p, uuid, nil
}
