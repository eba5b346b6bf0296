package menu

import (
	"slices"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// evaluation works out what the configurator would make of settings, where everything that nobody sets is off if it can
// be. It follows Linux: Documentation/kbuild/kconfig-language.rst. What only the tool-chain can answer is as it is in
// the configuration that there is.
type evaluation struct {
	tree     *kconfig.Tree
	now      *kconfig.Config
	settings map[string]kconfig.Value
	seen     map[string]*kconfig.Symbol
	values   map[string]kconfig.Value
	open     map[string]bool // being worked out
}

// maxChain bounds how many symbols may hang on each other; in Linux 6.12 fewer than 200 do.
const maxChain = 10_000

func evaluate(tree *kconfig.Tree, now *kconfig.Config, settings map[string]kconfig.Value) *evaluation {
	return &evaluation{tree: tree, now: now, settings: settings, seen: map[string]*kconfig.Symbol{},
		values: map[string]kconfig.Value{}, open: map[string]bool{}}
}

func (v *evaluation) symbol(name string) *kconfig.Symbol {
	s, ok := v.seen[name]
	if !ok {
		s = v.tree.Symbol(name)
		v.seen[name] = s
	}
	return s
}

// value is what a symbol becomes.
func (v *evaluation) value(name string) kconfig.Value {
	if x, ok := v.values[name]; ok {
		return x
	}
	s := v.symbol(name)
	if s == nil {
		return kconfig.No
	}
	// A loop: the language forbids it for dependencies, and allows it between a choice's members.
	if v.open[name] || len(v.open) > maxChain {
		return v.now.Get(name)
	}
	v.open[name] = true
	x := v.work(s)
	delete(v.open, name)
	v.values[name] = x
	return x
}

func (v *evaluation) work(s *kconfig.Symbol) kconfig.Value {
	if ofToolchain(s) {
		return v.now.Get(s.Name)
	}
	if s.Type != "bool" && s.Type != "tristate" {
		return v.text(s)
	}
	for _, d := range s.Definitions {
		if d.Choice != nil {
			return v.member(s, d)
		}
	}
	asked, visible, depends := n, n, n
	for _, d := range s.Definitions {
		met := v.all(d.Depends)
		depends = max(depends, met)
		if d.Prompt != "" {
			visible = max(visible, min(met, v.all(d.Visible)))
		}
	}
	if visible > n {
		asked = min(level(v.settings[s.Name]), visible)
	} else {
		asked = v.byDefault(s)
	}
	// Where a prompt is shown, off is what somebody has said, who wins over an imply.
	if implied := v.by(s.ImpliedBy); implied > n && depends > n && visible == n {
		asked = max(asked, min(implied, depends))
	}
	asked = max(asked, v.by(s.SelectedBy))
	if asked == m && (s.Type == "bool" || v.modulesOff(s)) {
		asked = y
	}
	return tristate(asked)
}

// ofToolchain says whether a symbol is the tool-chain's answer, which nobody can ask for.
func ofToolchain(s *kconfig.Symbol) bool {
	for _, d := range s.Definitions {
		for _, x := range d.Defaults {
			if x.Value.HasMacro() || x.If != nil && x.If.HasMacro() {
				return true
			}
		}
		if d.Prompt == "" && slices.ContainsFunc(d.Depends, (*kconfig.Expr).HasMacro) {
			return true
		}
	}
	return false
}

// modulesOff says whether no symbol can be a module. Linux: the symbol that "modules" marks, which is MODULES.
func (v *evaluation) modulesOff(s *kconfig.Symbol) bool {
	return s.Name != "MODULES" && v.value("MODULES") != "y"
}

// by is the strongest of those that select or imply a symbol.
func (v *evaluation) by(all []kconfig.By) int {
	most := n
	for _, b := range all {
		if most == y {
			break
		}
		x := level(v.value(b.Symbol))
		if x > n && b.If != nil {
			x = min(x, v.expr(b.If))
		}
		most = max(most, x)
	}
	return most
}

// byDefault is the first default that counts.
func (v *evaluation) byDefault(s *kconfig.Symbol) int {
	for _, d := range s.Definitions {
		met := v.all(d.Depends)
		if met == n {
			continue
		}
		for _, x := range d.Defaults {
			if x.If == nil || v.expr(x.If) > n {
				return min(v.expr(x.Value), met)
			}
		}
	}
	return n
}

// text is a number or string.
func (v *evaluation) text(s *kconfig.Symbol) kconfig.Value {
	x, set := v.settings[s.Name]
	for _, d := range s.Definitions {
		if v.all(d.Depends) == n {
			continue
		}
		if set && d.Prompt != "" && v.all(d.Visible) > n {
			return x
		}
		for _, x := range d.Defaults {
			if x.If == nil || v.expr(x.If) > n {
				return text(s.Type, v.scalar(x.Value))
			}
		}
	}
	return kconfig.No
}

// text is a default as a configuration has it.
func text(typ, scalar string) kconfig.Value {
	switch {
	case typ == "string":
		return kconfig.Value(`"` + scalar + `"`)
	case scalar == "":
		return kconfig.No
	}
	return kconfig.Value(scalar)
}

// member is one of a choice: the one that is set and can be, or the choice's default, or the first that can be.
func (v *evaluation) member(s *kconfig.Symbol, d kconfig.Definition) kconfig.Value {
	can := func(name string) bool {
		o := v.symbol(name)
		return o != nil && slices.ContainsFunc(o.Definitions, func(d kconfig.Definition) bool {
			return d.Choice != nil && d.Prompt != "" && v.all(d.Depends) > n && v.all(d.Visible) > n
		})
	}
	if !can(s.Name) {
		return kconfig.No
	}
	winner := ""
	for _, o := range d.Choice.Members {
		if v.settings[o] == "y" && can(o) {
			winner = o
		}
	}
	for _, x := range d.Choice.Default {
		if o := x.Value.Symbol; winner == "" && o != "" && can(o) && (x.If == nil || v.expr(x.If) > n) {
			winner = o
		}
	}
	for _, o := range d.Choice.Members {
		if winner == "" && can(o) {
			winner = o
		}
	}
	if winner == s.Name {
		return "y"
	}
	return kconfig.No
}

func (v *evaluation) all(es []*kconfig.Expr) int {
	least := y
	for _, e := range es {
		if least = min(least, v.expr(e)); least == n {
			break
		}
	}
	return least
}

func (v *evaluation) expr(e *kconfig.Expr) int {
	switch e.Op {
	case "":
		if e.Symbol != "" {
			return level(v.value(e.Symbol))
		}
		return level(e.Value(v.now))
	case "$":
		return y
	case "!":
		return y - v.expr(e.Args[0])
	case "&&":
		return min(v.expr(e.Args[0]), v.expr(e.Args[1]))
	case "||":
		return max(v.expr(e.Args[0]), v.expr(e.Args[1]))
	}
	if e.HasMacro() || e.Compare(v.scalar(e.Args[0]), v.scalar(e.Args[1])) {
		return y
	}
	return n
}

// scalar is an operand of a comparison as text, without quotes.
func (v *evaluation) scalar(e *kconfig.Expr) string {
	if e.Symbol == "" {
		return e.Scalar(v.now)
	}
	x := string(v.value(e.Symbol))
	if len(x) >= 2 && x[0] == '"' {
		x = x[1 : len(x)-1]
	}
	return x
}

// The values of a tristate, ordered.
const (
	n = iota
	m
	y
)

func level(v kconfig.Value) int {
	switch v {
	case "y":
		return y
	case "m":
		return m
	}
	return n
}

func tristate(level int) kconfig.Value { return []kconfig.Value{kconfig.No, "m", "y"}[level] }

// Foresee works out what the configurator would make of settings, beside which everything is off that can be: the
// values of all symbols that are not off.
func (k Kernel) Foresee(settings []kconfig.Setting) *kconfig.Config {
	return k.Foresight().Of(settings, k.Tree.Names())
}

// Foresight foresees what becomes of several lists of settings, faster than each by itself. One goroutine uses it.
type Foresight struct {
	k    Kernel
	seen map[string]*kconfig.Symbol
}

// Foresight is one for a kernel.
func (k Kernel) Foresight() *Foresight { return &Foresight{k, map[string]*kconfig.Symbol{}} }

// Of is what Foresee says of some symbols.
func (f *Foresight) Of(settings []kconfig.Setting, names []string) *kconfig.Config {
	v := evaluate(f.k.Tree, f.k.Final, settle(f.k.Tree, settings))
	v.seen = f.seen
	values := map[string]kconfig.Value{}
	for _, name := range names {
		if x := v.value(name); x != kconfig.No {
			values[name] = x
		}
	}
	return kconfig.NewConfig(values)
}

// settle is what counts of settings: what comes later, and of a choice its last, but no preference before another.
func settle(tree *kconfig.Tree, settings []kconfig.Setting) map[string]kconfig.Value {
	is := map[string]kconfig.Value{}
	for _, preferences := range []bool{true, false} {
		for _, w := range settings {
			if w.Preference == preferences {
				for _, o := range rivals(tree, w) {
					delete(is, o)
				}
				is[w.Symbol] = w.Value
			}
		}
	}
	return is
}

// rivals are the others of the choice that a setting decides.
func rivals(tree *kconfig.Tree, w kconfig.Setting) []string {
	var out []string
	if s := tree.Symbol(w.Symbol); s != nil && w.Value == "y" {
		for _, d := range s.Definitions {
			if d.Choice != nil {
				out = append(out, d.Choice.Members...)
			}
		}
	}
	return slices.DeleteFunc(out, func(o string) bool { return o == w.Symbol })
}
