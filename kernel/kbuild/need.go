package kbuild

import "slices"

// Need is what must be on for something to be built: alternatives, each a list of symbols that must all be on, without
// CONFIG_, those of the outermost folder first. An alternative without symbols is always met; without alternatives
// nothing is known.
type Need [][]string

// always is met by every configuration.
func always() Need { return Need{nil} }

// one needs a symbol.
func one(symbol string) Need { return Need{{symbol}} }

// maxAlternatives bounds a need; in Linux 6.12 the most is 6.
const maxAlternatives = 16

// Always says whether it is met by every configuration.
func (n Need) Always() bool {
	return slices.ContainsFunc(n, func(a []string) bool { return len(a) == 0 })
}

// Without says whether it can be met while a symbol is off.
func (n Need) Without(off func(symbol string) bool) bool {
	return slices.ContainsFunc(n, func(a []string) bool { return !slices.ContainsFunc(a, off) })
}

// and needs both.
func (n Need) and(o Need) Need {
	if len(o) == 1 && len(o[0]) == 0 {
		return n
	}
	var out Need
	for _, a := range n {
		for _, b := range o {
			both := slices.Clone(a)
			for _, s := range b {
				if !slices.Contains(both, s) {
					both = append(both, s)
				}
			}
			out = out.add(both)
		}
	}
	return out
}

// or needs one of the two.
func (n Need) or(o Need) Need {
	out := slices.Clone(n)
	for _, a := range o {
		out = out.add(a)
	}
	return out
}

// add adds an alternative, unless one asks for less; those that ask for more go. Where there are too many, it is taken
// for something that is always built.
func (n Need) add(a []string) Need {
	for _, b := range n {
		if subset(b, a) {
			return n
		}
	}
	n = slices.DeleteFunc(slices.Clone(n), func(b []string) bool { return subset(a, b) })
	if len(n) == maxAlternatives {
		return always()
	}
	return append(n, a)
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}
