package accel

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/testenv"
	"os"
)

func TestChoose(t *testing.T) {
	good := Facts{GuestArch: "x86_64", HostArch: "x86_64", CPUFlags: []string{"fpu", "svm"}}
	with := func(f func(*Facts)) Facts { g := good; f(&g); return g }
	for name, tc := range map[string]struct {
		facts Facts
		want  Accel
		says  string
	}{
		"KVM where it ran the trial": {good, KVM, "svm"},
		"TCG without the device": {with(func(f *Facts) {
			f.Open = &fs.PathError{Op: "open", Path: Device,
				Err: fs.ErrNotExist}
		}), TCG, "has no /dev/kvm"},
		"TCG without the permission": {with(func(f *Facts) {
			f.Open = &fs.PathError{Op: "open", Path: Device,
				Err: fs.ErrPermission}
		}), TCG, "group kvm"},
		"TCG without vmx and svm": {with(func(f *Facts) { f.CPUFlags = []string{"fpu"} }), TCG,
			"neither vmx nor svm"},
		"TCG where the trial failed": {with(func(f *Facts) { f.Trial = errors.New("exit for reason 17") }), TCG,
			"exit for reason 17"},
		"TCG for the other way round": {Facts{GuestArch: "x86_64", HostArch: "s390x"}, TCG, "this host is s390x"},
		"TCG for another guest":       {with(func(f *Facts) { f.GuestArch = "aarch64" }), TCG, "the guest is aarch64"},
		"KVM elsewhere when it opens": {Facts{GuestArch: "aarch64", HostArch: "aarch64"}, KVM,
			"opens; there is no trial for aarch64"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Choose(Auto, tc.facts)
			if err != nil || c.Accel != tc.want || !strings.Contains(c.Reason, tc.says) || strings.Contains(c.Reason,
				"\n") {
				t.Errorf("%+v, %v; want %s because of %q", c, err, tc.want, tc.says)
			}
			if c, err := Choose(OnlyTCG, tc.facts); err != nil || c.Accel != TCG {
				t.Errorf("TCG asked for: %+v, %v", c, err)
			}
			if c, err := Choose(OnlyKVM, tc.facts); (err == nil) != (tc.want == KVM) {
				t.Errorf("KVM asked for: %+v, %v", c, err)
			}
		})
	}
}

func TestClockRate(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want int
	}{
		"from cpu MHz":                   {"model name\t: AMD EPYC\ncpu MHz\t\t: 2096.000\n", 2096000},
		"with a fraction":                {"cpu MHz : 2595.124\n", 2595124},
		"the name goes first":            {"model name : Intel(R) Xeon(R) CPU @ 2.60GHz\ncpu MHz : 800.1\n", 2600000},
		"unknown":                        {"processor : 0\n", 0},
		"nonsense":                       {"cpu MHz : NaN\n", 0},
		"nonsense after the at sign":     {"model name : x @ y\ncpu MHz : 1000\n", 1000000},
		"out of range":                   {"cpu MHz : 1e300\n", 0},
		"the first processor's only":     {"cpu MHz : 1000\n\ncpu MHz : 2000\n", 1000000},
		"a line without a colon is skip": {"nothing\ncpu MHz : 1000\n", 1000000},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clockKHz(strings.NewReader(tc.in)); got != tc.want {
				t.Errorf("%d kHz, want %d", got, tc.want)
			}
		})
	}
}

func TestProbeOfThisHost(t *testing.T) {
	a, err := arch.FromGo("amd64")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Choose(Auto, Probe(a))
	if err != nil || c.Reason == "" {
		t.Fatalf("%+v, %v", c, err)
	}
	t.Log(c.Reason)
}

func TestTrialOnKVM(t *testing.T) {
	testenv.Require(t, testenv.Func(testenv.KVM, func() error {
		f, err := os.OpenFile(Device, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}))
	f, err := os.OpenFile(Device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Logf("trial: %v", trial(f))
}

func TestAProcessorIsWhatGuestsSeeOfIt(t *testing.T) {
	const one = "processor\t: 0\nmodel name\t: A\ncpu MHz\t\t: 1000\nflags\t\t: fpu sse\n"
	const two = "processor\t: 1\nmodel name\t: A\ncpu MHz\t\t: 2000\nflags\t\t: fpu sse\n"
	if a, b := string(processor(one+"\n"+two)), string(processor(two+"\n"+one)); a != b || a == "" {
		t.Errorf("%q and %q", a, b)
	}
	if a, b := string(processor(one)), string(processor(strings.Replace(one, "sse", "avx", 1))); a == b {
		t.Error("other flags make no difference")
	}
}
