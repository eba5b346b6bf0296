package agentctl

import (
	"errors"
	"fmt"
	"strings"
)

// command is a line, read.
type command struct {
	word string
	args []string
	body string // json://... or file://..., the whole request
}

// parse reads a line: a word, and arguments in which quotes hold together what spaces would part. A request in JSON is
// the rest of the line as it stands, so that its own quotes need none around them.
func parse(line string) (command, error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	c := command{word: word}
	rest = strings.TrimSpace(rest)
	if strings.HasPrefix(rest, jsonScheme) || strings.HasPrefix(rest, fileScheme) {
		c.body = rest
		return c, nil
	}
	var err error
	if c.args, err = split(rest); err != nil {
		return command{}, fmt.Errorf("%s: %w", word, err)
	}
	return c, nil
}

// What a request, or a value of it, may be taken from.
const (
	jsonScheme = "json://"
	fileScheme = "file://"
)

// split parts a line as shells do, with nothing but quotes and backslashes. A value in JSON, which = and a bracket
// begin, keeps its quotes, and its spaces hold nothing apart.
func split(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	var value jsonValue
	inside, quote, escaped := false, rune(0), false
	for _, r := range s {
		switch {
		case value.open():
			b.WriteRune(r)
			value.take(r)
		case escaped:
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inside = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inside = r, true
		case r == ' ' || r == '\t':
			if inside {
				out = append(out, b.String())
			}
			b.Reset()
			inside = false
		default:
			if (r == '[' || r == '{') && strings.HasSuffix(b.String(), "=") {
				value.take(r)
			}
			b.WriteRune(r)
			inside = true
		}
	}
	if quote != 0 || escaped || value.open() {
		return nil, errors.New("a quote, a backslash or a bracket has no end")
	}
	if inside {
		out = append(out, b.String())
	}
	return out, nil
}

// jsonValue is a list or an object, as far as it was read.
type jsonValue struct {
	depth           int
	quoted, escaped bool
}

func (v *jsonValue) open() bool { return v.depth > 0 }

func (v *jsonValue) take(r rune) {
	switch {
	case v.escaped:
		v.escaped = false
	case v.quoted && r == '\\':
		v.escaped = true
	case r == '"':
		v.quoted = !v.quoted
	case v.quoted:
	case r == '[' || r == '{':
		v.depth++
	case r == ']' || r == '}':
		v.depth--
	}
}
