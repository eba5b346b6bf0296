package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheHostIsToldUntilItHears(t *testing.T) {
	refused := fmt.Errorf("connect: %w", unix.ECONNREFUSED)
	for name, c := range map[string]struct {
		answers []error // of each attempt; the last one stays
		want    error
		tries   int
	}{
		"at once":             {[]error{nil}, nil, 1},
		"nobody listens":      {[]error{refused}, refused, 1},
		"a host that is busy": {[]error{unix.ETIMEDOUT, context.DeadlineExceeded, nil}, nil, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				err := announce(t.Context(), func(ctx context.Context) error {
					if end, ok := ctx.Deadline(); !ok || time.Until(end) > readyAttempt {
						t.Error("an attempt without an end")
					}
					tries++
					return c.answers[min(tries, len(c.answers))-1]
				})
				if !errors.Is(err, c.want) || tries != c.tries {
					t.Errorf("%v after %d attempts, want %v after %d", err, tries, c.want, c.tries)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := announce(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if took := time.Since(start); err == nil || took < readyTime || took > readyTime+readyAttempt {
			t.Errorf("%v after %v", err, took)
		}
	})
}
