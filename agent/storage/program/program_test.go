package program

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/agent/reap"
)

func runner(t *testing.T) Runner {
	t.Helper()
	r, err := reap.New()
	if err != nil {
		t.Fatal(err)
	}
	go r.Run(t.Context())
	return Runner{Reaper: r}
}

func TestAProgramGetsItsInputAndGivesItsOutput(t *testing.T) {
	r := runner(t)
	long := strings.Repeat("0123456789abcdef", 20_000) // more than a pipe holds, both ways
	if out, err := r.Run(t.Context(), []byte(long), "cat"); err != nil || string(out) != long {
		t.Errorf("cat gave %d bytes back, %v", len(out), err)
	}
	if _, err := r.Run(t.Context(), nil, "sh", "-c", "echo out; echo no such thing >&2; exit 3"); err == nil ||
		!strings.Contains(err.Error(), "sh ended with 3: no such thing") {
		t.Errorf("got %v", err)
	}
	if _, err := r.Run(t.Context(), nil, "katabuild-no-such-program"); !errors.Is(err, errMissing) ||
		!strings.Contains(err.Error(), defaultPath) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := r.Run(ctx, nil, "sleep", "60"); !errors.Is(err, context.DeadlineExceeded) ||
		time.Since(begin) > 10*time.Second {
		t.Errorf("got %v after %s", err, time.Since(begin))
	}
}
