package recipe

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/katabuild/katabuild/internal/mistake"
)

// Bounds of a recipe; people write a few kilobytes. The parser's time grows with the square of the number of words on
// one level, and it calls itself for each level, so both are counted before it runs.
const (
	MaxSize     = 1 << 20 // bytes
	maxTokens   = 20_000  // words and punctuation marks of YAML, where a text of any length is one
	maxDepth    = 24      // mappings and lists in each other; a recipe has 7
	maxMistakes = 50      // that are told at once
)

// Error is a mistake in a recipe, at a place.
type Error = mistake.Error

// Parse reads a recipe strictly. name is shown in errors. All mistakes are told at once, in the order of their lines:
// each is an *Error unless the text is not text at all.
func Parse(name string, data []byte, v Vocabulary) (*Recipe, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d a recipe may have", name, len(data), MaxSize)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: not UTF-8 text", name)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // the mark that some editors begin a file of UTF-8 with
	p := &reader{name: name, lines: strings.Split(string(data), "\n"), at: map[string]*token.Token{}}
	if err := p.guard(lexer.Tokenize(string(data))); err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, p.yamlError(err)
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		return nil, p.errorAt(nil, fmt.Sprintf("want one YAML document, got %d", documents(file)))
	}
	body := file.Docs[0].Body
	var r Recipe
	p.walk(body, reflect.TypeOf(r), "")
	if len(p.mistakes) > 0 {
		return nil, p.all()
	}
	if err := yaml.NodeToValue(body, &r, yaml.Strict()); err != nil {
		return nil, p.yamlError(err)
	}
	r.at = p
	r.check(v, r.has, func(field, msg string) { p.mistake(p.find(field), msg) })
	if len(p.mistakes) > 0 {
		return nil, p.all()
	}
	return &r, nil
}

// guard refuses what the parser would take too long for.
func (p *reader) guard(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return p.errorAt(tokens[maxTokens], fmt.Sprintf("more than %d words: no recipe is that long", maxTokens))
	}
	var columns []int // of the blocks that are open; each lies further right than the one around it
	flow := 0
	for i, t := range tokens {
		column := 0
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType:
			column = t.Position.Column
		case token.MappingValueType:
			if i > 0 {
				column = tokens[i-1].Position.Column
			}
		}
		if column > 0 && flow == 0 {
			for len(columns) > 0 && columns[len(columns)-1] >= column {
				columns = columns[:len(columns)-1]
			}
			columns = append(columns, column)
		}
		if len(columns)+flow > maxDepth {
			return p.errorAt(t, fmt.Sprintf("more than %d mappings and lists in each other: no recipe is that deep",
				maxDepth))
		}
	}
	return nil
}

// has says whether a field stands in the text.
func (r *Recipe) has(field string) bool { return r.at != nil && r.at.at[field] != nil }

// blamed is an error whose cause is what stands at a place of a recipe, such as the name of a file that is not there.
type blamed struct {
	At    *Error // the place, with the cause's words
	Cause error
}

// Unwrap gives both the place and the cause.
func (b *blamed) Unwrap() []error { return []error{b.At, b.Cause} }

func (b *blamed) Error() string { return b.At.Error() }

// Blame says of an error which field of the recipe it comes from, such as "rootfs.layers[2].tar".
func (r *Recipe) Blame(field string, err error) error {
	if err == nil || r.at == nil || field == "" {
		return err
	}
	if b, ok := errors.AsType[*Error](err); ok && b.File == r.at.name {
		return err // it has a place
	}
	return &blamed{r.at.place(r.at.find(field), err.Error()), err}
}

