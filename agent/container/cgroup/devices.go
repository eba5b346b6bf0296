package cgroup

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rule allows or denies some access to some devices.
type Rule struct {
	Allow        bool
	Type         byte  // 'c', 'b', or 'a' for both
	Major, Minor int64 // -1 for all
	Access       string
}

// defaultRules are the devices that every container may use: to make any node is harmless, to open it is not.
func defaultRules() []Rule {
	return []Rule{
		{true, 'c', -1, -1, "m"}, {true, 'b', -1, -1, "m"},
		{true, 'c', 1, 3, "rwm"},    // null
		{true, 'c', 1, 5, "rwm"},    // zero
		{true, 'c', 1, 7, "rwm"},    // full
		{true, 'c', 1, 8, "rwm"},    // random
		{true, 'c', 1, 9, "rwm"},    // urandom
		{true, 'c', 5, 0, "rwm"},    // tty
		{true, 'c', 5, 1, "rwm"},    // console
		{true, 'c', 5, 2, "rwm"},    // ptmx
		{true, 'c', 136, -1, "rwm"}, // pts. Linux: Documentation/admin-guide/devices.txt
	}
}

// Rules puts the defaults, a specification's rules and more allowed devices together; the last that matches wins. A
// leading "deny all", as most callers send it, is what holds without any rule, so it does not cancel the defaults.
func Rules(list []specs.LinuxDeviceCgroup, more []Rule) ([]Rule, error) {
	var own []Rule
	for i, d := range list {
		r := Rule{Allow: d.Allow, Type: 'a', Major: -1, Minor: -1, Access: d.Access}
		switch d.Type {
		case "", "a":
		case "c", "b":
			r.Type = d.Type[0]
		case "u":
			r.Type = 'c'
		default:
			return nil, fmt.Errorf("device rule %d: type %q is none of a, b, c, u", i+1, d.Type)
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return nil, fmt.Errorf("device rule %d: access %q has other letters than r, w, m", i+1, d.Access)
		}
		if r.Access == "" {
			r.Access = "rwm"
		}
		if d.Major != nil {
			r.Major = *d.Major
		}
		if d.Minor != nil {
			r.Minor = *d.Minor
		}
		if len(own) == 0 && r == (Rule{false, 'a', -1, -1, "rwm"}) {
			continue
		}
		own = append(own, r)
	}
	return append(append(defaultRules(), own...), more...), nil
}

// Numbers of <linux/bpf.h>.
const (
	accessMknod, accessRead, accessWrite = 1, 2, 4 // BPF_DEVCG_ACC_
	devBlock, devChar                    = 1, 2    // BPF_DEVCG_DEV_
	allowMulti, replace                  = 2, 4    // BPF_F_ALLOW_MULTI, BPF_F_REPLACE

	// Registers of the program.
	regReturn, regContext, regType, regMajor, regMinor, regLeft, regTemp = 0, 1, 2, 3, 4, 5, 6
)

// insn is an instruction of eBPF: Documentation/bpf/standardization/instruction-set.rst.
type insn struct {
	Op  uint8
	Reg uint8 // destination in the low half, source in the high one
	Off int16
	Imm int32
}

// Opcodes, each a class with its bits.
const (
	opLoadWord = 0x61 // dst = *(u32 *)(src + off)
	opMov      = 0xb7 // dst = imm
	opMovReg   = 0xbf // dst = src
	opAnd      = 0x57 // dst &= imm
	opRight    = 0x77 // dst >>= imm
	opJumpEq   = 0x15 // if dst == imm skip off
	opJumpNe   = 0x55 // if dst != imm skip off
	opExit     = 0x95
)

// compile is the rules as a program of type BPF_PROG_TYPE_CGROUP_DEVICE. Its context is three words: access<<16 | type,
// major, minor. It goes from the last rule to the first and strikes out what each one grants; what is asked for is
// allowed when nothing is left.
func compile(rules []Rule) []insn {
	load := func(reg uint8, off int16) insn { return insn{opLoadWord, reg | regContext<<4, off, 0} }
	p := []insn{
		load(regType, 0), load(regMajor, 4), load(regMinor, 8),
		{opMovReg, regLeft | regType<<4, 0, 0},
		{opRight, regLeft, 0, 16},
		{opAnd, regType, 0, 0xffff},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		p = append(p, rules[i].insns()...)
	}
	return append(p, insn{opMov, regReturn, 0, 0}, insn{opExit, 0, 0, 0})
}

