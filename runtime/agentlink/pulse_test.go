package agentlink

import (
	"context"
	"errors"
	"fmt"
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

func TestSilenceEndsRequestsAndIsForgiven(t *testing.T) {
	p := newPulse()
	ctx, cancel := p.context(t.Context())
	defer cancel()
	p.set(false)
	p.set(false)
	<-ctx.Done()
	if ctx2, cancel := p.context(t.Context()); true {
		defer cancel()
		select {
		case <-ctx2.Done():
		case <-time.After(5 * time.Second):
			t.Error("a request begins while the agent is silent")
		}
	}
	p.set(true)
	ctx3, cancel3 := p.context(t.Context())
	if ctx3.Err() != nil {
		t.Error(ctx3.Err())
	}
	cancel3()
	cancel3()
	if s := fmt.Sprint(ErrSilent); !strings.Contains(s, "does not answer") {
		t.Error(s)
	}
}

func TestNoRequestBeginsOnceTheAgentIsLost(t *testing.T) {
	p := newPulse()
	why := errors.New("it is lost")
	p.lose(why)
	for range 1000 { // the goroutine that ends contexts is late now and then
		ctx, cancel := p.context(t.Context())
		if !errors.Is(context.Cause(ctx), why) {
			t.Fatalf("a request could begin: %v", context.Cause(ctx))
		}
		cancel()
	}
}
