package ext4

import "math/bits"

// hashSeed starts the hashes of names; super.rst, s_hash_seed.
type hashSeed [4]uint32

// halfMD4 is the hash that orders the names of a hashed folder: the upper half picks the block, the lower orders names
// within.
//
// It is MD4 (RFC 1320) with 8 of 16 steps a round and 8 of 16 words a block; Linux: fs/ext4/hash.c, ext4fs_dirhash, for
// DX_HASH_HALF_MD4_UNSIGNED.
func halfMD4(name string, seed hashSeed) (major, minor uint32) {
	state := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if seed != (hashSeed{}) {
		state = seed
	}
	for ; len(name) > 0; name = name[min(32, len(name)):] {
		halfMD4Block(&state, nameWords(name))
	}
	major = state[1] &^ 1 // the lowest bit says in an index that a name's hash goes on into the next block
	if major == 0xfffffffe {
		major = 0xfffffffc // the last is the end of a folder that is read in order of hashes
	}
	return major, state[2]
}

// nameWords are the next 32 bytes of a name as words, most significant byte first; where it ends before, its length
// fills the rest.
func nameWords(name string) (out [8]uint32) {
	fill := uint32(len(name)) & 0xff * 0x01010101
	for i := range out {
		v := fill
		for j := 4 * i; j < min(len(name), 4*i+4); j++ {
			v = v<<8 | uint32(name[j])
		}
		out[i] = v
	}
	return out
}

func halfMD4Block(state *[4]uint32, in [8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	rounds := [3]struct {
		f     func(x, y, z uint32) uint32
		add   uint32
		order [8]int
		shift [4]int
	}{
		{func(x, y, z uint32) uint32 { return x&y | ^x&z }, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{func(x, y, z uint32) uint32 { return x&y | x&z | y&z }, 0x5a827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6},
			[4]int{3, 5, 9, 13}},
		{func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0x6ed9eba1, [8]int{3, 7, 2, 6, 1, 5, 0, 4},
			[4]int{3, 9, 11, 15}},
	}
	for _, r := range rounds {
		for i, k := range r.order {
			// RFC 1320 names the same word a, d, c, b in turn; here the words change places instead.
			a, b, c, d = d, bits.RotateLeft32(a+r.f(b, c, d)+in[k]+r.add, r.shift[i%4]), b, c
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
