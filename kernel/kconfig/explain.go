package kconfig

import (
	"fmt"
	"slices"
	"strings"
)

// Explain says in one line why the setting came out otherwise in the final configuration, and which of all settings
// stands against it. It is for people, and honest about what only the kernel's own configurator knows.
func (t *Tree) Explain(w Setting, final *Config, all []Setting) string {
	s := t.explain(w, final)
	if chain := t.chain(w, final, all); chain != "" {
		s += "; " + chain
	}
	return s
}

// ExplainUnmet is Explain for a setting that came out otherwise. It fills in Why, and Value.
func (t *Tree) ExplainUnmet(u *Unmet, final *Config, all []Setting) {
	u.Why = t.Explain(u.Setting, final, all)
	defs := t.symbols[u.Setting.Symbol]
	u.Value = len(defs) > 0 && t.wrongValue(u.Setting, defs, final) != ""
}

// Has says whether the tree defines a symbol.
func (t *Tree) Has(symbol string) bool { return len(t.symbols[symbol]) > 0 }

func (t *Tree) explain(w Setting, final *Config) string {
	defs := t.symbols[w.Symbol]
	if len(defs) == 0 {
		s := fmt.Sprintf("%s: no such symbol in this tree", w.Symbol)
		if where := t.elsewhere(w.Symbol); where != "" {
			return s + ": " + where
		}
		if n := nearest(w.Symbol, t.names()); n != "" {
			s += "; the nearest is " + n
		}
		return s
	}
	got := final.Get(w.Symbol)
	if s := t.wrongValue(w, defs, final); s != "" {
		return w.Symbol + ": " + s
	}
	isTri := t.isTristate(defs)
	if isTri && tri(got) > tri(w.Value) {
		return w.Symbol + ": " + t.whyTooMuch(w, defs, final)
	}
	return w.Symbol + ": " + t.whyTooLittle(w, defs, final)
}

func (t *Tree) typeOf(defs []*definition) string {
	for _, d := range defs {
		if d.typ != "" {
			return d.typ
		}
	}
	return ""
}

func (t *Tree) isTristate(defs []*definition) bool {
	typ := t.typeOf(defs)
	return typ == "bool" || typ == "tristate"
}

// wrongValue says what is wrong with the value alone, whatever else the configuration holds: its type, its range, a
// module where there are none.
func (t *Tree) wrongValue(w Setting, defs []*definition, c *Config) string {
	typ, v := t.typeOf(defs), string(w.Value)
	ok, want := true, ""
	switch typ {
	case "bool":
		ok, want = v == "y" || v == "n", "y or n"
	case "tristate":
		ok, want = v == "y" || v == "m" || v == "n", "y, m or n"
	case "int":
		ok, want = v == "n" || isNumber(v) && !strings.HasPrefix(v, "0x"), "a decimal number"
	case "hex":
		ok, want = v == "n" || isNumber(v) && strings.HasPrefix(v, "0x"), "a 0x number"
	case "string":
		ok, want = v == "n" || strings.HasPrefix(v, `"`), "a string in double quotes"
	}
	article := "a"
	if typ == "int" {
		article = "an"
	}
	if !ok {
		return fmt.Sprintf("is %s %s, %s cannot be its value: want %s", article, typ, v, want)
	}
	if got := c.Get(w.Symbol); v == "n" && got != No && !t.isTristate(defs) {
		return fmt.Sprintf("is %s %s, which has a value (here %s) and cannot be off: want %s", article, typ, got, want)
	}
	if typ == "tristate" && v == "m" && c.Get("MODULES") != "y" {
		return "cannot be a module, MODULES is n: ask for y, or for a kernel with modules (kernel.modules: true)"
	}
	return t.outOfRange(w, defs, c)
}

