package kconfig

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// op is what an expression does with its operands.
type op string

const (
	opWord  op = ""   // a symbol, or a constant when quoted
	opMacro op = "$"  // $(…): answered by the configurator with the tool-chain's help, unknown to us
	opNot   op = "!"  //
	opAnd   op = "&&" //
	opOr    op = "||" //
	opEq    op = "="  // and the other comparisons, spelt as in the language
)

// expr is one expression of the Kconfig language.
// Linux: Documentation/kbuild/kconfig-language.rst, "Menu dependencies".
type expr struct {
	op     op
	word   string // for opWord and opMacro
	quoted bool
	args   []*expr
}

// String prints the expression in the language, with brackets where && and || meet.
func (e *expr) String() string {
	side := func(a *expr) string {
		if (a.op == opAnd || a.op == opOr) && a.op != e.op {
			return "(" + a.String() + ")"
		}
		return a.String()
	}
	switch e.op {
	case opWord:
		if e.quoted {
			return `"` + e.word + `"`
		}
		return e.word
	case opMacro:
		return e.word
	case opNot:
		return "!" + side(e.args[0])
	}
	return side(e.args[0]) + " " + string(e.op) + " " + side(e.args[1])
}

// conjuncts splits an expression at its outermost ANDs.
func (e *expr) conjuncts() []*expr {
	if e == nil {
		return nil
	}
	if e.op != opAnd {
		return []*expr{e}
	}
	return append(e.args[0].conjuncts(), e.args[1].conjuncts()...)
}

