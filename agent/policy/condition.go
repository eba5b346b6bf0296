package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// step is a part of a path: a field, and for a list or a map whether what follows is asked of each of its elements.
type step struct {
	field protoreflect.FieldDescriptor
	each  bool
}

// condition is a field that must be as a test wants it, or each element of a list.
type condition struct {
	path []step
	test test
}

// test says whether a value is right. For a map it gets "KEY=VALUE", an entry at a time.
type test func(v protoreflect.Value) bool

func anything(protoreflect.Value) bool { return true }

// holds follows the path. What a request does not have is empty, as on the wire.
func (c condition) holds(m protoreflect.Message) bool { return follow(m, c.path, c.test) }

func follow(m protoreflect.Message, path []step, ok test) bool {
	s, rest := path[0], path[1:]
	if m.Descriptor() != s.field.Parent() {
		return false // a request of another method
	}
	v := m.Get(s.field)
	one := func(v protoreflect.Value) bool {
		if len(rest) == 0 {
			return ok(v)
		}
		return follow(v.Message(), rest, ok)
	}
	switch {
	case !s.each:
		return one(v)
	case s.field.IsMap():
		all := true
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			all = one(protoreflect.ValueOfString(k.String() + "=" + e.String()))
			return all
		})
		return all
	}
	for i := range v.List().Len() {
		if !one(v.List().Get(i)) {
			return false
		}
	}
	return true
}

// named are the fields that a rule's conditions speak of.
type named struct {
	whole bool // a condition is on all of it
	below map[protoreflect.FieldNumber]*named
}

func (n *named) add(path []step) {
	for _, s := range path {
		if n.below == nil {
			n.below = map[protoreflect.FieldNumber]*named{}
		}
		there := n.below[s.field.Number()]
		if there == nil {
			there = &named{}
			n.below[s.field.Number()] = there
		}
		n = there
	}
	n.whole = true
}

// unnamed is a field of a message that is set and that nobody speaks of; empty where there is none.
func (n *named) unnamed(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return "a field that the API does not have"
	}
	var found []string
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		below := &named{}
		if n.below[f.Number()] != nil {
			below = n.below[f.Number()]
		}
		name := string(f.Name())
		switch {
		case below.whole:
		case f.Kind() != protoreflect.MessageKind || f.IsMap() || f.IsList() && len(below.below) == 0:
			found = append(found, name) // also a list of empty messages: it is no empty list
		case f.IsList():
			for i := range v.List().Len() {
				if sub := below.unnamed(v.List().Get(i).Message()); sub != "" {
					found = append(found, name+"[]."+sub)
					break
				}
			}
		default:
			if sub := below.unnamed(v.Message()); sub != "" {
				found = append(found, name+"."+sub)
			}
		}
		return true
	})
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// testFor reads what stands behind a path: raw is JSON, or empty for the sign "*".
func testFor(s step, raw json.RawMessage, pattern bool) (test, error) {
	f := s.field
	single := !f.IsList() && !f.IsMap() || s.each
	switch {
	case raw == nil:
		return anything, nil
	case pattern:
		if f.Kind() != protoreflect.StringKind && !(f.IsMap() && s.each) || !single {
			return nil, fmt.Errorf("~ is for strings; of a list or map, each element is meant by %s[]~", f.Name())
		}
		return patternTest(raw)
	case s.each:
		return oneOf(f, raw)
	case f.IsMap():
		return nil, fmt.Errorf("a map is seen by %s=*, or entry by entry as \"KEY=VALUE\" by %[1]s[]", f.Name())
	case f.IsList():
		return listTest(f, raw)
	case f.Kind() == protoreflect.MessageKind:
		return nil, fmt.Errorf("a message is seen by its fields, or as a whole by %s=*", f.Name())
	}
	return scalarTest(f.Kind(), raw)
}

func patternTest(raw json.RawMessage) (test, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil || raw[0] != '"' {
		return nil, fmt.Errorf("want a regular expression as a string")
	}
	// Whole values: a rule about a part of a path would be none.
	re, err := regexp.Compile(`^(?s:` + s + `)$`)
	if err != nil {
		return nil, fmt.Errorf("want a regular expression: %w", err)
	}
	return func(v protoreflect.Value) bool { return re.MatchString(v.String()) }, nil
}

// listTest wants the same elements in the same order.
func listTest(f protoreflect.FieldDescriptor, raw json.RawMessage) (test, error) {
	want, err := elements(f, raw)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool {
		if v.List().Len() != len(want) {
			return false
		}
		for i, ok := range want {
			if !ok(v.List().Get(i)) {
				return false
			}
		}
		return true
	}, nil
}

// oneOf wants an element to be one of a list.
func oneOf(f protoreflect.FieldDescriptor, raw json.RawMessage) (test, error) {
	want, err := elements(f, raw)
	if err != nil {
		return nil, err
	}
	return func(v protoreflect.Value) bool {
		return slices.ContainsFunc(want, func(ok test) bool { return ok(v) })
	}, nil
}

