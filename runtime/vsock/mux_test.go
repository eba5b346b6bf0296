package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/vsock/vhostuser/vhostusertest"
)

func TestHeaderHasTheSpecifiedLayout(t *testing.T) {
	// VIRTIO 1.2, 5.10.6: 44 bytes in this order, little-endian.
	h := header{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	var b [headerSize]byte
	h.encode(&b)
	want := [44]byte{0: 1, 8: 2, 16: 3, 20: 4, 24: 5, 28: 6, 30: 7, 32: 8, 36: 9, 40: 10}
	if b != want {
		t.Errorf("%v", b)
	}
	var back header
	if back.decode(&b); back != h {
		t.Errorf("%+v", back)
	}
}

func packet(h header, data string) payload {
	var b [headerSize]byte
	h.encode(&b)
	return payload{b[:10], b[10:], []byte(data)} // in pieces, as a guest may send it
}

// fromGuest is a good packet of the guest's.
func fromGuest(op uint16, port uint32) header {
	return header{srcCID: guestCID, dstCID: agentapi.HostCID, srcPort: 1000, dstPort: port, kind: typeStream, op: op,
		bufAlloc: 1 << 16}
}

// sent is what the mux has to send, without payload.
func sent(m *mux) []header {
	var hs []header
	for {
		h, _, _, done, ok := m.next(4096)
		if !ok {
			return hs
		}
		done()
		hs = append(hs, h)
	}
}

// open makes a connection of the guest's to port 7.
func open(t *testing.T) (*mux, *muxConn) {
	t.Helper()
	m := newMux(agentapi.HostCID, guestCID)
	l, err := m.listen(7)
	if err != nil {
		t.Fatal(err)
	}
	m.receive(packet(fromGuest(opRequest, 7), ""))
	if hs := sent(m); len(hs) != 1 || hs[0].op != opResponse || hs[0].bufAlloc != window {
		t.Fatalf("answer to the request: %+v", hs)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return m, c.(*muxConn)
}

func TestPacketsThatNobodyCanUseAreReset(t *testing.T) {
	for name, change := range map[string]func(*header){
		"from another guest":         func(h *header) { h.srcCID = 99 },
		"from a CID of 64 bits":      func(h *header) { h.srcCID |= 1 << 32 },
		"to another guest":           func(h *header) { h.dstCID = 99 },
		"of another type":            func(h *header) { h.kind = 2 },
		"data for no connection":     func(h *header) { h.op = opRW },
		"shutdown of no connection":  func(h *header) { h.op = opShutdown },
		"an unknown operation":       func(h *header) { h.op = 99 },
		"a request to a closed port": func(h *header) {},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMux(agentapi.HostCID, guestCID)
			h := fromGuest(opRequest, 8)
			change(&h)
			m.receive(packet(h, ""))
			hs := sent(m)
			if len(hs) != 1 || hs[0].op != opRst || hs[0].srcPort != h.dstPort || hs[0].dstPort != h.srcPort ||
				hs[0].dstCID != guestCID || hs[0].srcCID != h.dstCID {
				t.Errorf("answer %+v", hs)
			}
			h.op = opRst
			m.receive(packet(h, ""))
			if hs := sent(m); len(hs) != 0 {
				t.Errorf("a RST was answered: %+v", hs)
			}
		})
	}
	t.Run("too short for a header", func(t *testing.T) {
		m := newMux(agentapi.HostCID, guestCID)
		m.receive(payload{make([]byte, headerSize-1)})
		m.receive(nil)
		if hs := sent(m); len(hs) != 0 {
			t.Errorf("%+v", hs)
		}
	})
}

func TestBrokenRulesResetTheConnection(t *testing.T) {
	for name, p := range map[string]payload{
		"a second request":        packet(fromGuest(opRequest, 7), ""),
		"a response nobody asked": packet(fromGuest(opResponse, 7), ""),
		"an unknown operation":    packet(fromGuest(8, 7), ""),
		"operation 0":             packet(fromGuest(0, 7), ""),
		"less data than it says": packet(func() header { h := fromGuest(opRW, 7); h.length = 5; return h }(),
			"1234"),
		"four gigabytes that it says": packet(func() header {
			h := fromGuest(opRW,
				7)
			h.length = 1<<32 - 1
			return h
		}(), "1234"),
		"more data than its credit": packet(func() header {
			h := fromGuest(opRW,
				7)
			h.length = window + 1
			return h
		}(), string(make([]byte, window+1))),
	} {
		t.Run(name, func(t *testing.T) {
			m, c := open(t)
			m.receive(p)
			if hs := sent(m); len(hs) != 1 || hs[0].op != opRst {
				t.Errorf("answer %+v, want one RST", hs)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.EPROTO) {
				t.Errorf("read: %v, want EPROTO", err)
			}
			c.Close()
			if m.open != 0 || len(m.conns) != 0 {
				t.Errorf("%d connections are left", m.open)
			}
		})
	}
	t.Run("data after its own promise to send no more", func(t *testing.T) {
		m, c := open(t)
		h := fromGuest(opShutdown, 7)
		h.flags = shutSend
		m.receive(packet(h, ""))
		h = fromGuest(opRW, 7)
		h.length = 1
		m.receive(packet(h, "x"))
		if hs := sent(m); len(hs) != 1 || hs[0].op != opRst {
			t.Errorf("answer %+v", hs)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v, want EOF", err)
		}
	})
}

