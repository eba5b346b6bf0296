package vsock

// buffer is a queue of bytes in a ring that grows as it must. The zero value is empty.
type buffer struct {
	ring  []byte
	start int
	n     int
}

// minRing is the first size of a ring, in bytes.
const minRing = 4096

func (b *buffer) len() int { return b.n }

// grow makes room for n more bytes. The caller has checked its limit.
func (b *buffer) grow(n int) {
	if b.n+n <= len(b.ring) {
		return
	}
	size := max(minRing, len(b.ring))
	for size < b.n+n {
		size *= 2
	}
	ring := make([]byte, size)
	p, q := b.peek(b.n)
	copy(ring[copy(ring, p):], q)
	b.ring, b.start = ring, 0
}

// room is the free space that follows the n bytes that are there, of at most n bytes, in two slices. grow must have
// made it.
func (b *buffer) room(n int) (p, q []byte) {
	end := (b.start + b.n) % len(b.ring)
	if end+n <= len(b.ring) {
		return b.ring[end : end+n], nil
	}
	return b.ring[end:], b.ring[:end+n-len(b.ring)]
}

// write appends p.
func (b *buffer) write(p []byte) {
	if len(p) == 0 {
		return
	}
	b.grow(len(p))
	x, y := b.room(len(p))
	copy(y, p[copy(x, p):])
	b.n += len(p)
}

// fill appends n bytes of p, which has them.
func (b *buffer) fill(p payload, n int) {
	if n == 0 {
		return
	}
	b.grow(n)
	x, y := b.room(n)
	_, p = p.read(x)
	p.read(y)
	b.n += n
}

// peek is the first n bytes, in two slices that are valid until the next change.
func (b *buffer) peek(n int) (p, q []byte) {
	if n == 0 {
		return nil, nil
	}
	if b.start+n <= len(b.ring) {
		return b.ring[b.start : b.start+n], nil
	}
	return b.ring[b.start:], b.ring[:b.start+n-len(b.ring)]
}

// drop forgets the first n bytes.
func (b *buffer) drop(n int) {
	b.n -= n
	if b.n == 0 {
		b.start = 0
		return
	}
	b.start = (b.start + n) % len(b.ring)
}

func (b *buffer) reset() { *b = buffer{} }
