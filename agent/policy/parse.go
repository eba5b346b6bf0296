package policy

import (
	"encoding/json"
	"fmt"
	"io"
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
	return &mistake.Error{File: name, Line: r.line, Column: len([]rune(r.source[:min(r.at, len(r.source))])) + 1,
		Message: fmt.Sprintf(format, a...), Source: source}
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

// parse reads a policy: the header, then a line a rule and one for the default. Empty lines and those that begin with #
// say nothing.
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
		if r.source[0] == ' ' {
			if err := more(out, r, methods); err != nil {
				return nil, err
			}
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
			hasDefault, out.allow, out.ended = true, what == "allow", true
		case "allow", "deny":
			rule, err := r.rule(methods)
			if err != nil {
				return nil, err
			}
			rule.allow = verb == "allow"
			out.list, out.ended = append(out.list, rule), false
		default:
			r.at = 0
			return nil, r.bad("want allow, deny or default")
		}
	}
	switch end := (&reader{line: n + 1}); {
	case !begun:
		return nil, end.bad("want %q first", header)
	case !hasDefault:
		return nil, end.bad("want a line %q or %q: it says what happens to calls without a rule", "default deny",
			"default allow")
	}
	return out, nil
}

// more reads a line that begins with a space: it goes on with the rule before it.
func more(out *rules, r *reader, methods protoreflect.MethodDescriptors) error {
	if len(out.list) == 0 || out.ended {
		return r.bad("a line that begins with a space goes on with a rule, and there is none before it")
	}
	last := &out.list[len(out.list)-1]
	r.skip(0)
	rest, err := r.conditions(methods.ByName(protoreflect.Name(last.method)).Input())
	if err != nil {
		return err
	}
	if last.open {
		return r.bad("%q ends a rule", open)
	}
	last.conditions = append(last.conditions, rest.conditions...)
	last.open = rest.open
	last.close()
	return nil
}

// open ends a rule whose call may also have fields that the rule does not name.
const open = "..."

// rule reads METHOD, and conditions as often as there are.
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
	rest, err := r.conditions(method.Input())
	out.conditions, out.open = rest.conditions, rest.open
	out.close()
	return out, err
}

// conditions reads what stands behind a call, to the end of the line.
func (r *reader) conditions(m protoreflect.MessageDescriptor) (out rule, err error) {
	for r.at < len(r.source) {
		if r.source[r.at:] == open {
			out.open = true
			return out, nil
		}
		c, err := r.condition(m)
		if err != nil {
			return rule{}, err
		}
		out.conditions = append(out.conditions, c)
	}
	return out, nil
}

// close says which fields the conditions name. A rule without any, or one that ends in "...", is for the call whatever
// else it says.
func (r *rule) close() {
	if r.named = nil; r.open || len(r.conditions) == 0 {
		return
	}
	r.named = &named{}
	for _, c := range r.conditions {
		r.named.add(c.path)
	}
}

// condition reads PATH=VALUE, PATH~EXPRESSION or PATH=*.
func (r *reader) condition(m protoreflect.MessageDescriptor) (condition, error) {
	end := strings.IndexAny(r.source[r.at:], "=~ ")
	if end < 0 || r.source[r.at+end] == ' ' {
		return condition{}, r.bad("want FIELD=VALUE")
	}
	sign := r.source[r.at+end]
	var c condition
	words := strings.Split(r.source[r.at:r.at+end], ".")
	for i, w := range words {
		if m == nil {
			return condition{}, r.bad("the field before %q has no fields", clip(w))
		}
		name, each := strings.CutSuffix(w, "[]")
		f := m.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			return condition{}, r.bad("%s has no field %q%s", m.Name(), clip(name), hint(name, fieldNames(m)))
		}
		many := f.IsList() || f.IsMap()
		switch {
		case each && !many:
			return condition{}, r.bad("field %q is no list", name)
		case i < len(words)-1 && f.IsMap():
			return condition{}, r.bad("field %q is a map: its entries are strings, such as \"KEY=VALUE\"", name)
		case i < len(words)-1 && many && !each:
			return condition{}, r.bad("field %q is a list: %s[] means each of its elements", name, name)
		}
		c.path = append(c.path, step{f, each})
		if m = nil; f.Kind() == protoreflect.MessageKind && !f.IsMap() {
			m = f.Message()
		}
		r.at += len(w) + 1 // the dot, or the sign
	}
	var value json.RawMessage
	if sign == '=' && (r.source[r.at:] == "*" || strings.HasPrefix(r.source[r.at:], "* ")) {
		r.skip(1)
	} else {
		var err error
		if value, err = r.value(); err != nil {
			return condition{}, err
		}
	}
	var err error
	if c.test, err = testFor(c.path[len(c.path)-1], value, sign == '~'); err != nil {
		return condition{}, r.bad("field %q: %v", pathText(c.path), err)
	}
	if value != nil {
		r.skip(len(value))
	}
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
