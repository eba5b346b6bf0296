package serve

import (
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"golang.org/x/sys/unix"
)

func TestSignalsGoToThoseThatTheHostMeans(t *testing.T) {
	for _, c := range []struct {
		exec   string
		signal unix.Signal
		want   signalRule
	}{
		{"", unix.SIGKILL, toAll}, {"", unix.SIGTERM, toFirst}, {"", unix.SIGHUP, toFirst},
		{"", unix.SIGUSR1, toFirst}, {"", 0, toFirst},
		{"c1", unix.SIGKILL, toOne}, {"c1", unix.SIGTERM, toOne}, {"exec", unix.SIGKILL, toOne},
		{agentapi.AllProcesses, unix.SIGHUP, toAll},
		{agentapi.AllProcesses, unix.SIGKILL, toAll},
	} {
		if got := rule(c.exec, c.signal); got != c.want {
			t.Errorf("%q, %v: %v, want %v", c.exec, c.signal, got, c.want)
		}
	}
}
