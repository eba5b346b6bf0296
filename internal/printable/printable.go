// Package printable makes text of guests, hypervisors and other programs fit to be shown.
//
// In comes any text; out comes one that does nothing to a terminal and does not pass for another line of a log. It does
// not know whose text it is.
package printable

import (
	"strings"
	"unicode/utf8"
)

// Clean makes a line fit for a terminal and a log: escape sequences, carriage returns, other control characters and
// broken UTF-8 go.
func Clean(line []byte) string {
	var s strings.Builder
	for len(line) > 0 {
		if n := escape(line); n > 0 {
			line = line[n:]
			continue
		}
		r, n := utf8.DecodeRune(line)
		switch {
		case r == '\t':
			s.WriteByte(' ')
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1:
		case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // these turn text around
		default:
			s.WriteRune(r)
		}
		line = line[n:]
	}
	return strings.TrimRight(s.String(), " ")
}

// Words makes a text of a guest or a hypervisor one line for an error or a log: Clean, words apart by one space, and no
// more than limit bytes of it, with "..." where there were more.
func Words(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return Clean([]byte(strings.Join(strings.Fields(s), " ")))
}

// escape is the length of the escape sequence that b begins with, or 0. ECMA-48, 5.3 to 5.6: ESC [ parameters final is
// a control sequence; ESC ] ... BEL or ESC \ is an operating system command.
func escape(b []byte) int {
	if len(b) < 2 || b[0] != 0x1b {
		return 0
	}
	switch b[1] {
	case '[':
		i := 2
		for i < len(b) && b[i] >= 0x20 && b[i] < 0x40 {
			i++
		}
		if i < len(b) && b[i] >= 0x40 && b[i] < 0x7f {
			i++
		}
		return i
	case ']':
		for i := 2; i < len(b); i++ {
			if b[i] == 7 {
				return i + 1
			}
			if b[i] == 0x1b && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2
			}
		}
		return len(b)
	}
	return 2
}