func (r Rule) insns() []insn {
	var access int32
	for _, a := range r.Access {
		access |= map[rune]int32{'m': accessMknod, 'r': accessRead, 'w': accessWrite}[a]
	}
	var body []insn
	if r.Allow {
		body = []insn{
			{opAnd, regLeft, 0, ^access},
			{opJumpNe, regLeft, 2, 0},
			{opMov, regReturn, 0, 1},
			{opExit, 0, 0, 0},
		}
	} else {
		body = []insn{
			{opMovReg, regTemp | regLeft<<4, 0, 0},
			{opAnd, regTemp, 0, access},
			{opJumpEq, regTemp, 2, 0},
			{opMov, regReturn, 0, 0},
			{opExit, 0, 0, 0},
		}
	}
	var head []insn
	is := func(reg uint8, imm int32) { head = append(head, insn{opJumpNe, reg, 0, imm}) }
	switch r.Type {
	case 'c':
		is(regType, devChar)
	case 'b':
		is(regType, devBlock)
	}
	if r.Major >= 0 {
		is(regMajor, int32(r.Major))
	}
	if r.Minor >= 0 {
		is(regMinor, int32(r.Minor))
	}
	for i := range head {
		head[i].Off = int16(len(head) - 1 - i + len(body))
	}
	return append(head, body...)
}

// Programs loads programs, and remembers the last one: most containers have the same rules, and the kernel takes its
// time to verify one. The zero value works. Its methods may be called at the same time.
type Programs struct {
	mu   sync.Mutex
	last []insn // guarded by mu
	fd   int    // guarded by mu; of last, where that is not empty
}

// load returns a file of a program, to be closed by the caller.
func (p *Programs) load(code []insn) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(code, p.last) {
		fd, err := load(code)
		if err != nil {
			return -1, err
		}
		p.forget()
		p.last, p.fd = code, fd
	}
	return unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
}

// Forget closes what is remembered.
func (p *Programs) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
}

func (p *Programs) forget() {
	if p.last != nil {
		unix.Close(p.fd)
		p.last = nil
	}
}

// SetDevices attaches a program with these rules, in the place of an earlier one.
func (g *Group) SetDevices(p *Programs, rules []Rule) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	prog, err := p.load(compile(rules))
	if err != nil {
		return fmt.Errorf("devices of cgroup %s: load a program: %w", g.Path, err)
	}
	dir, err := g.Open()
	if err != nil {
		unix.Close(prog)
		return err
	}
	defer unix.Close(dir)
	// The part of union bpf_attr for BPF_PROG_ATTACH.
	attr := struct{ target, prog, kind, flags, replace uint32 }{uint32(dir), uint32(prog), unix.BPF_CGROUP_DEVICE,
		allowMulti, 0}
	if g.program >= 0 {
		attr.flags |= replace
		attr.replace = uint32(g.program)
	}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)),
		unsafe.Sizeof(attr)); errno != 0 {
		unix.Close(prog)
		return fmt.Errorf("devices of cgroup %s: attach a program: %w", g.Path, errno)
	}
	if g.program >= 0 {
		unix.Close(g.program)
	}
	g.program = prog
	return nil
}

// loadTries bounds how often a program is loaded that the kernel says to load again.
const loadTries = 20

// load gives a program to the kernel.
func load(p []insn) (int, error) {
	code := make([]byte, 0, 8*len(p))
	for _, i := range p {
		code = append(code, i.Op, swapNibbles(i.Reg))
		code = binary.NativeEndian.AppendUint16(code, uint16(i.Off))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.Imm))
	}
	license := len(code) // behind the instructions; the program calls no helper, so the kernel does not mind which
	code = append(code, "Dual MIT/GPL\x00"...)
	// The beginning of union bpf_attr for BPF_PROG_LOAD.
	attr := struct {
		kind, count    uint32
		insns, license uint64
		logLevel       uint32
		logSize        uint32
		log            uint64
		version, flags uint32
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(p)),
		insns: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&code[license])))}
	var fd uintptr
	var errno unix.Errno
	for range loadTries {
		// EAGAIN: a signal arrived while the program was verified, such as those by which the Go runtime interrupts
		// threads.
		if fd, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)),
			unsafe.Sizeof(attr)); errno != unix.EAGAIN {
			break
		}
	}
	runtime.KeepAlive(code)
	if errno != 0 {
		return -1, errno
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

// swapNibbles puts the registers where a machine of the other byte order has them: they are bit fields of a C
// structure.
func swapNibbles(b uint8) uint8 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big-endian
		return b<<4 | b>>4
	}
	return b
}
