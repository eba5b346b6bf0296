package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Two machines that stand for all, whatever this test runs on.
var (
	little = machine{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, false,
		"read 0 write 1 mkdir 83 clone 56 personality 135 last 300"}
	narrow = machine{specs.ArchX86, unix.AUDIT_ARCH_I386, false, "read 3 write 4 mkdir 39"}
	bigEnd = machine{specs.ArchS390X, unix.AUDIT_ARCH_S390X, true,
		"read 3 write 4 mkdir 39 clone 120 personality 136 last 300"}
)

// vm runs a filter in an interpreter that is not ours. It loads words in network order, so the data are laid out in
// that.
func vm(t testing.TB, code []unix.SockFilter) func(m machine, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, i := range code {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	in, all := bpf.Disassemble(raw)
	if !all {
		t.Fatal("an instruction is unknown")
	}
	v, err := bpf.NewVM(in)
	if err != nil {
		t.Fatal(err)
	}
	return func(m machine, nr uint32, args ...uint64) uint32 {
		b := make([]byte, 64)
		binary.BigEndian.PutUint32(b, nr)
		binary.BigEndian.PutUint32(b[4:], m.audit)
		for i, a := range args {
			low, high := 16+8*i, 20+8*i
			if m.big {
				low, high = high, low
			}
			binary.BigEndian.PutUint32(b[low:], uint32(a))
			binary.BigEndian.PutUint32(b[high:], uint32(a>>32))
		}
		n, err := v.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
}

const errno = unix.SECCOMP_RET_ERRNO

func number(n uint) *uint { return &n }

func TestSizesOfTheKernelsStructures(t *testing.T) {
	if unix.SizeofSockFilter != 8 || offArgs+6*8 != 64 {
		t.Error("struct sock_filter has 8 bytes, struct seccomp_data 64")
	}
}

func TestActions(t *testing.T) {
	for a, want := range map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: unix.SECCOMP_RET_KILL_THREAD, specs.ActKillThread: unix.SECCOMP_RET_KILL_THREAD,
		specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS,
		specs.ActTrap:        unix.SECCOMP_RET_TRAP, specs.ActErrno: errno | 1,
		specs.ActTrace: unix.SECCOMP_RET_TRACE | 1, specs.ActLog: unix.SECCOMP_RET_LOG,
	} {
		code, _, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: a}}}, []machine{little})
		if err != nil {
			t.Fatal(err)
		}
		run := vm(t, code)
		if got := run(little, 83); got != want {
			t.Errorf("%s: %#x, want %#x", a, got, want)
		}
		for _, nr := range []uint32{0, 82, 84, 1000} {
			if got := run(little, nr); got != unix.SECCOMP_RET_ALLOW {
				t.Errorf("call %d: %#x", nr, got)
			}
		}
		if got := run(narrow, 39); got != unix.SECCOMP_RET_KILL_THREAD {
			t.Errorf("a machine that is not named: %#x", got)
		}
		if got := run(little, x32|83); got != errno|uint32(unix.ENOSYS) {
			t.Errorf("x32: %#x", got)
		}
	}
}

func TestDefaults(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: number(5),
		Architectures: []specs.Arch{specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "nobody knows this"}, Action: specs.ActAllow},
			{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: number(7)},
			{Names: []string{"last"}, Action: specs.ActAllow},
		}}
	code, _, err := compile(s, []machine{little, narrow})
	if err != nil {
		t.Fatal(err)
	}
	run := vm(t, code)
	for _, tc := range []struct {
		m    machine
		nr   uint32
		want uint32
	}{
		{little, 0, unix.SECCOMP_RET_ALLOW}, {little, 1, errno | 5}, {little, 83, errno | 7},
		{little, 300, unix.SECCOMP_RET_ALLOW},
		{little, 301, errno | uint32(unix.ENOSYS)}, {narrow, 3, unix.SECCOMP_RET_ALLOW}, {narrow, 0, errno | 5},
		{narrow, 39, errno | 7}, {narrow, 40, errno | uint32(unix.ENOSYS)},
	} {
		if got := run(tc.m, tc.nr); got != tc.want {
			t.Errorf("%s %d: %#x, want %#x", tc.m.name, tc.nr, got, tc.want)
		}
	}
}

