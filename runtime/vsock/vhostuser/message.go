package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Requests of the front end. QEMU: docs/interop/vhost-user.rst, "Front-end message types".
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	resetOwner          = 4
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
	getConfig           = 24
	setConfig           = 25
	resetDevice         = 34
)

// Bits of the device features. VIRTIO 1.2, 6, and vhost-user.rst.
const (
	ringIndirect     = 28 // VIRTIO_F_INDIRECT_DESC
	ringEventIdx     = 29 // VIRTIO_F_EVENT_IDX
	protocolFeatures = 30 // VHOST_USER_F_PROTOCOL_FEATURES
	version1         = 32 // VIRTIO_F_VERSION_1
)

// Bits of the protocol features. vhost-user.rst, "Protocol features".
const (
	protocolMQ          = 0
	protocolReplyAck    = 3
	protocolConfig      = 9
	protocolResetDevice = 13
)

// A message is a header of le32 request, le32 flags, le32 size, and size bytes. All integers have the host's order,
// which is little-endian on every architecture that has this device. vhost-user.rst, "Message Specification".
const (
	messageHeader = 12
	maxPayload    = 4096 // the longest we accept, a memory table, has 264 bytes

	flagVersionMask = 3
	flagVersion     = 1
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3

	ringIndexMask = 0xff   // of the integer of SET_VRING_KICK, CALL and ERR
	ringNoFD      = 1 << 8 // no file comes with it
)

// message is one request. Its files belong to it until they are taken.
type message struct {
	request uint32
	flags   uint32
	payload []byte
	fds     []int
}

// takeFD takes the message's first file, or -1.
func (m *message) takeFD() int {
	if len(m.fds) == 0 {
		return -1
	}
	fd := m.fds[0]
	m.fds = m.fds[1:]
	return fd
}

func (m *message) close() {
	for _, fd := range m.fds {
		_ = unix.Close(fd)
	}
	m.fds = nil
}

// readMessage reads one message; io.EOF means that the front end hung up between two.
func readMessage(c *net.UnixConn) (m *message, err error) {
	m = &message{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	hdr := make([]byte, messageHeader)
	oob := make([]byte, unix.CmsgSpace(4*maxRegions))
	n, oobn, flags, _, err := c.ReadMsgUnix(hdr, oob)
	if err != nil {
		return m, err
	}
	if oobn > 0 {
		// Parsed first: whatever is wrong with the message, its files are ours to close.
		ctl, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return m, fmt.Errorf("control message: %w", err)
		}
		for i := range ctl {
			fds, err := unix.ParseUnixRights(&ctl[i])
			if err != nil {
				return m, fmt.Errorf("control message: %w", err)
			}
			m.fds = append(m.fds, fds...)
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return m, fmt.Errorf("more than %d files in one message", maxRegions)
	}
	if n == 0 {
		return m, io.EOF
	}
	if n < messageHeader {
		if _, err := readRest(c, hdr[n:]); err != nil {
			return m, fmt.Errorf("message header: %w", err)
		}
	}
	m.request, m.flags = le.Uint32(hdr), le.Uint32(hdr[4:])
	size := le.Uint32(hdr[8:])
	if m.flags&flagVersionMask != flagVersion {
		return m, fmt.Errorf("request %d: message version %d, want %d", m.request, m.flags&flagVersionMask, flagVersion)
	}
	if m.flags&flagReply != 0 {
		return m, fmt.Errorf("request %d: a reply to nothing", m.request)
	}
	if size > maxPayload {
		return m, fmt.Errorf("request %d: %d bytes, more than %d", m.request, size, maxPayload)
	}
	m.payload = make([]byte, size)
	if _, err := readRest(c, m.payload); err != nil {
		return m, fmt.Errorf("payload of request %d: %w", m.request, err)
	}
	return m, nil
}

// readRest fills b; io.EOF, the end between two messages, cannot be its error.
func readRest(r io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func writeReply(w io.Writer, request uint32, payload []byte) error {
	b := make([]byte, 0, messageHeader+len(payload))
	b = le.AppendUint32(b, request)
	b = le.AppendUint32(b, flagVersion|flagReply)
	b = le.AppendUint32(b, uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

var errShort = errors.New("payload is too short")

func (m *message) u64() (uint64, error) {
	if len(m.payload) < 8 {
		return 0, errShort
	}
	return le.Uint64(m.payload), nil
}

// state reads a vring state: le32 index, le32 num.
func (m *message) state() (index, num uint32, err error) {
	if len(m.payload) < 8 {
		return 0, 0, errShort
	}
	return le.Uint32(m.payload), le.Uint32(m.payload[4:]), nil
}

// memTable reads le32 count, le32 padding, and count times le64 guest address, size, user address, mmap offset.
func (m *message) memTable() ([]regionSpec, error) {
	if len(m.payload) < 8 {
		return nil, errShort
	}
	n, b := le.Uint32(m.payload), m.payload[8:]
	if n > maxRegions {
		return nil, fmt.Errorf("%d memory regions, more than %d", n, maxRegions)
	}
	if uint64(len(b)) < 32*uint64(n) {
		return nil, errShort
	}
	specs := make([]regionSpec, n)
	for i := range specs {
		r := b[32*i:]
		specs[i] = regionSpec{guest: le.Uint64(r), size: le.Uint64(r[8:]), user: le.Uint64(r[16:]),
			offset: le.Uint64(r[24:])}
	}
	return specs, nil
}
