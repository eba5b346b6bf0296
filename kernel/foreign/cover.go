package foreign

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Near is a feature that a configuration has most of.
type Near struct {
	Feature string   `json:"feature"`
	Has     int      `json:"has"` // options that are as the feature wants them
	Of      int      `json:"of"`
	Lacks   []Change `json:"lacks"` // a is the feature's, b the configuration's
	// Without are features that it requires and of which the configuration has too little.
	Without []string `json:"without,omitempty"`
}

// Covering is how a configuration is asked for by features.
type Covering struct {
	Features []string // what another one of them requires anyway is left out
	// Aside are the settings of features that come along with these, and which the configuration has otherwise: each
	// with the configuration's value.
	Aside []kconfig.Setting
	Near  []Near // features that are not taken and of which the configuration has at least half, the nearest first
}

// enough says whether a configuration has half of the options of a feature that comes along. Each of the others costs
// a line in the recipe.
func enough(n Near) bool { return 2*n.Has >= n.Of }

// Cover finds the features that a configuration has whole: every option is as they want it, those apart that they only
// prefer. Of what they require, half must be there, and the rest is put aside. A set is taken where all that it
// requires is whole.
func Cover(k Kernel, all []features.Feature, c *kconfig.Config) Covering {
	byName := map[string]features.Feature{}
	is := map[string]Near{}
	for _, f := range all {
		byName[f.Name], is[f.Name] = f, nearness(f, k, c)
	}
	closure := map[string][]string{}
	for _, f := range all {
		closure[f.Name] = along(f.Name, byName, nil)
	}
	whole := func(name string) bool { return len(is[name].Lacks) == 0 }
	taken := map[string]bool{}
	for _, f := range all {
		set := is[f.Name].Of == 0
		taken[f.Name] = whole(f.Name) && !(set && len(f.Requires) == 0)
		for _, r := range closure[f.Name] {
			if set && !whole(r) || !enough(is[r]) {
				taken[f.Name] = false
			}
		}
	}
	var out Covering
	required := map[string]bool{} // by one that is taken
	for _, f := range all {
		if taken[f.Name] {
			for _, r := range closure[f.Name] {
				required[r] = true
			}
		}
	}
	put := map[string]bool{}
	for _, f := range all {
		n := is[f.Name]
		switch {
		case taken[f.Name] && !required[f.Name]:
			out.Features = append(out.Features, f.Name)
		case taken[f.Name]:
		case required[f.Name]:
			for _, l := range n.Lacks {
				if !put[l.Option] {
					put[l.Option] = true
					out.Aside = append(out.Aside, kconfig.Setting{Symbol: strings.TrimPrefix(l.Option, prefix),
						Value: kconfig.Value(l.B)})
				}
			}
		case n.Of > 0 && 2*n.Has >= n.Of:
			for _, r := range closure[f.Name] {
				if !enough(is[r]) {
					n.Without = append(n.Without, r)
				}
			}
			out.Near = append(out.Near, n)
		}
	}
	slices.SortStableFunc(out.Near, func(a, b Near) int {
		if d := len(a.Lacks) - len(b.Lacks); d != 0 {
			return d
		}
		return strings.Compare(a.Feature, b.Feature)
	})
	return out
}

// along lists all that a feature requires.
func along(name string, byName map[string]features.Feature, seen []string) []string {
	for _, r := range byName[name].Requires {
		if !slices.Contains(seen, r) {
			seen = along(r, byName, append(seen, r))
		}
	}
	return seen
}

func nearness(f features.Feature, k Kernel, c *kconfig.Config) Near {
	n := Near{Feature: f.Name}
	for _, w := range f.Fragment.For(k.Arch, k.Version) {
		if w.Preference {
			continue
		}
		n.Of++
		if same(w.Value, c.Get(w.Symbol)) {
			n.Has++
			continue
		}
		n.Lacks = append(n.Lacks, Change{Option: prefix + w.Symbol, A: string(w.Value), B: string(c.Get(w.Symbol)),
			Reason: w.Reason})
	}
	return n
}
