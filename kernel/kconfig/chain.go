package kconfig

import (
	"fmt"
	"strings"
)

// maxChain bounds how many symbols lie between a setting that came out otherwise and the one that stands against it.
const maxChain = 8

// chain says which other setting stands against w, and how: what it selects or switches off, up to what w excludes or
// needs. It is empty where no other setting does.
func (t *Tree) chain(w Setting, c *Config, all []Setting) string {
	asked := map[string]Setting{}
	for _, o := range all {
		if o.Symbol != w.Symbol {
			asked[o.Symbol] = o
		}
	}
	subject := fmt.Sprintf("%s (%s)", w.Symbol, w.where())
	if tri(c.Get(w.Symbol)) > tri(w.Value) && t.isTristate(t.symbols[w.Symbol]) {
		return strings.TrimSuffix(t.whyOn(w.Symbol, c, asked), ", which")
	}
	for _, d := range t.symbols[w.Symbol] {
		conditions := unmet(append(d.allDepends(), d.allVisible()...), c, triM)
		for _, e := range conditions {
			on, off := e.against(c, true)
			for _, s := range on {
				if why := t.whyOn(s, c, asked); why != "" {
					return why + " " + subject + " excludes"
				}
			}
			for _, s := range off {
				if why := t.whyOff(s, c, asked); why != "" {
					return why + " " + subject + " needs"
				}
			}
		}
		if ch := d.choice(); ch != nil && len(conditions) == 0 {
			for _, m := range ch.members {
				if o, ok := asked[m]; ok && c.Get(m) == "y" && o.Value == "y" {
					return fmt.Sprintf("%s (%s) excludes %s: a choice has one winner, leave one of the two out", m,
						o.where(), subject)
				}
			}
		}
	}
	return ""
}

// against lists the symbols that keep an expression from what it is wanted to be: those that are on and should be off,
// and those that are off and should be on.
func (e *expr) against(c *Config, wanted bool) (on, off []string) {
	switch e.op {
	case opWord:
		switch v := tri(c.Get(e.word)); {
		case len(e.symbols()) != 1:
		case wanted && v < triY:
			off = append(off, e.word)
		case !wanted && v > triN:
			on = append(on, e.word)
		}
	case opNot:
		return e.args[0].against(c, !wanted)
	case opAnd, opOr:
		for _, a := range e.args {
			x, y := a.against(c, wanted)
			on, off = append(on, x...), append(off, y...)
		}
	}
	return on, off
}

// chainStep is one symbol on the way back from the one that was asked about.
type chainStep struct {
	symbol string
	next   *chainStep // nearer to the symbol that was asked about
	depth  int
}

// whyOn follows selections from a symbol that is on back to a setting: "A (file:1) selects B, which selects C, which",
// or "A (file:1) is y, which".
func (t *Tree) whyOn(symbol string, c *Config, asked map[string]Setting) string {
	return search(symbol, func(s string) []string {
		var by []string
		for _, sel := range t.selects[s] {
			if v := tri(c.Get(sel.by.symbol)); v > triN && (sel.cond == nil || sel.cond.eval(c) > triN) {
				by = append(by, sel.by.symbol)
			}
		}
		return by
	}, func(at *chainStep) string {
		w, ok := asked[at.symbol]
		if !ok || w.Value == No {
			return ""
		}
		s := fmt.Sprintf("%s (%s)", at.symbol, w.where())
		if at.next == nil {
			return fmt.Sprintf("%s is %s, which", s, c.Get(at.symbol))
		}
		for n := at.next; n != nil; n = n.next {
			s += " selects " + n.symbol + ", which"
		}
		return s
	})
}

// whyOff follows dependencies from a symbol that is off to a setting that it, or what it needs, be off: "A=n (file:1)
// switches off B, which".
func (t *Tree) whyOff(symbol string, c *Config, asked map[string]Setting) string {
	return search(symbol, func(s string) []string {
		var needs []string
		for _, d := range t.symbols[s] {
			for _, e := range unmet(d.allDepends(), c, triM) {
				_, off := e.against(c, true)
				needs = append(needs, off...)
			}
		}
		return needs
	}, func(at *chainStep) string {
		w, ok := asked[at.symbol]
		if !ok || w.Value != No {
			return ""
		}
		s := fmt.Sprintf("%s is n (%s), which", at.symbol, w.where())
		for n := at.next; n != nil; n = n.next {
			s += " " + n.symbol + " needs, which"
		}
		return s
	})
}

// search walks from a symbol, nearest first, until found has an answer.
func search(symbol string, neighbours func(string) []string, found func(*chainStep) string) string {
	seen := map[string]bool{symbol: true}
	for queue := []*chainStep{{symbol: symbol}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if s := found(at); s != "" {
			return s
		}
		if at.depth == maxChain {
			continue
		}
		for _, n := range neighbours(at.symbol) {
			if !seen[n] {
				seen[n] = true
				queue = append(queue, &chainStep{n, at, at.depth + 1})
			}
		}
	}
	return ""
}
