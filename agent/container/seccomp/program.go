package seccomp

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data of <linux/seccomp.h>: nr, arch, instruction pointer (8 bytes), six arguments of 8
// bytes.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// Conditional jumps on the accumulator and a constant, unsigned.
const (
	jumpEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGreater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

type program struct{ code []unix.SockFilter }

func (p *program) add(code uint16, k uint32) {
	p.code = append(p.code, unix.SockFilter{Code: code, K: k})
}
func (p *program) load(offset uint32) { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }
func (p *program) ret(value uint32)   { p.add(unix.BPF_RET|unix.BPF_K, value) }
func (p *program) mask(value uint32)  { p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, value) }
func (p *program) jump(code uint16, k uint32, yes, no uint8) {
	p.code = append(p.code, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

// search finds the span of the number in the accumulator by halves. Every way through it ends in a return.
func (p *program) search(spans []span, other uint32, big bool) error {
	if len(spans) == 1 {
		return p.leaf(spans[0].rules, other, big)
	}
	half := len(spans) / 2
	var left program
	if err := left.search(spans[:half], other, big); err != nil {
		return err
	}
	p.jump(jumpAtLeast, spans[half].first, 0, 1)
	p.add(unix.BPF_JMP|unix.BPF_JA, uint32(len(left.code)))
	p.code = append(p.code, left.code...)
	return p.search(spans[half:], other, big)
}

// leaf tries rules in order.
func (p *program) leaf(rules []rule, other uint32, big bool) error {
	for _, r := range rules {
		if len(r.args) == 0 {
			p.ret(r.action)
			return nil
		}
		if err := p.rule(r, big); err != nil {
			return err
		}
	}
	p.ret(other)
	return nil
}

// errTooLong cannot happen with six conditions.
var errTooLong = errors.New("seccomp: a jump is too long")

// fail marks jumps to the end of the rule until that is known.
const fail = 0xff

// rule returns the action if all conditions hold, and else goes on behind itself.
func (p *program) rule(r rule, big bool) error {
	start := len(p.code)
	for _, a := range r.args {
		p.condition(a, big)
	}
	p.ret(r.action)
	end := len(p.code)
	for i := start; i < end; i++ {
		dist := end - i - 1
		if dist >= fail {
			return errTooLong
		}
		if in := &p.code[i]; in.Code&7 == unix.BPF_JMP {
			if in.Jt == fail {
				in.Jt = uint8(dist)
			}
			if in.Jf == fail {
				in.Jf = uint8(dist)
			}
		}
	}
	return nil
}

// condition falls through if it holds. An argument is compared by halves, the high one first.
func (p *program) condition(a specs.LinuxSeccompArg, big bool) {
	low := uint32(offArgs + 8*a.Index)
	high := low + 4
	if big {
		low, high = high, low
	}
	vh, vl := uint32(a.Value>>32), uint32(a.Value)
	// In what follows the comparison of the low half is two instructions long, the last one a jump.
	switch a.Op {
	case specs.OpEqualTo:
		p.load(high)
		p.jump(jumpEqual, vh, 0, fail)
		p.load(low)
		p.jump(jumpEqual, vl, 0, fail)
	case specs.OpNotEqual:
		p.load(high)
		p.jump(jumpEqual, vh, 0, 2)
		p.load(low)
		p.jump(jumpEqual, vl, fail, 0)
	case specs.OpMaskedEqual: // argument & value == valueTwo
		p.load(high)
		p.mask(vh)
		p.jump(jumpEqual, uint32(a.ValueTwo>>32), 0, fail)
		p.load(low)
		p.mask(vl)
		p.jump(jumpEqual, uint32(a.ValueTwo), 0, fail)
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		code := uint16(jumpGreater)
		if a.Op == specs.OpGreaterEqual {
			code = jumpAtLeast
		}
		p.load(high)
		p.jump(jumpGreater, vh, 3, 0)
		p.jump(jumpEqual, vh, 0, fail)
		p.load(low)
		p.jump(code, vl, 0, fail)
	case specs.OpLessThan, specs.OpLessEqual:
		code := uint16(jumpAtLeast)
		if a.Op == specs.OpLessEqual {
			code = jumpGreater
		}
		p.load(high)
		p.jump(jumpGreater, vh, fail, 0)
		p.jump(jumpEqual, vh, 0, 2)
		p.load(low)
		p.jump(code, vl, fail, 0)
	}
}
