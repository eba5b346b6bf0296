package vhostuser_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/runtime/vsock/vhostuser"
	"github.com/katabuild/katabuild/runtime/vsock/vhostuser/vhostusertest"
)

var le = binary.LittleEndian

// upper answers each chain: it writes what it read, in upper case, into the writable part.
type upper struct {
	mu      sync.Mutex
	running []bool
	resets  []error
}

func (u *upper) Process(_ int, q *vhostuser.Queue) error {
	defer q.Flush()
	for {
		c, ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		data := bytes.ToUpper(bytes.Join(c.Out, nil))
		n := 0
		for _, b := range c.In {
			n += copy(b, data[n:])
		}
		q.Push(c.Head, uint32(n))
	}
}

func (u *upper) Running(now bool) {
	u.mu.Lock()
	u.running = append(u.running, now)
	u.mu.Unlock()
}

func (u *upper) Reset(cause error) {
	u.mu.Lock()
	u.resets = append(u.resets, cause)
	u.mu.Unlock()
}

func (u *upper) seen() (running string, resets []error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return fmt.Sprint(u.running), u.resets
}

const memSize = 1 << 20

func start(t testing.TB) (*vhostuser.Server, *upper, *vhostusertest.Driver) {
	u := &upper{}
	s := vhostuser.New(u, vhostuser.Options{Queues: 3, DataQueues: 2, Config: []byte{1, 2, 3, 4, 5, 6, 7, 8}})
	return s, u, vhostusertest.New(t, memSize, s.Serve)
}

// ready is a driver with ring 0 of 8 descriptors running.
func ready(t testing.TB, without uint64) (*vhostuser.Server, *vhostusertest.Driver, *vhostusertest.Ring) {
	s, _, d := start(t)
	d.Negotiate(without)
	d.SetMemory(memSize / 2)
	return s, d, d.NewRing(0, 8, 0)
}

const (
	noIndirect = 1 << 28
	noEventIdx = 1 << 29
)

// addr is the guest address of an offset in the driver's memory.
func addr(offset int) uint64 { return vhostusertest.GuestBase + uint64(offset) }

func TestChains(t *testing.T) {
	put := func(d *vhostusertest.Driver, s string) int {
		at := d.Alloc(len(s), 1)
		copy(d.Mem[at:], s)
		return at
	}
	for _, without := range []uint64{0, noEventIdx, noIndirect, noEventIdx | noIndirect} {
		t.Run(fmt.Sprintf("without features %#x", without), func(t *testing.T) {
			_, d, r := ready(t, without)
			answer := d.Alloc(64, 1)
			check := func(head uint16, want string) {
				t.Helper()
				clear(d.Mem[answer:][:64])
				r.Offer(head)
				r.Kick()
				h, n := r.Wait()
				if h != uint32(head) || string(d.Mem[answer:][:n]) != want {
					t.Errorf("chain %d with %q, want %d with %q", h, d.Mem[answer:][:n], head, want)
				}
			}
			one := put(d, "hello, ")
			two := put(d, "world")
			r.SetDesc(3, addr(one), 7, vhostusertest.Next, 1)
			r.SetDesc(1, addr(two), 5, vhostusertest.Next, 6)
			r.SetDesc(6, addr(answer), 4, vhostusertest.Write|vhostusertest.Next, 2)
			r.SetDesc(2, addr(answer+4), 60, vhostusertest.Write, 0)
			check(3, "HELLO, WORLD")

			// A descriptor without bytes is odd, and harmless wherever it points.
			r.SetDesc(1, 1<<63, 0, vhostusertest.Next, 6)
			check(3, "HELLO, ")

			// Over the border of two regions, which are neighbours in the guest.
			border := memSize/2 - 3
			copy(d.Mem[border:], "border")
			r.SetDesc(0, addr(border), 6, vhostusertest.Next, 2)
			r.SetDesc(2, addr(answer), 64, vhostusertest.Write, 0)
			check(0, "BORDER")

			if without&noIndirect == 0 {
				table := d.Alloc(4*16, 1) // need not be aligned
				vhostusertest.PutDesc(d.Mem[table:], addr(one), 7, vhostusertest.Next, 2)
				vhostusertest.PutDesc(d.Mem[table+32:], addr(two), 5, vhostusertest.Next, 3)
				vhostusertest.PutDesc(d.Mem[table+48:], addr(answer), 64, vhostusertest.Write, 0)
				r.SetDesc(5, addr(table), 4*16, vhostusertest.Indirect, 0)
				check(5, "HELLO, WORLD")
			}
		})
	}
}