// TestOperators compares every operator with what it means, on both sides of every border, in both orders of bytes.
func TestOperators(t *testing.T) {
	values := []uint64{0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 1, 5<<32 | 7, 5<<32 | 8, 6<<32 | 7,
		1<<63 | 1, ^uint64(0)}
	means := map[specs.LinuxSeccompOperator]func(x, a, b uint64) bool{
		specs.OpEqualTo:      func(x, a, _ uint64) bool { return x == a },
		specs.OpNotEqual:     func(x, a, _ uint64) bool { return x != a },
		specs.OpLessThan:     func(x, a, _ uint64) bool { return x < a },
		specs.OpLessEqual:    func(x, a, _ uint64) bool { return x <= a },
		specs.OpGreaterThan:  func(x, a, _ uint64) bool { return x > a },
		specs.OpGreaterEqual: func(x, a, _ uint64) bool { return x >= a },
		specs.OpMaskedEqual:  func(x, a, b uint64) bool { return x&a == b },
	}
	for _, m := range []machine{little, bigEnd} {
		nr := m.numbers()["clone"]
		for op, holds := range means {
			for _, a := range values {
				b := a & (5<<32 | 0x7fffffff)
				s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
					Syscalls: []specs.LinuxSyscall{{Names: []string{"clone"}, Action: specs.ActErrno,
						Args: []specs.LinuxSeccompArg{{Index: 5, Value: a, ValueTwo: b, Op: op},
							{Index: 0, Value: 9, Op: specs.OpEqualTo}}}}}
				code, _, err := compile(s, []machine{m})
				if err != nil {
					t.Fatal(err)
				}
				run := vm(t, code)
				for _, x := range values {
					want := uint32(unix.SECCOMP_RET_ALLOW)
					if holds(x, a, b) {
						want = errno | 1
					}
					if got := run(m, nr, 9, 0, 0, 0, 0, x); got != want {
						t.Errorf("%s: %#x %s %#x (%#x): %#x", m.name, x, op, a, b, got)
					}
					if got := run(m, nr, 8, 0, 0, 0, 0, x); got != unix.SECCOMP_RET_ALLOW {
						t.Errorf("%s: the other condition does not count", m.name)
					}
				}
			}
		}
	}
}

func TestConditionsOnOneArgumentAreAlternatives(t *testing.T) {
	arg := func(v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 0, Value: v, Op: specs.OpEqualTo}
	}
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"personality"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0), arg(8)}},
		{Names: []string{"personality"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{arg(9)}},
	}}
	code, _, err := compile(s, []machine{little})
	if err != nil {
		t.Fatal(err)
	}
	run := vm(t, code)
	for v, want := range map[uint64]uint32{0: unix.SECCOMP_RET_ALLOW, 8: unix.SECCOMP_RET_ALLOW,
		9: unix.SECCOMP_RET_LOG, 7: errno | 1} {
		if got := run(little, 135, v); got != want {
			t.Errorf("%d: %#x, want %#x", v, got, want)
		}
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	rule := func(a specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno,
				Args: []specs.LinuxSeccompArg{a}}}}
	}
	for name, s := range map[string]*specs.LinuxSeccomp{
		"an unknown action":   {DefaultAction: "SCMP_ACT_MAYBE"},
		"notification":        {DefaultAction: specs.ActNotify},
		"an unknown flag":     {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}},
		"an unknown operator": rule(specs.LinuxSeccompArg{Op: "SCMP_CMP_X"}),
		"a seventh argument":  rule(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}),
		"a huge error number": {DefaultAction: specs.ActErrno, DefaultErrnoRet: number(4096)},
	} {
		if _, _, err := Compile(s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActLog,
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
			"SECCOMP_FILTER_FLAG_TSYNC"}}); err != nil || f != 2|4 {
		t.Error(f, err)
	}
}

func TestTablesOfThisMachine(t *testing.T) {
	for _, m := range machines {
		n := m.numbers()
		if len(n) < 300 || n["clone3"] != 435 || n["close_range"] != 436 {
			t.Errorf("%s: %d calls, clone3 is %d", m.name, len(n), n["clone3"])
		}
	}
	if n := machines[0].numbers(); n["execve"] != unix.SYS_EXECVE || n["openat"] != unix.SYS_OPENAT {
		t.Error(n["execve"])
	}
}

// FuzzCompile: whatever a host asks for, a program that the interpreter takes comes out, or an error.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["read","clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s specs.LinuxSeccomp
		if json.Unmarshal(b, &s) != nil {
			return
		}
		code, _, err := Compile(&s)
		if err != nil || len(code) == 0 {
			return
		}
		run := vm(t, code)
		for nr := uint32(0); nr < 500; nr += 7 {
			run(machines[0], nr, 1, 2, 3, 4, 5, 6)
		}
	})
}

func TestLocksAreAskedAbout(t *testing.T) {
	code, err := Locks()
	if err != nil {
		t.Fatal(err)
	}
	run := vm(t, code)
	for _, m := range machines {
		numbers := m.numbers()
		ask := func(name string, args ...uint64) bool {
			n, ok := numbers[name]
			return ok && run(m, n, args...) == unix.SECCOMP_RET_USER_NOTIF
		}
		for _, cmd := range []uint64{unix.F_GETLK, unix.F_SETLK, unix.F_SETLKW, unix.F_OFD_SETLK, unix.F_OFD_SETLKW,
			unix.F_SETLEASE, unix.F_SETLK | 1<<40} {
			if !ask("fcntl", 3, cmd) {
				t.Errorf("%s: fcntl %#x is not asked about", m.name, cmd)
			}
		}
		for _, cmd := range []uint64{unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_ADD_SEALS} {
			if ask("fcntl", 3, cmd) {
				t.Errorf("%s: fcntl %#x is asked about", m.name, cmd)
			}
		}
		if !ask("flock", 3, unix.LOCK_EX) || ask("read", 3) || ask("openat", 3) {
			t.Errorf("%s: want flock to be asked about, and nothing else", m.name)
		}
	}
}
