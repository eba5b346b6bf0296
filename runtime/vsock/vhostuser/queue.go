package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Sizes of a split virtqueue's parts, in bytes. Virtual I/O Device (VIRTIO) 1.2, 2.7 "Split Virtqueues".
const (
	descSize     = 16 // le64 addr, le32 len, le16 flags, le16 next
	availHeader  = 4  // le16 flags, le16 idx
	availElement = 2  // le16 ring[i]
	usedHeader   = 4  // le16 flags, le16 idx
	usedElement  = 8  // le32 id, le32 len
	eventSize    = 2  // le16 used_event behind avail, le16 avail_event behind used
)

// Descriptor flags. VIRTIO 1.2, 2.7.5.
const (
	descNext     = 1 << 0
	descWrite    = 1 << 1
	descIndirect = 1 << 2
)

// availNoInterrupt is VIRTQ_AVAIL_F_NO_INTERRUPT. VIRTIO 1.2, 2.7.6.
const availNoInterrupt = 1

// maxChain bounds the descriptors of one chain, those of an indirect table included. A chain may not be longer than its
// queue, which the specification limits to 32768; no driver of ours comes near this.
const maxChain = 1024

// Chain is a buffer that the driver made available: memory the device may read, then memory it may write. The slices
// are the guest's memory, which may change at any moment: read each byte once. They are valid until Process returns.
type Chain struct {
	Head uint16
	Out  [][]byte // device-readable
	In   [][]byte // device-writable
}

// Queue is a split virtqueue. All of its methods need the server's lock, which Process holds.
type Queue struct {
	mem      *memory
	features uint64

	size  uint32 // number of descriptors, a power of 2
	desc  []byte
	avail []byte // with used_event
	used  []byte // with avail_event

	next      uint16 // index of the next available ring entry to take
	usedIdx   uint16 // index of the next used ring entry to fill
	published uint16 // usedIdx as the driver knows it
	signalled bool   // published was once the subject of an event decision; before that every Flush signals

	out, in [][]byte // reused by Next
	signal  func()
}

// ringAddrs are the front end's addresses of a ring's parts.
type ringAddrs struct{ desc, used, avail uint64 }

// attach finds the ring's parts in mem. It leaves the indexes alone.
func (q *Queue) attach(mem *memory, a ringAddrs) error {
	n := uint64(q.size)
	desc, err := mem.atUser(a.desc, n*descSize)
	if err != nil {
		return fmt.Errorf("descriptor table: %w", err)
	}
	avail, err := mem.atUser(a.avail, availHeader+n*availElement+eventSize)
	if err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	used, err := mem.atUser(a.used, usedHeader+n*usedElement+eventSize)
	if err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	// Alignment: VIRTIO 1.2, 2.7 asks for 16, 2 and 4. The last two matter to the atomic accesses below.
	if addressOf(avail)%2 != 0 || addressOf(used)%4 != 0 {
		return errors.New("ring is not aligned")
	}
	q.mem, q.desc, q.avail, q.used = mem, desc, avail, used
	return nil
}

func (q *Queue) detach() { q.mem, q.desc, q.avail, q.used = nil, nil, nil, nil }

func (q *Queue) has(feature uint) bool { return q.features&(1<<feature) != 0 }

// Next takes the next available chain. When there is none it asks the driver for a notification, looks once more, and
// returns false. Every error means that the driver broke the rules: the device is to stop.
func (q *Queue) Next() (c Chain, ok bool, err error) {
	if ok, err = q.pending(); err != nil || !ok {
		return Chain{}, false, err
	}
	head := le.Uint16(q.avail[availHeader+availElement*(uint32(q.next)%q.size):])
	q.next++
	if err := q.walk(head); err != nil {
		return Chain{}, false, fmt.Errorf("descriptor chain %d: %w", head, err)
	}
	return Chain{Head: head, Out: q.out, In: q.in}, true, nil
}

// pending says whether the available ring has an entry, and arms the driver's notification when it has not.
func (q *Queue) pending() (bool, error) {
	for armed := false; ; armed = true {
		n := loadU16(q.avail, 2) - q.next
		if uint32(n) > q.size {
			return false, fmt.Errorf("available ring claims %d entries, it has %d", n, q.size)
		}
		if n > 0 {
			return true, nil
		}
		if armed || !q.has(ringEventIdx) {
			return false, nil // without EVENT_IDX used.flags stays 0: the driver always notifies
		}
		// VIRTIO 1.2, 2.7.10. The store has to be visible before the index is read again: both are sequentially
		// consistent.
		if err := storeU16(q.used, usedHeader+usedElement*int(q.size), q.next); err != nil {
			return false, err
		}
	}
}

