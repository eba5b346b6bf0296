package agentctl

import (
	"io"
	"strings"
)

// SetOutput has a session write elsewhere from here on.
func (s *Session) SetOutput(w io.Writer) { s.o.Out = w }

// Complete is a line whose last word is as long as there is only one way on: a call or another word at its front, a
// field of that call behind.
func Complete(line string) string {
	words := words()
	before, last := "", line
	if i := strings.LastIndexByte(line, ' '); i >= 0 {
		before, last = line[:i+1], line[i+1:]
		first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch c, known := find(first); {
		case first == wordHelp:
			words = nil
			for _, c := range calls() {
				words = append(words, c.Name)
			}
		case !known:
			return line
		default:
			words = nil
			for _, f := range append(c.fields(), ownKeys[c.Name]...) {
				words = append(words, f+"=")
			}
		}
	}
	found := ""
	for _, w := range words {
		if len(w) < len(last) || !strings.EqualFold(w[:len(last)], last) {
			continue
		}
		if found == "" {
			found = w + " "
			continue
		}
		n := 0
		for n < len(found) && n < len(w) && found[n] == w[n] {
			n++
		}
		found = found[:n]
	}
	if len(found) < len(last) {
		return line
	}
	return before + strings.Replace(found, "= ", "=", 1)
}
