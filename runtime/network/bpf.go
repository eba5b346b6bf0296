package network

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// insn is an instruction of eBPF. Linux: Documentation/bpf/standardization/instruction-set.rst.
type insn struct {
	op  uint8
	reg uint8 // destination in the low half, source in the high one; on big-endian machines the other way round
	off int16
	imm int32
}

// Opcodes: class, size or operation, and source, as that document has them.
const (
	opLoad32      = 0x61 // dst = *(u32 *)(src + off)
	opStore32Imm  = 0x62 // *(u32 *)(dst + off) = imm
	opMov         = 0xbf // dst = src
	opMovImm      = 0xb7 // dst = imm
	opAddImm      = 0x07 // dst += imm
	opJumpEqImm   = 0x15 // if dst == imm goto +off
	opCall        = 0x85 // r0 = helper imm of (r1, r2, ...)
	opExit        = 0x95
	opLoad64Imm   = 0x18 // dst = imm, of two instructions
	frame         = 10   // the register with the end of the stack
	pseudoMapFD   = unix.BPF_PSEUDO_MAP_FD
	helperLookup  = 1   // bpf_map_lookup_elem. <linux/bpf.h>, as the next
	helperRelease = 86  // bpf_sk_release
	helperAssign  = 124 // bpf_sk_assign
	skPass        = 1   // SK_PASS
	familyOffset  = 8   // of family in struct bpf_sk_lookup
)

func regs(dst, src uint8) uint8 {
	if bigEndian() {
		return dst<<4 | src
	}
	return src<<4 | dst
}

func bigEndian() bool { return runtime.GOARCH == "s390x" }

// lookupProgram gives every connection that arrives in the namespace to the socket in sockets that is of its family:
// entry 0 is for IPv4, 1 for IPv6. Linux: Documentation/bpf/prog_sk_lookup.rst.
func lookupProgram(sockets int) []insn {
	return []insn{
		{opMov, regs(6, 1), 0, 0},
		{opStore32Imm, regs(frame, 0), -4, 0},
		{opLoad32, regs(2, 6), familyOffset, 0},
		{opJumpEqImm, regs(2, 0), 1, unix.AF_INET},
		{opStore32Imm, regs(frame, 0), -4, 1},
		{opLoad64Imm, regs(1, pseudoMapFD), 0, int32(sockets)}, {},
		{opMov, regs(2, frame), 0, 0},
		{opAddImm, regs(2, 0), 0, -4},
		{opCall, 0, 0, helperLookup},
		{opJumpEqImm, regs(0, 0), 7, 0}, // no such socket: to the end
		{opMov, regs(7, 0), 0, 0},
		{opMov, regs(1, 6), 0, 0},
		{opMov, regs(2, 7), 0, 0},
		{opMovImm, regs(3, 0), 0, 0},
		{opCall, 0, 0, helperAssign},
		{opMov, regs(1, 7), 0, 0},
		{opCall, 0, 0, helperRelease},
		{opMovImm, regs(0, 0), 0, skPass},
		{opExit, 0, 0, 0},
	}
}

// bpf is bpf(2). attr is the beginning of union bpf_attr for the command.
func bpf[T any](command int, attr *T) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// catchAll has every TCP connection that arrives in the network namespace netns go to one of two listening sockets. It
// lasts as long as the descriptor it returns. A negative socket is none.
func catchAll(netns, socket4, socket6 int) (int, error) {
	sockets, err := bpf(unix.BPF_MAP_CREATE, &struct{ kind, key, value, entries uint32 }{unix.BPF_MAP_TYPE_SOCKMAP, 4,
		8, 2})
	if err != nil {
		return -1, fmt.Errorf("table of sockets: %w", err)
	}
	defer unix.Close(sockets) // the program holds it
	for i, s := range []int{socket4, socket6} {
		if s < 0 {
			continue
		}
		key, value := uint32(i), uint64(s)
		update := struct {
			fd, _      uint32
			key, value uint64
			flags      uint64
		}{fd: uint32(sockets), key: uint64(uintptr(unsafe.Pointer(&key))),
			value: uint64(uintptr(unsafe.Pointer(&value)))}
		_, err := bpf(unix.BPF_MAP_UPDATE_ELEM, &update)
		runtime.KeepAlive(&key)
		runtime.KeepAlive(&value)
		if err != nil {
			return -1, fmt.Errorf("socket into the table: %w", err)
		}
	}
	code := lookupProgram(sockets)
	license := []byte("MIT\x00") // none of the helpers is for the GPL alone
	load := struct {
		kind, count          uint32
		code, license        uint64
		logLevel, logSize    uint32
		log                  uint64
		kernel, flags        uint32
		name                 [16]byte
		ifindex, attachLater uint32
	}{
		kind: unix.BPF_PROG_TYPE_SK_LOOKUP, count: uint32(len(code)), code: uint64(uintptr(unsafe.Pointer(&code[0]))),
		license: uint64(uintptr(unsafe.Pointer(&license[0]))), attachLater: unix.BPF_SK_LOOKUP,
	}
	program, err := bpf(unix.BPF_PROG_LOAD, &load)
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if err != nil {
		return -1, fmt.Errorf("load the program: %w", err)
	}
	defer unix.Close(program) // the link holds it
	link, err := bpf(unix.BPF_LINK_CREATE, &struct{ program, target, kind, flags uint32 }{uint32(program),
		uint32(netns), unix.BPF_SK_LOOKUP, 0})
	if err != nil {
		return -1, fmt.Errorf("attach the program: %w", err)
	}
	return link, nil
}
