package vsock

import (
	"errors"
	"math"
	"net"
	"sync"
	"syscall"
	"time"
)

// Limits of one guest's device. They bound what a guest can make the host spend: with these, 256 MiB of received bytes
// and 1024 goroutines.
const (
	// connections, those counted whose other side is gone but which the host's application has not closed
	maxConns = 1024
	// answers to packets that belong to no connection; no packet is taken from the guest while so many wait
	maxResets = 256
	backlog   = 512       // connections that wait for Accept, for each listener
	window    = 256 << 10 // bytes received for a connection and not yet read, and bytes written and not yet sent
	maxPacket = 64 << 10  // payload of a packet that we send
)

// firstEphemeral is where the host's ports for outgoing connections begin: well above what people choose for services.
const firstEphemeral = 1 << 30

// timing of the end of a connection. The zero value of a field is not usable; see defaultTiming.
type timing struct {
	close time.Duration // how long the peer may take to answer SHUTDOWN with RST
	drain time.Duration // how long the peer may go without taking any of what was written before Close
}

var defaultTiming = timing{close: 8 * time.Second, drain: 30 * time.Second}

// key names a connection: the mux serves one pair of CIDs.
type key struct{ local, peer uint32 }

// mux makes connections of packets, for one side of a vsock device. Its driver hands it what the other side sent
// (receive) and asks for what to send (next). It never blocks.
type mux struct {
	localCID, peerCID uint32
	timing            timing
	wakeSend          func() // called, perhaps with mu held, when next has something; must not block or call back
	wakeReceive       func() // likewise when receive, after it said no, can go on
	onRequest         func(port uint32) func(*muxConn) bool

	mu        sync.Mutex // guards everything below and every Conn
	conns     map[key]*muxConn
	open      int // Conns that count towards maxConns
	listeners map[uint32]*listener
	ready     []*muxConn // round robin: those that next may ask
	resets    []header
	blocked   bool // receive said no
	nextPort  uint32
	closed    error
}

func newMux(localCID, peerCID uint32) *mux {
	return &mux{
		localCID: localCID, peerCID: peerCID, timing: defaultTiming,
		wakeSend: func() {}, wakeReceive: func() {},
		conns: map[key]*muxConn{}, listeners: map[uint32]*listener{}, nextPort: firstEphemeral,
	}
}

// canReceive says whether receive may be called now. When not, wakeReceive will be called.
func (m *mux) canReceive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocked = len(m.resets) >= maxResets
	return !m.blocked
}

