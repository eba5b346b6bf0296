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

func TestAWordIsNeverInAll(t *testing.T) {
	word, tool := Asked("X", "test-x"), Tool("tar")
	for _, c := range []struct {
		need               Need
		asked, unset, want bool
	}{
		{word, false, false, false}, {word, true, false, false}, // also behind another word that runs
		{tool, false, false, true}, {tool, true, false, true},
		{tool, false, true, false}, {tool, true, true, true},
	} {
		if got := c.need.inAll(c.asked, c.unset); got != c.want {
			t.Errorf("%s, asked %v, unset %v: %v", c.need.name, c.asked, c.unset, got)
		}
	}
}

func TestWhoeverWaitsIsSeen(t *testing.T) {
	stop, over := make(chan struct{}), make(chan struct{})
	go func() { defer close(over); <-stop }()
	Blocked(t, "testenv.TestWhoeverWaitsIsSeen.func1")
	close(stop)
	<-over
}
