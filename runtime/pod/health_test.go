package pod

import (
	"errors"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/runtime/agentlink"
)

func TestAPodIsLostOnceAndForOneReason(t *testing.T) {
	p := &Pod{sick: make(chan struct{}), link: agentlink.New(nil, nil)}
	first := errors.New("first")
	p.lose(first)
	p.GiveUp(ErrStuck)
	<-p.Sick()
	if !errors.Is(p.sickErr, first) {
		t.Errorf("the reason is %v", p.sickErr)
	}
}

func TestFSGone(t *testing.T) {
	for _, x := range []struct {
		name, said string
		err        error
		want       string
	}{
		{"an end without a word", "", nil, "gone: it ended"},
		{"a signal", "one\ntwo", errors.New("virtiofsd: signal: killed: one\ntwo"),
			"gone: virtiofsd: signal: killed; its last words: two"},
		{"a signal without a word", "", errors.New("virtiofsd: signal: killed"), "gone: virtiofsd: signal: killed"},
	} {
		if got := fsGone(x.err, x.said).Error(); !strings.HasSuffix(got, x.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: %q, want ...%q", x.name, got, x.want)
		}
	}
}
