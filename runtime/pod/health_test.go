package pod

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// ended waits for the end of ctx and returns the cause.
func ended(t *testing.T, ctx context.Context) error {
	t.Helper()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(10 * time.Second):
		t.Fatal("the request still waits")
		return nil
	}
}

func TestPulse(t *testing.T) {
	p := newPulse()
	early, cancel := p.context(t.Context())
	defer cancel()
	p.set(true)
	if err := early.Err(); err != nil {
		t.Fatalf("the agent answers, and a request ends with %v", err)
	}
	p.set(false)
	p.set(false)
	if err := ended(t, early); !errors.Is(err, ErrSilent) {
		t.Errorf("a request before the silence ends with %v", err)
	}
	during, cancel := p.context(t.Context())
	defer cancel()
	if err := ended(t, during); !errors.Is(err, ErrSilent) {
		t.Errorf("a request during the silence ends with %v", err)
	}
	p.set(true)
	after, cancel := p.context(t.Context())
	defer cancel()
	if err := after.Err(); err != nil {
		t.Fatalf("the agent answers again, and a request ends with %v", err)
	}
	why := errors.New("the guest is gone")
	p.lose(why)
	p.set(true) // a late answer
	if err := ended(t, after); !errors.Is(err, why) {
		t.Errorf("a request of a lost pod ends with %v", err)
	}
	late, cancel := p.context(t.Context())
	defer cancel()
	if err := ended(t, late); !errors.Is(err, why) {
		t.Errorf("a request after the loss ends with %v", err)
	}
}

func TestAPodIsLostOnceAndForOneReason(t *testing.T) {
	p := &Pod{sick: make(chan struct{}), pulse: newPulse()}
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
