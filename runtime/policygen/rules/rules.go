// Package rules writes policies of the agent: a list of calls that a host may make goes in, and comes out as the text
// that agent/policy reads, docs/formats/policy.md, or as Rego. Both allow the same calls. It knows the shape of
// requests from the API's own description, and not what any of them means.
package rules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// Policy is what a host may do: nothing but what a rule allows.
type Policy struct {
	Comment []string // lines at its beginning
	Rules   []Rule
}

// Rule allows one call. Without conditions it may say anything; with some, it may have no field that none of them
// names.
type Rule struct {
	Comment    string
	Call       string // a method of the guest API, such as CreateContainer
	Conditions []Condition
	Open       bool // fields that no condition names may be anything
}

// Condition is about a field: a path of names, in which [] behind a list means each of its elements. The zero test
// accepts anything.
type Condition struct {
	Path string
	test test
}

type testKind int

const (
	anything testKind = iota
	equal             // to one value
	like              // an expression
	among             // each element is one of the values
)

type test struct {
	kind   testKind
	values []Value
}

// Value is what a field may be. The zero value is anything at all.
type Value struct {
	kind   valueKind
	text   string // a string, an expression, or a number or truth value as it is written
	list   []Value
	fields []Field
}

type valueKind int

const (
	whatever valueKind = iota
	text
	literal // a number or a truth value
	expression
	list
	object
)

// Field is a field of an object.
type Field struct {
	Name  string
	Value Value
}

// Text is a string.
func Text(s string) Value { return Value{kind: text, text: s} }

// Like is a string that matches an expression as a whole, in the syntax of RE2.
func Like(expr string) Value { return Value{kind: expression, text: expr} }

// Number is a number.
func Number[T ~int | ~int64 | ~uint32](n T) Value { return Value{kind: literal, text: fmt.Sprint(n)} }

// Bool is a truth value.
func Bool(b bool) Value { return Value{kind: literal, text: fmt.Sprint(b)} }

// List is a list with these elements in this order.
func List(v ...Value) Value { return Value{kind: list, list: v} }

// Object is a message with these fields and no others.
func Object(f ...Field) Value { return Value{kind: object, fields: f} }

// Any lets a field, with all that is in it, be anything.
func Any(path string) Condition { return Condition{Path: path} }

// Is wants a field to be a value.
func Is(path string, v Value) Condition {
	if v.kind == expression {
		return Matches(path, v.text)
	}
	return Condition{path, test{equal, []Value{v}}}
}

// Matches wants a string to match an expression as a whole.
func Matches(path, expr string) Condition { return Condition{path, test{like, []Value{Like(expr)}}} }

// EachMatches wants the elements of a list of strings to match an expression. Those of a map are KEY=VALUE.
func EachMatches(path, expr string) Condition { return Matches(path+each, expr) }

// Among wants each element of a list to be one of these values.
func Among(path string, v ...Value) Condition { return Condition{path + each, test{among, v}} }

// each stands behind a list that is meant element by element.
const each = "[]"

// header is the first line of the text.
const header = "katabuild-policy 1"

// maxLine and maxText are the bounds of agent/policy, in bytes.
const (
	maxLine = 64 << 10
	maxText = 1 << 20
)

// Text is the policy in the language of agent/policy.
func (p *Policy) Text() (string, error) {
	var b strings.Builder
	comments(&b, p.Comment)
	b.WriteString(header + "\n\ndefault deny\n")
	for _, r := range p.Rules {
		if r.Comment != "" {
			comments(&b, []string{r.Comment})
		}
		b.WriteString("allow " + r.Call + "\n")
		for _, c := range r.Conditions {
			b.WriteString("  " + c.text() + "\n")
		}
		if r.Open {
			b.WriteString("  ...\n")
		}
	}
	return bounded(b.String(), maxText)
}

func bounded(s string, limit int) (string, error) {
	n := 0
	for line := range strings.Lines(s) {
		if n++; len(line) > maxLine {
			return "", fmt.Errorf("policy: line %d would have %d bytes, and an agent reads at most %d", n, len(line),
				maxLine)
		}
	}
	if len(s) > limit {
		return "", fmt.Errorf("policy of %d bytes: an agent reads at most %d", len(s), limit)
	}
	return s, nil
}

func comments(b *strings.Builder, lines []string) {
	for _, l := range lines {
		b.WriteString("# " + strings.Map(printable, l) + "\n")
	}
}

// printable keeps a comment on its line.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

func (c Condition) text() string {
	switch v := c.test.values; c.test.kind {
	case equal:
		return c.Path + "=" + v[0].json()
	case like:
		return c.Path + "~" + quoted(v[0].text)
	case among:
		return c.Path + "=" + List(v...).json()
	}
	return c.Path + "=*"
}

// json is a value as the language has it.
func (v Value) json() string {
	switch v.kind {
	case text:
		return quoted(v.text)
	case expression:
		return `{"~":` + quoted(v.text) + `}`
	case literal:
		return v.text
	case list:
		var out []string
		for _, e := range v.list {
			out = append(out, e.json())
		}
		return "[" + strings.Join(out, ",") + "]"
	case object:
		var out []string
		for _, f := range v.fields {
			out = append(out, quoted(f.Name)+":"+f.Value.json())
		}
		return "{" + strings.Join(out, ",") + "}"
	}
	return `{"*":true}`
}

// quoted is a string in JSON, which is one in Rego too.
func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// inputOf is the description of a call's request.
func inputOf(call string) (protoreflect.MessageDescriptor, error) {
	m := katapb.File_katabuild_agentapi_agent_proto.Services().ByName("AgentService").Methods().
		ByName(protoreflect.Name(call))
	if m == nil {
		return nil, fmt.Errorf("the guest API has no call %q", call)
	}
	return m.Input(), nil
}

// Calls are the calls of the guest API, sorted.
func Calls() []string {
	m := katapb.File_katabuild_agentapi_agent_proto.Services().ByName("AgentService").Methods()
	var out []string
	for i := range m.Len() {
		out = append(out, string(m.Get(i).Name()))
	}
	slices.Sort(out)
	return out
}