func TestRingsWrapAround(t *testing.T) {
	for _, without := range []uint64{0, noEventIdx} {
		t.Run(fmt.Sprintf("without features %#x", without), func(t *testing.T) {
			_, _, d := start(t)
			d.Negotiate(without)
			d.SetMemory(0)
			r := d.NewRing(0, 4, 65533)
			at := d.Alloc(8, 1)
			r.SetDesc(0, addr(at), 4, vhostusertest.Next, 1)
			r.SetDesc(1, addr(at+4), 4, vhostusertest.Write, 0)
			for i := range 10 {
				copy(d.Mem[at:], fmt.Sprintf("a%03d", i))
				r.Offer(0)
				r.Kick()
				if _, n := r.Wait(); n != 4 || string(d.Mem[at+4:][:4]) != fmt.Sprintf("A%03d", i) {
					t.Fatalf("round %d: %q", i, d.Mem[at+4:][:4])
				}
			}
			if base := r.Stop(); base != 65533+10-65536 {
				t.Errorf("base %d", base)
			}
		})
	}
}

func TestEventIdxSparesKicks(t *testing.T) {
	s, d, r := ready(t, 0)
	at := d.Alloc(8, 1)
	for i := range uint32(8) {
		r.SetDesc(i, addr(at), 8, 0, 0)
	}
	r.Offer(0)
	r.Kick()
	r.Wait()
	before := r.Kicks
	for i := range uint16(4) { // the device has not asked to be woken for the second to fourth
		r.Offer(i)
	}
	r.Kick()
	if r.Kicks != before+1 {
		t.Errorf("%d kicks for four chains", r.Kicks-before)
	}
	for range 4 {
		r.Wait()
	}
	if err := s.Broken(); err != nil {
		t.Error(err)
	}
}

