// Package seccomp makes a filter of system calls, a program of classic BPF for seccomp(2), out of what the runtime
// specification asks for.
//
// In comes specs.LinuxSeccomp, out go instructions and flags. It loads nothing. Names of calls that no machine here has
// are skipped: a profile names those of all machines and kernels. Linux:
// Documentation/userspace-api/seccomp_filter.rst.
//
// Among rules for one call the first whose conditions hold wins. A call with a number above all that the rules name,
// which is to say newer than the profile, gets ENOSYS unless the profile would allow it by default: C libraries fall
// back to older calls on no other error.
package seccomp

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// machine is a set of system calls that a kernel offers.
type machine struct {
	name  specs.Arch
	audit uint32
	big   bool   // the high half of a 64-bit argument comes first
	calls string // names and numbers
}

// numbers are the calls of a machine.
func (m machine) numbers() map[string]uint32 {
	w := strings.Fields(m.calls)
	out := make(map[string]uint32, len(w)/2)
	for i := 0; i+1 < len(w); i += 2 {
		if n, err := strconv.ParseUint(w[i+1], 10, 32); err == nil {
			out[w[i]] = uint32(n)
		}
	}
	return out
}

// maxErrno is the largest error number a filter may return: MAX_ERRNO of <linux/err.h>.
const maxErrno = 4095

// x32 is the bit in numbers of calls of the x32 ABI, which says it is x86_64. <asm/unistd.h>.
const x32 = 0x40000000

var flags = map[specs.LinuxSeccompFlag]uint{
	"SECCOMP_FILTER_FLAG_TSYNC":            0, // there is one thread when the program begins
	specs.LinuxSeccompFlagLog:              unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow:        unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	specs.LinuxSeccompFlagWaitKillableRecv: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

// Compile makes the program and the flags for seccomp(2). No instructions mean that there is nothing to filter.
func Compile(s *specs.LinuxSeccomp) ([]unix.SockFilter, uint, error) { return compile(s, machines) }

func compile(s *specs.LinuxSeccomp, machines []machine) ([]unix.SockFilter, uint, error) {
	var bits uint
	for _, f := range s.Flags {
		b, ok := flags[f]
		if !ok {
			return nil, 0, fmt.Errorf("seccomp: flag %q is unknown", f)
		}
		bits |= b
	}
	if bits&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 {
		return nil, 0, fmt.Errorf("seccomp: flag %s: nobody here is notified of calls",
			specs.LinuxSeccompFlagWaitKillableRecv)
	}
	other, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, 0, err
	}
	if other == unix.SECCOMP_RET_ALLOW && len(s.Syscalls) == 0 {
		return nil, 0, nil
	}
	var p program
	p.load(offArch)
	for i, m := range machines {
		if i > 0 && !slices.Contains(s.Architectures, m.name) { // the first is this machine, which needs no naming
			continue
		}
		body, err := m.compile(s, other)
		if err != nil {
			return nil, 0, err
		}
		// Conditional jumps reach 255 instructions; the unconditional one reaches all.
		p.jump(jumpEqual, m.audit, 1, 0)
		p.add(unix.BPF_JMP|unix.BPF_JA, uint32(len(body)))
		p.code = append(p.code, body...)
	}
	p.ret(unix.SECCOMP_RET_KILL_THREAD) // calls of a machine that the profile does not name
	if len(p.code) > unix.BPF_MAXINSNS {
		return nil, 0, fmt.Errorf("seccomp: %d instructions, and the kernel takes %d", len(p.code), unix.BPF_MAXINSNS)
	}
	return p.code, bits, nil
}

// The commands of fcntl(2) that are about locks and leases: F_GETLK, F_SETLK, F_SETLKW, on 32-bit machines F_GETLK64,
// F_SETLK64, F_SETLKW64, and for open file descriptions F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW; F_SETLEASE.
// <asm-generic/fcntl.h>, <linux/fcntl.h>.
var lockCommands = []uint64{5, 6, 7, 12, 13, 14, 36, 37, 38, 1024}

