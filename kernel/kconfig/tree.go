package kconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Tree is every symbol that the Kconfig files of one kernel tree define.
type Tree struct {
	symbols map[string][]*definition
	selects map[string][]selection // by the selected symbol
	implies map[string][]selection // likewise
	// Elsewhere says where there is a symbol that this tree does not have, such as "an option of arm64"; empty where
	// nobody knows. Nil knows nothing.
	Elsewhere func(symbol string) string
}

// definition is one place that defines a symbol; a symbol may have several.
type definition struct {
	symbol   string
	file     string
	line     int
	typ      string // bool, tristate, int, hex, string; "" when another definition says it
	prompt   bool
	title    string // the prompt's text
	help     []string
	promptIf *expr // nil: always
	depends  []*expr
	defaults []choiceOfValue
	ranges   []valueRange
	around   *block
}

type choiceOfValue struct{ value, cond *expr }

type valueRange struct{ low, high, cond *expr }

type selection struct {
	by   *definition
	cond *expr
}

// block is an if, menu or choice around definitions.
type block struct {
	kind    string // if, menu, choice
	title   string // of a menu or choice
	file    string
	line    int
	depends []*expr
	visible []*expr // "visible if" of a menu, or the condition on a choice's prompt
	members []string

	defaults []choiceOfValue // of a choice: members
	around   *block
}

// maxFiles and maxInclude bound what one tree may make us read; Linux 6.12 has about 1,700 Kconfig files, ten deep.
const (
	maxFiles   = 20000
	maxInclude = 50
	maxTotal   = 64 << 20 // bytes; Linux 6.12 has 5 million
)

// ReadTree reads root and every Kconfig file it sources from tree. The variables stand for $(NAME), such as SRCARCH.
func ReadTree(tree fs.FS, root string, variables map[string]string) (*Tree, error) {
	p := &parser{
		fsys: tree, vars: variables,
		t: &Tree{symbols: map[string][]*definition{}, selects: map[string][]selection{},
			implies: map[string][]selection{}},
	}
	if err := p.file(root, 0); err != nil {
		return nil, err
	}
	if p.block != nil {
		return nil, fmt.Errorf("%s:%d: no end%s", p.block.file, p.block.line, p.block.kind)
	}
	return p.t, nil
}