// walk collects a chain's memory into q.out and q.in.
func (q *Queue) walk(head uint16) error {
	q.out, q.in = q.out[:0], q.in[:0]
	table, size := q.desc, q.size // the table i points into
	direct := true
	i := uint32(head)
	for count, hops := 0, uint32(0); ; count, hops = count+1, hops+1 {
		if i >= size {
			return fmt.Errorf("descriptor %d of a table of %d", i, size)
		}
		if count >= maxChain || hops >= size {
			return errors.New("loop, or too long")
		}
		var d [descSize]byte // read once: the guest may change it under us
		copy(d[:], table[i*descSize:])
		addr, n, flags, next := le.Uint64(d[:]), le.Uint32(d[8:]), le.Uint16(d[12:]), le.Uint16(d[14:])

		if flags&descIndirect != 0 {
			switch {
			case !q.has(ringIndirect):
				return errors.New("indirect table without VIRTIO_F_INDIRECT_DESC")
			case !direct:
				return errors.New("indirect table in an indirect table")
			case flags&descNext != 0:
				return errors.New("indirect table with a next descriptor")
			case n == 0 || n%descSize != 0 || n/descSize > maxChain:
				return fmt.Errorf("indirect table of %d bytes", n)
			}
			parts, err := q.mem.appendGuest(nil, addr, uint64(n))
			if err != nil {
				return fmt.Errorf("indirect table: %w", err)
			}
			table = make([]byte, 0, n) // a copy, which the guest can no longer change
			for _, p := range parts {
				table = append(table, p...)
			}
			direct, size, i = false, n/descSize, 0
			hops = ^uint32(0) // the loop makes it 0: hops are counted per table
			continue
		}

		var err error
		if flags&descWrite != 0 {
			q.in, err = q.mem.appendGuest(q.in, addr, uint64(n))
		} else if len(q.in) > 0 {
			return errors.New("readable descriptor behind a writable one")
		} else {
			q.out, err = q.mem.appendGuest(q.out, addr, uint64(n))
		}
		if err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		i = uint32(next)
	}
}

// Push gives a chain back with n bytes written into it. The driver sees it after Flush.
func (q *Queue) Push(head uint16, n uint32) {
	e := q.used[usedHeader+usedElement*(uint32(q.usedIdx)%q.size):]
	le.PutUint32(e, uint32(head))
	le.PutUint32(e[4:], n)
	q.usedIdx++
}

// Flush shows the driver what was pushed, and interrupts it if it wants that.
func (q *Queue) Flush() {
	before, now := q.published, q.usedIdx
	if before == now {
		return
	}
	storeUsed(q.used, now) // orders the entries before the index, and the index before the loads below
	q.published = now
	wanted := true
	if q.has(ringEventIdx) {
		if q.signalled { // VIRTIO 1.2, 2.7.7.1: has the index passed used_event?
			event := loadU16(q.avail, availHeader+availElement*int(q.size))
			wanted = now-event-1 < now-before
		}
	} else {
		wanted = loadU16(q.avail, 0)&availNoInterrupt == 0
	}
	q.signalled = true
	if wanted && q.signal != nil {
		q.signal()
	}
}

// The driver's and our indexes are 16 bits wide and Go's atomics are not: these use the aligned 32-bit word around
// them, which never crosses a page. Go's atomics are sequentially consistent, stronger than the barriers the
// specification asks for.

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// wordAt is the aligned word around b[off], and where in it b[off] is.
func wordAt(b []byte, off int) (*uint32, uintptr) {
	_ = b[off+1]
	p := unsafe.Pointer(&b[off])
	at := uintptr(p) % 4
	return (*uint32)(unsafe.Add(p, -int(at))), at
}

func loadU16(b []byte, off int) uint16 {
	w, at := wordAt(b, off)
	var v [4]byte
	binary.NativeEndian.PutUint32(v[:], atomic.LoadUint32(w))
	return le.Uint16(v[at:])
}

// storeU16 keeps the word's other half, which belongs to somebody else.
func storeU16(b []byte, off int, x uint16) error {
	w, at := wordAt(b, off)
	for range 1 << 16 {
		old := atomic.LoadUint32(w)
		var v [4]byte
		binary.NativeEndian.PutUint32(v[:], old)
		le.PutUint16(v[at:], x)
		if atomic.CompareAndSwapUint32(w, old, binary.NativeEndian.Uint32(v[:])) {
			return nil
		}
	}
	return errors.New("the memory beside the ring never rests")
}

// storeUsed sets the used ring's index; its flags are ours as well, and 0.
func storeUsed(used []byte, idx uint16) {
	w, _ := wordAt(used, 0)
	var v [4]byte
	le.PutUint16(v[2:], idx)
	atomic.StoreUint32(w, binary.NativeEndian.Uint32(v[:]))
}