// symbols lists the symbols an expression mentions, each once, in its order.
func (e *expr) symbols() []string {
	var all []string
	if e.op == opWord {
		if !e.quoted && e.word != "y" && e.word != "m" && e.word != "n" && !isNumber(e.word) {
			all = append(all, e.word)
		}
	}
	for _, a := range e.args {
		for _, s := range a.symbols() {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

func (e *expr) hasMacro() bool {
	return e.op == opMacro || slices.ContainsFunc(e.args, (*expr).hasMacro)
}

func isNumber(s string) bool {
	return s != "" && s[0] != '"' && s != "y" && s != "m" && s != "n" && validValue(s)
}

// tristate values, ordered.
const (
	triN = 0
	triM = 1
	triY = 2
)

func tri(v Value) int {
	switch v {
	case "y":
		return triY
	case "m":
		return triM
	}
	return triN
}

// scalar is an operand of a comparison as text.
func (e *expr) scalar(c *Config) string {
	if e.op != opWord || e.quoted || e.word == "y" || e.word == "m" || e.word == "n" || isNumber(e.word) {
		return e.word
	}
	v := string(c.Get(e.word))
	if len(v) >= 2 && v[0] == '"' {
		v = v[1 : len(v)-1]
	}
	return v
}

// eval is the expression's tristate value under a configuration. What only the tool-chain can answer counts as y.
func (e *expr) eval(c *Config) int {
	switch e.op {
	case opWord:
		switch e.word {
		case "y", "m", "n":
			return tri(Value(e.word))
		}
		if e.quoted {
			return triN
		}
		return tri(c.Get(e.word))
	case opMacro:
		return triY
	case opNot:
		return triY - e.args[0].eval(c)
	case opAnd:
		return min(e.args[0].eval(c), e.args[1].eval(c))
	case opOr:
		return max(e.args[0].eval(c), e.args[1].eval(c))
	}
	if e.hasMacro() {
		return triY
	}
	if compare(e.op, e.args[0].scalar(c), e.args[1].scalar(c)) {
		return triY
	}
	return triN
}

func compare(o op, a, b string) bool {
	d := strings.Compare(a, b)
	switch {
	case isNumber(a) && isNumber(b):
		d = parseNumber(a).Cmp(parseNumber(b))
	case isTri(a) && isTri(b):
		d = tri(Value(a)) - tri(Value(b)) // n < m < y, which is not their order as text
	}
	switch o {
	case opEq:
		return d == 0
	case "!=":
		return d != 0
	case "<":
		return d < 0
	case "<=":
		return d <= 0
	case ">":
		return d > 0
	}
	return d >= 0
}

func isTri(s string) bool { return s == "y" || s == "m" || s == "n" }

// parseNumber reads what isNumber accepts. Addresses of the kernel do not fit into an int64.
func parseNumber(s string) *big.Int {
	n, base := new(big.Int), 10
	if h, ok := strings.CutPrefix(s, "0x"); ok {
		s, base = h, 16
	}
	n.SetString(s, base)
	return n
}

// token is one word of a Kconfig line.
type token struct {
	kind byte // 'w' word, 'q' quoted, '$' macro, 'o' operator
	text string
}

// maxTokens bounds one logical line, and with it how deep its expression can nest. The longest of Linux 6.12 has some
// 300.
const maxTokens = 10_000

// lex splits a logical line; a comment ends it.
func lex(line string) ([]token, error) {
	var out []token
	for i := 0; i < len(line); {
		if len(out) > maxTokens {
			return nil, fmt.Errorf("more than %d words", maxTokens)
		}
		c := line[i]
		switch {
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			return out, nil
		case c == '"' || c == '\'':
			text, n, err := lexQuoted(line[i:])
			if err != nil {
				return nil, err
			}
			out = append(out, token{'q', text})
			i += n
		case c == '$' && i+1 < len(line) && line[i+1] == '(':
			n, err := macroEnd(line[i:])
			if err != nil {
				return nil, err
			}
			end := i + n
			for end < len(line) && wordByte(line[end]) { // text glued to the macro belongs to it
				end++
			}
			out = append(out, token{'$', line[i:end]})
			i = end
		case strings.HasPrefix(line[i:], "&&"), strings.HasPrefix(line[i:], "||"), strings.HasPrefix(line[i:], "!="),
			strings.HasPrefix(line[i:], "<="), strings.HasPrefix(line[i:], ">="), strings.HasPrefix(line[i:], ":="),
			strings.HasPrefix(line[i:], "+="):
			out = append(out, token{'o', line[i : i+2]})
			i += 2
		case strings.IndexByte("!=<>()", c) >= 0:
			out = append(out, token{'o', line[i : i+1]})
			i++
		case wordByte(c):
			end := i
			for end < len(line) && wordByte(line[end]) {
				end++
			}
			out = append(out, token{'w', line[i:end]})
			i = end
		default:
			i++ // stray punctuation, which the kernel's reader warns about and drops too
		}
	}
	return out, nil
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '/' ||
		c == '.'
}

func lexQuoted(s string) (text string, n int, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return b.String(), i + 1, nil
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", 0, fmt.Errorf("no closing quote: %s", s)
}

// macroEnd finds the end of $( … ) with its nested parentheses.
func macroEnd(s string) (int, error) {
	depth := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		}
	}
	return 0, fmt.Errorf("no closing parenthesis: %s", s)
}

// exprParser reads expressions off a list of tokens.
type exprParser struct {
	toks  []token
	depth int
}

// maxDepth bounds the nesting of one expression; the kernel's deepest has fewer than ten levels.
const maxDepth = 100

func (p *exprParser) peek() token {
	if len(p.toks) == 0 {
		return token{}
	}
	return p.toks[0]
}

func (p *exprParser) take(kind byte, text string) bool {
	if t := p.peek(); t.kind == kind && t.text == text {
		p.toks = p.toks[1:]
		return true
	}
	return false
}

func (p *exprParser) or() (*expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, fmt.Errorf("expression nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	e, err := p.and()
	for err == nil && p.take('o', "||") {
		var r *expr
		r, err = p.and()
		e = &expr{op: opOr, args: []*expr{e, r}}
	}
	return e, err
}

func (p *exprParser) and() (*expr, error) {
	e, err := p.not()
	for err == nil && p.take('o', "&&") {
		var r *expr
		r, err = p.not()
		e = &expr{op: opAnd, args: []*expr{e, r}}
	}
	return e, err
}

func (p *exprParser) not() (*expr, error) {
	if p.take('o', "!") {
		if p.depth++; p.depth > maxDepth {
			return nil, fmt.Errorf("expression nested more than %d deep", maxDepth)
		}
		defer func() { p.depth-- }()
		e, err := p.not()
		if err != nil {
			return nil, err
		}
		return &expr{op: opNot, args: []*expr{e}}, nil
	}
	if p.take('o', "(") {
		e, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.take('o', ")") {
			return nil, fmt.Errorf("no closing parenthesis")
		}
		return e, nil
	}
	left, err := p.word()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind == 'o' && slices.Contains([]string{"=", "!=", "<", "<=", ">", ">="}, t.text) {
		p.toks = p.toks[1:]
		right, err := p.word()
		if err != nil {
			return nil, err
		}
		return &expr{op: op(t.text), args: []*expr{left, right}}, nil
	}
	return left, nil
}

func (p *exprParser) word() (*expr, error) {
	t := p.peek()
	switch t.kind {
	case 'w':
		p.toks = p.toks[1:]
		return &expr{word: t.text}, nil
	case 'q':
		p.toks = p.toks[1:]
		return &expr{word: t.text, quoted: true}, nil
	case '$':
		p.toks = p.toks[1:]
		return &expr{op: opMacro, word: t.text}, nil
	}
	return nil, fmt.Errorf("want a symbol or a constant, found %q", t.text)
}
