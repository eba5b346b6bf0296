package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/katabuild/katabuild/agent/fatal"
	"github.com/katabuild/katabuild/agent/timeline"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/testenv"
)

func TestAgentServesUntilToldToEnd(t *testing.T) {
	testenv.Require(t, testenv.Func(testenv.Proc, func() error {
		_, err := os.Stat("/proc/cmdline")
		return err
	}))
	socket := filepath.Join(t.TempDir(), "agent")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	h := &fatal.Handler{Say: func(m string) { ended <- errors.New(m) }, End: func() {}}
	go func() {
		ended <- Run(ctx, Config{
			Version: "t", ServerAddr: "unix://" + socket, LogLevel: "critical", Console: io.Discard, Fatal: h,
			Timeline: timeline.New(),
		})
	}()
	var conn net.Conn
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	c := agenttest.NewClient(conn)
	defer c.Close()
	if err := c.Check(ctx); err != nil {
		t.Error(err)
	}
	// A plain user may not see all that a guest's own report needs; what a report holds is tested in measure.
	r, _, err := c.Report(ctx, make([]byte, 16), nil)
	if err == nil && (r.Agent.Version != "t" || r.Timeline[len(r.Timeline)-1].Name != timeline.Ready) {
		t.Errorf("%+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestConsoleLinesAreSingleLines(t *testing.T) {
	var b bytes.Buffer
	var level slog.LevelVar
	level.Set(slog.LevelError)
	log := newLogger(&b, &level)
	log.Info("not asked for")
	log.Error("mount: no such device\nand more")
	level.Set(slog.LevelDebug)
	log.With("room", "early").WithGroup("g").Debug("a step", "took", time.Second, "path", "a b")
	log.Warn("odd")
	want := `katabuild-agent: mount: no such device; and more
katabuild-agent: debug: a step room=early g.took=1s g.path="a b"
katabuild-agent: warning: odd
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

func TestFirstExecutable(t *testing.T) {
	d := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o644, "sh": 0o755} {
		if err := os.WriteFile(filepath.Join(d, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := firstExecutable([]string{d, d + "/none", d + "/plain", d + "/sh"}); err != nil || p != d+"/sh" {
		t.Error(p, err)
	}
	if _, err := firstExecutable([]string{d + "/none"}); !errors.Is(err, errNoShell) {
		t.Error(err)
	}
}
