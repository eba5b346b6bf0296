package view

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/progress"
)

// clock moves a second at every look.
func clock() func() time.Time {
	var mu sync.Mutex
	t := time.Unix(0, 0)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		t = t.Add(time.Second)
		return t
	}
}

func run(style string, terminal bool) string {
	var b bytes.Buffer
	v := New(&b, Options{Style: style, Terminal: terminal, Now: clock()})
	v.Event(progress.Event{Step: "kernel", Kind: progress.Start, Expected: time.Minute})
	v.Event(progress.Event{Step: "initrd", Kind: progress.Hit})
	v.Event(progress.Event{Step: "kernel", Kind: progress.Update, Message: "compile", Current: 1, Total: 4,
		Unit: "files"})
	v.Event(progress.Event{Step: "kernel", Kind: progress.Log, Message: "a warning"})
	v.Event(progress.Event{Step: "kernel", Kind: progress.Done})
	v.Close()
	return b.String()
}

func TestPlainLines(t *testing.T) {
	got := run(Auto, false)
	for _, want := range []string{"kernel: start (last time 1m0s)\n", "initrd: hit\n", "kernel: compile 1/4 files, ",
		" of about 1m0s\n", "kernel: a warning\n", "kernel: done in "} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("escape codes outside a terminal:\n%q", got)
	}
}

func TestJSONLines(t *testing.T) {
	got := run(JSON, true)
	if n := strings.Count(got, "\n"); n != 5 {
		t.Errorf("%d lines, want one an event:\n%s", n, got)
	}
	if !strings.Contains(got, `{"step":"kernel","kind":"update","message":"compile","current":1,"total":4,"unit":"files","elapsed_ms":`) {
		t.Errorf("got:\n%s", got)
	}
}

func TestTheLiveViewLeavesOnlyResults(t *testing.T) {
	got := screen(run(Auto, true))
	want := []string{"= initrd: hit", "kernel: a warning", "✓ kernel: done in"}
	if len(got) != len(want) {
		t.Fatalf("screen: %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
}

// screen plays the codes the view uses: up, clear line, colours.
func screen(s string) []string {
	lines := []string{""}
	for s != "" {
		switch {
		case strings.HasPrefix(s, "\x1b[1A"):
			lines, s = lines[:len(lines)-1], s[4:]
		case strings.HasPrefix(s, "\x1b[2K"):
			lines[len(lines)-1], s = "", s[4:]
		case strings.HasPrefix(s, "\x1b["):
			s = s[strings.IndexByte(s, 'm')+1:]
		case s[0] == '\n':
			lines, s = append(lines, ""), s[1:]
		default:
			lines[len(lines)-1] += s[:1]
			s = s[1:]
		}
	}
	return lines[:len(lines)-1]
}

func TestQuietShowsOnlyFailures(t *testing.T) {
	if got := run(Quiet, true); got != "" {
		t.Errorf("got %q", got)
	}
}
