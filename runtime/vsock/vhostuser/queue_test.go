package vhostuser

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestSizesOfTheSpecification(t *testing.T) {
	// VIRTIO 1.2, 2.7: 16 * size, 6 + 2 * size and 6 + 8 * size bytes.
	if descSize != 16 || availHeader+availElement*8+eventSize != 6+2*8 || usedHeader+usedElement*8+eventSize != 6+8*8 {
		t.Error("sizes of the ring's parts")
	}
	if messageHeader != 12 {
		t.Error("size of a message's header")
	}
}

func TestIndexesAreReadAndWrittenWherever(t *testing.T) {
	b := anonymous(t, 16)
	for off := 0; off < 12; off += 2 {
		clear(b)
		le.PutUint16(b[off:], 0xbeef)
		if got := loadU16(b, off); got != 0xbeef {
			t.Errorf("load at %d: %#x", off, got)
		}
		for i := range b {
			b[i] = 0xaa
		}
		if err := storeU16(b, off, 0x1234); err != nil {
			t.Fatal(err)
		}
		for i, v := range b {
			want := byte(0xaa)
			switch i {
			case off:
				want = 0x34
			case off + 1:
				want = 0x12
			}
			if v != want {
				t.Errorf("store at %d: byte %d is %#x", off, i, v)
			}
		}
	}
}

// anonymous is n bytes of memory that starts at a page.
func anonymous(t testing.TB, n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

// FuzzQueue lets a driver put anything into memory, its rings included, and works the queue off.
func FuzzQueue(f *testing.F) {
	const (
		size      = 8
		descAt    = 0
		availAt   = descAt + descSize*size
		usedAt    = availAt + 24 // 22, aligned
		memBytes  = 4096
		guestBase = 0x1000
		userBase  = 0x100000
	)
	type desc struct {
		addr        uint64
		n           uint32
		flags, next uint16
	}
	// seed is memory with these descriptors, of which those in heads are available.
	seed := func(heads []uint16, ds ...desc) []byte {
		b := make([]byte, 512)
		for i, d := range ds {
			at := b[descAt+descSize*i:]
			le.PutUint64(at, d.addr)
			le.PutUint32(at[8:], d.n)
			le.PutUint16(at[12:], d.flags)
			le.PutUint16(at[14:], d.next)
		}
		le.PutUint16(b[availAt+2:], uint16(len(heads)))
		for i, h := range heads {
			le.PutUint16(b[availAt+availHeader+2*i:], h)
		}
		return b
	}
	f.Add(seed([]uint16{0}, desc{guestBase + 600, 44, descNext, 1}, desc{guestBase + 700, 100, 0, 0}), true)
	f.Add(seed([]uint16{0}, desc{guestBase + 600, 44, descNext, 0}), false)               // a loop
	f.Add(seed([]uint16{0, 1}, desc{guestBase + 256, 64, descIndirect, 0}, desc{}), true) // an indirect table
	f.Add(seed([]uint16{0}, desc{1<<64 - 1, 1<<32 - 1, descWrite, 0}), true)              // an overflow
	// over the border of two regions
	f.Add(seed([]uint16{0}, desc{guestBase + 2048 - 8, 16, descWrite, 0}), true)
	f.Add(seed([]uint16{7, 7, 7, 7, 7, 7, 7, 7}, desc{}), true)          // the same chain again and again
	f.Add(seed([]uint16{0}, desc{guestBase, 2048, descWrite, 0}), false) // the rings themselves
	f.Fuzz(func(t *testing.T, data []byte, features bool) {
		b := anonymous(t, memBytes)
		copy(b, data)
		mem := memory{regions: []region{
			{guest: guestBase, user: userBase, mem: b[:2048:2048]},
			{guest: guestBase + 2048, user: userBase + 2048, mem: b[2048:]},
		}}
		q := Queue{size: size, signal: func() {}}
		if features {
			q.features = 1<<ringIndirect | 1<<ringEventIdx
		}
		if err := q.attach(&mem, ringAddrs{desc: userBase + descAt, avail: userBase + availAt,
			used: userBase + usedAt}); err != nil {
			t.Fatal(err)
		}
		for range 100 { // writing into the rings may make work for ever: the server's batches bound it
			c, ok, err := q.Next()
			if err != nil || !ok {
				break
			}
			var n int
			for _, o := range c.Out {
				n += len(o)
			}
			written := uint32(0)
			for _, in := range c.In {
				for i := range in {
					in[i] = byte(n)
				}
				written += uint32(len(in))
			}
			q.Push(c.Head, written)
			q.Flush()
		}
	})
}
