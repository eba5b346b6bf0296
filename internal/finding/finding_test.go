package finding

import (
	"slices"
	"strings"
	"testing"
)

func TestAListIsPrinted(t *testing.T) {
	l := List{
		{Name: "QEMU", State: Missing, Fact: "not found", Without: "boot", WayOut: "install it",
			Packages: []string{"qemu-system-x86"}},
		{Name: "KVM", State: Optional, Fact: "emulated", Details: []string{"no vmx", "no svm"}},
		{Name: "QEMU", State: Missing, Fact: "has no machine", Packages: []string{"qemu-system-x86", "other"}},
		{Name: "tun", State: Fine, Fact: "opens", Packages: []string{"never"}},
	}
	for verbose, want := range map[bool]string{
		false: "missing QEMU: not found; without it: no boot; install it\noptional KVM: emulated\n" +
			"missing QEMU: has no machine\nok tun: opens\n",
		true: "missing QEMU: not found; without it: no boot; install it\noptional KVM: emulated\n    no vmx\n    " +
			"no svm\n" +
			"missing QEMU: has no machine\nok tun: opens\n",
	} {
		var b strings.Builder
		if err := l.Print(&b, verbose); err != nil || b.String() != want {
			t.Errorf("verbose %v: %q, %v", verbose, b.String(), err)
		}
	}
	if m := l.Missing(); !slices.Equal(m, []string{"QEMU"}) {
		t.Errorf("missing: %q", m)
	}
	if p := l.Packages(); !slices.Equal(p, []string{"qemu-system-x86", "other"}) {
		t.Errorf("packages: %q", p)
	}
	if s := OneLine("a\nb\x1b[1m\tc"); s != "a b [1m c" {
		t.Errorf("%q", s)
	}
}
