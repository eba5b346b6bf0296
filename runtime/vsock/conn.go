package vsock

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// What a connection has to send beside its data.
const (
	sendRequest = 1 << iota
	sendResponse
	sendCredit
	sendCreditRequest
)

// muxConn is a stream between the host and a port of the guest. It is a net.Conn with CloseWrite and CloseRead.
//
// Write returns when the bytes are in the connection's buffer. Close returns at once; what was written before is still
// delivered. Reset drops it.
type muxConn struct {
	m   *mux
	key key

	// Everything below is guarded by m.mu.
	cond        sync.Cond // something changed
	dialled     bool      // by us: the peer owes a response
	established bool
	gone        bool // no longer in m.conns: nothing comes or goes any more
	counted     bool // in m.open
	queued      bool // in m.ready
	err         error
	pending     int

	in        buffer
	eof       bool // the peer will not send any more
	fwdCnt    uint32
	fwdTold   uint32 // fwdCnt as the peer knows it
	out       buffer
	txCnt     uint32
	peerAlloc uint32
	peerFwd   uint32
	// creditAsked is true from a credit request until there is credit.
	creditAsked bool

	peerShut  uint32 // flags of the peer's SHUTDOWN packets
	shut      uint32 // flags that we want to say
	shutTold  uint32 // flags that we said
	closed    bool   // by the application
	timer     *time.Timer
	drainMark uint32 // txCnt when timer was set

	readDeadline, writeDeadline deadline
}

var _ net.Conn = (*muxConn)(nil)

// sendable says whether payload may go out.
func (c *muxConn) sendable() bool {
	return c.established && c.out.len() > 0 && c.credit() > 0 && c.peerShut&shutReceive == 0
}

// credit is how many bytes the peer has room for. Whatever it claims, the result is sane.
func (c *muxConn) credit() int {
	inFlight := c.txCnt - c.peerFwd
	if inFlight > c.peerAlloc {
		return 0
	}
	return int(min(c.peerAlloc-inFlight, maxPacket))
}

// shutDue says which SHUTDOWN flags may go out now: that we send no more only after everything was sent.
func (c *muxConn) shutDue() uint32 {
	due := c.shut
	if c.out.len() > 0 && c.peerShut&shutReceive == 0 {
		due &^= shutSend
	}
	if due&^c.shutTold == 0 || !c.established {
		return 0
	}
	return due | c.shutTold
}

func (c *muxConn) wantsToSend() bool {
	return !c.gone && (c.pending != 0 || c.sendable() || c.shutDue() != 0)
}

// nextPacket decides what to send; op 0 is nothing.
func (c *muxConn) nextPacket(room int) (h header, n int) {
	if c.gone {
		return header{}, 0
	}
	switch {
	case c.pending&sendRequest != 0:
		h.op = opRequest
	case c.pending&sendResponse != 0:
		h.op = opResponse
	case c.sendable() && room > 0:
		h.op = opRW
		n = min(c.out.len(), c.credit(), room)
		h.length = uint32(n)
	case c.shutDue() != 0:
		h.op, h.flags = opShutdown, c.shutDue()
	case c.pending&sendCredit != 0:
		h.op = opCreditUpdate
	case c.pending&sendCreditRequest != 0:
		h.op = opCreditRequest
	default:
		return header{}, 0
	}
	h.srcCID, h.dstCID = uint64(c.m.localCID), uint64(c.m.peerCID)
	h.srcPort, h.dstPort = c.key.local, c.key.peer
	h.kind, h.bufAlloc, h.fwdCnt = typeStream, window, c.fwdCnt
	return h, n
}

// sent notes what nextPacket decided and the driver has carried out.
func (c *muxConn) sent(h *header, n int) {
	c.fwdTold = c.fwdCnt
	c.pending &^= sendCredit // every packet carries fwdCnt
	switch h.op {
	case opRequest:
		c.pending &^= sendRequest
	case opResponse:
		c.pending &^= sendResponse
	case opCreditRequest:
		c.pending &^= sendCreditRequest
	case opShutdown:
		c.shutTold |= h.flags
		if c.shutTold == shutBoth {
			c.setTimer(c.m.timing.close)
		}
	case opRW:
		c.out.drop(n)
		c.txCnt += uint32(n)
		if c.out.len() > 0 && c.credit() == 0 && !c.creditAsked {
			c.creditAsked = true
			c.pending |= sendCreditRequest
		}
		c.cond.Broadcast()
	}
}

