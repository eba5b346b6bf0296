// Package vhostusertest plays QEMU and a guest's virtio driver against a vhost-user back end, in one process, over a
// socket pair and a memfd.
//
// It does what it is told, right or wrong, so that tests can be hostile; it fails the test at everything it does not
// expect.
package vhostusertest

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var le = binary.LittleEndian

// Where the guest's memory begins: for the guest, and for the front end.
const (
	GuestBase = 0x10000
	UserBase  = 0x7f0000000000
)

// timeout is how long anything here may take.
const timeout = 5 * time.Second

// Driver is the front end and the guest.
type Driver struct {
	T    testing.TB
	Conn *net.UnixConn
	Mem  []byte // the guest's memory
	FD   int    // its memfd

	Protocol uint64 // as offered
	Features uint64 // as negotiated

	next int // first byte of Mem that is not allocated
}

// Pair makes a connected pair of UNIX sockets.
func Pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socketpair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// New starts serve with one end of a socket pair and gives the guest size bytes of memory. At the end of the test it
// hangs up and waits for serve, whose error fails the test.
func New(t testing.TB, size int, serve func(*net.UnixConn) error) *Driver {
	t.Helper()
	front, back := Pair(t)
	done := make(chan error, 1)
	go func() { done <- serve(back) }()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{T: t, Conn: front, Mem: mem, FD: fd}
	t.Cleanup(func() {
		front.Close()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(timeout):
			t.Errorf("serve did not return when the front end hung up")
		}
		unix.Munmap(mem)
		unix.Close(fd)
	})
	return d
}

