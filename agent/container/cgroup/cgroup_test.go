package cgroup

import (
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func p[T any](v T) *T { return &v }

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: %d, want %d", shares, got, want)
		}
	}
	for w, want := range map[uint16]uint64{10: 1, 1000: 10000, 1: 1} {
		if got := ioWeight(w); got != want {
			t.Errorf("weight %d: %d, want %d", w, got, want)
		}
	}
}

func TestPathsStayBelowTheRoot(t *testing.T) {
	for in, want := range map[string]string{
		"": "kata/x", "/": "kata/x", "/a/b": "a/b", "a/b": "a/b", "../../etc": "etc", "/../..": "kata/x",
		"system.slice:kata:abc": "system.slice/kata-abc.scope",
	} {
		if got := Path(in, "kata/x"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFilesOfResources(t *testing.T) {
	for name, tc := range map[string]struct {
		in   specs.LinuxResources
		want string
	}{
		"nothing": {specs.LinuxResources{}, "[]"},
		"half a processor": {specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: p(int64(50000)),
			Period: p(uint64(100000)), Shares: p(uint64(512))}}, "[cpu.weight=20 cpu.max=50000 100000]"},
		"no quota": {specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: p(int64(-1)),
			Period: p(uint64(100000))}}, "[cpu.max=max 100000]"},
		"an idle group has no weight": {specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: p(int64(1)),
			Shares: p(uint64(512))}}, "[cpu.idle=1]"},
		"processors": {specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-1", Mems: "0"}},
			"[cpuset.cpus=0-1 cpuset.mems=0]"},
		"swap is counted alone": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(int64(100)),
			Swap: p(int64(150)), Reservation: p(int64(50))}}, "[memory.swap.max=50 memory.max=100 memory.low=50]"},
		"no limit": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: p(int64(-1)),
			Swap: p(int64(-1))}, Pids: &specs.LinuxPids{Limit: p(int64(-1))}},
			"[memory.swap.max=max memory.max=max pids.max=max]"},
		"unified values come last": {specs.LinuxResources{Unified: map[string]string{"memory.high": "5",
			"io.max": "8:0 rbps=1\n8:1 rbps=2"}, Pids: &specs.LinuxPids{Limit: p(int64(5))}},
			"[pids.max=5 io.max=8:0 rbps=1 io.max=8:1 rbps=2 memory.high=5]"},
		"huge pages, also reserved ones": {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{
			{Pagesize: "2MB", Limit: 4}}}, "[hugetlb.2MB.max=4 hugetlb.2MB.rsvd.max=4]"},
	} {
		files, err := Files(&tc.in)
		got := []string{}
		for _, f := range files {
			got = append(got, f.Name+"="+f.Value)
		}
		if err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, %v, want %s", name, got, err, tc.want)
		}
	}
	for name, r := range map[string]specs.LinuxResources{
		"swap below memory":   {Memory: &specs.LinuxMemory{Limit: p(int64(100)), Swap: p(int64(50))}},
		"swap without memory": {Memory: &specs.LinuxMemory{Swap: p(int64(50))}},
		"a way out":           {Unified: map[string]string{"../memory.max": "1"}},
		"a huge page size":    {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}}},
	} {
		if _, err := Files(&r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestThrottles(t *testing.T) {
	dev := specs.LinuxThrottleDevice{Rate: 1000}
	dev.Major, dev.Minor = 254, 16
	files, err := Files(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: p(uint16(10)),
		ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{dev}}})
	if want := []File{{"io.weight", "default 1", false}, {"io.max", "254:16 wiops=1000", false}}; err != nil ||
		!reflect.DeepEqual(files, want) {
		t.Error(files, err)
	}
}

// run is an interpreter for the instructions that Program uses.
func run(t *testing.T, code []insn, access, kind, major, minor uint32) bool {
	t.Helper()
	var r [11]int64
	ctx := []uint32{access<<16 | kind, major, minor}
	for pc := 0; ; pc++ {
		i := code[pc]
		dst, src := i.Reg&15, i.Reg>>4
		switch i.Op {
		case opLoadWord:
			r[dst] = int64(ctx[i.Off/4])
		case opMov:
			r[dst] = int64(i.Imm)
		case opMovReg:
			r[dst] = r[src]
		case opAnd:
			r[dst] &= int64(i.Imm)
		case opRight:
			r[dst] = int64(uint64(r[dst]) >> i.Imm)
		case opJumpEq:
			if r[dst] == int64(i.Imm) {
				pc += int(i.Off)
			}
		case opJumpNe:
			if r[dst] != int64(i.Imm) {
				pc += int(i.Off)
			}
		case opExit:
			return r[regReturn] == 1
		default:
			t.Fatalf("instruction %#x", i.Op)
		}
	}
}