func TestHostileDriverBreaksOnlyItsDevice(t *testing.T) {
	type attack struct {
		says string
		do   func(d *vhostusertest.Driver, r *vhostusertest.Ring)
	}
	const end = vhostusertest.GuestBase + memSize
	desc := func(a uint64, n uint32, flags, next uint16) func(*vhostusertest.Driver, *vhostusertest.Ring) {
		return func(_ *vhostusertest.Driver, r *vhostusertest.Ring) {
			r.SetDesc(0, a, n, flags, next)
			r.Offer(0)
		}
	}
	// table runs an indirect table of the given descriptors.
	table := func(n uint32, fill func(b []byte)) func(*vhostusertest.Driver, *vhostusertest.Ring) {
		return func(d *vhostusertest.Driver, r *vhostusertest.Ring) {
			at := d.Alloc(int(n+15), 16)
			fill(d.Mem[at:])
			r.SetDesc(0, addr(at), n, vhostusertest.Indirect, 0)
			r.Offer(0)
		}
	}
	const n, w, i = vhostusertest.Next, vhostusertest.Write, vhostusertest.Indirect
	for name, a := range map[string]attack{
		"address behind the memory":   {"outside", desc(end, 1, 0, 0)},
		"address before the memory":   {"outside", desc(0, 1, 0, 0)},
		"last byte behind the memory": {"outside", desc(end-10, 11, 0, 0)},
		"address and length overflow": {"outside", desc(1<<64-8, 16, 0, 0)},
		"longest length":              {"outside", desc(vhostusertest.GuestBase, 1<<32-1, w, 0)},
		"chain points at itself":      {"loop", desc(vhostusertest.GuestBase, 1, n, 0)},
		"next is no descriptor":       {"descriptor 8 of a table of 8", desc(vhostusertest.GuestBase, 1, n, 8)},
		"head is no descriptor": {"descriptor 65535", func(_ *vhostusertest.Driver,
			r *vhostusertest.Ring) {
			r.Offer(65535)
		}},
		"more entries than the ring": {"claims", func(d *vhostusertest.Driver,
			r *vhostusertest.Ring) {
			le.PutUint16(d.Mem[r.Avail+2:], 9)
		}},
		"index runs backwards": {"claims", func(d *vhostusertest.Driver,
			r *vhostusertest.Ring) {
			le.PutUint16(d.Mem[r.Avail+2:], 65535)
		}},
		"indirect of no bytes":          {"indirect table of 0", desc(vhostusertest.GuestBase, 0, i, 0)},
		"indirect of half a descriptor": {"indirect table of 24", desc(vhostusertest.GuestBase, 24, i, 0)},
		"indirect of a million":         {"indirect table of", desc(vhostusertest.GuestBase, 16<<20, i, 0)},
		"indirect outside":              {"outside", desc(end-16, 32, i, 0)},
		"indirect with next":            {"next", desc(vhostusertest.GuestBase, 16, i|n, 1)},
		"indirect in indirect": {"indirect table in",
			table(16, func(b []byte) { vhostusertest.PutDesc(b, addr(0), 16, i, 0) })},
		"indirect loop": {"loop", table(32, func(b []byte) {
			vhostusertest.PutDesc(b, addr(0), 1, n, 1)
			vhostusertest.PutDesc(b[16:], addr(0), 1, n, 0)
		})},
		"indirect next outside the table": {"descriptor 2 of a table of 2",
			table(32, func(b []byte) { vhostusertest.PutDesc(b, addr(0), 1, n, 2) })},
		"readable behind writable": {"readable", func(_ *vhostusertest.Driver, r *vhostusertest.Ring) {
			r.SetDesc(0, addr(0), 1, w|n, 1)
			r.SetDesc(1, addr(0), 1, 0, 0)
			r.Offer(0)
		}},
		"two descriptors that go in a ring": {"loop", func(_ *vhostusertest.Driver, r *vhostusertest.Ring) {
			r.SetDesc(0, addr(0), 1, n, 1)
			r.SetDesc(1, addr(0), 1, n, 0)
			r.Offer(0)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, d, r := ready(t, 0)
			errFD, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(errFD), "err")
			defer f.Close()
			d.Must(14, vhostusertest.U64(0), errFD)
			a.do(d, r)
			r.ForceKick()
			if _, err := f.Read(make([]byte, 8)); err != nil { // the back end's complaint
				t.Fatal(err)
			}
			if err := s.Broken(); err == nil || !strings.Contains(err.Error(), a.says) {
				t.Errorf("broken because of %v, want %q", err, a.says)
			}
			// The back end still speaks, and a driver that begins anew has a working device.
			r.Stop()
			r2 := d.NewRing(0, 8, 0)
			at := d.Alloc(8, 1)
			copy(d.Mem[at:], "fine")
			r2.SetDesc(0, addr(at), 4, n, 1)
			r2.SetDesc(1, addr(at+4), 4, w, 0)
			r2.Offer(0)
			r2.Kick()
			if _, n := r2.Wait(); string(d.Mem[at+4:][:n]) != "FINE" || s.Broken() != nil {
				t.Errorf("after a new start: %q, %v", d.Mem[at+4:][:n], s.Broken())
			}
		})
	}
}

func TestIndirectNeedsTheFeature(t *testing.T) {
	s, d, r := ready(t, noIndirect)
	r.SetDesc(0, addr(0), 16, vhostusertest.Indirect, 0)
	r.Offer(0)
	r.Kick()
	d.Ask(1, nil)
	waitFor(t, func() bool { return s.Broken() != nil })
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen")
		}
	}
}

