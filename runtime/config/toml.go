package config

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/katabuild/katabuild/internal/mistake"
)

// maxSize bounds one file, in bytes; Kata's own files have thirty thousand.
const maxSize = 1 << 20

// Text is one file's name and what is in it.
type Text struct {
	Name string // shown in errors and as the source of values
	Data []byte
}

// Error is a mistake in a file, at a place.
type Error = mistake.Error

// document is one parsed file.
type document struct {
	name  string
	data  []byte
	lines []int // offset of each line's first byte
	root  map[string]any
	keys  map[string]int // offset of the first mention of each key, by pathOf
	vals  map[string]int // offset of the value, where it is no list and no table
}

// pathOf joins the parts of a dotted key. No key of TOML holds a NUL.
func pathOf(parts ...string) string { return strings.Join(parts, "\x00") }

// parse reads TOML. Every error is an *Error unless the text is not text at all.
func parse(t Text) (*document, error) {
	if len(t.Data) > maxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d a configuration may have", t.Name, len(t.Data), maxSize)
	}
	if !utf8.Valid(t.Data) {
		return nil, fmt.Errorf("%s: not UTF-8 text", t.Name)
	}
	d := &document{name: t.Name, data: slices.Clone(t.Data), keys: map[string]int{}, vals: map[string]int{},
		lines: []int{0}}
	for i, b := range d.data {
		if b == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	// The decoder finds what is no TOML, with repeated keys and tables; the parser then says where everything stands.
	if err := toml.Unmarshal(d.data, &d.root); err != nil {
		var de *toml.DecodeError
		if !errors.As(err, &de) {
			return nil, d.errorAt(0, strings.TrimPrefix(err.Error(), "toml: "))
		}
		row, column := de.Position()
		return nil, d.errorAt(d.lines[min(max(row-1, 0), len(d.lines)-1)]+max(column-1, 0),
			strings.TrimPrefix(de.Error(), "toml: "))
	}
	var p unstable.Parser
	p.Reset(d.data)
	var table []string
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = d.note(e.Key(), nil)
		case unstable.KeyValue:
			d.noteKeyValue(e, table)
		}
	}
	if err := p.Error(); err != nil {
		return nil, d.errorAt(0, err.Error()) // the decoder accepted it: cannot happen
	}
	return d, nil
}

// note remembers where the parts of a key stand, and returns the whole key.
func (d *document) note(it unstable.Iterator, table []string) []string {
	path := slices.Clone(table)
	for it.Next() {
		n := it.Node()
		path = append(path, string(n.Data))
		if k := pathOf(path...); !has(d.keys, k) {
			d.keys[k] = int(n.Raw.Offset)
		}
	}
	return path
}

func (d *document) noteKeyValue(e *unstable.Node, table []string) {
	path := d.note(e.Key(), table)
	switch v := e.Value(); v.Kind {
	case unstable.InlineTable:
		d.noteInline(v, path)
	case unstable.Array:
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.InlineTable {
				d.noteInline(it.Node(), path)
			}
		}
	default:
		if k := pathOf(path...); !has(d.vals, k) {
			d.vals[k] = int(v.Raw.Offset)
		}
	}
}

func (d *document) noteInline(n *unstable.Node, table []string) {
	for it := n.Children(); it.Next(); {
		if it.Node().Kind == unstable.KeyValue {
			d.noteKeyValue(it.Node(), table)
		}
	}
}

func has(m map[string]int, k string) bool { _, ok := m[k]; return ok }

// place is the line and column of an offset.
func (d *document) place(offset int) (line, column int) {
	offset = min(offset, len(d.data))
	i := sort.SearchInts(d.lines, offset+1) - 1
	return i + 1, utf8.RuneCount(d.data[d.lines[i]:offset]) + 1
}

func (d *document) errorAt(offset int, msg string) *Error {
	e := &Error{File: d.name, Message: msg}
	e.Line, e.Column = d.place(offset)
	line, _, _ := strings.Cut(string(d.data[d.lines[e.Line-1]:]), "\n")
	e.Source = strings.TrimRight(line, "\r")
	return e
}

// atKey blames a key, atValue its value where that is on one place.
func (d *document) atKey(path string, msg string) *Error { return d.errorAt(d.keys[path], msg) }

func (d *document) atValue(path string, msg string) *Error {
	if o, ok := d.vals[path]; ok {
		return d.errorAt(o, msg)
	}
	return d.atKey(path, msg)
}

// ordered lists the keys of a table in the order of the text.
func (d *document) ordered(table map[string]any, path ...string) []string {
	names := make([]string, 0, len(table))
	for n := range table {
		names = append(names, n)
	}
	at := func(n string) int { return d.keys[pathOf(append(slices.Clone(path), n)...)] }
	slices.SortFunc(names, func(a, b string) int {
		if c := at(a) - at(b); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return names
}
