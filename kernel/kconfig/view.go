package kconfig

import (
	"cmp"
	"slices"
	"strings"
)

// Symbol is what a tree says of one symbol.
type Symbol struct {
	Name        string // without CONFIG_
	Type        string // bool, tristate, int, hex or string
	Definitions []Definition
	SelectedBy  []By
	ImpliedBy   []By
}

// Definition is one of the places that define a symbol.
type Definition struct {
	File   string
	Line   int
	Menu   []string // the titles of the menus around it, outermost first
	Prompt string   // what a menu shows; empty where nobody can set the symbol by this definition
	Help   []string // lines
	// Depends must all hold for the symbol to be more than off, and Visible too for its prompt to be shown.
	Depends, Visible []*Expr
	Defaults         []Default // the first whose condition holds counts
	Ranges           []Range
	Choice           *Choice // nil outside of one
}

// Choice is a set of symbols of which one is on.
type Choice struct {
	File    string
	Line    int
	Members []string
	Default []Default
}

// Default is a value that a symbol has where nobody sets it.
type Default struct {
	Value *Expr
	If    *Expr // nil: always
}

// Range is what a number must lie in.
type Range struct {
	Low, High *Expr
	If        *Expr // nil: always
}

// By is a symbol that selects or implies another one.
type By struct {
	Symbol string
	If     *Expr // nil: always
}

// Expr is an expression of the Kconfig language.
type Expr struct {
	Op     string // "" for a word, "$" for a macro, "!", "&&", "||", or a comparison
	Symbol string // of a word that names a symbol
	Args   []*Expr

	e *expr
}

// String is the expression in the language.
func (e *Expr) String() string { return e.e.String() }

// HasMacro says whether the tool-chain decides it: by a macro, or by one in a string.
func (e *Expr) HasMacro() bool {
	return e.e.hasMacro() || e.e.op == opWord && e.e.quoted && strings.Contains(e.e.word, "$(")
}

// Value is y, m or n under a configuration. What only the tool-chain can answer counts as y.
func (e *Expr) Value(c *Config) Value { return []Value{"n", "m", "y"}[e.e.eval(c)] }

// Scalar is an operand of a comparison, or a default of a number or string, under a configuration: without quotes.
func (e *Expr) Scalar(c *Config) string { return e.e.scalar(c) }

// Compare compares two operands as the expression's operator says.
func (e *Expr) Compare(a, b string) bool { return compare(e.e.op, a, b) }

func view(e *expr) *Expr {
	if e == nil {
		return nil
	}
	v := &Expr{Op: string(e.op), e: e}
	if e.op == opWord && len(e.symbols()) == 1 {
		v.Symbol = e.word
	}
	for _, a := range e.args {
		v.Args = append(v.Args, view(a))
	}
	return v
}

func views(es []*expr) []*Expr {
	var out []*Expr
	for _, e := range es {
		out = append(out, view(e))
	}
	return out
}

// Symbol is what the tree says of a symbol named without CONFIG_; nil where it has none of this name.
func (t *Tree) Symbol(name string) *Symbol {
	defs := t.symbols[name]
	if len(defs) == 0 {
		return nil
	}
	s := &Symbol{Name: name, Type: t.typeOf(defs)}
	for _, d := range defs {
		v := Definition{File: d.file, Line: d.line, Help: d.help, Depends: views(d.allDepends()),
			Defaults: viewDefaults(d.defaults)}
		if d.prompt {
			v.Prompt, v.Visible = cmp.Or(d.title, name), views(d.allVisible())
		}
		for _, r := range d.ranges {
			v.Ranges = append(v.Ranges, Range{view(r.low), view(r.high), view(r.cond)})
		}
		for b := d.around; b != nil; b = b.around {
			if b.title != "" {
				v.Menu = append(v.Menu, b.title)
			}
		}
		slices.Reverse(v.Menu)
		if c := d.choice(); c != nil {
			v.Choice = &Choice{File: c.file, Line: c.line, Members: c.members, Default: viewDefaults(c.defaults)}
		}
		s.Definitions = append(s.Definitions, v)
	}
	for _, x := range t.selects[name] {
		s.SelectedBy = append(s.SelectedBy, By{x.by.symbol, view(x.cond)})
	}
	for _, x := range t.implies[name] {
		s.ImpliedBy = append(s.ImpliedBy, By{x.by.symbol, view(x.cond)})
	}
	return s
}

func viewDefaults(all []choiceOfValue) []Default {
	var out []Default
	for _, v := range all {
		out = append(out, Default{view(v.value), view(v.cond)})
	}
	return out
}

// Names lists every symbol of the tree, sorted.
func (t *Tree) Names() []string { return t.names() }

// Nearest lists up to most symbols whose names are close to one that the tree does not have, the closest first.
func (t *Tree) Nearest(name string, most int) []string {
	var out []string
	rest := t.names()
	for len(out) < most {
		n := nearest(name, rest)
		if n == "" {
			break
		}
		out = append(out, n)
		rest = slices.DeleteFunc(rest, func(s string) bool { return s == n })
	}
	return out
}

// NewConfig is a configuration of values by symbol.
func NewConfig(values map[string]Value) *Config {
	c := &Config{values: values}
	for s := range values {
		c.order = append(c.order, s)
	}
	slices.Sort(c.order)
	return c
}