// send writes one message.
func (d *Driver) send(request, flags uint32, payload []byte, fds ...int) {
	d.T.Helper()
	b := le.AppendUint32(nil, request)
	b = le.AppendUint32(b, 1|flags)
	b = append(le.AppendUint32(b, uint32(len(payload))), payload...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := d.Conn.WriteMsgUnix(b, oob, nil); err != nil {
		d.T.Fatalf("send request %d: %v", request, err)
	}
}

// reply reads one reply.
func (d *Driver) reply(request uint32) []byte {
	d.T.Helper()
	b, err := d.tryReply(request)
	if err != nil {
		d.T.Fatalf("reply to request %d: %v", request, err)
	}
	return b
}

// tryReply is Reply for those who expect the connection to be closed.
func (d *Driver) tryReply(request uint32) ([]byte, error) {
	d.Conn.SetReadDeadline(time.Now().Add(timeout))
	read := func(n int) ([]byte, error) {
		b := make([]byte, n)
		for got := 0; got < n; {
			k, err := d.Conn.Read(b[got:])
			if err != nil {
				return nil, err
			}
			got += k
		}
		return b, nil
	}
	h, err := read(12)
	if err != nil {
		return nil, err
	}
	if le.Uint32(h) != request || le.Uint32(h[4:]) != 1|4 {
		return nil, errors.New("not the reply to this request")
	}
	return read(int(le.Uint32(h[8:])))
}

// Ask sends a request that has a reply of its own.
func (d *Driver) Ask(request uint32, payload []byte) []byte {
	d.T.Helper()
	d.send(request, 0, payload)
	return d.reply(request)
}

// Acked sends a request that asks for an acknowledgement and says whether it was carried out.
func (d *Driver) Acked(request uint32, payload []byte, fds ...int) bool {
	d.T.Helper()
	d.send(request, 8, payload, fds...)
	return le.Uint64(d.reply(request)) == 0
}

// Must is Acked for requests that have to succeed.
func (d *Driver) Must(request uint32, payload []byte, fds ...int) {
	d.T.Helper()
	if !d.Acked(request, payload, fds...) {
		d.T.Fatalf("request %d was refused", request)
	}
}

// U64 is the payload of many requests.
func U64(v uint64) []byte { return le.AppendUint64(nil, v) }

// State is the payload of requests about one ring.
func State(index, num uint32) []byte { return le.AppendUint32(le.AppendUint32(nil, index), num) }

// Negotiate takes all that is offered but the features in without.
func (d *Driver) Negotiate(without uint64) {
	d.T.Helper()
	offered := le.Uint64(d.Ask(1, nil))
	d.Protocol = le.Uint64(d.Ask(15, nil))
	d.send(16, 0, U64(d.Protocol))
	d.Features = offered &^ without
	d.Must(3, nil)
	d.Must(2, U64(d.Features))
}

// SetMemory sends the memory table, in two regions cut at the byte cut (none when 0).
func (d *Driver) SetMemory(cut int) {
	d.T.Helper()
	region := func(b []byte, from, to int) []byte {
		b = le.AppendUint64(b, GuestBase+uint64(from))
		b = le.AppendUint64(b, uint64(to-from))
		b = le.AppendUint64(b, UserBase+uint64(from))
		return le.AppendUint64(b, uint64(from))
	}
	if cut == 0 {
		d.Must(5, region(U64(1), 0, len(d.Mem)), d.FD)
		return
	}
	d.Must(5, region(region(U64(2), 0, cut), cut, len(d.Mem)), d.FD, d.FD)
}

// Alloc reserves n bytes of guest memory at a multiple of align and returns their offset in Mem.
func (d *Driver) Alloc(n, align int) int {
	at := (d.next + align - 1) / align * align
	if at+n > len(d.Mem) {
		d.T.Fatalf("guest memory is full")
	}
	d.next = at + n
	return at
}

// Ring is a virtqueue as the driver sees it. Its methods must not be called concurrently.
type Ring struct {
	D                 *Driver
	Index             uint32
	Size              uint32
	Desc, Avail, Used int // offsets in Mem
	Kicks             int // how often Kick really kicked

	kick, call *os.File
	kickFD     int
	callFD     int
	availIdx   uint16
	kickedIdx  uint16
	usedIdx    uint16
}

// NewRing allocates a ring and starts it, enabled, from index base.
func (d *Driver) NewRing(index, size uint32, base uint16) *Ring {
	d.T.Helper()
	r := &Ring{D: d, Index: index, Size: size, availIdx: base, kickedIdx: base, usedIdx: base}
	r.Desc = d.Alloc(16*int(size), 16)
	r.Avail = d.Alloc(6+2*int(size), 2)
	r.Used = d.Alloc(6+8*int(size), 4)
	clear(d.Mem[r.Desc : r.Used+6+8*int(size)])
	d.storeIdx(r.Avail, base)
	d.storeIdx(r.Used, base)
	r.kick, r.kickFD = eventfd(d.T)
	r.call, r.callFD = eventfd(d.T)
	r.Start(base)
	return r
}

func eventfd(t testing.TB) (*os.File, int) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	t.Cleanup(func() { f.Close() })
	return f, fd
}

// addrs is the payload of SET_VRING_ADDR.
func (r *Ring) addrs() []byte {
	b := State(r.Index, 0)
	b = le.AppendUint64(b, UserBase+uint64(r.Desc))
	b = le.AppendUint64(b, UserBase+uint64(r.Used))
	b = le.AppendUint64(b, UserBase+uint64(r.Avail))
	return le.AppendUint64(b, 0)
}

// Start sets the ring up at the back end.
func (r *Ring) Start(base uint16) {
	d := r.D
	d.T.Helper()
	d.Must(8, State(r.Index, r.Size))
	d.Must(10, State(r.Index, uint32(base)))
	d.Must(9, r.addrs())
	d.Must(13, U64(uint64(r.Index)), r.callFD)
	d.Must(12, U64(uint64(r.Index)), r.kickFD)
	d.Must(18, State(r.Index, 1))
}

// Stop is GET_VRING_BASE.
func (r *Ring) Stop() uint16 {
	r.D.T.Helper()
	return uint16(le.Uint32(r.D.Ask(11, State(r.Index, 0))[4:]))
}

// Flags of descriptors.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// SetDesc writes descriptor i.
func (r *Ring) SetDesc(i uint32, addr uint64, n uint32, flags, next uint16) {
	PutDesc(r.D.Mem[r.Desc+16*int(i):], addr, n, flags, next)
}

