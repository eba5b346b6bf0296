package testenv

import "testing"

func TestAllStandsForEveryNeedButThoseTakenOut(t *testing.T) {
	kvm := Func(KVM, nil)
	for _, c := range []struct {
		list        string
		need        Need
		inAll, want bool
	}{
		{"", kvm, true, false},
		{"all", kvm, true, true},
		{"all,-kvm", kvm, true, false},
		{"-kvm,all", kvm, true, false},
		{"kvm", kvm, true, true},
		{"root,kvm", kvm, true, true},
		{"all,-kvm", Tool("tar"), true, true},
		{"all", Asked("X", "test-x"), false, false},
		{"all,X", Asked("X", "test-x"), false, true},
	} {
		if got := required(c.list, c.need, c.inAll); got != c.want {
			t.Errorf("%q asks for %s: %v", c.list, c.need.name, got)
		}
	}
}