func TestDevicePrograms(t *testing.T) {
	dev := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		d := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
		if major >= 0 {
			d.Major = &major
		}
		if minor >= 0 {
			d.Minor = &minor
		}
		return d
	}
	const r, w, m, rw = accessRead, accessWrite, accessMknod, accessRead | accessWrite
	for name, tc := range map[string]struct {
		rules               []specs.LinuxDeviceCgroup
		access, kind, major uint32
		minor               uint32
		want                bool
	}{
		"null may be used":              {nil, rw, devChar, 1, 3, true},
		"any node may be made":          {nil, m, devBlock, 8, 0, true},
		"a disk may not be read":        {nil, r, devBlock, 8, 0, false},
		"/dev/kmsg may not be written":  {nil, w, devChar, 1, 11, false},
		"a pseudo-terminal may be used": {nil, rw, devChar, 136, 77, true},
		"a leading denial leaves the defaults": {[]specs.LinuxDeviceCgroup{dev(false, "", -1, -1, "rwm")}, rw,
			devChar, 1, 3, true},
		"what is allowed is": {[]specs.LinuxDeviceCgroup{dev(false, "a", -1, -1, "rwm"),
			dev(true, "b", 8, 0, "r")}, r, devBlock, 8, 0, true},
		"to read is not to write": {[]specs.LinuxDeviceCgroup{dev(true, "b", 8, 0, "r")}, rw,
			devBlock, 8, 0, false},
		"two rules add up": {[]specs.LinuxDeviceCgroup{dev(true, "b", 8, 0, "r"),
			dev(true, "b", 8, -1, "w")}, rw, devBlock, 8, 0, true},
		"the last rule wins, a denial": {[]specs.LinuxDeviceCgroup{dev(true, "a", -1, -1, "rwm"),
			dev(false, "c", 1, 11, "w")}, rw, devChar, 1, 11, false},
		"a denial of one access is no other's": {[]specs.LinuxDeviceCgroup{dev(true, "a", -1, -1, "rwm"),
			dev(false, "c", 1, 11, "w")}, r, devChar, 1, 11, true},
		"the last rule wins, a permission": {[]specs.LinuxDeviceCgroup{dev(false, "c", 1, 11, "rw"),
			dev(true, "c", 1, -1, "rw")}, rw, devChar, 1, 11, true},
		"a later denial of all denies a default": {[]specs.LinuxDeviceCgroup{dev(true, "c", 9, 9, "r"),
			dev(false, "a", -1, -1, "rwm")}, r, devChar, 1, 3, false},
		"a block rule does not match a character": {[]specs.LinuxDeviceCgroup{dev(true, "b", 8, 0, "rwm")}, r,
			devChar, 8, 0, false},
	} {
		rules, err := Rules(tc.rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run(t, compile(rules), tc.access, tc.kind, tc.major, tc.minor); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{dev(true, "x", 1, 1, "r"), dev(true, "c", 1, 1, "x")} {
		if _, err := Rules([]specs.LinuxDeviceCgroup{bad}, nil); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

func TestCountersAreRead(t *testing.T) {
	got := parseIO("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 new=7\nnonsense\n1:2\n7:1 rbytes=9\n")
	if want := []IOStats{{Major: 7, Minor: 1, ReadBytes: 9}, {8, 0, 1, 2, 3, 4, 5, 6}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if m := parseKeyed("a 1\nb max\nc 18446744073709551615\n"); len(m) != 2 || m["a"] != 1 || m["c"] != math.MaxUint64 {
		t.Error(m)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("8:0 rbytes=1 wbytes=2\nusage_usec 5\n")
	f.Fuzz(func(t *testing.T, s string) {
		parseIO(s)
		parseKeyed(s)
	})
}