func TestRequests(t *testing.T) {
	_, _, d := start(t)
	if f := le.Uint64(d.Ask(1, nil)); f&(1<<30) == 0 || f&(1<<32) == 0 || f&^(1<<28|1<<29|1<<30|1<<32) != 0 {
		t.Errorf("features %#x", f)
	}
	if n := le.Uint64(d.Ask(17, nil)); n != 3 {
		t.Errorf("%d queues", n)
	}
	d.Negotiate(0)
	config := func(off, n uint32) []byte {
		b := le.AppendUint32(le.AppendUint32(nil, off), n)
		return d.Ask(24, append(le.AppendUint32(b, 0), make([]byte, n)...))
	}
	if got := config(2, 4); len(got) != 16 || !bytes.Equal(got[12:], []byte{3, 4, 5, 6}) {
		t.Errorf("config 2+4: %v", got)
	}
	if got := config(6, 8); len(got) != 20 || !bytes.Equal(got[12:], []byte{7, 8, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("config 6+8: %v", got)
	}
	if got := config(1<<32-1, 8); !bytes.Equal(got[12:], make([]byte, 8)) {
		t.Errorf("config at the end of all: %v", got)
	}
	if got := d.Ask(24, append(le.AppendUint32(le.AppendUint32(nil, 0), 1<<31), 0, 0, 0, 0)); len(got) != 0 {
		t.Errorf("config that claims more than it has: %v", got)
	}

	region := func(guest, size, user, off uint64) []byte {
		b := vhostusertest.U64(1)
		for _, v := range []uint64{guest, size, user, off} {
			b = le.AppendUint64(b, v)
		}
		return b
	}
	two := func(a, b []byte) []byte { return append(append(vhostusertest.U64(2), a[8:]...), b[8:]...) }
	ok := region(0, 4096, 1<<40, 0)
	fd := d.FD
	pipe := pipeFD(t)
	addrs := func(index uint32, a uint64) []byte {
		b := vhostusertest.State(index, 0)
		for range 4 {
			b = le.AppendUint64(b, a)
		}
		return b
	}
	for name, r := range map[string]struct {
		request uint32
		payload []byte
		fds     []int
	}{
		"features that were not offered":          {2, vhostusertest.U64(1 << 40), nil},
		"protocol features that were not offered": {16, vhostusertest.U64(1 << 12), nil},
		"configuration is written":                {25, make([]byte, 20), nil},
		"memory without a file":                   {5, ok, nil},
		"memory with a file too many":             {5, ok, []int{fd, fd}},
		"memory table cut off":                    {5, ok[:20], []int{fd}},
		"memory of nine regions":                  {5, append(vhostusertest.U64(9), make([]byte, 9*32)...), []int{fd}},
		"memory of no bytes":                      {5, region(0, 0, 1<<40, 0), []int{fd}},
		"memory longer than its file":             {5, region(0, memSize+1, 1<<40, 0), []int{fd}},
		"memory offset behind its file":           {5, region(0, 4096, 1<<40, memSize), []int{fd}},
		"memory offset overflows":                 {5, region(0, 4096, 1<<40, 1<<64-4096), []int{fd}},
		"memory size overflows":                   {5, region(0, 1<<64-1, 1<<40, 0), []int{fd}},
		"memory address overflows":                {5, region(1<<64-1, 4096, 1<<40, 0), []int{fd}},
		"memory regions overlap":                  {5, two(ok, region(4095, 4096, 2<<40, 0)), []int{fd, fd}},
		"memory of a pipe":                        {5, ok, []int{pipe}},
		"a queue that does not exist":             {8, vhostusertest.State(3, 8), nil},
		"a queue number of 2^32-1":                {18, vhostusertest.State(1<<32-1, 1), nil},
		"queue size 0":                            {8, vhostusertest.State(0, 0), nil},
		"queue size 7":                            {8, vhostusertest.State(0, 7), nil},
		"queue size 65536":                        {8, vhostusertest.State(0, 65536), nil},
		"state cut off":                           {10, []byte{0, 0, 0, 0}, nil},
		"address cut off":                         {9, make([]byte, 39), nil},
		"kick before the addresses":               {12, vhostusertest.U64(0), []int{pipe}},
		"kick without a file":                     {12, vhostusertest.U64(0), nil},
		"kick by polling":                         {12, vhostusertest.U64(1 << 8), nil},
		"kick of a queue that does not exist":     {12, vhostusertest.U64(77), []int{pipe}},
		"a request from the future":               {4711, nil, nil},
		"migration, which was not offered":        {6, make([]byte, 16), []int{pipe}},
	} {
		t.Run(name, func(t *testing.T) {
			if d.Acked(r.request, r.payload, r.fds...) {
				t.Error("was accepted")
			}
		})
	}
	t.Run("rings outside the memory", func(t *testing.T) {
		d.SetMemory(0)
		d.Must(8, vhostusertest.State(0, 8))
		for _, a := range []uint64{0, vhostusertest.UserBase - 1, vhostusertest.UserBase + memSize - 16,
			vhostusertest.UserBase + memSize, 1<<64 - 16} {
			d.Must(9, addrs(0, a))
			if d.Acked(12, vhostusertest.U64(0), pipe) {
				t.Errorf("rings at %#x were accepted", a)
			}
		}
		d.Must(9, addrs(0, vhostusertest.UserBase+1))
		if d.Acked(12, vhostusertest.U64(0), pipe) {
			t.Error("rings at an odd address were accepted")
		}
	})
}

func pipeFD(t *testing.T) int {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return int(w.Fd())
}

func TestBrokenMessagesEndTheConnection(t *testing.T) {
	header := func(request, flags, size uint32) []byte {
		return le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, request), flags), size)
	}
	for name, b := range map[string][]byte{
		"half a header":                header(1, 1, 0)[:5],
		"another version":              header(1, 2, 0),
		"a reply":                      header(1, 1|4, 0),
		"a payload of 4 GiB":           header(1, 1, 1<<32-1),
		"a payload that never comes":   append(header(2, 1, 8), 1, 2, 3),
		"an unknown one without reply": header(99, 1, 0),
	} {
		t.Run(name, func(t *testing.T) {
			s := vhostuser.New(&upper{}, vhostuser.Options{Queues: 1})
			front, back := vhostusertest.Pair(t)
			front.Write(b)
			front.CloseWrite()
			if err := s.Serve(back); err == nil {
				t.Error("no error")
			}
			front.Close()
		})
	}
	t.Run("too many files", func(t *testing.T) {
		s := vhostuser.New(&upper{}, vhostuser.Options{Queues: 1})
		front, back := vhostusertest.Pair(t)
		defer front.Close()
		fds := make([]int, 40)
		for i := range fds {
			fds[i] = 0
		}
		if _, _, err := front.WriteMsgUnix(header(1, 1, 0), unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(back); err == nil {
			t.Error("no error")
		}
	})
}

