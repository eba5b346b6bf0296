package vsock

import (
	"encoding/binary"
)

var le = binary.LittleEndian

// headerSize is the length of a packet's header: le64 src_cid, dst_cid; le32 src_port, dst_port, len; le16 type, op;
// le32 flags, buf_alloc, fwd_cnt. VIRTIO 1.2, 5.10.6.
const headerSize = 2*8 + 3*4 + 2*2 + 3*4 // 44

// Operations. VIRTIO 1.2, 5.10.6.
const (
	opRequest       = 1
	opResponse      = 2
	opRst           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// typeStream is VIRTIO_VSOCK_TYPE_STREAM, the only type here: sequenced packets are a feature we do not offer.
const typeStream = 1

// Flags of opShutdown: what the sender will not do any more. VIRTIO 1.2, 5.10.6.6.2.
const (
	shutReceive = 1 << 0
	shutSend    = 1 << 1
	shutBoth    = shutReceive | shutSend
)

// header is a packet's header.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32 // of the payload, in bytes
	kind             uint16 // typeStream
	op               uint16
	flags            uint32
	bufAlloc         uint32 // the sender's whole receive buffer for this connection, in bytes
	fwdCnt           uint32 // how many bytes the sender's application has taken from it so far, modulo 2^32
}

func (h *header) decode(b *[headerSize]byte) {
	*h = header{
		srcCID: le.Uint64(b[0:]), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		length: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: le.Uint16(b[30:]), flags: le.Uint32(b[32:]),
		bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}
}

func (h *header) encode(b *[headerSize]byte) {
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.length)
	le.PutUint16(b[28:], h.kind)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

// payload is bytes scattered over several slices, as a packet's are in guest memory.
type payload [][]byte

func (p payload) size() uint64 {
	var n uint64
	for _, b := range p {
		n += uint64(len(b))
	}
	return n
}

// read fills dst, returns how much of it, and the rest of the payload.
func (p payload) read(dst []byte) (n int, rest payload) {
	for len(p) > 0 && n < len(dst) {
		k := copy(dst[n:], p[0])
		n += k
		if k < len(p[0]) {
			// p belongs to the caller, who may look at it again.
			rest := append(payload{p[0][k:]}, p[1:]...)
			return n, rest
		}
		p = p[1:]
	}
	return n, p
}

// write copies src to where the payload's slices are, returns how much of it, and what room is left.
func (p payload) write(src []byte) (n int, rest payload) {
	for len(p) > 0 && n < len(src) {
		k := copy(p[0], src[n:])
		n += k
		if k < len(p[0]) {
			return n, append(payload{p[0][k:]}, p[1:]...)
		}
		p = p[1:]
	}
	return n, p
}
