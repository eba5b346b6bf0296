package agent

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/katabuild/katabuild/agent/options"
	"github.com/katabuild/katabuild/internal/agentapi"
)

// handler writes log records as one-liners: the name, the level unless it is error, the message, then key=value.
type handler struct {
	mu    *sync.Mutex // guards w
	w     io.Writer
	level *slog.LevelVar
	attrs string // already written out, each with a space before
	group string // prefix of keys
}

func newLogger(w io.Writer, level *slog.LevelVar) *slog.Logger {
	return slog.New(&handler{mu: new(sync.Mutex), w: w, level: level})
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(agentapi.LinePrefix)
	switch {
	case r.Level >= options.LevelCritical:
		b.WriteString("critical: ")
	case r.Level >= slog.LevelError:
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	case r.Level >= slog.LevelInfo:
		b.WriteString("info: ")
	default:
		b.WriteString("debug: ")
	}
	b.WriteString(oneLine(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attr(h.group, a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	c := *h
	for _, a := range as {
		c.attrs += attr(h.group, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

func attr(group string, a slog.Attr) string {
	v := a.Value.Resolve().String()
	if v == "" || strings.ContainsAny(v, " \"\n") {
		v = strconv.Quote(v)
	}
	return " " + group + a.Key + "=" + v
}

// oneLine keeps joined errors and text from outside from looking like lines of their own.
func oneLine(s string) string {
	return strings.NewReplacer("\n", "; ", "\r", " ", "\x1b", " ").Replace(s)
}