func TestMemoryTableMayChangeWhileRingsRun(t *testing.T) {
	s, d, r := ready(t, 0)
	at := d.Alloc(8, 1)
	r.SetDesc(0, addr(at), 4, vhostusertest.Next, 1)
	r.SetDesc(1, addr(at+4), 4, vhostusertest.Write, 0)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.ForceKick()
			}
		}
	})
	for i := range 50 {
		copy(d.Mem[at:], fmt.Sprintf("b%03d", i))
		r.Offer(0)
		d.SetMemory(i % 2 * memSize / 2)
		if _, n := r.Wait(); string(d.Mem[at+4:][:n]) != fmt.Sprintf("B%03d", i) {
			t.Fatalf("round %d", i)
		}
	}
	close(stop)
	wg.Wait()

	// Without the memory of its rings, the queue rests, and nothing is touched.
	other := vhostusertest.U64(1)
	for _, v := range []uint64{vhostusertest.GuestBase, 4096, vhostusertest.UserBase + 1<<30, 0} {
		other = le.AppendUint64(other, v)
	}
	d.Must(5, other, d.FD)
	r.Offer(0)
	r.ForceKick()
	d.Ask(1, nil)
	if _, _, ok := r.Take(); ok || s.Broken() != nil {
		t.Errorf("a queue without memory took a chain (%v)", s.Broken())
	}
}

func TestStoppedRingIsNotTouched(t *testing.T) {
	_, d, r := ready(t, 0)
	at := d.Alloc(8, 1)
	r.SetDesc(0, addr(at), 4, 0, 0)
	r.Offer(0)
	r.Kick()
	r.Wait()
	if base := r.Stop(); base != 1 {
		t.Errorf("base %d, want 1", base)
	}
	r.Offer(0)
	r.ForceKick()
	time.Sleep(5 * time.Millisecond) // in which nothing may happen
	if _, _, ok := r.Take(); ok {
		t.Fatal("a stopped ring was worked off")
	}
	if base := r.Stop(); base != 1 {
		t.Errorf("stopped again: base %d, want 1", base)
	}
	// Disabled, it rests as well: this device would lose bytes if it threw away what it cannot act on.
	d.Must(18, vhostusertest.State(0, 0))
	r.Start(1)
	r.Wait()
	d.Must(18, vhostusertest.State(0, 0))
	r.Offer(0)
	r.ForceKick()
	time.Sleep(5 * time.Millisecond) // in which nothing may happen
	if _, _, ok := r.Take(); ok {
		t.Fatal("a disabled ring was worked off")
	}
	d.Must(18, vhostusertest.State(0, 1))
	r.Wait()
}