// Locks makes a program that has a listener decide about calls that take locks on files, on all machines of the kernel,
// and allows all others.
func Locks() ([]unix.SockFilter, error) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"flock"},
		Action: specs.ActNotify}}}
	for _, c := range lockCommands {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
			Names: []string{"fcntl", "fcntl64"}, Action: specs.ActNotify,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0xffffffff, ValueTwo: c, Op: specs.OpMaskedEqual}},
		})
	}
	var p program
	p.load(offArch)
	for _, m := range machines {
		body, err := m.compileWith(s, unix.SECCOMP_RET_ALLOW, func(specs.LinuxSeccompAction, *uint) (uint32,
			error) {
			return unix.SECCOMP_RET_USER_NOTIF, nil
		})
		if err != nil {
			return nil, err
		}
		p.jump(jumpEqual, m.audit, 1, 0)
		p.add(unix.BPF_JMP|unix.BPF_JA, uint32(len(body)))
		p.code = append(p.code, body...)
	}
	p.ret(unix.SECCOMP_RET_ALLOW)
	return p.code, nil
}

// action is what a filter returns.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	n := uint(unix.EPERM)
	if errno != nil {
		n = *errno
	}
	if n > maxErrno {
		return 0, fmt.Errorf("seccomp: error number %d is above %d", n, maxErrno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | uint32(n), nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | uint32(n), nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("seccomp: action %s: nobody here is notified of calls", a)
	}
	return 0, fmt.Errorf("seccomp: action %q is unknown", a)
}

// rule is what to do when all conditions hold.
type rule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

// span is a range of numbers with the same rules.
type span struct {
	first uint32 // up to the next span's
	rules []rule
}

// compile makes the part of the program for one machine.
func (m machine) compile(s *specs.LinuxSeccomp, other uint32) ([]unix.SockFilter, error) {
	return m.compileWith(s, other, action)
}

func (m machine) compileWith(s *specs.LinuxSeccomp, other uint32, action func(specs.LinuxSeccompAction,
	*uint) (uint32, error)) ([]unix.SockFilter, error) {
	numbers := m.numbers()
	rules := map[uint32][]rule{}
	var newest uint32
	for _, c := range s.Syscalls {
		act, err := action(c.Action, c.ErrnoRet)
		if err != nil {
			return nil, err
		}
		alternatives, err := split(c.Args)
		if err != nil {
			return nil, fmt.Errorf("seccomp: rule for %v: %w", c.Names, err)
		}
		for _, name := range c.Names {
			n, ok := numbers[name]
			if !ok {
				continue
			}
			newest = max(newest, n)
			if act == other {
				continue
			}
			for _, args := range alternatives {
				rules[n] = append(rules[n], rule{args, act})
			}
		}
	}
	spans := []span{{0, nil}}
	put := func(first uint32, r []rule) {
		last := &spans[len(spans)-1]
		if last.first == first {
			last.rules = r
		} else if !plainEqual(last.rules, r, other) {
			spans = append(spans, span{first, r})
		}
	}
	for _, n := range slices.Sorted(mapKeys(rules)) {
		put(n, rules[n])
		put(n+1, nil)
	}
	if other != unix.SECCOMP_RET_ALLOW && other != unix.SECCOMP_RET_LOG && other>>16 != unix.SECCOMP_RET_TRACE>>16 {
		put(newest+1, []rule{{nil, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}})
	}
	var p program
	p.load(offNumber)
	if m.name == specs.ArchX86_64 {
		// No guest kernel has x32; a filter that knows x86_64 alone must not be gone round by it.
		p.jump(jumpAtLeast, x32, 0, 1)
		p.ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	}
	if err := p.search(spans, other, m.big); err != nil {
		return nil, err
	}
	return p.code, nil
}

func mapKeys[K cmp.Ordered, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// plainEqual says whether two lists of rules return the same without a look at arguments.
func plainEqual(a, b []rule, other uint32) bool {
	plain := func(r []rule) (uint32, bool) {
		if len(r) == 0 {
			return other, true
		}
		return r[0].action, len(r[0].args) == 0
	}
	x, ok1 := plain(a)
	y, ok2 := plain(b)
	return ok1 && ok2 && x == y
}

// split makes alternatives of conditions on one argument, which libseccomp cannot have together: runtimes take them as
// "or".
func split(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	seen := map[uint]bool{}
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("a system call has no argument %d", a.Index)
		}
		if !slices.Contains([]specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
			specs.OpEqualTo,
			specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}, a.Op) {
			return nil, fmt.Errorf("operator %q is unknown", a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var out [][]specs.LinuxSeccompArg
	for _, a := range args {
		out = append(out, []specs.LinuxSeccompArg{a})
	}
	return out, nil
}