// receive is a packet of this connection, whose payload is as long as it says.
func (c *muxConn) receive(h *header, data payload) {
	m := c.m
	switch h.op {
	case opResponse:
		if !c.dialled || c.established || c.pending&sendRequest != 0 {
			m.abort(c, syscall.EPROTO)
			return
		}
		c.established = true
		c.cond.Broadcast()
		if c.wantsToSend() {
			m.enqueue(c)
		}
	case opRW:
		switch {
		case !c.established || c.peerShut&shutSend != 0 || int(h.length) > window-c.in.len():
			m.abort(c, syscall.EPROTO) // the peer ignored our credit, or its own promise
		case c.shut&shutReceive != 0:
			c.fwdCnt += h.length // nobody will read it, and it was told so
			c.tellCredit()
		default:
			c.in.fill(data, int(h.length))
			c.cond.Broadcast()
		}
	case opShutdown:
		c.peerShut |= h.flags & shutBoth
		if c.peerShut&shutSend != 0 {
			c.eof = true
		}
		if c.peerShut == shutBoth {
			// The clean end: the peer gets its RST, and our application still reads what came before.
			m.abort(c, nil)
		}
		if c.wantsToSend() {
			m.enqueue(c)
		}
		c.cond.Broadcast()
	case opRst:
		switch {
		case c.shutTold == shutBoth:
			c.end(nil) // the peer's answer to our SHUTDOWN
		case !c.established:
			c.end(syscall.ECONNREFUSED)
		default:
			c.end(syscall.ECONNRESET)
		}
	case opCreditRequest:
		c.pending |= sendCredit
		m.enqueue(c)
	case opCreditUpdate:
		// The header has said it.
	default: // a second opRequest among them
		m.abort(c, syscall.EPROTO)
	}
}

// accept answers the peer's request.
func (c *muxConn) accept() {
	c.established = true
	c.pending |= sendResponse
	c.m.enqueue(c)
}

// end takes the connection out of the mux. What came in stays readable. A nil err is a clean end.
func (c *muxConn) end(err error) {
	if c.gone {
		return
	}
	c.gone = true
	c.pending = 0
	if err == nil {
		c.eof = true
	} else if c.err == nil {
		c.err = err
	}
	delete(c.m.conns, c.key)
	c.out.reset()
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.closed {
		c.release()
	}
	c.cond.Broadcast()
}

// release stops counting the connection: both sides are done with it.
func (c *muxConn) release() {
	if c.counted {
		c.counted = false
		c.m.open--
	}
	c.in.reset()
}

// setTimer has the connection end in d, unless bytes move meanwhile.
func (c *muxConn) setTimer(d time.Duration) {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.drainMark = c.txCnt
	c.timer = time.AfterFunc(d, c.expire)
}

func (c *muxConn) expire() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	switch {
	case c.gone:
	case c.shutTold != shutBoth && c.txCnt != c.drainMark:
		c.setTimer(c.m.timing.drain)
	default:
		c.m.abort(c, nil)
	}
}

// tellCredit lets the peer know that there is room again, when it is worth a packet.
func (c *muxConn) tellCredit() {
	if !c.gone && c.fwdCnt-c.fwdTold >= window/4 {
		c.pending |= sendCredit
		c.m.enqueue(c)
	}
}

// wait returns when the peer has answered a dial.
func (c *muxConn) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		c.m.mu.Lock()
		c.cond.Broadcast()
		c.m.mu.Unlock()
	})
	defer stop()
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for !c.established && !c.gone && ctx.Err() == nil {
		c.cond.Wait()
	}
	var err error
	switch {
	case c.established:
		return nil // even if it is over already: there may be something to read
	case c.gone:
		err = c.err
	default:
		err = context.Cause(ctx)
		c.m.abort(c, err)
	}
	c.release()
	return err
}