// outOfRange says between which bounds a number must lie that does not.
func (t *Tree) outOfRange(w Setting, defs []*definition, c *Config) string {
	v := string(w.Value)
	if !isNumber(v) || t.isTristate(defs) {
		return ""
	}
	var out []string
	for _, d := range defs {
		if len(unmet(d.allDepends(), c, triM)) > 0 || !d.prompt || len(unmet(d.allVisible(), c, triM)) > 0 {
			continue
		}
		for _, r := range d.ranges {
			if r.cond != nil && r.cond.eval(c) == triN {
				continue
			}
			low, high := r.low.scalar(c), r.high.scalar(c)
			if s := fmt.Sprintf("must lie between %s and %s", low, high); (compare("<", v, low) ||
				compare(">", v, high)) && !slices.Contains(out, s) {
				out = append(out, s)
			}
			break // the configurator takes the first that holds
		}
	}
	return strings.Join(out, "; or ")
}

// allDepends is what the definition and everything around it depend on.
func (d *definition) allDepends() []*expr {
	all := slices.Clone(d.depends)
	for b := d.around; b != nil; b = b.around {
		all = append(all, b.depends...)
	}
	return split(all)
}

// allVisible is what the prompt needs beyond the dependencies.
func (d *definition) allVisible() []*expr {
	var all []*expr
	if d.promptIf != nil {
		all = append(all, d.promptIf)
	}
	for b := d.around; b != nil; b = b.around {
		all = append(all, b.visible...)
	}
	return split(all)
}

func (d *definition) choice() *block {
	for b := d.around; b != nil; b = b.around {
		if b.kind == "choice" {
			return b
		}
	}
	return nil
}

func split(es []*expr) []*expr {
	var all []*expr
	for _, e := range es {
		all = append(all, e.conjuncts()...)
	}
	return all
}

// unmet picks the conditions below want.
func unmet(es []*expr, c *Config, want int) []*expr {
	var out []*expr
	for _, e := range es {
		if e.eval(c) < want && !slices.ContainsFunc(out, func(o *expr) bool { return o.String() == e.String() }) {
			out = append(out, e)
		}
	}
	return out
}

// valueOf is a symbol's value for people; of one that this tree does not have, also where there is one.
func (t *Tree) valueOf(symbol string, c *Config) string {
	v := string(c.Get(symbol))
	if !t.Has(symbol) {
		if where := t.elsewhere(symbol); where != "" {
			v += ": " + where
		}
	}
	return v
}

func (t *Tree) elsewhere(symbol string) string {
	if t.Elsewhere == nil {
		return ""
	}
	return t.Elsewhere(symbol)
}

// describe prints a condition with the values of its symbols.
func (t *Tree) describe(e *expr, c *Config) string {
	names := e.symbols()
	if e.op == opWord && len(names) == 1 {
		return fmt.Sprintf("%s (is %s)", e, t.valueOf(e.word, c))
	}
	if len(names) == 0 {
		return e.String()
	}
	var vals []string
	for _, n := range names {
		vals = append(vals, fmt.Sprintf("%s is %s", n, t.valueOf(n, c)))
	}
	return fmt.Sprintf("%s (%s)", e, strings.Join(vals, ", "))
}

func (t *Tree) describeAll(es []*expr, c *Config) string {
	var out []string
	for _, e := range es {
		out = append(out, t.describe(e, c))
	}
	return strings.Join(out, " and ")
}

