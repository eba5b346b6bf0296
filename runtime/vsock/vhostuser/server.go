// Package vhostuser is the back end of a vhost-user device: it speaks the protocol with the virtual machine monitor,
// maps the guest's memory, and hands split virtqueues to a Device.
//
// In come a UNIX socket and a Device; out go virtqueues. It does not know what the device does. Guest memory and
// every number in it are hostile: each address is checked against the memory table, each descriptor is read once, and a
// driver that breaks the rules breaks only its own device. Specifications: VIRTIO 1.2 section 2.7, and QEMU's
// docs/interop/vhost-user.rst.
package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Device is what sits behind the queues. The Server calls it with its lock held, so never twice at once, and from
// several goroutines; it may call Wake, and no other method of the Server.
type Device interface {
	// Process works off queue index: it takes chains, gives each of them back with Push, and calls Flush. An error, or
	// a broken queue, breaks the device until the driver sets it up anew.
	Process(index int, q *Queue) error
	// Running says whether all of the first DataQueues queues are started and enabled, each time that changes.
	Running(bool)
	// Reset is called when the driver that used the device is gone: it began anew, or the front end hung up, or it
	// broke the rules. The next driver knows nothing of what was before.
	Reset(cause error)
}

// Options describe the device to the front end.
type Options struct {
	Queues     int    // how many queues the device has
	DataQueues int    // how many of them must run before Device.Running is told so
	Features   uint64 // device features beside those of the rings
	Config     []byte // configuration space; the driver cannot write it
	Log        *slog.Logger
}

// ErrDriverRestarted is the cause of a Reset when a driver set the rings up anew.
var ErrDriverRestarted = errors.New("the guest's driver started anew")

// ErrFrontEndGone is the cause of a Reset when the virtual machine monitor closed its socket.
var ErrFrontEndGone = errors.New("the virtual machine monitor hung up")

// ring is a queue with what the protocol knows about it.
type ring struct {
	q        Queue
	size     uint32
	addrs    ringAddrs
	hasAddrs bool
	base     uint16

	started   bool // between SET_VRING_KICK and GET_VRING_BASE
	enabled   bool
	ran       bool     // was started before
	stoppedAt uint16   // q.next when it was stopped
	kick      *os.File // read by a goroutine of its own until it is closed
	call, err int      // eventfds, or -1
}

// Server is the back end. It serves one front end at a time.
type Server struct {
	dev  Device
	opt  Options
	log  *slog.Logger
	wake chan struct{}

	pending atomic.Uint32 // bit i: queue i has something to do
	kicks   sync.WaitGroup

	mu       sync.Mutex // guards everything below, the guest's memory included
	mem      memory
	rings    []ring
	features uint64
	protocol uint64
	broken   error
	running  bool
	conn     *net.UnixConn
	closed   bool
}

// New makes a Server for dev.
func New(dev Device, opt Options) *Server {
	s := &Server{dev: dev, opt: opt, log: opt.Log, wake: make(chan struct{}, 1), rings: make([]ring, opt.Queues)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for i := range s.rings {
		s.rings[i].call, s.rings[i].err = -1, -1
	}
	return s
}

// Wake has queue index processed soon. It never blocks and may be called from anywhere, before Serve and after it too.
func (s *Server) Wake(index int) {
	s.pending.Or(1 << index)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Serve speaks with the front end until that hangs up, which is no error, or breaks the protocol. It closes conn. It
// may be called again with another front end once it has returned.
func (s *Server) Serve(conn *net.UnixConn) error {
	s.mu.Lock()
	if s.closed || s.conn != nil {
		s.mu.Unlock()
		return errors.Join(errors.New("vhost-user: closed, or has a front end already"), conn.Close())
	}
	s.conn = conn
	s.mu.Unlock()

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s.pump(stop)
	}()
	err := s.talk(conn)
	close(stop)
	<-stopped

	s.mu.Lock()
	s.hangUp()
	s.conn = nil
	s.mu.Unlock()
	s.kicks.Wait()
	_ = conn.Close() // only read from and written to in whole messages: nothing is lost
	if err != nil {
		return fmt.Errorf("vhost-user: %w", err)
	}
	return nil
}

// Close makes Serve return. Calling it again is a no-op.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		return s.conn.CloseRead() // ends the read in talk, which then cleans up
	}
	return nil
}

