package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/agent/options"
	"github.com/katabuild/katabuild/internal/testenv"
)

// logPort serves s on a UNIX socket, and returns how to connect.
func logPort(t *testing.T, s *logStream) func() net.Conn {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() net.Conn {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// record reads one line.
func record(t *testing.T, r *bufio.Reader) map[string]any {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return m
}

func TestTheLogIsJSONForWhoConnectsLast(t *testing.T) {
	s := newLogStream("7", slog.LevelInfo)
	var console strings.Builder
	level := new(slog.LevelVar)
	level.Set(slog.LevelError)
	log := s.tee(newLogger(&console, level))
	log.Error("before anybody came", "path", "a b", "n", 3)
	log.Debug("not asked for")
	dial := logPort(t, s)
	first := dial()
	r := bufio.NewReader(first)
	m := record(t, r)
	if _, err := time.Parse(time.RFC3339Nano, m["ts"].(string)); err != nil {
		t.Error(err)
	}
	delete(m, "ts")
	delete(m, "pid")
	want := map[string]any{"level": "ERRO", "msg": "before anybody came", "name": "kata-agent", "source": "agent",
		"version": "7", "path": "a b", "n": 3.0}
	for k, v := range want {
		if m[k] != v {
			t.Errorf("%s is %v, want %v", k, m[k], v)
		}
	}
	if len(m) != len(want) {
		t.Errorf("%v", m)
	}
	log.Warn("now")
	if m := record(t, r); m["msg"] != "now" || m["level"] != "WARN" {
		t.Errorf("%v", m)
	}
	second := dial()
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the first reader still is one: %v", err)
	}
	log.Log(t.Context(), options.LevelCritical, "later")
	if m := record(t, bufio.NewReader(second)); m["msg"] != "later" || m["level"] != "CRIT" {
		t.Errorf("%v", m)
	}
	text := "katabuild-agent: before anybody came path=\"a b\" n=3\nkatabuild-agent: critical: later\n"
	if console.String() != text {
		t.Errorf("the console has %q, want %q", console.String(), text)
	}
}

func TestNobodyWhoLogsWaitsForAReader(t *testing.T) {
	s := newLogStream("7", slog.LevelInfo)
	log := s.tee(slog.New(slog.DiscardHandler))
	dial := logPort(t, s)
	idle := dial() // reads nothing
	testenv.Blocked(t, "agent.(*logStream).send")
	const lines = 20000
	start := time.Now()
	for i := range lines {
		log.Info(strings.Repeat("x", 200), "i", i)
	}
	log.Info(strings.Repeat("y", maxLogLine))
	if d := time.Since(start); d > logWriteTime/2 {
		t.Errorf("%d lines took %v", lines, d)
	}
	s.mu.Lock()
	if len(s.lines) > maxLogLines || s.bytes > maxLogBytes {
		t.Errorf("%d lines of %d bytes wait", len(s.lines), s.bytes)
	}
	s.mu.Unlock()
	_ = idle.Close()
	r := bufio.NewReader(dial())
	// What is lost is counted, and the newest are there.
	lost := false
	for {
		m := record(t, r)
		lost = lost || strings.HasSuffix(m["msg"].(string), "lines of the log were lost")
		if m["i"] == float64(lines-1) {
			break
		}
	}
	if !lost {
		t.Error("nobody is told that lines were lost")
	}
}