// whyTooLittle explains a symbol that is lower than asked, or a string or number that is another.
func (t *Tree) whyTooLittle(w Setting, defs []*definition, c *Config) string {
	want := triM // for a bool or a value, a dependency that is a module suffices
	if t.typeOf(defs) == "tristate" {
		want = tri(w.Value)
	}
	var reasons []string
	many := len(defs) > 1
	add := func(d *definition, s string) {
		if many {
			s = fmt.Sprintf("%s (defined at %s:%d)", s, d.file, d.line)
		}
		if !slices.Contains(reasons, s) {
			reasons = append(reasons, s)
		}
	}
	var reachable []*definition
	for _, d := range defs {
		if u := unmet(d.allDepends(), c, want); len(u) > 0 {
			add(d, "depends on "+t.describeAll(u, c))
			continue
		}
		reachable = append(reachable, d)
	}
	if len(reachable) == 0 {
		return strings.Join(reasons, "; or ")
	}
	reasons = nil
	prompted := slices.ContainsFunc(defs, func(d *definition) bool { return d.prompt })
	if !prompted {
		return t.noPrompt(w.Symbol, defs, c)
	}
	for _, d := range reachable {
		if !d.prompt {
			continue
		}
		if u := unmet(d.allVisible(), c, triM); len(u) > 0 {
			add(d, "can be chosen only if "+t.describeAll(u, c))
			continue
		}
		if ch := d.choice(); ch != nil {
			for _, m := range ch.members {
				if m != w.Symbol && c.Get(m) == "y" {
					add(d, fmt.Sprintf("is one of a choice (%s:%d) that went to %s", ch.file, ch.line, m))
				}
			}
		}
	}
	if len(reasons) > 0 {
		return strings.Join(reasons, "; or ")
	}
	for _, d := range reachable {
		for _, e := range append(d.allDepends(), d.allVisible()...) {
			if e.hasMacro() {
				add(d, "depends on what the tool-chain can do: "+e.String())
			}
		}
	}
	if len(reasons) > 0 {
		return strings.Join(reasons, "; ")
	}
	return "every dependency we can see is met; ask `make menuconfig`"
}

// noPrompt explains a symbol nobody can ask for.
func (t *Tree) noPrompt(symbol string, defs []*definition, c *Config) string {
	var by []string
	for _, s := range t.selects[symbol] {
		d := fmt.Sprintf("%s (is %s)", s.by.symbol, c.Get(s.by.symbol))
		if s.cond != nil {
			d += " if " + t.describe(s.cond, c)
		}
		if !slices.Contains(by, d) {
			by = append(by, d)
		}
	}
	s := "has no prompt, so it cannot be asked for by itself"
	const most = 4
	if len(by) > 0 {
		if len(by) > most {
			by = append(by[:most], fmt.Sprintf("%d more", len(by)-most))
		}
		s += "; it is selected by " + strings.Join(by, ", ")
	}
	for _, d := range defs {
		for _, v := range d.defaults {
			s += "; its default is " + v.value.String()
			if v.cond != nil {
				s += " if " + t.describe(v.cond, c)
			}
		}
	}
	return s
}

// whyTooMuch explains a symbol that is on although it was asked to be off.
func (t *Tree) whyTooMuch(w Setting, defs []*definition, c *Config) string {
	var by []string
	for _, s := range t.selects[w.Symbol] {
		v := tri(c.Get(s.by.symbol))
		if s.cond != nil {
			v = min(v, s.cond.eval(c))
		}
		if v > tri(w.Value) {
			d := fmt.Sprintf("selected by %s (is %s)", s.by.symbol, c.Get(s.by.symbol))
			if s.cond != nil {
				d += " if " + t.describe(s.cond, c)
			}
			by = append(by, d)
		}
	}
	if len(by) > 0 {
		return strings.Join(by, ", ")
	}
	for _, d := range defs {
		if ch := d.choice(); ch != nil {
			return fmt.Sprintf("one of the choice at %s:%d must be y, and the others are not", ch.file, ch.line)
		}
		if d.prompt {
			if u := unmet(d.allVisible(), c, triM); len(u) > 0 {
				return "can be switched off only if " + t.describeAll(u, c) + "; its default stands"
			}
		}
	}
	if !slices.ContainsFunc(defs, func(d *definition) bool { return d.prompt }) {
		return t.noPrompt(w.Symbol, defs, c)
	}
	return "nothing we can see selects it; ask `make menuconfig`"
}

// nearest is the name closest to s, or "" when none is close.
func nearest(s string, names []string) string {
	best, bestD := "", max(2, len(s)/4)+1
	for _, n := range names {
		if d := distance(s, n, bestD); d < bestD {
			best, bestD = n, d
		}
	}
	return best
}

// distance is the edit distance of a and b, where two neighbours that changed places count once, or at least limit when
// it is not below.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	var before []int // the row before prev
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev = prev, cur
	}
	return prev[len(b)]
}
