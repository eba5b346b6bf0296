package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxRego bounds a policy in Rego, in bytes: what Kata Containers' agent reads.
const maxRego = 16 << 20

// library is what every policy in Rego ends with. walk is used in place of recursion, which Rego does not have.
const library = `
# only says that a message has no field but these.
only(message, names) if {
	every name, value in message {
		fine(name, value, names)
	}
}

fine(name, _, names) if name in names

fine(_, value, _) if blank(value)

# blank is what a field is that was not sent, also of a message in which nothing was.
blank(value) if value in {"", 0, false, null}

blank([])

blank(value) if {
	is_object(value)
	every part in [p | walk(value, [_, p]); not is_object(p)] {
		flat(part)
	}
}

flat(value) if value in {"", 0, false, null}

flat([])

like(expression, value) if regex.match(concat("", ["^(?s:", expression, ")$"]), value)
`

// Rego is the policy in Rego of version 0, as Kata Containers' agents read it.
func (p *Policy) Rego() (string, error) {
	w := &regoWriter{said: map[string]bool{}}
	comments(&w.b, p.Comment)
	w.b.WriteString("package agent_policy\n\nimport future.keywords.every\nimport future.keywords.if\n" +
		"import future.keywords.in\n")
	for _, r := range p.Rules {
		if err := w.rule(r); err != nil {
			return "", err
		}
	}
	for i := 0; i < len(w.later); i++ { // an object may have lists of objects
		w.function(w.later[i])
	}
	w.b.WriteString(library)
	return bounded(w.b.String(), maxRego)
}

// regoWriter writes rules, and then the functions that they call.
type regoWriter struct {
	b     strings.Builder
	said  map[string]bool // requests that have a default
	later []function
	names int // of variables
}

// function says whether a value is one of several.
type function struct {
	name   string
	values []Value
}

// node is a message, and what is said of its fields.
type node struct {
	below map[string]*node
	each  bool // the list's elements are the messages
	tests []named
}

type named struct {
	field string
	desc  protoreflect.FieldDescriptor
	each  bool
	test  test
}

func (w *regoWriter) rule(r Rule) error {
	input, err := inputOf(r.Call)
	if err != nil {
		return err
	}
	name := string(input.Name())
	w.b.WriteByte('\n')
	if !w.said[name] {
		fmt.Fprintf(&w.b, "default %s := false\n\n", name)
		w.said[name] = true
	}
	if r.Comment != "" {
		comments(&w.b, []string{r.Comment})
	}
	if len(r.Conditions) == 0 {
		fmt.Fprintf(&w.b, "%s := true\n", name)
		return nil
	}
	top := &node{}
	for _, c := range r.Conditions {
		if err := top.add(input, c); err != nil {
			return fmt.Errorf("rule for %s: %w", r.Call, err)
		}
	}
	fmt.Fprintf(&w.b, "%s if {\n", name)
	w.node(top, "input", 1, r.Open)
	w.b.WriteString("}\n")
	return nil
}

// add puts a condition where its field is.
func (n *node) add(m protoreflect.MessageDescriptor, c Condition) error {
	words := strings.Split(c.Path, ".")
	for i, word := range words {
		field, isEach := strings.CutSuffix(word, each)
		f := m.Fields().ByName(protoreflect.Name(field))
		if f == nil {
			return fmt.Errorf("%s has no field %q", m.Name(), field)
		}
		if i == len(words)-1 {
			n.tests = append(n.tests, named{field, f, isEach, c.test})
			return nil
		}
		if n.below == nil {
			n.below = map[string]*node{}
		}
		if n.below[field] == nil {
			n.below[field] = &node{each: isEach}
		}
		n, m = n.below[field], f.Message()
	}
	return nil
}

// regoField is a field's name as policies know it: type is a word of the language in which Kata's agent is written.
func regoField(name string) string {
	if name == "type" {
		return "type_"
	}
	return name
}

func (w *regoWriter) line(depth int, format string, a ...any) {
	w.b.WriteString(strings.Repeat("\t", depth))
	fmt.Fprintf(&w.b, format+"\n", a...)
}

