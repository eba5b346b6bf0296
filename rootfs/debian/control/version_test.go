package control

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// sorted are versions, each newer than the one before it; those in one line are equal.
var sorted = [][]Version{
	{"0~~"},
	{"0~"},
	{"0", "0:0", "00", "0-0", "0-00", "000:0-0"},
	{"0-0.1"},
	{"0-1~bpo12+1"},
	{"0-1"},
	{"0-1+b1"},
	{"0.1~rc1-1"},
	{"0.1-1", "0:0.1-01"},
	{"0.1-1.1"},
	{"0.1+dfsg-1"},
	{"0.1.1-1"},
	{"0.1.a"},
	{"0.1.+"},
	{"0.09a"},
	{"0.9b"},
	{"0.10"},
	{"1.0a7"},
	{"1.0a8"},
	{"1.0-1-1"},
	{"1.0.1-1~"},
	{"1.0.1-1"},
	{"2.41-12+deb13u4"},
	{"2.41-12+deb13u5"},
	{"18446744073709551616"},
	{"18446744073709551617"},
	{"1:0~"},
	{"1:0"},
	{"1:0:1"},
	{"02:0"},
	{"10:0"},
}

func TestVersionsAreOrdered(t *testing.T) {
	_, missing := exec.LookPath("dpkg")
	for i, l := range sorted {
		for _, v := range l {
			if err := v.Check(); err != nil {
				t.Error(err)
			}
			for j, m := range sorted {
				for _, w := range m {
					if got := v.Compare(w); sign(got) != sign(i-j) {
						t.Errorf("%s and %s: %d, want %d", v, w, got, i-j)
					}
				}
			}
		}
		if i > 0 && missing == nil {
			askDpkg(t, sorted[i-1][0], "lt", l[0])
			for _, v := range l[1:] {
				askDpkg(t, l[0], "eq", v)
			}
		}
	}
}

func askDpkg(t *testing.T, v Version, op string, w Version) {
	t.Helper()
	err := exec.Command("dpkg", "--compare-versions", string(v), op, string(w)).Run()
	var e *exec.ExitError
	if errors.As(err, &e) && e.ExitCode() == 1 {
		t.Errorf("dpkg does not agree that %s %s %s", v, op, w)
	} else if err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNoVersion(t *testing.T) {
	for _, v := range []Version{"", "a", "-1", "1-", ":1", "a:1", "-1:1", "2147483648:1", "1 2", "1/2", "1_2",
		"1-1_2", "1-1:2", "~1", "1:", "1:a", "é1"} {
		if v.Check() == nil {
			t.Errorf("%q passes for a version", v)
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

// FuzzVersion: the order is total, and with -v also that of dpkg.
func FuzzVersion(f *testing.F) {
	for i := 1; i < len(sorted); i++ {
		f.Add(string(sorted[i-1][0]), string(sorted[i][0]), "1")
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		v, w, x := Version(a), Version(b), Version(c)
		if sign(v.Compare(w)) != -sign(w.Compare(v)) || v.Compare(v) != 0 {
			t.Errorf("%q and %q: %d and %d", a, b, v.Compare(w), w.Compare(v))
		}
		if v.Compare(w) <= 0 && w.Compare(x) <= 0 && v.Compare(x) > 0 {
			t.Errorf("%q, %q, %q go round", a, b, c)
		}
		if testing.Verbose() && v.Check() == nil && w.Check() == nil {
			testenv.Require(t, testenv.Tool("dpkg"))
			askDpkg(t, v, [...]string{"lt", "eq", "gt"}[sign(v.Compare(w))+1], w)
		}
	})
}
