// Package makelog reads what a kernel's make says while it runs: how far it is, and which lines tell of an error.
package makelog

import (
	"bytes"
	"io"
	"slices"
	"strings"
)

// Watcher reads what make says: it passes all of it to the log, counts, and remembers the first lines that look like an
// error.
type Watcher struct {
	Log  io.Writer               // gets everything; nil drops it
	Seen func(verb, name string) // is told of each line of a step, such as CC and mm/mmap.o

	partial []byte
	errors  []string
	before  []string // the last lines before the first error, for context
}

const (
	maxErrorLines = 12
	maxLine       = 64 << 10
)

// Write implements io.Writer.
func (w *Watcher) Write(p []byte) (int, error) {
	if w.Log != nil {
		if _, err := w.Log.Write(p); err != nil {
			return 0, err
		}
	}
	w.partial = append(w.partial, p...)
	for {
		i := bytes.IndexByte(w.partial, '\n')
		if i < 0 {
			break
		}
		w.line(string(w.partial[:i]))
		w.partial = w.partial[i+1:]
	}
	if len(w.partial) > maxLine {
		w.partial = nil
	}
	return len(p), nil
}

func (w *Watcher) line(s string) {
	if rest, ok := strings.CutPrefix(s, "  "); ok && !strings.HasPrefix(rest, " ") {
		// "  CC      mm/mmap.o", "  CC [M]  fs/fat/fat.o"
		f := strings.Fields(rest)
		if len(f) >= 2 && strings.ToUpper(f[0]) == f[0] {
			verb := f[0]
			if f[1] == "[M]" {
				verb += " [M]"
			}
			w.Seen(verb, f[len(f)-1])
			return
		}
	}
	if len(w.errors) == 0 && !isError(s) {
		if w.before = append(w.before, s); len(w.before) > 2 {
			w.before = w.before[1:]
		}
		return
	}
	if len(w.errors) < maxErrorLines {
		w.errors = append(w.errors, s)
	}
}

func isError(s string) bool {
	l := strings.ToLower(s)
	return strings.Contains(l, "error:") || strings.Contains(l, "error 1") ||
		strings.Contains(l, "undefined reference") ||
		strings.Contains(s, "***") || strings.Contains(l, "no such file") || strings.Contains(l, "not found")
}

// Blame is what to show of a failure.
func (w *Watcher) Blame() []string {
	if len(w.errors) == 0 {
		return w.before
	}
	return append(slices.Clone(w.before), w.errors...)
}
