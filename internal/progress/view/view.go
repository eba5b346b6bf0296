// Package view shows progress events to people and programs: a live view on a terminal, plain lines elsewhere, JSON
// lines on request.
package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/progress"
)

// The styles of a view.
const (
	Auto  = "auto" // Live on a terminal, Plain elsewhere
	Live  = "live"
	Plain = "plain"
	JSON  = "json"
	Quiet = "quiet" // nothing but failures
)

// Styles lists the styles a user may ask for.
func Styles() []string { return []string{Auto, Live, Plain, JSON, Quiet} }

// Options says how to show.
type Options struct {
	Style    string
	Terminal bool             // whether the writer is a terminal
	Width    func() int       // columns of the terminal; nil means 80
	Now      func() time.Time // the clock; nil means time.Now
}

// View receives events and shows them. Close must be called once, after the last event.
type View struct {
	w     io.Writer
	o     Options
	mu    sync.Mutex // guards what follows
	steps []*step
	drawn int // lines of the live block on the screen
	stop  chan struct{}
	ended chan struct{}
}

type step struct {
	name, message  string
	began          time.Time
	current, total int64
	unit           string
	expected       time.Duration
	over           bool
	said           time.Time // when a plain line was last written for it
	saidMessage    string
}

// New starts a view on w.
func New(w io.Writer, o Options) *View {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Width == nil {
		o.Width = func() int { return 80 }
	}
	if o.Style == Auto || o.Style == "" {
		o.Style = Plain
		if o.Terminal {
			o.Style = Live
		}
	}
	v := &View{w: w, o: o, stop: make(chan struct{}), ended: make(chan struct{})}
	go v.tick()
	return v
}

// tick redraws so that elapsed times move, and lets plain views say that a long step is alive.
func (v *View) tick() {
	defer close(v.ended)
	every := 200 * time.Millisecond
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-v.stop:
			return
		case <-t.C:
			v.mu.Lock()
			switch v.o.Style {
			case Live:
				v.draw()
			case Plain:
				for _, s := range v.steps {
					if !s.over && v.o.Now().Sub(s.said) > 15*time.Second {
						v.plainLine(s)
					}
				}
			}
			v.mu.Unlock()
		}
	}
}

// Close ends the view and leaves the screen tidy.
func (v *View) Close() {
	close(v.stop)
	<-v.ended
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.o.Style == Live {
		v.erase()
	}
}

// Event shows e. It is a progress.Func.
func (v *View) Event(e progress.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.o.Now()
	s := v.find(e.Step)
	if s == nil {
		s = &step{name: e.Step, began: now, said: now}
		v.steps = append(v.steps, s)
	}
	switch e.Kind {
	case progress.Start:
		s.began, s.expected, s.over, s.said = now, e.Expected, false, now
	case progress.Update:
		s.message, s.current, s.total, s.unit = e.Message, e.Current, e.Total, e.Unit
	case progress.Done, progress.Hit, progress.Fail:
		s.over = true
	}
	e.Elapsed = now.Sub(s.began)
	switch v.o.Style {
	case JSON:
		v.json(e)
	case Live:
		v.live(s, e)
	case Plain:
		v.plain(s, e)
	case Quiet:
		if e.Kind == progress.Fail {
			fmt.Fprintln(v.w, finalLine(e))
		}
	}
}

