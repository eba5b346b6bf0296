package ext4

import (
	"encoding/binary"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// superblock is the first's or, for another group, its copy's bytes. super.rst, in its order.
func (p *plan) superblock(group int, freeBlocks uint64, freeInodes uint32) []byte {
	b := make([]byte, superSize)
	le.PutUint32(b, p.inodesPerGroup*uint32(p.groups))
	le.PutUint32(b[0x4:], uint32(p.blocks))
	le.PutUint32(b[0xc:], uint32(freeBlocks))
	le.PutUint32(b[0x10:], freeInodes)
	le.PutUint32(b[0x18:], 2) // s_log_block_size: 2^(10+2)
	le.PutUint32(b[0x1c:], 2)
	le.PutUint32(b[0x20:], blocksPerGroup)
	le.PutUint32(b[0x24:], blocksPerGroup)
	le.PutUint32(b[0x28:], p.inodesPerGroup)
	le.PutUint32(b[0x30:], uint32(p.o.Time)) // s_wtime
	le.PutUint16(b[0x36:], 0xffff)           // s_max_mnt_count: no check is ever due
	le.PutUint16(b[0x38:], magic)
	le.PutUint16(b[0x3a:], 1)                // s_state: cleanly unmounted
	le.PutUint16(b[0x3c:], 1)                // s_errors: continue, unless mount says otherwise
	le.PutUint32(b[0x40:], uint32(p.o.Time)) // s_lastcheck
	le.PutUint32(b[0x4c:], 1)                // s_rev_level
	le.PutUint32(b[0x54:], firstInode)
	le.PutUint16(b[0x58:], inodeSize)
	le.PutUint16(b[0x5a:], uint16(group))
	compat, incompat := uint32(compatXattr|compatDirIndex),
		uint32(incompatFileType|incompatExtents|incompat64|incompatFlex)
	if p.journal != nil {
		compat |= compatJournal
	}
	le.PutUint32(b[0x5c:], compat)
	le.PutUint32(b[0x60:], incompat)
	le.PutUint32(b[0x64:], roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraSize|roChecksums)
	copy(b[0x68:], p.uuid[:])
	copy(b[0x78:0x88], p.o.Label)
	for i, s := range p.seed {
		le.PutUint32(b[0xec+4*i:], s)
	}
	b[0xfc] = hashHalfMD4
	le.PutUint16(b[0xfe:], descriptorSize)
	le.PutUint32(b[0x100:], 0xc)              // s_default_mount_opts: user attributes and ACLs
	le.PutUint32(b[0x108:], uint32(p.o.Time)) // s_mkfs_time
	if j := p.journal; j != nil {
		le.PutUint32(b[0xe0:], journalInode)
		b[0xfd] = 1 // s_jnl_backup_type: what follows is a copy of the journal's inode
		root, _ := extentTree(j.extents, j.nodes, inodeSeed(p.checksums, j.num, 0))
		copy(b[0x10c:], root)
		le.PutUint32(b[0x10c+64:], uint32(p.journalSize()))
	}
	le.PutUint32(b[0x150:], uint32(p.blocks>>32))
	le.PutUint32(b[0x158:], uint32(freeBlocks>>32))
	le.PutUint16(b[0x15c:], extraSize)
	le.PutUint16(b[0x15e:], extraSize)
	le.PutUint32(b[0x160:], 2) // s_flags: bytes of names are unsigned in hashes
	b[0x174] = flexGroups
	b[0x175] = 1 // s_checksum_type: crc32c
	for _, at := range []int{0x274, 0x276, 0x277} {
		b[at] = byte(p.o.Time >> 32) // s_wtime_hi, s_mkfs_time_hi, s_lastcheck_hi
	}
	le.PutUint32(b[superChecksum:], crc(^uint32(0), b[:superChecksum]))
	return b
}

// usedInodes is how many inodes of a group are taken: they are taken in order.
func (p *plan) usedInodes(group int) uint32 {
	all := uint32(firstInode - 1 + len(p.inodes) - 1)
	first := uint32(group) * p.inodesPerGroup
	return min(p.inodesPerGroup, max(all, first)-first)
}

// group is what of a block group is not content.
type group struct {
	blockBitmap, inodeBitmap []byte
	descriptor               []byte
	freeBlocks               uint64
}

// makeGroups makes all groups' bitmaps and descriptors. Bits behind the end of the file system, and of the inodes, are
// set.
func (p *plan) makeGroups() []group {
	out := make([]group, p.groups)
	folders := make([]uint32, p.groups)
	for _, i := range p.inodes {
		if i.n.Kind == tree.Dir {
			folders[(i.num-1)/p.inodesPerGroup]++
		}
	}
	for g := range out {
		out[g].blockBitmap, out[g].inodeBitmap = make([]byte, blockSize), make([]byte, blockSize)
		for i := range blockSize {
			out[g].blockBitmap[i], out[g].inodeBitmap[i] = 0xff, 0xff
		}
		for i := p.usedInodes(g); i < p.inodesPerGroup; i++ {
			out[g].inodeBitmap[i/8] &^= 1 << (i % 8)
		}
	}
	for _, r := range p.free {
		for b := r.start; b < r.start+r.count; b++ {
			g := &out[b/blocksPerGroup]
			g.blockBitmap[b%blocksPerGroup/8] &^= 1 << (b % 8)
			g.freeBlocks++
		}
	}
	for g := range out {
		out[g].descriptor = p.descriptor(g, out[g], folders[g])
	}
	return out
}

// descriptor is a group's. group_descr.rst, in its order; what has two halves has the upper one 32 bytes behind, or
// 0x20.
func (p *plan) descriptor(number int, g group, folders uint32) []byte {
	d := make([]byte, descriptorSize)
	put32 := func(at int, v uint64) {
		le.PutUint32(d[at:], uint32(v))
		le.PutUint32(d[at+0x20:], uint32(v>>32))
	}
	put16 := func(at int, v uint32) {
		le.PutUint16(d[at:], uint16(v))
		le.PutUint16(d[at+0x20:], uint16(v>>16))
	}
	put32(0x0, p.blockBitmaps+uint64(number))
	put32(0x4, p.inodeBitmaps+uint64(number))
	put32(0x8, p.inodeTables[number])
	unused := p.inodesPerGroup - p.usedInodes(number)
	put16(0xc, uint32(g.freeBlocks))
	put16(0xe, unused)
	put16(0x10, folders)
	le.PutUint16(d[0x12:], groupZeroed)
	put16(0x18, crc(p.checksums, g.blockBitmap))
	put16(0x1a, crc(p.checksums, g.inodeBitmap[:p.inodesPerGroup/8]))
	le.PutUint16(d[0x1c:], uint16(unused)) // at most 32768; bg_itable_unused_hi is elsewhere
	le.PutUint16(d[0x1e:], descriptorChecksum(p.checksums, uint32(number), d))
	return d
}

// descriptorChecksum is over the group's number and the descriptor, with the checksum in it as zeros.
func descriptorChecksum(seed, number uint32, d []byte) uint16 {
	var zero [2]byte
	c := crc(crc32of(seed, number), d[:0x1e])
	return uint16(crc(crc(c, zero[:]), d[0x20:]))
}

// encode is the inode's bytes. inodes.rst, in its order.
func (i *inode) encode(p *plan) (b []byte, blocks []block) {
	n := i.n
	b = make([]byte, inodeSize)
	le.PutUint16(b, uint16(n.Kind.Type()|uint32(n.Mode)))
	le.PutUint16(b[0x2:], uint16(n.UID))
	sec, extra := encodeTime(clamp(n.Time))
	for _, at := range []int{0x8, 0xc, 0x10, 0x90} { // of access, change, modification and creation
		le.PutUint32(b[at:], sec)
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
		le.PutUint32(b[at:], extra)
	}
	le.PutUint16(b[0x18:], uint16(n.GID))
	le.PutUint16(b[0x1a:], uint16(i.links))
	sectors := i.blocks * sectorsOfBlock
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	seed := inodeSeed(p.checksums, i.num, 0)
	size, flags, inBlock := n.Size(), uint32(0), b[0x28:0x28+60]
	mapped := false
	switch n.Kind {
	case tree.Dir:
		mapped = true
		size = int64(i.folder.blocks()) * blockSize
		if i.folder.leaves != nil {
			flags |= flagIndex
		}
	case tree.File:
		mapped = true
		if i == p.journal {
			size = p.journalSize()
		}
	case tree.Symlink:
		if mapped = len(n.Target) >= fastTarget; !mapped {
			copy(inBlock, n.Target)
		}
	case tree.CharDevice, tree.BlockDevice:
		encodeDevice(inBlock, n.Major, n.Minor)
	}
	if mapped {
		flags |= flagExtents
		var root []byte
		root, blocks = extentTree(i.extents, i.nodes, seed)
		copy(inBlock, root)
	}
	le.PutUint32(b[0x4:], uint32(size))
	le.PutUint32(b[0x6c:], uint32(size>>32))
	le.PutUint32(b[0x20:], flags)
	if i.shared != nil {
		le.PutUint32(b[0x68:], uint32(i.shared.at))
		le.PutUint16(b[0x76:], uint16(i.shared.at>>32))
	}
	le.PutUint16(b[0x78:], uint16(n.UID>>16))
	le.PutUint16(b[0x7a:], uint16(n.GID>>16))
	le.PutUint16(b[0x80:], extraSize)
	copy(b[inlineStart:], i.inline)
	c := inodeChecksum(seed, b)
	le.PutUint16(b[0x7c:], uint16(c))
	le.PutUint16(b[0x82:], uint16(c>>16))
	return b, blocks
}

// journalBlocks is how long the journal of a file system of so many blocks is: jbd2 wants 1,024 blocks at the least,
// and more lets more be written at a time.
func journalBlocks(blocks uint64) uint64 {
	const gib = 1 << 30 / blockSize
	switch {
	case blocks < gib/8:
		return 1024
	case blocks < gib:
		return 4096
	}
	return 16384
}

func (p *plan) journalSize() (n int64) {
	for _, e := range p.journal.extents {
		n += int64(e.count) * blockSize
	}
	return n
}

// journalSuper is the journal's first block: an empty log. Everything in it is big-endian. journal.rst, "Super Block".
func (p *plan) journalSuper() []byte {
	b := make([]byte, blockSize)
	for at, v := range map[int]uint32{
		0x0: 0xc03b3998, 0x4: 4, // h_magic; h_blocktype: superblock, version 2
		0xc: blockSize, 0x10: uint32(p.journalSize() / blockSize), 0x14: 1, // s_blocksize, s_maxlen, s_first
		0x18: 1,    // s_sequence; s_start is 0: nothing to replay
		0x40: 0x01, // s_nr_users
	} {
		binary.BigEndian.PutUint32(b[at:], v)
	}
	copy(b[0x30:], p.uuid[:])
	return b
}