func (w *regoWriter) variable() string {
	w.names++
	return fmt.Sprintf("x%d", w.names)
}

// node writes what is said of a message. An open one may have other fields.
func (w *regoWriter) node(n *node, expr string, depth int, open bool) {
	if !open {
		var fields []string
		for _, t := range n.tests {
			fields = append(fields, t.field)
		}
		w.only(expr, append(fields, slices.Collect(maps.Keys(n.below))...), depth)
	}
	for _, t := range n.tests {
		w.test(t, expr+"."+regoField(t.field), depth)
	}
	for _, field := range slices.Sorted(maps.Keys(n.below)) {
		sub := n.below[field]
		at := expr + "." + regoField(field)
		if !sub.each {
			w.node(sub, at, depth, open)
			continue
		}
		x := w.variable()
		w.line(depth, "every %s in %s {", x, at)
		w.node(sub, x, depth+1, open)
		w.line(depth, "}")
	}
}

func (w *regoWriter) only(expr string, fields []string, depth int) {
	slices.Sort(fields)
	var names []string
	for _, f := range slices.Compact(fields) {
		names = append(names, quoted(regoField(f)))
	}
	if len(names) == 0 { // {} is an object
		w.line(depth, "blank(%s)", expr)
		return
	}
	w.line(depth, "only(%s, {%s})", expr, strings.Join(names, ", "))
}

// test writes what is said of a field.
func (w *regoWriter) test(t named, expr string, depth int) {
	if t.test.kind == anything {
		return
	}
	if !t.each {
		w.value(t.test.values[0], expr, depth)
		return
	}
	x := w.variable()
	if t.desc.IsMap() {
		k := w.variable()
		w.line(depth, "every %s, %sv in %s {", k, x, expr)
		w.line(depth+1, "%s := concat(\"=\", [%s, %sv])", x, k, x)
	} else {
		w.line(depth, "every %s in %s {", x, expr)
	}
	if t.test.kind == like {
		w.line(depth+1, "like(%s, %s)", quoted(t.test.values[0].text), x)
	} else {
		w.line(depth+1, "%s(%s)", w.call(t.test.values), x)
	}
	w.line(depth, "}")
}

// value writes that an expression has a value.
func (w *regoWriter) value(v Value, expr string, depth int) {
	switch v.kind {
	case text:
		w.line(depth, "%s == %s", expr, quoted(v.text))
	case literal:
		w.line(depth, "%s == %s", expr, v.text)
	case expression:
		w.line(depth, "like(%s, %s)", quoted(v.text), expr)
	case list:
		if v.plain() {
			w.line(depth, "%s == %s", expr, v.json())
			return
		}
		w.line(depth, "count(%s) == %d", expr, len(v.list))
		for i, e := range v.list {
			w.value(e, fmt.Sprintf("%s[%d]", expr, i), depth)
		}
	case object:
		w.line(depth, "%s(%s)", w.call([]Value{v}), expr)
	}
}

// plain says whether a value is the same in JSON and in Rego.
func (v Value) plain() bool {
	switch v.kind {
	case text, literal:
		return true
	case list:
		return !slices.ContainsFunc(v.list, func(e Value) bool { return !e.plain() })
	}
	return false
}

// call is the name of a function that says whether a value is one of these.
func (w *regoWriter) call(v []Value) string {
	f := function{fmt.Sprintf("one_of_%d", len(w.later)+1), v}
	w.later = append(w.later, f)
	return f.name
}

func (w *regoWriter) function(f function) {
	if len(f.values) == 0 {
		fmt.Fprintf(&w.b, "\n%s(_) if false\n", f.name)
		return
	}
	for _, v := range f.values {
		fmt.Fprintf(&w.b, "\n%s(x) if {\n", f.name)
		if v.kind == object {
			var fields []string
			for _, e := range v.fields {
				fields = append(fields, e.Name)
			}
			w.only("x", fields, 1)
			for _, e := range v.fields {
				w.value(e.Value, "x."+regoField(e.Name), 1)
			}
		} else {
			w.value(v, "x", 1)
		}
		w.b.WriteString("}\n")
	}
}
