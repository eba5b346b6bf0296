package policy

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/mistake"
)

// header is the first line. Another number is another language.
const header = "katabuild-policy 1"

// Limits of a text. A policy that names every call with every command line of a pod is far below.
const (
	maxText = 1 << 20
	maxLine = 64 << 10
)

// name is what a text is called in errors.
const name = "policy"

// nearEnough is how many letters a misspelt word may have wrong.
const nearEnough = 4

// reader reads one line.
type reader struct {
	line   int
	source string
	at     int // the offset of what comes next
}

func (r *reader) bad(format string, a ...any) error {
	const shown = 200
	source := r.source
	if len(source) > shown {
		source = "" // a caret far to the right shows nothing
	}
	return &mistake.Error{File: name, Line: r.line, Column: len([]rune(r.source[:min(r.at, len(r.source))])) + 1, Message: fmt.Sprintf(format, a...), Source: source}
}

// word takes what comes up to a space.
func (r *reader) word() string {
	w, _, _ := strings.Cut(r.source[r.at:], " ")
	return w
}

func (r *reader) skip(n int) {
	r.at += n
	for r.at < len(r.source) && r.source[r.at] == ' ' {
		r.at++
	}
}

// parse reads a policy: the header, then a line a rule and one for the default. Empty lines and those that begin with # say nothing.
func parse(text string) (*rules, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%s of %d bytes: want at most %d", name, len(text), maxText)
	}
	methods := katapb.File_katabuild_agentapi_agent_proto.Services().ByName(service).Methods()
	out := &rules{}
	begun, hasDefault := false, false
	n := 0
	for line := range strings.Lines(text) {
		n++
		r := &reader{line: n, source: strings.TrimRight(line, "\r\n")}
		if len(r.source) > maxLine {
			return nil, r.bad("a line of %d bytes: want at most %d", len(r.source), maxLine)
		}
		if s := strings.TrimSpace(r.source); s == "" || strings.HasPrefix(s, "#") {
			continue
		}
		if !begun {
			if r.source != header {
				return nil, r.bad("want %q first", header)
			}
			begun = true
			continue
		}
		verb := r.word()
		r.skip(len(verb))
		switch verb {
		case "default":
			what := r.word()
			if hasDefault {
				return nil, r.bad("a second default")
			}
			if what != "allow" && what != "deny" {
				return nil, r.bad("want allow or deny")
			}
			if r.skip(len(what)); r.at < len(r.source) {
				return nil, r.bad("want nothing more in this line")
			}
			hasDefault, out.allow = true, what == "allow"
		case "allow", "deny":
			rule, err := r.rule(methods)
			if err != nil {
				return nil, err
			}
			rule.allow = verb == "allow"
			out.list = append(out.list, rule)
		default:
			r.at = 0
			return nil, r.bad("want allow, deny or default")
		}
	}
	switch end := (&reader{line: n + 1}); {
	case !begun:
		return nil, end.bad("want %q first", header)
	case !hasDefault:
		return nil, end.bad("want a line %q or %q: it says what happens to calls without a rule", "default deny", "default allow")
	}
	return out, nil
}

// rule reads METHOD, and FIELD=VALUE as often as there are.
func (r *reader) rule(methods protoreflect.MethodDescriptors) (rule, error) {
	word := r.word()
	method := methods.ByName(protoreflect.Name(word))
	if method == nil {
		var names []string
		for i := range methods.Len() {
			names = append(names, string(methods.Get(i).Name()))
		}
		return rule{}, r.bad("the guest API has no call %q%s", clip(word), hint(word, names))
	}
	out := rule{line: r.line, method: word}
	r.skip(len(word))
	for r.at < len(r.source) {
		c, err := r.condition(method.Input())
		if err != nil {
			return rule{}, err
		}
		out.conditions = append(out.conditions, c)
	}
	return out, nil
}