func TestCredit(t *testing.T) {
	m, c := open(t)
	t.Run("we send no more than the peer has room for", func(t *testing.T) {
		c.Write(make([]byte, 100_000))
		total := uint32(0)
		asked := 0
		for _, h := range sent(m) {
			total += h.length
			if h.op == opCreditRequest {
				asked++
			}
		}
		if total != 1<<16 || asked != 1 {
			t.Errorf("%d bytes sent, credit asked for %d times", total, asked)
		}
		h := fromGuest(opCreditUpdate, 7)
		h.fwdCnt = 1 << 16
		m.receive(packet(h, ""))
		total = 0
		for _, h := range sent(m) {
			total += h.length
		}
		if total != 100_000-1<<16 {
			t.Errorf("%d bytes sent after the update", total)
		}
	})
	t.Run("a peer that claims to have taken more than we sent gets nothing", func(t *testing.T) {
		h := fromGuest(opCreditUpdate, 7)
		h.fwdCnt = 1 << 30
		m.receive(packet(h, ""))
		c.Write([]byte("x"))
		if hs := sent(m); len(hs) != 0 {
			t.Errorf("%+v", hs)
		}
	})
	t.Run("a request is answered", func(t *testing.T) {
		m.receive(packet(fromGuest(opCreditRequest, 7), ""))
		hs := sent(m)
		if len(hs) == 0 || hs[0].bufAlloc != window {
			t.Errorf("%+v", hs)
		}
	})
	t.Run("the peer hears of room in time", func(t *testing.T) {
		h := fromGuest(opRW, 7)
		h.length, h.fwdCnt = window, 100_000
		m.receive(packet(h, string(make([]byte, window))))
		sent(m)
		b := make([]byte, 1000)
		updates := 0
		for read := 0; read < window; {
			n, err := c.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			read += n
			for _, h := range sent(m) {
				if h.op == opCreditUpdate {
					updates++
				}
			}
		}
		if updates < 3 || updates > 5 {
			t.Errorf("%d updates for a whole window", updates)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Run("connections", func(t *testing.T) {
		m := newMux(agentapi.HostCID, guestCID)
		l, _ := m.listen(7)
		refused := 0
		for i := range uint32(maxConns + 10) {
			h := fromGuest(opRequest, 7)
			h.srcPort = i
			m.receive(packet(h, ""))
			for _, h := range sent(m) {
				if h.op == opRst {
					refused++
				}
			}
			if i%(backlog/2) == 0 {
				for range min(backlog/2, len(l.queue)) {
					l.Accept()
				}
			}
		}
		if len(m.conns) > maxConns || refused < 10 {
			t.Errorf("%d connections, %d refused", len(m.conns), refused)
		}
	})
	t.Run("connections that nobody accepts", func(t *testing.T) {
		m := newMux(agentapi.HostCID, guestCID)
		l, _ := m.listen(7)
		for i := range uint32(backlog + 10) {
			h := fromGuest(opRequest, 7)
			h.srcPort = i
			m.receive(packet(h, ""))
		}
		if len(m.conns) != backlog {
			t.Errorf("%d connections wait, want %d", len(m.conns), backlog)
		}
		l.Close()
		if len(m.conns) != 0 || m.open != 0 {
			t.Errorf("%d connections are left when the listener is closed", len(m.conns))
		}
	})
	t.Run("ends that the application has not seen count", func(t *testing.T) {
		m, c := open(t)
		h := fromGuest(opRW, 7)
		h.length = 5
		m.receive(packet(h, "12345"))
		h = fromGuest(opShutdown, 7)
		h.flags = shutBoth
		m.receive(packet(h, ""))
		if hs := sent(m); len(hs) != 1 || hs[0].op != opRst {
			t.Errorf("answer to SHUTDOWN: %+v", hs)
		}
		if len(m.conns) != 0 || m.open != 1 {
			t.Errorf("%d known, %d counted; want 0 and 1", len(m.conns), m.open)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "12345" {
			t.Errorf("read %q, %v", b, err)
		}
		c.Close()
		if m.open != 0 {
			t.Errorf("%d counted after Close", m.open)
		}
	})
	t.Run("answers", func(t *testing.T) {
		m := newMux(agentapi.HostCID, guestCID)
		woken := 0
		m.wakeReceive = func() { woken++ }
		n := 0
		for m.canReceive() {
			m.receive(packet(fromGuest(opRW, 8), ""))
			n++
		}
		if n != maxResets {
			t.Errorf("%d packets taken while nothing was sent, want %d", n, maxResets)
		}
		sent(m)
		if woken != 1 || !m.canReceive() {
			t.Errorf("woken %d times", woken)
		}
	})
}

func TestPeerThatDoesNotAnswerShutdown(t *testing.T) {
	m, c := open(t)
	m.timing = timing{close: time.Millisecond, drain: time.Minute}
	c.Write([]byte("last words"))
	c.Close()
	hs := sent(m)
	var ops []uint16
	for _, h := range hs {
		ops = append(ops, h.op)
	}
	// It hears at once that we do not read, then the data, then that we do not write either. One SHUTDOWN may say both
	// at the end.
	if len(hs) < 2 || hs[len(hs)-1].op != opShutdown || hs[len(hs)-1].flags != shutBoth {
		t.Fatalf("sent %v", ops)
	}
	eventually(t, "a RST follows", func() bool { hs := sent(m); return len(hs) == 1 && hs[0].op == opRst })
	if muxOpen(m) != 0 {
		t.Errorf("%d connections are left", muxOpen(m))
	}
}

func TestPeerThatTakesNothingAfterClose(t *testing.T) {
	m, c := open(t)
	m.timing = timing{close: time.Minute, drain: time.Millisecond}
	c.Write(make([]byte, 100_000)) // more than the credit
	c.Close()
	eventually(t, "the connection is given up", func() bool { sent(m); return muxOpen(m) == 0 })
}

func TestAddressesAreFreeAgain(t *testing.T) {
	m := newMux(agentapi.HostCID, guestCID)
	l, _ := m.listen(7)
	for range 3 { // the same ports each time
		m.receive(packet(fromGuest(opRequest, 7), ""))
		if hs := sent(m); len(hs) != 1 || hs[0].op != opResponse {
			t.Fatalf("answer %+v", hs)
		}
		c, _ := l.Accept()
		c.Close()
		sent(m)
		m.receive(packet(fromGuest(opRst, 7), ""))
	}
	if muxOpen(m) != 0 {
		t.Errorf("%d connections are left", muxOpen(m))
	}
}

func TestTinyReceiveBufferBreaksTheDevice(t *testing.T) {
	d := newTestDevice(t)
	g := newRawGuest(t, d, 0)
	g.rx.SetDesc(0, vhostusertest.GuestBase+uint64(g.rxBuf[0]), headerSize-1, vhostusertest.Write, 0)
	g.rx.Offer(0)
	g.rx.Kick()
	ctx := testContext(t)
	got := make(chan error, 1)
	go func() {
		_, err := d.Dial(ctx, 5)
		got <- err
	}()
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial: %v, want ECONNRESET", err)
	}
	if d.Broken() == nil {
		t.Error("the device is not broken")
	}
}

func TestGuestThatTakesNothingCannotStopTheHost(t *testing.T) {
	d := newTestDevice(t)
	g := newRawGuest(t, d, 0)
	g.mux = newMux(guestCID, agentapi.HostCID)
	// It never offers receive buffers, and floods the host with packets that want an answer.
	b := g.Mem[g.txBuf[0]:][:headerSize]
	h := fromGuest(opRW, 8)
	h.encode((*[headerSize]byte)(b))
	g.tx.SetDesc(0, vhostusertest.GuestBase+uint64(g.txBuf[0]), headerSize, 0, 0)
	for range txRing {
		g.tx.Offer(0)
	}
	g.tx.ForceKick()
	taken := 0
	// Until it takes no more, however slow the machine is.
	for last := time.Now(); taken <= 2*maxResets && time.Since(last) < time.Second; {
		if _, _, ok := g.tx.Take(); ok {
			taken++
			last = time.Now()
			g.tx.Offer(0)
			g.tx.Kick()
		}
	}
	if taken < maxResets-txRing || taken > maxResets+1 {
		t.Errorf("%d packets taken, want about %d", taken, maxResets)
	}
	d.mux.mu.Lock()
	if n := len(d.mux.resets); n > maxResets {
		t.Errorf("%d answers wait", n)
	}
	d.mux.mu.Unlock()
	// It may go on as soon as it takes its answers.
	for i := range uint32(rxRing) {
		g.offerRx(i)
	}
	g.rx.ForceKick()
	if _, n := g.rx.Wait(); n != headerSize {
		t.Errorf("an answer of %d bytes", n)
	}
}

func TestDeadlinesDoNotLoseBytes(t *testing.T) {
	m, c := open(t)
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	var nerr net.Error
	_, err := c.Read(make([]byte, 1))
	if !errors.As(err, &nerr) || !nerr.Timeout() {
		t.Errorf("%v is no time-out", err)
	}
	h := fromGuest(opRW, 7)
	h.length = 2
	m.receive(packet(h, "ok"))
	c.SetReadDeadline(time.Time{})
	b := make([]byte, 2)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "ok" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// FuzzPackets lets a guest send anything. Each packet is 44 bytes of header and as much payload as its length says, as
// far as there is.
func FuzzPackets(f *testing.F) {
	enc := func(hs ...header) []byte {
		var all []byte
		for _, h := range hs {
			var b [headerSize]byte
			h.encode(&b)
			all = append(append(all, b[:]...), make([]byte, h.length%1000)...)
		}
		return all
	}
	rw := fromGuest(opRW, 7)
	rw.length = 100
	shut := fromGuest(opShutdown, 7)
	shut.flags = shutBoth
	f.Add(enc(fromGuest(opRequest, 7), rw, rw, fromGuest(opCreditRequest, 7), shut))
	f.Add(enc(fromGuest(opRequest, 7), fromGuest(opRst, 7), fromGuest(opRequest, 7), fromGuest(opRequest, 7)))
	f.Add(enc(header{srcCID: guestCID, dstCID: agentapi.HostCID, srcPort: 5, dstPort: firstEphemeral, kind: typeStream,
		op: opResponse, bufAlloc: 1 << 31}))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMux(agentapi.HostCID, guestCID)
		l, err := m.listen(7)
		if err != nil {
			t.Fatal(err)
		}
		c, err := m.dial(5) // a connection of ours that the guest may answer
		if err != nil {
			t.Fatal(err)
		}
		sent(m)
		for len(data) >= headerSize {
			if !m.canReceive() {
				sent(m)
			}
			n := uint64(le.Uint32(data[24:]))
			n = headerSize + min(n, uint64(len(data)-headerSize))
			m.receive(payload{data[:n]})
			data = data[n:]
			sent(m)
			if len(l.queue) > 0 {
				a, _ := l.Accept()
				a.SetDeadline(time.Now().Add(-time.Second))
				a.(*muxConn).out.write([]byte("data")) // as Write would, without waiting
				if n%2 == 0 {
					a.Close()
				}
			}
		}
		c.SetDeadline(time.Now().Add(-time.Second))
		c.Read(make([]byte, 10))
		held := 0
		for _, c := range m.conns {
			held += c.in.len()
			if c.in.len() > window {
				t.Fatalf("%d bytes are held for one connection", c.in.len())
			}
		}
		if len(m.conns) > m.open || m.open > maxConns || len(m.resets) > maxResets {
			t.Fatalf("%d connections, %d counted, %d answers", len(m.conns), m.open, len(m.resets))
		}
		m.close(errDeviceClosed)
		if len(m.conns) != 0 {
			t.Fatal("connections after close")
		}
	})
}

// FuzzConnect reads what a client of the UNIX socket says.
func FuzzConnect(f *testing.F) {
	f.Add("CONNECT 1024\n")
	f.Add("connect 4294967295\nrest")
	f.Add("CONNECT -1\n")
	f.Fuzz(func(t *testing.T, s string) {
		r := &counter{s: s}
		_, err := readConnect(r)
		if r.n > maxHandshake || err == nil && s[r.n-1] != '\n' {
			t.Fatalf("read %d bytes, %v", r.n, err)
		}
	})
}

type counter struct {
	s string
	n int
}

func (c *counter) Read(b []byte) (int, error) {
	if c.n == len(c.s) {
		return 0, io.EOF
	}
	n := copy(b, c.s[c.n:])
	c.n += n
	return n, nil
}