// Broken is why the device stopped serving its driver, or nil.
func (s *Server) Broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// pump processes queues for Wake.
func (s *Server) pump(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-s.wake:
		}
		s.mu.Lock()
		s.process(0)
		s.mu.Unlock()
	}
}

// process works off the queues in the bit set, and those woken meanwhile. s.mu is held.
func (s *Server) process(set uint32) {
	// A few rounds, then the lock goes to whoever else wants it: a guest that never rests must not keep it.
	for range 4 {
		set |= s.pending.Swap(0)
		if set == 0 {
			return
		}
		for i := range s.rings {
			if set&(1<<i) != 0 {
				s.processOne(i)
			}
		}
		set = 0
	}
	if s.pending.Load() != 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Server) processOne(i int) {
	r := &s.rings[i]
	if !r.live() || s.broken != nil {
		return
	}
	if err := s.touch(func() error { return s.dev.Process(i, &r.q) }); err != nil {
		s.breakDevice(fmt.Errorf("queue %d: %w", i, err))
	}
}

// touch runs f, which touches guest memory. A memory fault there, as when the host has no page left for the guest,
// becomes an error.
func (s *Server) touch(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			fault, ok := p.(interface {
				error
				Addr() uintptr
			})
			if !ok {
				panic(p) // our own bug
			}
			err = fmt.Errorf("guest memory: %w", fault)
		}
	}()
	return f()
}

func (s *Server) breakDevice(err error) {
	s.log.Warn("virtio device broken by its driver", "err", err)
	s.broken = err
	for i := range s.rings {
		if fd := s.rings[i].err; fd >= 0 {
			notify(fd)
		}
	}
	s.tellRunning()
	s.dev.Reset(err)
}

func (r *ring) live() bool { return r.started && r.enabled && r.q.mem != nil }

// tellRunning tells the device when all of its data queues have come to life, or no longer live.
func (s *Server) tellRunning() {
	now := s.broken == nil
	for i := range s.opt.DataQueues {
		now = now && s.rings[i].live()
	}
	if now != s.running {
		s.running = now
		s.dev.Running(now)
	}
}

// notify adds one to an eventfd. It never blocks; a full counter is notification enough.
func notify(fd int) {
	var one [8]byte
	one[0] = 1
	_, _ = unix.Write(fd, one[:])
}

func (s *Server) talk(conn *net.UnixConn) error {
	for {
		m, err := readMessage(conn)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		reply, err := s.handle(m)
		ack := m.flags&flagNeedReply != 0 && s.protocol&(1<<protocolReplyAck) != 0
		s.mu.Unlock()
		m.close()
		if err != nil {
			err = fmt.Errorf("request %d: %w", m.request, err)
			if reply != nil || !ack {
				return err // there is no other way to tell the front end
			}
			s.log.Warn("vhost-user request refused", "err", err)
			reply = le.AppendUint64(nil, 1)
		} else if reply == nil && ack {
			reply = le.AppendUint64(nil, 0)
		}
		if reply == nil {
			continue
		}
		if err := writeReply(conn, m.request, reply); err != nil {
			return fmt.Errorf("reply to request %d: %w", m.request, err)
		}
	}
}

// handle carries one request out. s.mu is held.
func (s *Server) handle(m *message) (reply []byte, err error) {
	switch m.request {
	case getFeatures:
		return le.AppendUint64(nil, s.offered()), nil
	case setFeatures:
		return nil, s.setFeatures(m)
	case setOwner:
		return nil, nil
	case resetOwner, resetDevice:
		s.resetRings(ErrDriverRestarted)
		return nil, nil
	case getProtocolFeatures:
		return le.AppendUint64(nil, offeredProtocol), nil
	case setProtocolFeatures:
		v, err := m.u64()
		if err == nil && v&^offeredProtocol != 0 {
			err = fmt.Errorf("protocol features %#x were not offered", v&^offeredProtocol)
		}
		if err == nil {
			s.protocol = v
		}
		return nil, err
	case getQueueNum:
		return le.AppendUint64(nil, uint64(s.opt.Queues)), nil
	case getConfig:
		return s.config(m)
	case setConfig:
		return nil, errors.New("the configuration space is read-only")
	case setMemTable:
		return nil, s.setMemTable(m)
	case setVringKick, setVringCall, setVringErr:
		return nil, s.setFile(m)
	case setVringAddr:
		return nil, s.setAddr(m)
	case setVringNum, setVringBase, getVringBase, setVringEnable:
		return s.setState(m)
	}
	// The front end may send only what was negotiated. It learns of its mistake by the acknowledgement if it asked for
	// one; a reply it may be waiting for instead cannot be made up, so otherwise the connection ends.
	return nil, errors.New("unknown request")
}