// condition reads FIELD.FIELD=VALUE.
func (r *reader) condition(m protoreflect.MessageDescriptor) (condition, error) {
	path, _, ok := strings.Cut(r.source[r.at:], "=")
	if !ok || strings.Contains(path, " ") {
		return condition{}, r.bad("want FIELD=VALUE")
	}
	var c condition
	words := strings.Split(path, ".")
	for i, w := range words {
		if m == nil {
			return condition{}, r.bad("the field before %q has no fields", clip(w))
		}
		f := m.Fields().ByName(protoreflect.Name(w))
		if f == nil {
			var names []string
			for i := range m.Fields().Len() {
				names = append(names, string(m.Fields().Get(i).Name()))
			}
			return condition{}, r.bad("%s has no field %q%s", m.Name(), clip(w), hint(w, names))
		}
		if i < len(words)-1 && (f.IsList() || f.IsMap()) {
			return condition{}, r.bad("field %q is a list: a rule sees only fields of single messages", w)
		}
		c.path = append(c.path, f)
		if m = nil; f.Kind() == protoreflect.MessageKind && !f.IsMap() {
			m = f.Message()
		}
		r.at += len(w) + 1 // the dot, or the sign
	}
	value, err := r.value()
	if err != nil {
		return condition{}, err
	}
	if err := c.take(value); err != nil {
		return condition{}, r.bad("field %q: %v", path, err)
	}
	r.skip(len(value))
	return c, nil
}

// value finds the end of a JSON value, which is followed by a space or the end of the line.
func (r *reader) value() (json.RawMessage, error) {
	rest := r.source[r.at:]
	d := json.NewDecoder(strings.NewReader(rest))
	var v json.RawMessage
	if err := d.Decode(&v); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, r.bad("want a value as in JSON; this one has no end")
		}
		return nil, r.bad("want a value as in JSON: %v", err)
	}
	if end := d.InputOffset(); end != int64(len(v)) || end < int64(len(rest)) && rest[end] != ' ' {
		return nil, r.bad("want a value as in JSON, and a space after it")
	}
	return v, nil
}

// take makes a value one of the last field's kind.
func (c *condition) take(raw json.RawMessage) error {
	f := c.path[len(c.path)-1]
	if f.IsMap() || f.Kind() == protoreflect.MessageKind || f.Kind() == protoreflect.BytesKind || f.Kind() == protoreflect.EnumKind || f.IsList() && f.Kind() != protoreflect.StringKind {
		return fmt.Errorf("a rule sees only strings, numbers, true or false, and lists of strings")
	}
	if f.IsList() {
		if raw[0] != '[' {
			return fmt.Errorf("want a list of strings")
		}
		var words []*string
		if err := json.Unmarshal(raw, &words); err != nil {
			return err
		}
		for _, w := range words {
			if w == nil {
				return fmt.Errorf("want a list of strings")
			}
			c.list = append(c.list, *w)
		}
		return nil
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		if raw[0] != '"' {
			return fmt.Errorf("want a string")
		}
		var s string
		err := json.Unmarshal(raw, &s)
		c.want = protoreflect.ValueOfString(s)
		return err
	case protoreflect.BoolKind:
		switch string(raw) {
		case "true", "false":
			c.want = protoreflect.ValueOfBool(raw[0] == 't')
			return nil
		}
		return fmt.Errorf("want true or false")
	}
	return c.number(string(raw), f.Kind())
}

func (c *condition) number(s string, k protoreflect.Kind) error {
	var err error
	switch k {
	case protoreflect.Uint32Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 32)
		c.want = protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 64)
		c.want = protoreflect.ValueOfUint64(n)
	case protoreflect.Int32Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 32)
		c.want = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 64)
		c.want = protoreflect.ValueOfInt64(n)
	default:
		return fmt.Errorf("a rule does not see fields of kind %s", k)
	}
	if err != nil {
		return fmt.Errorf("want a number of kind %s", k)
	}
	return nil
}

// hint names the word that was probably meant.
func hint(got string, names []string) string {
	lower := map[string]string{}
	var words []string
	for _, n := range names {
		w := strings.ToLower(n)
		lower[w] = n
		words = append(words, w)
	}
	if best := mistake.Nearest(got, words, nearEnough); best != "" {
		return fmt.Sprintf("; did you mean %s?", lower[best])
	}
	return ""
}

func clip(s string) string {
	const enough = 60
	if len(s) <= enough {
		return s
	}
	return s[:enough] + "..."
}
