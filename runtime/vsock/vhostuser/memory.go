package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// maxRegions is how many regions a memory table may have. vhost-user: "Memory regions description", and the limit of 8
// that holds where VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS is not offered.
const maxRegions = 8

// maxRegionSize bounds a region, in bytes, so that sums of addresses and sizes stay far from overflow.
const maxRegionSize = 1 << 46

// region is one part of the guest's memory, mapped here.
type region struct {
	guest uint64 // guest physical address of its first byte
	user  uint64 // the same byte's address in the front end; rings are named by it
	mem   []byte // exactly the region
	whole []byte // the mapping, from the file's first byte on
}

// regionSpec is a region as a SET_MEM_TABLE message states it.
type regionSpec struct {
	guest, size, user, offset uint64
}

// memory is a guest's memory table. The zero value is an empty table, in which no address exists.
// Slices into it are valid only while the server's lock is held.
type memory struct {
	regions []region
}

// mapMemory maps a table. The files stay the caller's.
func mapMemory(specs []regionSpec, fds []int) (m memory, err error) {
	if len(specs) > maxRegions || len(specs) != len(fds) {
		return memory{}, fmt.Errorf(
			"memory table of %d regions with %d files: want as many files as regions, and at most %d", len(specs),
			len(fds), maxRegions)
	}
	defer func() {
		if err != nil {
			m.unmap()
			m = memory{}
		}
	}()
	for i, s := range specs {
		if s.size == 0 || s.size > maxRegionSize || s.offset > maxRegionSize || s.guest > 1<<62 || s.user > 1<<63 {
			return m, fmt.Errorf("memory region %d: size %#x at file offset %#x: out of range", i, s.size, s.offset)
		}
		for _, o := range specs[:i] {
			if s.guest < o.guest+o.size && o.guest < s.guest+s.size || s.user < o.user+o.size &&
				o.user < s.user+s.size {
				return m, fmt.Errorf("memory region %d overlaps another", i)
			}
		}
		var st unix.Stat_t
		if err := unix.Fstat(fds[i], &st); err != nil {
			return m, fmt.Errorf("memory region %d: %w", i, err)
		}
		// Touching a mapping behind the end of its file is a SIGBUS.
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < 0 || s.offset+s.size > uint64(st.Size) {
			return m, fmt.Errorf("memory region %d: ends at %#x of a file of %#x bytes", i, s.offset+s.size, st.Size)
		}
		// From offset 0, because the region's own offset need not be a multiple of a huge page.
		whole, err := unix.Mmap(fds[i], 0, int(s.offset+s.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return m, fmt.Errorf("map memory region %d: %w", i, err)
		}
		m.regions = append(m.regions, region{
			guest: s.guest, user: s.user, whole: whole,
			mem: whole[s.offset : s.offset+s.size : s.offset+s.size],
		})
	}
	return m, nil
}

func (m *memory) unmap() {
	for _, r := range m.regions {
		// Nothing sensible can be done about an error, and there is none for a mapping that exists.
		_ = unix.Munmap(r.whole)
	}
	m.regions = nil
}

var errOutside = errors.New("outside the guest's memory")

// atUser is the n bytes at a front-end address. They must lie in one region.
func (m *memory) atUser(addr, n uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		size := uint64(len(r.mem))
		if off := addr - r.user; addr >= r.user && off < size && n <= size-off {
			return r.mem[off : off+n : off+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at front-end address %#x: %w", n, addr, errOutside)
}

// appendGuest appends the n bytes at a guest physical address to bufs, in several slices where they span regions.
func (m *memory) appendGuest(bufs [][]byte, addr, n uint64) ([][]byte, error) {
	for a, left := addr, n; left > 0; {
		b := m.guestRun(a)
		if len(b) == 0 {
			return bufs, fmt.Errorf("%d bytes at guest address %#x: %w", n, addr, errOutside)
		}
		k := min(left, uint64(len(b)))
		bufs = append(bufs, b[:k:k])
		left -= k
		a += k // cannot wrap: a lies below 1<<62 + 1<<46
	}
	return bufs, nil
}

// guestRun is everything from addr to the end of its region, or nil.
func (m *memory) guestRun(addr uint64) []byte {
	for i := range m.regions {
		r := &m.regions[i]
		if off := addr - r.guest; addr >= r.guest && off < uint64(len(r.mem)) {
			return r.mem[off:]
		}
	}
	return nil
}