const offeredProtocol = 1<<protocolMQ | 1<<protocolReplyAck | 1<<protocolConfig | 1<<protocolResetDevice

func (s *Server) offered() uint64 {
	return s.opt.Features | 1<<ringIndirect | 1<<ringEventIdx | 1<<protocolFeatures | 1<<version1
}

func (s *Server) setFeatures(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	if v&^s.offered() != 0 {
		return fmt.Errorf("features %#x were not offered", v&^s.offered())
	}
	s.features = v
	for i := range s.rings {
		r := &s.rings[i]
		r.q.features = v
		// vhost-user.rst, "Ring states": without the protocol features there is no SET_VRING_ENABLE.
		if v&(1<<protocolFeatures) == 0 {
			r.enabled = true
		}
	}
	s.tellRunning()
	return nil
}

// config answers GET_CONFIG: le32 offset, le32 size, le32 flags, size bytes. An empty payload is an error to the front
// end.
func (s *Server) config(m *message) ([]byte, error) {
	if len(m.payload) < 12 {
		return nil, errShort
	}
	off, n := uint64(le.Uint32(m.payload)), uint64(le.Uint32(m.payload[4:]))
	if n > uint64(len(m.payload)-12) {
		return []byte{}, nil
	}
	reply := make([]byte, 12+n) // zeros behind the end of our configuration space
	copy(reply, m.payload[:12])
	if off < uint64(len(s.opt.Config)) {
		copy(reply[12:], s.opt.Config[off:])
	}
	return reply, nil
}

func (s *Server) setMemTable(m *message) error {
	specs, err := m.memTable()
	if err != nil {
		return err
	}
	mem, err := mapMemory(specs, m.fds)
	if err != nil {
		return err
	}
	// The lock is held: nobody is in the old mapping, and nobody can come back to it, because the rings move now.
	s.mem.unmap()
	s.mem = mem
	for i := range s.rings {
		r := &s.rings[i]
		if r.q.mem == nil {
			continue
		}
		if err := r.q.attach(&s.mem, r.addrs); err != nil {
			r.q.detach()
			s.log.Warn("queue lost its memory", "queue", i, "err", err)
		}
	}
	s.tellRunning()
	return nil
}

func (s *Server) ring(index uint32) (*ring, error) {
	if uint64(index) >= uint64(len(s.rings)) {
		return nil, fmt.Errorf("queue %d of %d", index, len(s.rings))
	}
	return &s.rings[index], nil
}

// setAddr reads le32 index, le32 flags, le64 descriptor, used, available, log.
func (s *Server) setAddr(m *message) error {
	if len(m.payload) < 40 {
		return errShort
	}
	r, err := s.ring(le.Uint32(m.payload))
	if err != nil {
		return err
	}
	r.addrs = ringAddrs{desc: le.Uint64(m.payload[8:]), used: le.Uint64(m.payload[16:]),
		avail: le.Uint64(m.payload[24:])}
	r.hasAddrs = true
	if r.started {
		return s.attach(r)
	}
	return nil
}

func (s *Server) attach(r *ring) error {
	r.q.size = r.size
	if err := r.q.attach(&s.mem, r.addrs); err != nil {
		r.q.detach()
		s.tellRunning()
		return err
	}
	return nil
}

func (s *Server) setState(m *message) ([]byte, error) {
	index, num, err := m.state()
	if err != nil {
		return nil, err
	}
	r, err := s.ring(index)
	if err != nil {
		return nil, err
	}
	switch m.request {
	case setVringNum:
		// VIRTIO 1.2, 2.7: a power of 2, at most 32768.
		if num == 0 || num > 1<<15 || num&(num-1) != 0 {
			return nil, fmt.Errorf("queue %d of size %d", index, num)
		}
		if r.started {
			return nil, fmt.Errorf("queue %d is running: its size cannot change", index)
		}
		r.size = num
	case setVringBase:
		if r.started {
			return nil, fmt.Errorf("queue %d is running: its base cannot change", index)
		}
		r.base = uint16(num)
	case getVringBase:
		s.stop(r)
		return le.AppendUint32(le.AppendUint32(nil, index), uint32(r.base)), nil
	case setVringEnable:
		r.enabled = num != 0
		s.tellRunning()
		s.process(1 << index)
	}
	return nil, nil
}