// names lists every symbol, sorted.
func (t *Tree) names() []string {
	var all []string
	for s := range t.symbols {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

type parser struct {
	fsys  fs.FS
	vars  map[string]string
	t     *Tree
	files int
	total int
	block *block
	def   *definition // what the next properties belong to; nil after menu, choice or comment
	head  bool        // the next properties belong to block itself
}

func (p *parser) file(name string, depth int) error {
	if p.files++; p.files > maxFiles || depth > maxInclude {
		return fmt.Errorf("%s: more than %d Kconfig files or %d levels", name, maxFiles, maxInclude)
	}
	data, err := fs.ReadFile(p.fsys, name)
	if err != nil {
		return err
	}
	if p.total += len(data); p.total > maxTotal {
		return fmt.Errorf("%s: the Kconfig files have more than %d bytes", name, maxTotal)
	}
	lines := strings.Split(string(data), "\n")
	helpIndent := -1 // -1: not in help; -2: help has begun, its indentation is not known yet
	for i := 0; i < len(lines); i++ {
		line, at := lines[i], i+1
		if helpIndent != -1 {
			if strings.TrimSpace(line) == "" {
				p.help("")
				continue
			}
			ind := indent(line)
			if helpIndent == -2 && ind > 0 {
				helpIndent = ind
			}
			if helpIndent > 0 && ind >= helpIndent {
				p.help(strings.Repeat(" ", ind-helpIndent) + strings.TrimSpace(line))
				continue
			}
			helpIndent = -1
		}
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = strings.TrimSuffix(line, "\\") + " " + lines[i]
		}
		if isMacroLine(line) {
			continue
		}
		toks, err := lex(line)
		if err == nil && len(toks) > 0 {
			if k := toks[0]; k.kind == 'w' && (k.text == "help" || k.text == "---help---") && len(toks) == 1 {
				helpIndent = -2
				continue
			}
			err = p.statement(toks, name, at, depth)
		}
		if err != nil {
			return locate(name, at, err)
		}
	}
	return nil
}

// help adds a line to the help of the entry before it.
func (p *parser) help(line string) {
	if p.def != nil {
		p.def.help = append(p.def.help, line)
	}
}

// located is an error that already carries a place.
type located struct{ error }

func (l located) Unwrap() error { return l.error }

func locate(name string, line int, err error) error {
	var l located
	if errors.As(err, &l) {
		return err
	}
	return located{fmt.Errorf("%s:%d: %w", name, line, err)}
}

func indent(line string) int {
	n := 0
	for _, c := range line {
		switch c {
		case ' ':
			n++
		case '\t':
			n = n/8*8 + 8
		default:
			return n
		}
	}
	return n
}

// isMacroLine says whether a line is a macro call or an assignment, which the configurator alone needs, and whose text
// follows other rules: scripts/Kconfig.include has "squote := '".
func isMacroLine(line string) bool {
	line = strings.TrimLeft(line, " \t")
	if strings.HasPrefix(line, "$(") {
		return true
	}
	n := 0
	for n < len(line) && wordByte(line[n]) {
		n++
	}
	rest := strings.TrimLeft(line[n:], " \t")
	return n > 0 && (strings.HasPrefix(rest, "=") || strings.HasPrefix(rest, ":=") || strings.HasPrefix(rest, "+="))
}

// statement handles one logical line.
func (p *parser) statement(toks []token, file string, line, depth int) error {
	key := toks[0]
	if key.kind != 'w' {
		return fmt.Errorf("want a word, found %q", key.text)
	}
	rest := toks[1:]
	switch key.text {
	case "config", "menuconfig":
		if len(rest) != 1 || rest[0].kind != 'w' || !isSymbol(rest[0].text) {
			return fmt.Errorf("%s: want one symbol", key.text)
		}
		p.def = &definition{symbol: rest[0].text, file: file, line: line, around: p.block}
		p.head = false
		p.t.symbols[p.def.symbol] = append(p.t.symbols[p.def.symbol], p.def)
		for b := p.block; b != nil; b = b.around {
			if b.kind == "choice" {
				b.members = append(b.members, p.def.symbol)
				break
			}
		}
	case "if":
		e, err := wholeExpr(rest)
		if err != nil {
			return err
		}
		p.open("if", file, line)
		p.block.depends = []*expr{e}
		p.head = false
	case "menu", "choice":
		p.open(key.text, file, line)
		if len(rest) > 0 {
			p.block.title = rest[0].text
		}
	case "endif", "endmenu", "endchoice":
		kind := strings.TrimPrefix(key.text, "end")
		if p.block == nil || p.block.kind != kind {
			return fmt.Errorf("%s without %s", key.text, kind)
		}
		p.block, p.def, p.head = p.block.around, nil, false
	case "comment":
		p.def, p.head = nil, false
	case "source", "rsource", "osource", "orsource":
		if len(rest) != 1 {
			return fmt.Errorf("%s: want one file", key.text)
		}
		target := p.expand(rest[0].text)
		if strings.HasSuffix(key.text, "rsource") {
			target = path.Join(path.Dir(file), target)
		}
		target = path.Clean(target)
		if !fs.ValidPath(target) {
			return fmt.Errorf("%s %q: leaves the tree", key.text, target)
		}
		p.def, p.head = nil, false
		if key.text[0] == 'o' {
			// Only this file may be missing, not one that it sources itself.
			if _, err := fs.Stat(p.fsys, target); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
		return p.file(target, depth+1)
	default:
		return p.property(key.text, rest)
	}
	return nil
}

func (p *parser) open(kind, file string, line int) {
	p.block = &block{kind: kind, file: file, line: line, around: p.block}
	p.def, p.head = nil, true
}

// expand replaces $(NAME) and $NAME in a file name, in one pass: what a variable stands for is not looked at again.
func (p *parser) expand(s string) string {
	names := slices.Sorted(maps.Keys(p.vars))
	slices.Reverse(names) // $AB before $A
	var pairs []string
	for _, n := range names {
		pairs = append(pairs, "$("+n+")", p.vars[n], "$"+n, p.vars[n])
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// property handles a line that belongs to the entry before it.
func (p *parser) property(key string, rest []token) error {
	switch key {
	case "depends":
		if len(rest) < 2 || rest[0].text != "on" {
			return errors.New(`depends: want "depends on" and an expression`)
		}
		vs, cond, err := values(rest[1:])
		if err != nil {
			return err
		}
		if len(vs) != 1 {
			return errors.New("depends: want one expression")
		}
		e := vs[0]
		if cond != nil { // "depends on A if B", of later kernels than 6.12, demands A only where B holds
			e = &expr{op: opOr, args: []*expr{{op: opNot, args: []*expr{cond}}, e}}
		}
		switch {
		case p.def != nil:
			p.def.depends = append(p.def.depends, e)
		case p.head:
			p.block.depends = append(p.block.depends, e)
		}
	case "visible":
		if len(rest) < 2 || rest[0].text != "if" {
			return errors.New(`visible: want "visible if" and an expression`)
		}
		e, err := wholeExpr(rest[1:])
		if err != nil {
			return err
		}
		if p.head {
			p.block.visible = append(p.block.visible, e)
		}
	case "bool", "tristate", "int", "hex", "string", "prompt":
		if p.def != nil && key != "prompt" {
			p.def.typ = key
		}
		if len(rest) == 0 {
			return nil
		}
		_, cond, err := values(rest)
		if err != nil {
			return err
		}
		if p.def != nil {
			p.def.prompt, p.def.title, p.def.promptIf = true, rest[0].text, cond
		} else if p.head {
			p.block.title = rest[0].text
			if cond != nil {
				p.block.visible = append(p.block.visible, cond)
			}
		}
	case "default", "def_bool", "def_tristate":
		vs, cond, err := values(rest)
		if err != nil {
			return err
		}
		if len(vs) != 1 {
			return fmt.Errorf("%s: want one value", key)
		}
		if p.def == nil {
			if p.head { // the default member of a choice
				p.block.defaults = append(p.block.defaults, choiceOfValue{vs[0], cond})
			}
			return nil
		}
		if t, ok := strings.CutPrefix(key, "def_"); ok {
			p.def.typ = t
		}
		p.def.defaults = append(p.def.defaults, choiceOfValue{vs[0], cond})
	case "select", "imply":
		vs, cond, err := values(rest)
		if err != nil {
			return err
		}
		if p.def == nil || len(vs) != 1 || vs[0].op != opWord {
			return fmt.Errorf("%s: want one symbol, in a config", key)
		}
		list := p.t.selects
		if key == "imply" {
			list = p.t.implies
		}
		list[vs[0].word] = append(list[vs[0].word], selection{p.def, cond})
	case "range":
		vs, cond, err := values(rest)
		if err != nil {
			return err
		}
		if p.def == nil || len(vs) != 2 {
			return errors.New("range: want two values, in a config")
		}
		p.def.ranges = append(p.def.ranges, valueRange{vs[0], vs[1], cond})
	case "option", "modules", "optional", "mainmenu", "transitional":
	default:
		return fmt.Errorf("unknown word %q", key)
	}
	return nil
}

// wholeExpr reads an expression and nothing behind it.
func wholeExpr(toks []token) (*expr, error) {
	p := exprParser{toks: toks}
	e, err := p.or()
	if err == nil && len(p.toks) > 0 {
		err = fmt.Errorf("unexpected %q", p.toks[0].text)
	}
	return e, err
}

// values reads expressions, then an optional "if" and a condition.
func values(toks []token) (vs []*expr, cond *expr, err error) {
	p := exprParser{toks: toks}
	for len(p.toks) > 0 {
		if p.take('w', "if") {
			cond, err = p.or()
			if err == nil && len(p.toks) > 0 {
				err = fmt.Errorf("unexpected %q", p.toks[0].text)
			}
			return vs, cond, err
		}
		v, err := p.or()
		if err != nil {
			return nil, nil, err
		}
		vs = append(vs, v)
	}
	return vs, nil, nil
}