func TestRunningAndReset(t *testing.T) {
	s, u, d := start(t)
	d.Negotiate(0)
	d.SetMemory(0)
	d.NewRing(0, 8, 0)
	if got, _ := u.seen(); got != "[]" {
		t.Errorf("with one of two queues: %s", got)
	}
	r := d.NewRing(1, 8, 0)
	if got, _ := u.seen(); got != "[true]" {
		t.Errorf("with both: %s", got)
	}
	r.Stop()
	if got, _ := u.seen(); got != "[true false]" {
		t.Errorf("with one stopped: %s", got)
	}
	d.Must(34, nil) // RESET_DEVICE
	if _, resets := u.seen(); len(resets) != 1 || !errors.Is(resets[0], vhostuser.ErrDriverRestarted) {
		t.Errorf("resets %v", resets)
	}
	if d.Acked(12, vhostusertest.U64(0), pipeFD(t)) {
		t.Error("a kick was accepted although RESET_DEVICE forgot the rings")
	}
	r2 := d.NewRing(0, 8, 0)
	at := d.Alloc(4, 1)
	r2.SetDesc(0, addr(at), 4, 0, 0)
	r2.Offer(0)
	r2.Kick()
	r2.Wait()
	d.Conn.Close()
	waitFor(t, func() bool { _, r := u.seen(); return len(r) == 2 && errors.Is(r[1], vhostuser.ErrFrontEndGone) })
	_ = s
}

func TestAnotherFrontEndMayFollow(t *testing.T) {
	u := &upper{}
	s := vhostuser.New(u, vhostuser.Options{Queues: 1, DataQueues: 1})
	for range 2 {
		t.Run("", func(t *testing.T) {
			d := vhostusertest.New(t, memSize, s.Serve)
			d.Negotiate(0)
			d.SetMemory(0)
			r := d.NewRing(0, 8, 0)
			at := d.Alloc(4, 1)
			r.SetDesc(0, addr(at), 4, 0, 0)
			r.Offer(0)
			r.Kick()
			r.Wait()
			front, back := vhostusertest.Pair(t)
			if err := s.Serve(back); err == nil {
				t.Error("two front ends at once")
			}
			front.Close()
		})
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	front, back := vhostusertest.Pair(t)
	defer front.Close()
	if err := s.Serve(back); err == nil {
		t.Error("served after Close")
	}
}

// FuzzMessages sends any bytes as messages, with any number of files.
func FuzzMessages(f *testing.F) {
	msg := func(request uint32, payload []byte) []byte {
		b := le.AppendUint32(nil, request)
		b = le.AppendUint32(b, 1|8)
		return append(le.AppendUint32(b, uint32(len(payload))), payload...)
	}
	table := vhostusertest.U64(1)
	for _, v := range []uint64{0, 4096, 0, 0} {
		table = le.AppendUint64(table, v)
	}
	rings := vhostusertest.State(0, 0)
	for _, v := range []uint64{0, 512, 1024, 0} {
		rings = le.AppendUint64(rings, v)
	}
	// A whole session up to a running ring, whose memory is all zeros.
	var session []byte
	for _, m := range [][]byte{
		msg(16, vhostusertest.U64(9)), msg(2, vhostusertest.U64(1<<32|1<<30|1<<29|1<<28)), msg(5, table),
		msg(8, vhostusertest.State(0, 8)), msg(10, vhostusertest.State(0, 65530)), msg(9, rings),
		msg(13, vhostusertest.U64(0)),
		msg(12, vhostusertest.U64(0)), msg(18, vhostusertest.State(0, 1)), msg(11, vhostusertest.State(0, 0)),
	} {
		session = append(session, m...)
	}
	f.Add(session)
	f.Add(msg(24, append(vhostusertest.State(0, 8), make([]byte, 12)...)))
	f.Add(msg(34, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := vhostuser.New(&upper{}, vhostuser.Options{Queues: 2, DataQueues: 2, Config: make([]byte, 8)})
		front, back := vhostusertest.Pair(t)
		done := make(chan error, 1)
		go func() { done <- s.Serve(back) }()
		go func() {
			b := make([]byte, 4096)
			for {
				if _, err := front.Read(b); err != nil {
					return
				}
			}
		}()
		front.SetWriteDeadline(time.Now().Add(5 * time.Second))
		for len(data) > 0 {
			n := len(data)
			if n >= 12 {
				n = int(min(uint64(n), 12+uint64(le.Uint32(data[8:]))))
			}
			// Every message of those that may have files comes with one: memory it can be.
			var oob []byte
			if r := data[0]; r == 5 || r >= 12 && r <= 14 {
				fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				unix.Ftruncate(fd, 8192)
				oob = unix.UnixRights(fd)
				_, _, err = front.WriteMsgUnix(data[:n], oob, nil)
				unix.Close(fd)
				if err != nil {
					break
				}
			} else if _, err := front.Write(data[:n]); err != nil {
				break
			}
			data = data[n:]
		}
		front.CloseWrite()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("Serve does not return")
		}
		front.Close()
	})
}