// stop stops a ring: the lock is held, so nobody is in it.
func (s *Server) stop(r *ring) {
	if r.started {
		r.base, r.stoppedAt = r.q.next, r.q.next
		r.started = false
		r.q.detach()
	}
	closeKick(r)
	s.tellRunning()
}

func closeKick(r *ring) {
	if r.kick != nil {
		_ = r.kick.Close() // an eventfd we only read
		r.kick = nil
	}
}

func closeFD(fd *int) {
	if *fd >= 0 {
		_ = unix.Close(*fd)
		*fd = -1
	}
}

func (s *Server) setFile(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	index := uint32(v & ringIndexMask)
	r, err := s.ring(index)
	if err != nil {
		return err
	}
	fd := -1
	if v&ringNoFD == 0 {
		if fd = m.takeFD(); fd < 0 {
			return errors.New("no file came with it")
		}
		// Writing to it must never block the lock's holder.
		if err := unix.SetNonblock(fd, true); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
	}
	switch m.request {
	case setVringCall:
		closeFD(&r.call)
		r.call = fd
		r.q.signal = nil
		if fd >= 0 {
			r.q.signal = func() { notify(fd) }
			if r.started {
				notify(fd) // an interrupt may have gone to the old one
			}
		}
	case setVringErr:
		closeFD(&r.err)
		r.err = fd
	case setVringKick:
		if fd < 0 {
			return errors.New("a queue without kick would have to be polled, which this device does not do")
		}
		return s.start(int(index), r, fd)
	}
	return nil
}

// start takes a ring into service.
func (s *Server) start(index int, r *ring, fd int) error {
	f := os.NewFile(uintptr(fd), "kick")
	if r.size == 0 || !r.hasAddrs {
		return errors.Join(fmt.Errorf("queue %d has no size or no addresses", index), f.Close())
	}
	closeKick(r)
	if !r.started {
		if err := s.attach(r); err != nil {
			return errors.Join(fmt.Errorf("queue %d: %w", index, err), f.Close())
		}
		// A machine that was only paused goes on where it stopped. A driver that was loaded anew starts at 0.
		if r.ran && r.base != r.stoppedAt || s.broken != nil {
			s.forget(ErrDriverRestarted)
		}
		r.q.next, r.q.signalled = r.base, false
		if err := s.touch(func() error {
			r.q.usedIdx = loadU16(r.q.used, 2)
			return nil
		}); err != nil {
			r.q.detach()
			return errors.Join(err, f.Close())
		}
		r.q.published = r.q.usedIdx
		r.started, r.ran = true, true
	}
	r.kick = f
	s.kicks.Add(1)
	go s.readKicks(index, f)
	s.tellRunning()
	s.process(1 << index)
	return nil
}

// forget ends what a former driver began.
func (s *Server) forget(cause error) {
	for i := range s.rings {
		if r := &s.rings[i]; !r.started {
			r.ran = false
		}
	}
	s.broken = nil
	s.dev.Reset(cause)
}

// readKicks processes a ring at each of the driver's notifications, until f is closed.
func (s *Server) readKicks(index int, f *os.File) {
	defer s.kicks.Done()
	var count [8]byte
	for {
		if n, err := f.Read(count[:]); err != nil || n == 0 {
			return
		}
		s.mu.Lock()
		if s.rings[index].kick == f {
			s.process(1 << index)
		}
		s.mu.Unlock()
	}
}

// resetRings puts everything into its first state but the memory table, the features and the files for interrupts,
// which a front end need not send again.
func (s *Server) resetRings(cause error) {
	for i := range s.rings {
		r := &s.rings[i]
		s.stop(r)
		q := Queue{features: s.features, signal: r.q.signal}
		*r = ring{call: r.call, err: r.err, enabled: s.features != 0 && s.features&(1<<protocolFeatures) == 0, q: q}
	}
	s.tellRunning()
	s.broken = nil
	s.dev.Reset(cause)
}

func (s *Server) hangUp() {
	s.resetRings(ErrFrontEndGone)
	s.features, s.protocol = 0, 0
	for i := range s.rings {
		closeFD(&s.rings[i].call)
		closeFD(&s.rings[i].err)
		s.rings[i] = ring{call: -1, err: -1}
	}
	s.mem.unmap()
}