// Read reads what the peer sent, and io.EOF after the peer's orderly end.
func (c *muxConn) Read(b []byte) (int, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for {
		switch {
		case c.closed || c.shut&shutReceive != 0:
			if c.closed {
				return 0, c.fail("read", net.ErrClosed)
			}
			return 0, io.EOF
		case c.readDeadline.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case c.in.len() > 0:
			n := min(len(b), c.in.len())
			p, q := c.in.peek(n)
			copy(b[copy(b, p):], q)
			c.in.drop(n)
			c.fwdCnt += uint32(n)
			c.tellCredit()
			return n, nil
		case c.eof:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.fail("read", c.err)
		}
		c.cond.Wait()
	}
}

// Write writes to the peer. It returns when everything is in the connection's buffer, which the peer's credit empties.
func (c *muxConn) Write(b []byte) (int, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	done := 0
	for {
		switch {
		case c.closed:
			return done, c.fail("write", net.ErrClosed)
		case c.writeDeadline.passed():
			return done, c.fail("write", os.ErrDeadlineExceeded)
		case c.err != nil:
			return done, c.fail("write", c.err)
		case c.gone || c.shut&shutSend != 0 || c.peerShut&shutReceive != 0:
			return done, c.fail("write", syscall.EPIPE)
		}
		if n := min(len(b)-done, window-c.out.len()); n > 0 {
			c.out.write(b[done : done+n])
			done += n
			if c.wantsToSend() {
				c.m.enqueue(c)
			}
		}
		if done == len(b) {
			return done, nil
		}
		c.cond.Wait()
	}
}

// CloseWrite lets the peer read the end after everything that was written.
func (c *muxConn) CloseWrite() error { return c.shutdown(shutSend) }

// CloseRead drops what the peer sends from now on; it is told so.
func (c *muxConn) CloseRead() error { return c.shutdown(shutReceive) }

func (c *muxConn) shutdown(flags uint32) error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.shutdownLocked(flags)
	return nil
}

func (c *muxConn) shutdownLocked(flags uint32) {
	c.shut |= flags
	if flags&shutReceive != 0 {
		c.fwdCnt += uint32(c.in.len())
		c.in.reset()
		c.tellCredit()
	}
	c.cond.Broadcast()
	if c.wantsToSend() {
		c.m.enqueue(c)
	}
}

// Close ends the connection. The peer reads everything that was written before, then the end; the address is free again
// once it has answered or did not for some seconds.
func (c *muxConn) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	if c.gone {
		c.release()
		c.cond.Broadcast()
		return nil
	}
	c.shutdownLocked(shutBoth)
	c.setTimer(c.m.timing.drain)
	return nil
}

// Reset ends the connection at once: what was written and not sent is lost, and the peer sees a connection reset.
func (c *muxConn) Reset() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.closed = true
	c.m.abort(c, net.ErrClosed)
	c.release()
}

// waitGone returns when neither side can use the connection any more. What came in may still be read.
func (c *muxConn) waitGone() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	for !c.gone {
		c.cond.Wait()
	}
}

// failure is why the connection ended other than in order, or nil.
func (c *muxConn) failure() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.err
}

func (c *muxConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr is the host's CID and port.
func (c *muxConn) LocalAddr() net.Addr {
	return &addr{ContextID: c.m.localCID, Port: c.key.local}
}

// RemoteAddr is the guest's CID and port.
func (c *muxConn) RemoteAddr() net.Addr {
	return &addr{ContextID: c.m.peerCID, Port: c.key.peer}
}

// SetDeadline sets both deadlines; the zero time is none.
func (c *muxConn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.writeDeadline)
}

// SetReadDeadline bounds Read.
func (c *muxConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.readDeadline) }

// SetWriteDeadline bounds Write.
func (c *muxConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.writeDeadline) }

func (c *muxConn) setDeadlines(t time.Time, ds ...*deadline) error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	for _, d := range ds {
		d.set(t, c)
	}
	c.cond.Broadcast()
	return nil
}

// deadline is a point in time that wakes those who wait for the connection.
type deadline struct {
	expired bool
	timer   *time.Timer
}

func (d *deadline) passed() bool { return d.expired }

func (d *deadline) set(t time.Time, c *muxConn) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.expired = false
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		d.expired = true
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			c.m.mu.Lock()
			defer c.m.mu.Unlock()
			if d.timer == timer { // not replaced since
				d.expired = true
				c.cond.Broadcast()
			}
		})
		d.timer = timer
	}
}