func (v *View) find(name string) *step {
	for _, s := range v.steps {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (v *View) json(e progress.Event) {
	// The field names are part of the interface: docs/formats/progress.md.
	data, err := json.Marshal(struct {
		Step       string        `json:"step"`
		Kind       progress.Kind `json:"kind"`
		Message    string        `json:"message,omitempty"`
		Current    int64         `json:"current,omitempty"`
		Total      int64         `json:"total,omitempty"`
		Unit       string        `json:"unit,omitempty"`
		ElapsedMS  int64         `json:"elapsed_ms"`
		ExpectedMS int64         `json:"expected_ms,omitempty"`
	}{e.Step, e.Kind, e.Message, e.Current, e.Total, e.Unit, e.Elapsed.Milliseconds(), e.Expected.Milliseconds()})
	if err == nil {
		fmt.Fprintf(v.w, "%s\n", data)
	}
}

func (v *View) plain(s *step, e progress.Event) {
	switch e.Kind {
	case progress.Start:
		line := s.name + ": start"
		if s.expected > 0 {
			line += fmt.Sprintf(" (last time %s)", round(s.expected))
		}
		fmt.Fprintln(v.w, line)
	case progress.Update:
		if s.message != s.saidMessage {
			s.saidMessage = s.message
			v.plainLine(s)
		}
	case progress.Log:
		fmt.Fprintf(v.w, "%s: %s\n", s.name, e.Message)
	default:
		fmt.Fprintln(v.w, finalLine(e))
	}
}

func (v *View) plainLine(s *step) {
	s.said = v.o.Now()
	fmt.Fprintf(v.w, "%s: %s\n", s.name, strings.TrimSpace(s.describe(s.said)))
}

func finalLine(e progress.Event) string {
	switch e.Kind {
	case progress.Hit:
		return fmt.Sprintf("%s: hit%s", e.Step, comma(e.Message))
	case progress.Fail:
		return fmt.Sprintf("%s: failed after %s", e.Step, round(e.Elapsed))
	default:
		return fmt.Sprintf("%s: done in %s%s", e.Step, round(e.Elapsed), comma(e.Message))
	}
}

func comma(s string) string {
	if s == "" {
		return ""
	}
	return ", " + s
}

// describe is "compile 120/1800 files, 1m2s of about 8m0s".
func (s *step) describe(now time.Time) string {
	var b strings.Builder
	b.WriteString(s.message)
	if s.current > 0 || s.total > 0 {
		b.WriteString(" " + amount(s.current, s.total, s.unit))
	}
	fmt.Fprintf(&b, ", %s", round(now.Sub(s.began)))
	if s.expected > time.Second {
		fmt.Fprintf(&b, " of about %s", round(s.expected))
	}
	return strings.TrimPrefix(b.String(), ", ")
}

func amount(current, total int64, unit string) string {
	switch {
	case unit == "bytes" && total == 0:
		return fmt.Sprintf("%.1f MB", float64(current)/1e6)
	case total == 0:
		return fmt.Sprintf("%d %s", current, unit)
	case unit == "bytes":
		return fmt.Sprintf("%.1f/%.1f MB", float64(current)/1e6, float64(total)/1e6)
	}
	return fmt.Sprintf("%d/%d %s", current, total, unit)
}

func round(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

func (v *View) live(s *step, e progress.Event) {
	switch e.Kind {
	case progress.Update:
		// The ticker draws; thousands of updates a second must not.
		return
	case progress.Log:
		v.erase()
		fmt.Fprintf(v.w, "%s: %s\n", s.name, e.Message)
	case progress.Done, progress.Hit, progress.Fail:
		v.erase()
		mark := map[progress.Kind]string{progress.Done: "\x1b[32m✓\x1b[0m", progress.Hit: "\x1b[36m=\x1b[0m",
			progress.Fail: "\x1b[31m✗\x1b[0m"}[e.Kind]
		fmt.Fprintf(v.w, "%s %s\n", mark, finalLine(e))
	}
	v.draw()
}

const barWidth = 24

func (v *View) draw() {
	v.erase()
	now, width := v.o.Now(), max(v.o.Width(), 20)
	for _, s := range v.steps {
		if s.over {
			continue
		}
		line := fmt.Sprintf("  %-8s %s %s", s.name, bar(s.fraction(now)), s.describe(now))
		if r := []rune(line); len(r) > width-1 {
			line = string(r[:width-1])
		}
		fmt.Fprintln(v.w, line)
		v.drawn++
	}
}

// fraction is how much is done by count or, without one, by the time it took last; below zero when unknown.
func (s *step) fraction(now time.Time) float64 {
	if s.total > 0 {
		return float64(s.current) / float64(s.total)
	}
	if s.expected > 0 {
		return min(now.Sub(s.began).Seconds()/s.expected.Seconds(), 0.99)
	}
	return -1
}

func bar(f float64) string {
	if f < 0 {
		return "[" + strings.Repeat("·", barWidth) + "]"
	}
	n := int(min(max(f, 0), 1) * barWidth)
	return "[" + strings.Repeat("█", n) + strings.Repeat(" ", barWidth-n) + "]"
}

// erase removes the live block: up one line and clear it, once for each line drawn.
func (v *View) erase() {
	if v.drawn > 0 {
		fmt.Fprint(v.w, strings.Repeat("\x1b[1A\x1b[2K", v.drawn))
		v.drawn = 0
	}
}