// receive takes a packet from the other side. Nothing in it is trusted; it is not kept.
func (m *mux) receive(p payload) {
	var raw [headerSize]byte
	n, data := p.read(raw[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < headerSize {
		return // too short to be answered
	}
	var h header
	h.decode(&raw)
	if h.srcCID != uint64(m.peerCID) || h.dstCID != uint64(m.localCID) || h.kind != typeStream {
		m.refuse(&h)
		return
	}
	k := key{local: h.dstPort, peer: h.srcPort}
	c := m.conns[k]
	if c == nil {
		if h.op == opRequest {
			m.request(k, &h)
		} else {
			m.refuse(&h)
		}
		return
	}
	if uint64(h.length) > data.size() {
		m.abort(c, syscall.EPROTO)
		return
	}
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	if c.sendable() {
		c.creditAsked = false
		m.enqueue(c)
	}
	c.receive(&h, data)
}

// refuse answers a packet that nobody can use. A RST is never answered, or two sides would never stop.
func (m *mux) refuse(h *header) {
	if h.op == opRst {
		return
	}
	kind := h.kind
	m.resets = append(m.resets, header{
		// The peer finds its socket by the addresses it used, whatever they were.
		srcCID: h.dstCID, srcPort: h.dstPort, dstCID: uint64(m.peerCID), dstPort: h.srcPort, kind: kind, op: opRst,
	})
	m.wakeSend()
}

// request is what the other side sends to ask for a new connection.
func (m *mux) request(k key, h *header) {
	if m.open >= maxConns || m.closed != nil {
		m.refuse(h)
		return
	}
	if l := m.listeners[k.local]; l != nil {
		if len(l.queue) >= backlog {
			m.refuse(h)
			return
		}
		c := m.newConn(k)
		c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
		c.accept()
		l.queue = append(l.queue, c)
		l.cond.Broadcast()
		return
	}
	if m.onRequest != nil {
		if serve := m.onRequest(k.local); serve != nil {
			c := m.newConn(k)
			c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
			go func() {
				if !serve(c) {
					m.mu.Lock()
					m.abort(c, syscall.ECONNREFUSED)
					c.release()
					m.mu.Unlock()
				}
			}()
			return
		}
	}
	m.refuse(h)
}

func (m *mux) newConn(k key) *muxConn {
	c := &muxConn{m: m, key: k, counted: true}
	c.cond.L = &m.mu
	m.conns[k] = c
	m.open++
	return c
}

// dial begins a connection. The Conn's wait tells how it went.
func (m *mux) dial(port uint32) (*muxConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return nil, m.closed
	}
	if m.open >= maxConns {
		return nil, syscall.EMFILE
	}
	k := key{peer: port}
	for {
		k.local = m.nextPort
		if m.nextPort++; m.nextPort == math.MaxUint32 { // that one is VMADDR_PORT_ANY
			m.nextPort = firstEphemeral
		}
		if m.conns[k] == nil && m.listeners[k.local] == nil {
			break
		}
	}
	c := m.newConn(k)
	c.dialled = true
	c.pending |= sendRequest
	m.enqueue(c)
	return c, nil
}

// enqueue puts c into the round robin.
func (m *mux) enqueue(c *muxConn) {
	if !c.queued {
		c.queued = true
		m.ready = append(m.ready, c)
	}
	m.wakeSend()
}

// next takes the next packet to send, whose payload has at most room bytes: a header and its payload in two slices,
// which are valid until the function it returns is called. That function, done, must be called before anything else
// happens to the mux.
//
// The mux stays locked from a true result until done.
func (m *mux) next(room int) (h header, p, q []byte, done func(), ok bool) {
	m.mu.Lock()
	if len(m.resets) > 0 {
		h = m.resets[0]
		m.resets = m.resets[1:]
		if len(m.resets) == 0 {
			m.resets = nil
		}
		return h, nil, nil, m.unlockAndResume, true
	}
	for len(m.ready) > 0 {
		c := m.ready[0]
		m.ready[0] = nil
		if m.ready = m.ready[1:]; len(m.ready) == 0 {
			m.ready = nil
		}
		c.queued = false
		h, n := c.nextPacket(room)
		if h.op == 0 {
			continue
		}
		p, q = c.out.peek(n)
		return h, p, q, func() {
			c.sent(&h, n)
			if c.wantsToSend() {
				c.queued = true
				m.ready = append(m.ready, c) // behind everybody else
			}
			m.unlockAndResume()
		}, true
	}
	m.mu.Unlock()
	return header{}, nil, nil, nil, false
}

func (m *mux) unlockAndResume() {
	resume := m.blocked && len(m.resets) < maxResets/2
	if resume {
		m.blocked = false
	}
	m.mu.Unlock()
	if resume {
		m.wakeReceive()
	}
}

// hasNext says whether next would find a packet.
func (m *mux) hasNext() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.resets) > 0 {
		return true
	}
	for len(m.ready) > 0 {
		c := m.ready[0]
		if c.wantsToSend() {
			return true
		}
		c.queued = false
		m.ready = m.ready[1:]
	}
	return false
}

// abort ends c at once, with a RST for the peer if it knows the connection. mu is held.
func (m *mux) abort(c *muxConn, err error) {
	if c.gone {
		return
	}
	if c.pending&sendRequest == 0 { // else the peer never heard of it
		m.resets = append(m.resets, header{
			srcCID: uint64(m.localCID), srcPort: c.key.local, dstCID: uint64(m.peerCID), dstPort: c.key.peer,
			kind: typeStream, op: opRst,
		})
		m.wakeSend()
	}
	c.end(err)
}

// reset ends every connection without a packet: the peer that knew them is no more.
func (m *mux) reset(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.end(err)
	}
	m.resets = nil
	m.ready = nil
	m.blocked = false
}

// close ends everything, for good.
func (m *mux) close(err error) {
	m.reset(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return
	}
	m.closed = err
	for _, l := range m.listeners {
		l.closeLocked()
	}
}

func (m *mux) listen(port uint32) (*listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return nil, m.closed
	}
	if m.listeners[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{m: m, port: port}
	l.cond.L = &m.mu
	m.listeners[port] = l
	return l, nil
}

// listener implements net.Listener for connections that the other side makes.
type listener struct {
	m      *mux
	port   uint32
	cond   sync.Cond // m.mu
	queue  []*muxConn
	closed bool
}

var _ net.Listener = (*listener)(nil)

func (l *listener) Accept() (net.Conn, error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
		}
		l.cond.Wait()
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close refuses further connections and resets those that nobody accepted.
func (l *listener) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.m.listeners, l.port)
	for _, c := range l.queue {
		l.m.abort(c, syscall.ECONNRESET)
		c.release()
	}
	l.queue = nil
	l.cond.Broadcast()
}

func (l *listener) Addr() net.Addr {
	return &addr{ContextID: l.m.localCID, Port: l.port}
}

var errDeviceClosed = errors.New("vsock device closed")
