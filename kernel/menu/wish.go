package menu

import (
	"cmp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Bounds of a search: how many settings a set may have, how many sets are looked at of each size, how many questions
// may be asked in all, and how many symbols may lie between the one that is wanted and one that is set.
const (
	maxSettings  = 12
	maxSets      = 24
	maxQuestions = 400_000
	maxDepth     = 40
)

// assignment is a set of settings of bools and tristates: symbol to whether it is to be on.
type assignment map[string]bool

func (a assignment) key() string {
	var all []string
	for s, on := range a {
		if !on {
			s = "!" + s
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// join is both sets, where they do not contradict each other.
func join(a, b assignment) (assignment, bool) {
	if len(b) == 0 {
		return a, true
	}
	both := assignment{}
	for s, on := range a {
		both[s] = on
	}
	for s, on := range b {
		if was, set := both[s]; set && was != on {
			return nil, false
		}
		both[s] = on
	}
	return both, true
}

// search looks for sets of settings that make a symbol on or off, by what the tree says of it.
type search struct {
	*evaluation // of what is now
	asked       int
	path        map[string]bool
	known       map[question][]assignment
	cut         bool // a part of the answer was left out because it lies on the path
}

type question struct {
	symbol string
	on     bool
	most   int
}

// wish lists settings beside those that there are which switch a symbol on, and is nil where none was found. What it
// returns has been evaluated: with these settings the symbol is on.
func wish(tree *kconfig.Tree, now *kconfig.Config, settings []kconfig.Setting, symbol string) []kconfig.Setting {
	is := settle(tree, settings)
	for most := 1; most <= maxSettings; most++ {
		s := &search{evaluation: evaluate(tree, now, is), path: map[string]bool{},
			known: map[question][]assignment{}}
		for _, set := range s.need(symbol, true, most) {
			if works(tree, now, settings, set, symbol) {
				return least(tree, now, settings, set, symbol)
			}
		}
		if s.asked > maxQuestions {
			break
		}
	}
	return nil
}

func works(tree *kconfig.Tree, now *kconfig.Config, settings []kconfig.Setting, set assignment, symbol string) bool {
	after := evaluate(tree, now, settle(tree, slices.Concat(settings, set.settings())))
	if after.value(symbol) != "y" {
		return false
	}
	for s, on := range set {
		if on != (after.value(s) == "y") {
			return false
		}
	}
	return true
}

func (a assignment) settings() []kconfig.Setting {
	var out []kconfig.Setting
	for s, on := range a {
		w := kconfig.Setting{Symbol: s, Value: kconfig.No}
		if on {
			w.Value = "y"
		}
		out = append(out, w)
	}
	return out
}

// least drops what is not needed, and makes settings of the rest, sorted so that what others need comes first.
func least(tree *kconfig.Tree, now *kconfig.Config, settings []kconfig.Setting, set assignment,
	symbol string) []kconfig.Setting {
	for _, s := range strings.Fields(set.key()) {
		s = strings.TrimPrefix(s, "!")
		on := set[s]
		delete(set, s)
		if !works(tree, now, settings, set, symbol) {
			set[s] = on
		}
	}
	out := set.settings()
	slices.SortFunc(out, func(a, b kconfig.Setting) int {
		last := func(w kconfig.Setting) int {
			if w.Symbol == symbol {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(last(a), last(b)), strings.Compare(a.Symbol, b.Symbol))
	})
	return out
}

// need lists sets of at most that many settings that make a symbol on, or off; an empty one where it is already.
func (s *search) need(symbol string, on bool, most int) []assignment {
	if is := level(s.value(symbol)); on && is == y || !on && is == n {
		return []assignment{{}}
	}
	if most == 0 && on || s.asked > maxQuestions {
		return nil
	}
	mark := symbol
	if !on {
		mark = "!" + symbol
	}
	if s.path[mark] || len(s.path) > maxDepth {
		s.cut = true
		return nil
	}
	q := question{symbol, on, most}
	if known, ok := s.known[q]; ok {
		return known
	}
	s.asked++
	before := s.cut
	s.cut = false
	s.path[mark] = true
	var sets []assignment
	if k := s.symbol(symbol); k != nil && (k.Type == "bool" || k.Type == "tristate") {
		if on {
			sets = s.switchOn(k, most)
		} else {
			sets = s.switchOff(k, most)
		}
	}
	delete(s.path, mark)
	sets = best(sets, most)
	if !s.cut {
		s.known[q] = sets
	}
	s.cut = s.cut || before
	return sets
}

func (s *search) switchOn(k *kconfig.Symbol, most int) []assignment {
	var sets []assignment
	for _, d := range k.Definitions {
		if d.Prompt != "" && most > 0 {
			sets = append(sets, s.each(slices.Concat(d.Depends, d.Visible), most-1, assignment{k.Name: true})...)
		}
		for _, x := range d.Defaults {
			if d.Prompt != "" { // a default does not count for what can be set
				break
			}
			terms := append(slices.Clone(d.Depends), x.Value)
			if x.If != nil {
				terms = append(terms, x.If)
			}
			sets = append(sets, s.each(terms, most, assignment{})...)
		}
	}
	for _, b := range slices.Concat(k.SelectedBy, k.ImpliedBy) {
		for _, set := range s.need(b.Symbol, true, most) {
			var terms []*kconfig.Expr
			if b.If != nil {
				terms = []*kconfig.Expr{b.If}
			}
			sets = append(sets, s.each(terms, most-len(set), set)...)
		}
	}
	return sets
}

// switchOff needs all of those off that hold the symbol up.
func (s *search) switchOff(k *kconfig.Symbol, most int) []assignment {
	sets := []assignment{{}}
	prompted := slices.ContainsFunc(k.Definitions, func(d kconfig.Definition) bool { return d.Prompt != "" })
	if prompted {
		if most == 0 {
			return nil
		}
		sets = []assignment{{k.Name: false}}
	}
	for _, d := range k.Definitions {
		if d.Choice == nil {
			continue
		}
		// One of a choice is off only when another one is on.
		var others []assignment
		for _, o := range d.Choice.Members {
			if o != k.Name {
				others = append(others, s.need(o, true, most)...)
			}
		}
		return others
	}
	for _, b := range slices.Concat(k.SelectedBy, k.ImpliedBy) {
		if level(s.value(b.Symbol)) == n || b.If != nil && s.evaluation.expr(b.If) == n {
			continue
		}
		ways := s.need(b.Symbol, false, most)
		if b.If != nil {
			ways = append(ways, s.expr(b.If, false, most)...)
		}
		sets = cross(sets, ways, most)
	}
	if prompted {
		return sets
	}
	for _, d := range k.Definitions {
		for _, x := range d.Defaults {
			if s.evaluation.expr(x.Value) == n || x.If != nil && s.evaluation.expr(x.If) == n ||
				s.evaluation.all(d.Depends) == n {
				continue
			}
			ways := s.expr(x.Value, false, most)
			if x.If != nil {
				ways = append(ways, s.expr(x.If, false, most)...)
			}
			for _, e := range d.Depends {
				ways = append(ways, s.expr(e, false, most)...)
			}
			sets = cross(sets, ways, most)
		}
	}
	return sets
}

// each lists sets that make all expressions hold, on top of one that is chosen.
func (s *search) each(terms []*kconfig.Expr, most int, chosen assignment) []assignment {
	if most < 0 {
		return nil
	}
	limit := most + len(chosen)
	sets := []assignment{chosen}
	for _, e := range terms {
		sets = cross(sets, s.expr(e, true, most), limit)
		if len(sets) == 0 {
			return nil
		}
	}
	return sets
}

// expr lists sets that make an expression hold, or not hold.
func (s *search) expr(e *kconfig.Expr, holds bool, most int) []assignment {
	if is := s.evaluation.expr(e); holds && is == y || !holds && is == n {
		return []assignment{{}}
	}
	switch e.Op {
	case "":
		if e.Symbol != "" {
			return s.need(e.Symbol, holds, most)
		}
	case "!":
		return s.expr(e.Args[0], !holds, most)
	case "&&", "||":
		left, right := s.expr(e.Args[0], holds, most), s.expr(e.Args[1], holds, most)
		if holds == (e.Op == "&&") {
			return cross(left, right, most)
		}
		return best(append(left, right...), most)
	case "=", "!=":
		return s.equal(e, holds == (e.Op == "="), most)
	}
	return nil
}

// equal makes a symbol equal to y or n, or not.
func (s *search) equal(e *kconfig.Expr, equal bool, most int) []assignment {
	symbol, constant := e.Args[0], e.Args[1]
	if symbol.Symbol == "" {
		symbol, constant = constant, symbol
	}
	if symbol.Symbol == "" || constant.Symbol != "" {
		return nil
	}
	switch constant.Scalar(s.now) {
	case "y":
		return s.need(symbol.Symbol, equal, most)
	case "n":
		return s.need(symbol.Symbol, !equal, most)
	}
	return nil
}

// cross joins each of one list with each of another.
func cross(a, b []assignment, most int) []assignment {
	var out []assignment
	for _, x := range a {
		for _, y := range b {
			if both, ok := join(x, y); ok && len(both) <= most {
				out = append(out, both)
			}
		}
	}
	return best(out, most)
}

// best keeps the smallest sets, each once.
func best(sets []assignment, most int) []assignment {
	type keyed struct {
		set assignment
		key string
	}
	var all []keyed
	seen := map[string]bool{}
	for _, s := range sets {
		if k := s.key(); len(s) <= most && !seen[k] {
			seen[k] = true
			all = append(all, keyed{s, k})
		}
	}
	slices.SortFunc(all, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(len(a.set), len(b.set)), strings.Compare(a.key, b.key))
	})
	var out []assignment
	for _, k := range all[:min(len(all), maxSets)] {
		out = append(out, k.set)
	}
	return out
}