// PutDesc writes a descriptor to b.
func PutDesc(b []byte, addr uint64, n uint32, flags, next uint16) {
	le.PutUint64(b, addr)
	le.PutUint32(b[8:], n)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// word is the aligned word with a ring's index in its upper half; offset is the ring's.
func (d *Driver) word(offset int) *uint32 {
	p := unsafe.Pointer(&d.Mem[offset])
	if uintptr(p)%4 != 0 {
		d.T.Fatalf("ring at an odd address")
	}
	return (*uint32)(p)
}

func (d *Driver) storeIdx(offset int, idx uint16) {
	// Little-endian hosts only, as are all that run these tests.
	if offset%4 == 0 {
		atomic.StoreUint32(d.word(offset), uint32(idx)<<16|uint32(le.Uint16(d.Mem[offset:])))
	} else { // the index begins the next word, and the ring's first entry ends it
		w := d.word(offset + 2)
		atomic.StoreUint32(w, atomic.LoadUint32(w)&^0xffff|uint32(idx))
	}
}

// Offer makes the chain at head available.
func (r *Ring) Offer(head uint16) {
	le.PutUint16(r.D.Mem[r.Avail+4+2*int(uint32(r.availIdx)%r.Size):], head)
	r.availIdx++
	r.D.storeIdx(r.Avail, r.availIdx)
}

// Kick notifies the device unless it asked not to be.
func (r *Ring) Kick() {
	if r.D.Features&(1<<29) != 0 {
		at := r.Used + 4 + 8*int(r.Size)
		event := uint16(atomic.LoadUint32(r.D.word(at)))
		if r.availIdx-event-1 >= r.availIdx-r.kickedIdx {
			r.kickedIdx = r.availIdx
			return
		}
	}
	r.kickedIdx = r.availIdx
	r.ForceKick()
}

// ForceKick notifies the device.
func (r *Ring) ForceKick() {
	r.Kicks++
	if _, err := r.kick.Write(U64(1)); err != nil {
		r.D.T.Errorf("kick: %v", err)
	}
}

// Take takes a used element if there is one.
func (r *Ring) Take() (head, n uint32, ok bool) {
	idx := uint16(atomic.LoadUint32(r.D.word(r.Used)) >> 16)
	if idx == r.usedIdx {
		return 0, 0, false
	}
	e := r.D.Mem[r.Used+4+8*int(uint32(r.usedIdx)%r.Size):]
	r.usedIdx++
	return le.Uint32(e), le.Uint32(e[4:]), true
}

// Arm asks for an interrupt at the next used element; look once more after it.
func (r *Ring) Arm() {
	if r.D.Features&(1<<29) == 0 {
		return
	}
	at := r.Avail + 4 + 2*int(r.Size)
	if at%4 == 0 {
		w := r.D.word(at)
		atomic.StoreUint32(w, atomic.LoadUint32(w)&^0xffff|uint32(r.usedIdx))
	} else {
		w := r.D.word(at - 2)
		atomic.StoreUint32(w, atomic.LoadUint32(w)&0xffff|uint32(r.usedIdx)<<16)
	}
}

// Wait takes a used element and waits for one if it must, by interrupt.
func (r *Ring) Wait() (head, n uint32) {
	r.D.T.Helper()
	for {
		if head, n, ok := r.Take(); ok {
			return head, n
		}
		r.Arm()
		if head, n, ok := r.Take(); ok {
			return head, n
		}
		if !r.Interrupt(timeout) {
			r.D.T.Fatalf("queue %d: no interrupt", r.Index)
		}
	}
}

// Interrupt waits for an interrupt.
func (r *Ring) Interrupt(d time.Duration) bool {
	r.call.SetReadDeadline(time.Now().Add(d))
	var b [8]byte
	_, err := r.call.Read(b[:])
	return err == nil
}

// CallFile is the eventfd of the ring's interrupt.
func (r *Ring) CallFile() *os.File { return r.call }
