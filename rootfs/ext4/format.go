package ext4

import (
	"encoding/binary"
	"hash/crc32"

	known "github.com/katabuild/katabuild/internal/superblock"
	"github.com/katabuild/katabuild/rootfs/tree"
)

var le = binary.LittleEndian

// Sizes and limits of what is written.
const (
	superOffset    = known.At // bytes; super.rst
	superSize      = 1024
	inodeSize      = 256 // bytes; inodes.rst
	extraSize      = 32  // i_extra_isize: what of an inode lies behind the first 128 bytes
	descriptorSize = 64  // bytes, with the 64bit feature; group_descr.rst
	blocksPerGroup = 8 * blockSize
	inodesPerBlock = blockSize / inodeSize
	rootInode      = 2 // special_inodes.rst
	journalInode   = 8
	firstInode     = 11 // those below are reserved
	maxLinks       = 65000
	// bytes of a file: its blocks have numbers of 32 bits, and the last is kept
	maxSize        = (1<<32 - 1) * blockSize
	fastTarget     = 60                      // a link's target shorter than this lies in its inode; ifork.rst
	bytesPerInode  = 16 << 10                // of free space, as mke2fs has it
	maxGroups      = 1 << 20                 // 128 TiB
	flexGroups     = 4                       // s_log_groups_per_flex; mke2fs's default
	magic          = known.Ext4              // s_magic
	pointer        = 4                       // bytes of a checksum
	aclAlign       = 4                       // of names and values of attributes
	dirAlign       = 4                       // of entries of a folder
	superChecksum  = superSize - pointer     // where it lies
	sectorsOfBlock = blockSize / 512         // i_blocks counts sectors
	sparseExtent   = 32768                   // blocks of one extent; ifork.rst
	inlineStart    = 128 + extraSize         // where attributes in an inode begin
	inlineSize     = inodeSize - inlineStart // with their magic number
)

// Features. super.rst, tables super_compat, super_incompat and super_rocompat.
const (
	compatJournal  = 0x4
	compatXattr    = 0x8
	compatDirIndex = 0x20

	incompatFileType = 0x2
	incompatExtents  = 0x40
	incompat64       = 0x80
	incompatMMP      = 0x100
	incompatFlex     = 0x200
	incompatEAInode  = 0x400
	incompatCsumSeed = 0x2000
	incompatLargeDir = 0x4000

	roSparseSuper = 0x1
	roLargeFile   = 0x2
	roHugeFile    = 0x8
	roDirNlink    = 0x20
	roExtraSize   = 0x40
	roBigalloc    = 0x200
	roChecksums   = 0x400
)

// Flags of an inode. inodes.rst, table i_flags.
const (
	flagEncrypted = 0x800
	flagIndex     = 0x1000
	flagExtents   = 0x80000
	flagEAInode   = 0x200000
	flagInline    = 0x10000000
)

// groupZeroed in a group's bg_flags: the kernel need not clear its inode table. group_descr.rst.
const groupZeroed = 0x4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is the kernel's crc32c(), which neither inverts its seed nor its result, as the standard library does.
// checksums.rst.
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

func crc32of(seed, v uint32) uint32 { return crc(seed, le.AppendUint32(nil, v)) }

// fsSeed is where the checksums of a file system begin.
func fsSeed(uuid [16]byte) uint32 { return crc(^uint32(0), uuid[:]) }

// inodeSeed is where those of an inode and of its blocks begin.
func inodeSeed(fs, inode, generation uint32) uint32 { return crc32of(crc32of(fs, inode), generation) }

// inodeChecksum is over the whole inode with its two halves of the checksum as zeros.
func inodeChecksum(seed uint32, b []byte) uint32 {
	var zero [2]byte
	c := crc(seed, b[:0x7c])
	c = crc(c, zero[:])
	if len(b) <= 128 || le.Uint16(b[0x80:]) < 4 { // no room for the upper half
		return crc(c, b[0x7e:])
	}
	c = crc(c, b[0x7e:0x82])
	c = crc(c, zero[:])
	return crc(c, b[0x84:])
}

// encodeTime is a time's two fields: seconds, and 30 bits of nanoseconds above two bits more of seconds. inodes.rst,
// "Inode Timestamps".
func encodeTime(t tree.Time) (sec, extra uint32) {
	epoch := uint32((t.Sec-int64(int32(t.Sec)))>>32) & 3
	return uint32(t.Sec), t.Nsec<<2 | epoch
}

func decodeTime(sec, extra uint32) tree.Time {
	return tree.Time{Sec: int64(int32(sec)) + int64(extra&3)<<32, Nsec: extra >> 2}
}

// oldDevice says whether a device's numbers fit into the first form, 8 bits each. Linux: <linux/kdev_t.h>,
// old_encode_dev and new_encode_dev.
func oldDevice(major, minor uint32) bool { return major < 256 && minor < 256 }

func encodeDevice(b []byte, major, minor uint32) {
	if oldDevice(major, minor) {
		le.PutUint32(b, major<<8|minor)
		return
	}
	le.PutUint32(b[4:], minor&0xff|major<<8|minor&^0xff<<12)
}

func decodeDevice(b []byte) (major, minor uint32) {
	if v := le.Uint32(b); v != 0 {
		return v >> 8 & 0xff, v & 0xff
	}
	v := le.Uint32(b[4:])
	return v >> 8 & 0xfff, v&0xff | v>>12&^0xff
}

// fileType is a kind's number in the entry of a folder. directory.rst, table ftype.
func fileType(k tree.Kind) byte {
	return [...]byte{tree.Dir: 2, tree.File: 1, tree.Symlink: 7, tree.CharDevice: 3, tree.BlockDevice: 4,
		tree.FIFO: 5, tree.Socket: 6}[k]
}

// isBackup says whether a group begins with copies of the superblock and the descriptors: with sparse_super, group 1
// and the powers of 3, 5, 7.
func isBackup(group int) bool {
	for _, base := range [...]int{3, 5, 7} {
		n := 1
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return group == 0
}

func roundUp[T int | int64 | uint64 | uint32](n, to T) T { return (n + to - 1) / to * to }

func divUp[T int | int64 | uint64 | uint32](n, by T) T { return (n + by - 1) / by }
