package erofs

import (
	"encoding/binary"

	known "github.com/katabuild/katabuild/internal/superblock"
)

// Everything below is Linux's fs/erofs/erofs_fs.h in its order, with its names in the comments; what the fields mean
// together is Documentation/filesystems/erofs.rst.

var le = binary.LittleEndian

// blockLength is the only block size that Write knows: the smallest page of any architecture, so that every kernel
// mounts it.
const blockLength = 4096

// Places and units, in bytes.
const (
	superOffset = known.At // EROFS_SUPER_OFFSET
	slotSize    = 32       // an inode starts at a multiple of it; its number (nid) counts slots
	maxName     = 255      // EROFS_NAME_LEN
	magic       = known.EROFS
)

// superblock is struct erofs_super_block.
type superblock struct {
	Magic          uint32
	Checksum       uint32 // CRC-32C of the rest of the block from superOffset on, this field as zero
	Compat         uint32
	BlockBits      uint8
	ExtSlots       uint8 // superblock size = 128 + ExtSlots * 16
	RootNid        uint16
	Inodes         uint64
	BuildTime      uint64 // of every compact inode
	BuildTimeNsec  uint32
	Blocks         uint32
	MetaBlock      uint32
	XattrBlock     uint32
	UUID           [16]byte
	Label          [16]byte
	Incompat       uint32
	Algorithms     uint16 // available_compr_algs, a bit an algorithm; lz4_max_distance without incompatCompressed
	ExtraDevices   uint16
	DeviceSlotOff  uint16
	DirBlockBits   uint8
	PrefixCount    uint8
	PrefixStart    uint32
	PackedNid      uint64
	FilterReserved uint8
	_              [23]uint8
}

const superSize = 128

// Compatible features: a kernel that does not know them may mount.
const (
	compatChecksum = 0x1 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMTime    = 0x2 // EROFS_FEATURE_COMPAT_MTIME: times of inodes are mtimes
)

// Incompatible features.
const (
	incompatZeroPadding = 0x01 // compressed data ends at the end of its blocks, zeros come first
	incompatCompressed  = 0x02 // COMPR_CFGS, with settings behind the superblock, and BIG_PCLUSTER, of several blocks
	incompatChunked     = 0x04
	incompatDevices     = 0x08 // DEVICE_TABLE or COMPR_HEAD2
	incompatTailPacking = 0x10 // ZTAILPACKING: the last piece of a compressed file behind its inode
	incompatFragments   = 0x20 // FRAGMENTS or DEDUPE: last pieces in the packed inode, pieces used twice
	incompatPrefixes    = 0x40 // XATTR_PREFIXES

	incompatKnown = incompatZeroPadding | incompatCompressed | incompatChunked | incompatDevices |
		incompatTailPacking | incompatFragments
)

// Bits of an inode's format, i_format: EROFS_I_VERSION_BIT, EROFS_I_DATALAYOUT_BIT.
const (
	formatExtended    = 1
	formatLayoutShift = 1
	formatAll         = 0xf
)

// Data layouts, EROFS_INODE_*.
const (
	layoutPlain   = 0 // blocks in a row
	layoutFull    = 1 // compressed, 8 bytes of index for every 4 KiB
	layoutInline  = 2 // blocks in a row, the rest behind the inode
	layoutCompact = 3 // compressed, 2 or 4 bytes of index
	layoutChunks  = 4 // a list of blocks
)

// compactInode is struct erofs_inode_compact. Its time is the superblock's.
type compactInode struct {
	Format     uint16
	XattrCount uint16
	Mode       uint16
	Links      uint16
	Size       uint32
	_          uint32
	Union      uint32 // compressed blocks, first block, device number or chunk format
	Ino        uint32 // only for stat(2) with 32 bits
	UID        uint16
	GID        uint16
	_          uint32
}

// extendedInode is struct erofs_inode_extended.
type extendedInode struct {
	Format     uint16
	XattrCount uint16
	Mode       uint16
	_          uint16
	Size       uint64
	Union      uint32
	Ino        uint32
	UID        uint32
	GID        uint32
	Time       uint64
	Nsec       uint32
	Links      uint32
	_          [16]uint8
}

