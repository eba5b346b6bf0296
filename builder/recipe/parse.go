package recipe

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/katabuild/katabuild/internal/mistake"
)

// maxSize bounds a recipe, in bytes; people write a few kilobytes.
const maxSize = 1 << 20

// Error is a mistake in a recipe, at a place.
type Error = mistake.Error

// Parse reads a recipe strictly. name is shown in errors. Every error is an *Error unless the text is not text at all.
func Parse(name string, data []byte, v Vocabulary) (*Recipe, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d a recipe may have", name, len(data), maxSize)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not UTF-8 text", name)
	}
	p := &reader{name: name, lines: strings.Split(string(data), "\n"), at: map[string]*token.Token{}}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, p.yamlError(err)
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, p.errorAt(nil, fmt.Sprintf("want one YAML document, got %d", documents(file)))
	}
	body := file.Docs[0].Body
	var r Recipe
	if err := p.walk(body, reflect.TypeOf(r), ""); err != nil {
		return nil, err
	}
	if err := yaml.NodeToValue(body, &r, yaml.Strict()); err != nil {
		return nil, p.yamlError(err)
	}
	has := func(field string) bool { return p.at[field] != nil }
	err = r.check(v, has, func(field, msg string) error { return p.errorAt(p.find(field), msg) })
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func documents(f *ast.File) int {
	n := 0
	for _, d := range f.Docs {
		if d.Body != nil {
			n++
		}
	}
	return n
}

type reader struct {
	name  string
	lines []string
	at    map[string]*token.Token // where each field stands: "kernel.features[2]"
}

// find returns the token of a field, or of the nearest field around it.
func (p *reader) find(field string) *token.Token {
	for field != "" {
		if t := p.at[field]; t != nil {
			return t
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
	return p.at[""]
}

func (p *reader) errorAt(t *token.Token, msg string) error {
	e := &Error{File: p.name, Line: 1, Column: 1, Message: msg}
	if t != nil && t.Position != nil {
		e.Line, e.Column = max(t.Position.Line, 1), max(t.Position.Column, 1)
	}
	if e.Line <= len(p.lines) {
		e.Source = strings.TrimRight(p.lines[e.Line-1], "\r")
	}
	return e
}

func (p *reader) yamlError(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return p.errorAt(nil, err.Error())
	}
	msg := y.GetMessage()
	if te, ok := errors.AsType[*yaml.TypeError](err); ok {
		msg = fmt.Sprintf("want %s, got %s", kindWord(te.DstType), kindWord(te.SrcType))
	}
	return p.errorAt(y.GetToken(), msg)
}

func kindWord(t reflect.Type) string {
	if t == nil {
		return "nothing"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Pointer:
		return kindWord(t.Elem())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number with a point"
	default:
		return t.String()
	}
}

// walk compares the shape of a node with a type before anything is decoded: it knows the keys that would have been right at that place,
// and notes where every field stands.
func (p *reader) walk(n ast.Node, t reflect.Type, field string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p.at[field] = n.GetToken()
	if n.Type() == ast.NullType {
		return p.errorAt(n.GetToken(), "no value; leave the key out to get its default")
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return p.errorAt(n.GetToken(), "anchors, aliases, tags and merge keys are not part of a recipe")
	case *ast.MappingNode:
		if t.Kind() != reflect.Struct {
			return p.errorAt(start(n), fmt.Sprintf("want %s, got a mapping", kindWord(t)))
		}
		p.at[field] = start(n)
		return p.walkMapping(n.Values, t, field)
	case *ast.MappingValueNode:
		if t.Kind() != reflect.Struct {
			return p.errorAt(n.Key.GetToken(), fmt.Sprintf("want %s, got a mapping", kindWord(t)))
		}
		return p.walkMapping([]*ast.MappingValueNode{n}, t, field)
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			return p.errorAt(n.GetToken(), fmt.Sprintf("want %s, got a list", kindWord(t)))
		}
		for i, v := range n.Values {
			if err := p.walk(v, t.Elem(), fmt.Sprintf("%s[%d]", field, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return p.walkScalar(n, t)
}

// walkScalar is stricter than the decoder, which turns numbers into text and the other way round.
func (p *reader) walkScalar(n ast.Node, t reflect.Type) error {
	got := ""
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		got = "text"
	case *ast.IntegerNode:
		got = "a whole number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		got = "a number with a point"
	case *ast.BoolNode:
		got = "true or false"
	default:
		got = "a " + n.Type().String()
	}
	want := kindWord(t)
	if got == want || t == reflect.TypeFor[Octal]() && got == "a whole number" {
		return nil
	}
	return p.errorAt(n.GetToken(), fmt.Sprintf("want %s, got %s", want, got))
}

func start(n *ast.MappingNode) *token.Token {
	if len(n.Values) > 0 && !n.IsFlowStyle {
		return n.Values[0].Key.GetToken()
	}
	return n.GetToken()
}

func (p *reader) walkMapping(values []*ast.MappingValueNode, t reflect.Type, field string) error {
	var keys []string
	types := map[string]reflect.Type{}
	for i := range t.NumField() {
		k := t.Field(i).Tag.Get("yaml")
		keys = append(keys, k)
		types[k] = t.Field(i).Type
	}
	seen := map[string]bool{}
	for _, v := range values {
		tok := v.Key.GetToken()
		key := tok.Value
		ft, ok := types[key]
		if !ok {
			where := "a recipe"
			if field != "" {
				where = field
			}
			return p.errorAt(tok, fmt.Sprintf("unknown key %q in %s", key, where)+didYouMean(key, keys))
		}
		if seen[key] {
			return p.errorAt(tok, fmt.Sprintf("key %q stands twice", key))
		}
		seen[key] = true
		sub := key
		if field != "" {
			sub = field + "." + key
		}
		if err := p.walk(v.Value, ft, sub); err != nil {
			return err
		}
		// A mapping or list is blamed at its key: that is where a person looks.
		if v.Value.Type() == ast.MappingType || v.Value.Type() == ast.SequenceType || v.Value.Type() == ast.MappingValueType {
			p.at[sub] = tok
		}
	}
	return nil
}