// elements reads a JSON list of what a list or a map may have.
func elements(f protoreflect.FieldDescriptor, raw json.RawMessage) ([]test, error) {
	what := "strings"
	switch {
	case f.IsMap():
		what = `strings such as "KEY=VALUE"`
	case f.Kind() == protoreflect.MessageKind:
		what = "objects"
	case f.Kind() != protoreflect.StringKind:
		what = "numbers"
	}
	var list []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &list) != nil {
		return nil, fmt.Errorf("want a list of %s", what)
	}
	var out []test
	for _, e := range list {
		var t test
		var err error
		switch {
		case f.IsMap():
			t, err = scalarTest(protoreflect.StringKind, e)
		case f.Kind() == protoreflect.MessageKind:
			t, err = objectTest(f.Message(), e)
		case f.Kind() == protoreflect.StringKind && e[0] == '{':
			t, err = objectField(step{field: f, each: true}, e) // a pattern, or anything
		default:
			t, err = scalarTest(f.Kind(), e)
		}
		if err != nil {
			return nil, fmt.Errorf("want a list of %s: %w", what, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// objectTest wants a message to have the fields that an object has, and no others.
func objectTest(d protoreflect.MessageDescriptor, raw json.RawMessage) (test, error) {
	var fields map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &fields) != nil {
		return nil, fmt.Errorf("want an object with fields of %s", d.Name())
	}
	var list []condition
	spoken := &named{}
	for name, v := range fields {
		f := d.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			return nil, fmt.Errorf("%s has no field %q%s", d.Name(), clip(name), hint(name, fieldNames(d)))
		}
		s := step{field: f}
		t, err := objectField(s, v)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
		list = append(list, condition{[]step{s}, t})
		spoken.add([]step{s})
	}
	return func(v protoreflect.Value) bool {
		m := v.Message()
		return spoken.unnamed(m) == "" && !slices.ContainsFunc(list, func(c condition) bool { return !c.holds(m) })
	}, nil
}

// objectField reads a field of an object: a value, or {"~": "EXPRESSION"} for a string, or {"*": true} for anything.
func objectField(s step, raw json.RawMessage) (test, error) {
	var o map[string]json.RawMessage
	if raw[0] == '{' && json.Unmarshal(raw, &o) == nil && len(o) == 1 {
		if p, ok := o["~"]; ok {
			return testFor(s, p, true)
		}
		if v, ok := o["*"]; ok && string(v) == "true" {
			return anything, nil
		}
	}
	return testFor(s, raw, false)
}

// scalarTest wants one value.
func scalarTest(k protoreflect.Kind, raw json.RawMessage) (test, error) {
	equal := func(want protoreflect.Value, err error) (test, error) {
		if err != nil {
			return nil, err
		}
		return func(v protoreflect.Value) bool { return v.Equal(want) }, nil
	}
	switch k {
	case protoreflect.StringKind:
		var s string
		if raw[0] != '"' {
			return nil, fmt.Errorf("want a string")
		}
		err := json.Unmarshal(raw, &s)
		return equal(protoreflect.ValueOfString(s), err)
	case protoreflect.BoolKind:
		if w := string(raw); w != "true" && w != "false" {
			return nil, fmt.Errorf("want true or false")
		}
		return equal(protoreflect.ValueOfBool(raw[0] == 't'), nil)
	case protoreflect.BytesKind:
		if string(raw) != `""` {
			return nil, fmt.Errorf(`of bytes a rule sees whether there are any: want "" or *`)
		}
		return func(v protoreflect.Value) bool { return len(v.Bytes()) == 0 }, nil
	}
	return equal(number(string(raw), k))
}

func number(s string, k protoreflect.Kind) (v protoreflect.Value, err error) {
	switch k {
	case protoreflect.Uint32Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 32)
		v = protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		var n uint64
		n, err = strconv.ParseUint(s, 10, 64)
		v = protoreflect.ValueOfUint64(n)
	case protoreflect.Int32Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 32)
		v = protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 64)
		v = protoreflect.ValueOfInt64(n)
	case protoreflect.EnumKind:
		var n int64
		n, err = strconv.ParseInt(s, 10, 32)
		v = protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
	default:
		return v, fmt.Errorf("a rule does not see fields of kind %s", k)
	}
	if err != nil {
		return v, fmt.Errorf("want a number of kind %s", k)
	}
	return v, nil
}

func fieldNames(d protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range d.Fields().Len() {
		names = append(names, string(d.Fields().Get(i).Name()))
	}
	return names
}

// pathText is a path as it stands in a rule.
func pathText(path []step) string {
	var b strings.Builder
	for i, s := range path {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(string(s.field.Name()))
		if s.each {
			b.WriteString("[]")
		}
	}
	return b.String()
}