// Place is a field's file and line for people, such as "recipe.yaml:12".
func (r *Recipe) Place(field string) string {
	file, line, _ := r.Line(field)
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// Line is the file and the line of a field, and that line's text, which is empty where it is too long to show.
func (r *Recipe) Line(field string) (file string, line int, source string) {
	if r.at == nil {
		return "", 0, ""
	}
	e := r.at.place(r.at.find(field), "")
	return e.File, e.Line, e.Source
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

	mistakes []*Error
}

// mistake notes what is wrong, so that the next mistake is found too.
func (p *reader) mistake(t *token.Token, msg string) {
	p.mistakes = append(p.mistakes, p.place(t, msg))
}

// all is every mistake noted, in the order of lines.
func (p *reader) all() error {
	slices.SortStableFunc(p.mistakes, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for i, m := range p.mistakes {
		if i > 0 && *m == *p.mistakes[i-1] {
			continue
		}
		if len(errs) == maxMistakes {
			errs = append(errs, fmt.Errorf("%s: and more mistakes; these are the first %d of %d", p.name, maxMistakes,
				len(p.mistakes)))
			break
		}
		errs = append(errs, m)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
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

func (p *reader) errorAt(t *token.Token, msg string) error { return p.place(t, msg) }

// maxShown is how much of a line is shown, in bytes.
const maxShown = 400

func (p *reader) place(t *token.Token, msg string) *Error {
	e := &Error{File: p.name, Line: 1, Column: 1, Message: msg}
	if t != nil && t.Position != nil {
		e.Line, e.Column = max(t.Position.Line, 1), max(t.Position.Column, 1)
	}
	if e.Line <= len(p.lines) {
		if e.Source = strings.TrimRight(p.lines[e.Line-1], "\r"); len(e.Source) > maxShown {
			e.Source = ""
		}
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
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8,
		reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number with a point"
	default:
		return t.String()
	}
}

// walk compares the shape of a node with a type before anything is decoded: it knows the keys that would have been
// right at that place, and notes where every field stands.
func (p *reader) walk(n ast.Node, t reflect.Type, field string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p.at[field] = n.GetToken()
	if n.Type() == ast.NullType {
		p.mistake(n.GetToken(), "no value; leave the key out to get its default")
		return
	}
	switch n := n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		p.mistake(n.GetToken(), "anchors, aliases, tags and merge keys are not part of a recipe")
	case *ast.MappingNode:
		if t.Kind() != reflect.Struct {
			p.mistake(start(n), fmt.Sprintf("want %s, got a mapping", kindWord(t)))
			return
		}
		p.at[field] = start(n)
		p.walkMapping(n.Values, t, field)
	case *ast.MappingValueNode:
		if t.Kind() != reflect.Struct {
			p.mistake(n.Key.GetToken(), fmt.Sprintf("want %s, got a mapping", kindWord(t)))
			return
		}
		p.walkMapping([]*ast.MappingValueNode{n}, t, field)
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			p.mistake(n.GetToken(), fmt.Sprintf("want %s, got a list", kindWord(t)))
			return
		}
		for i, v := range n.Values {
			p.walk(v, t.Elem(), fmt.Sprintf("%s[%d]", field, i))
		}
	default:
		p.walkScalar(n, t, field)
	}
}

// walkScalar is stricter than the decoder, which turns numbers into text and the other way round.
func (p *reader) walkScalar(n ast.Node, t reflect.Type, field string) {
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
	if got != want && ((t != reflect.TypeFor[Octal]() && t != reflect.TypeFor[OptionValue]()) ||
		got != "a whole number") {
		if t == reflect.TypeFor[OptionValue]() {
			want = "y, m, n, a whole number or text"
		}
		p.mistake(n.GetToken(), fmt.Sprintf("want %s, got %s", want, got))
		return
	}
	if i, ok := n.(*ast.IntegerNode); ok && want == "a whole number" {
		p.checkRange(i, t, field)
	}
}

// maxID is the largest number of a user or group: Linux has 32 bits, of which the largest means "no change". chown(2).
const maxID = 1<<32 - 2

// checkRange says how large a number may be; the decoder would name types of Go.
func (p *reader) checkRange(n *ast.IntegerNode, t reflect.Type, field string) {
	least, most := int64(0), int64(maxID) // what is unsigned is a user or a group
	if t.Kind() != reflect.Uint32 {
		least, most = -1<<31, 1<<31-1
	}
	v, err := strconv.ParseInt(fmt.Sprint(n.Value), 10, 64)
	if err != nil || v < least || v > most {
		p.mistake(n.GetToken(), fmt.Sprintf("%s is %s: want a number from %d to %d",
			field[strings.LastIndex(field, ".")+1:], n.GetToken().Value, least, most))
	}
}

func start(n *ast.MappingNode) *token.Token {
	if len(n.Values) > 0 && !n.IsFlowStyle {
		return n.Values[0].Key.GetToken()
	}
	return n.GetToken()
}

func (p *reader) walkMapping(values []*ast.MappingValueNode, t reflect.Type, field string) {
	var keys []string
	types := map[string]reflect.Type{}
	for i := range t.NumField() {
		k := t.Field(i).Tag.Get("yaml")
		if k == "" {
			continue // not of the text
		}
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
			p.mistake(tok, fmt.Sprintf("unknown key %q in %s", key, where)+didYouMean(key, keys))
			continue
		}
		if seen[key] {
			p.mistake(tok, fmt.Sprintf("key %q stands twice", key))
			continue
		}
		seen[key] = true
		sub := key
		if field != "" {
			sub = field + "." + key
		}
		p.walk(v.Value, ft, sub)
		// A mapping or list is blamed at its key: that is where a person looks.
		if v.Value.Type() == ast.MappingType || v.Value.Type() == ast.SequenceType ||
			v.Value.Type() == ast.MappingValueType {
			p.at[sub] = tok
		}
	}
}