const (
	compactSize  = 32
	extendedSize = 64
)

// A list of chunks: erofs_inode_chunk_info.format.
const (
	chunkBitsMask = 0x1f // chunks have blockLength << these bits
	chunkIndexes  = 0x20 // 8 bytes a chunk, with a device, instead of 4
	nullBlock     = 0xffffffff
)

// Extended attributes: erofs_xattr_ibody_header, erofs_xattr_entry.
const (
	xattrHeaderSize = 12
	xattrEntrySize  = 4
	maxShared       = 255          // h_shared_count has 8 bits
	maxXattrValue   = 1<<16 - 1    // e_value_size has 16 bits
	maxXattrNames   = 64 << 10     // bytes of a file's names with their NULs that listxattr(2) returns, XATTR_LIST_MAX
	maxXattrBody    = 12 + 4*65534 // i_xattr_icount has 16 bits and counts the header as one
)

// xattrPrefixes are the names that an entry shortens to a number, EROFS_XATTR_INDEX_*; every attribute needs one.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
	whole  bool // the prefix is the name
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

// direntSize is the length of struct erofs_dirent: the nid in 64 bits, where the name starts in 16, the type in 8, 8
// reserved.
const direntSize = 12

// Algorithms, Z_EROFS_COMPRESSION_*.
const (
	algLZ4     = 0
	algLZMA    = 1
	algDeflate = 2
	algZstd    = 3
)

// mapHeader is struct z_erofs_map_header. Fragment is also the length of the tail behind the index, in its upper half.
type mapHeader struct {
	Fragment    uint32
	Advise      uint16
	Algorithms  uint8 // HEAD1 in the lower 4 bits, HEAD2 in the upper
	ClusterBits uint8 // beyond those of a block; fragmentInode
}

const (
	mapHeaderSize = 8
	indexEntry    = 8 // struct z_erofs_lcluster_index
	// A full index starts 8 bytes behind its header: Z_EROFS_FULL_INDEX_ALIGN.
	fullIndexGap = 8

	adviseCompact2B  = 0x01 // Z_EROFS_ADVISE_COMPACTED_2B
	adviseBig1       = 0x02 // Z_EROFS_ADVISE_BIG_PCLUSTER_1
	adviseBig2       = 0x04 // Z_EROFS_ADVISE_BIG_PCLUSTER_2
	adviseInline     = 0x08 // Z_EROFS_ADVISE_INLINE_PCLUSTER
	adviseInterlaced = 0x10 // Z_EROFS_ADVISE_INTERLACED_PCLUSTER
	adviseFragment   = 0x20 // Z_EROFS_ADVISE_FRAGMENT_PCLUSTER
	adviseKnown      = 0x3f

	fragmentInode = 1 << 7 // Z_EROFS_FRAGMENT_INODE_BIT: all of the file is in the packed inode
)

// Types of a logical cluster, Z_EROFS_LCLUSTER_TYPE_*: 4 KiB of a file, in which an extent may start.
const (
	clusterPlain   = 0
	clusterHead1   = 1
	clusterNonHead = 2
	clusterHead2   = 3
	clusterMask    = 3
	partialRef     = 1 << 15 // the extent is only the start of what its blocks hold
	blockCount     = 1 << 11 // Z_EROFS_LI_D0_CBLKCNT: delta 0 is how many blocks the extent has
)

// Limits of an extent, Z_EROFS_PCLUSTER_MAX_SIZE and _DSIZE.
const (
	maxPacked   = 1 << 20
	maxUnpacked = 12 << 20
)

// roundUp rounds n up to a multiple of a power of two.
func roundUp[T ~int | ~int64](n, to T) T { return (n + to - 1) &^ (to - 1) }

// blocks is how many blocks hold n bytes.
func blocks[T ~int | ~int64](n T) T { return (n + blockLength - 1) / blockLength }
