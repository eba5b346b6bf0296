// Package foreign reads configurations that somebody else wrote, compares them, and finds the features that cover one.
//
// In go the bytes of configurations and the features of an architecture, out come values for people and programs. It
// knows no recipes and runs no configurator.
package foreign

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Change is an option that two configurations have otherwise.
type Change struct {
	Option string `json:"option"` // with CONFIG_
	A      string `json:"a"`      // n where it is not set
	B      string `json:"b"`
	Reason string `json:"reason,omitempty"` // for which its feature wants it
}

// Group is what differs of a feature's options.
type Group struct {
	Feature string   `json:"feature"`
	Changes []Change `json:"changes"`
}

// Difference is what two configurations have otherwise.
type Difference struct {
	// The features that only one of them has whole: every option, those it only prefers apart.
	OnlyA  []string `json:"only_a"`
	OnlyB  []string `json:"only_b"`
	Groups []Group  `json:"features"`
	Rest   []Change `json:"rest"` // options of no feature
	// Facts are options of no feature that tell of the tool-chain or the architecture, not of what a kernel can do.
	Facts []Change `json:"facts"`
}

// Same says whether nothing differs.
func (d *Difference) Same() bool { return len(d.Groups) == 0 && len(d.Rest) == 0 && len(d.Facts) == 0 }

// Kernel is which options of the features apply.
type Kernel struct {
	Arch    string // its name, such as x86_64
	Version string // of Linux
}

// Compare says what differs, by feature and by name.
func Compare(k Kernel, all []features.Feature, a, b *kconfig.Config) *Difference {
	d := &Difference{OnlyA: []string{}, OnlyB: []string{}, Groups: []Group{}, Rest: []Change{},
		Facts: []Change{}}
	changed := map[string]bool{}
	for _, c := range []*kconfig.Config{a, b} {
		for _, s := range c.Symbols() {
			if !same(a.Get(s), b.Get(s)) {
				changed[s] = true
			}
		}
	}
	told := map[string]bool{}
	for _, f := range all {
		settings := f.Fragment.For(k.Arch, k.Version)
		inA, inB := has(settings, a), has(settings, b)
		switch {
		case inA && !inB:
			d.OnlyA = append(d.OnlyA, f.Name)
		case inB && !inA:
			d.OnlyB = append(d.OnlyB, f.Name)
		}
		g := Group{Feature: f.Name}
		for _, w := range settings {
			if changed[w.Symbol] && !told[w.Symbol] {
				told[w.Symbol] = true
				c := change(w.Symbol, a, b)
				c.Reason = w.Reason
				g.Changes = append(g.Changes, c)
			}
		}
		if len(g.Changes) > 0 {
			d.Groups = append(d.Groups, g)
		}
	}
	for s := range changed {
		switch {
		case told[s]:
		case fact(s):
			d.Facts = append(d.Facts, change(s, a, b))
		default:
			d.Rest = append(d.Rest, change(s, a, b))
		}
	}
	for _, list := range [][]Change{d.Rest, d.Facts} {
		slices.SortFunc(list, func(x, y Change) int { return strings.Compare(x.Option, y.Option) })
	}
	return d
}

const prefix = "CONFIG_"

func change(symbol string, a, b *kconfig.Config) Change {
	return Change{Option: prefix + symbol, A: string(a.Get(symbol)), B: string(b.Get(symbol))}
}

// same compares values; of a string, not being there and being empty is one.
func same(a, b kconfig.Value) bool {
	empty := func(v kconfig.Value) kconfig.Value {
		if v == `""` {
			return kconfig.No
		}
		return v
	}
	if strings.HasPrefix(string(a), "0x") {
		return strings.EqualFold(string(a), string(b))
	}
	return empty(a) == empty(b)
}

// fact says of a symbol that it tells of the tool-chain or the architecture, or is a name.
func fact(symbol string) bool {
	switch symbol {
	case "LOCALVERSION", "CC_VERSION_TEXT", "GCC_VERSION", "CLANG_VERSION", "AS_VERSION", "LD_VERSION", "LLD_VERSION",
		"RUSTC_VERSION", "RUSTC_LLVM_VERSION", "PAHOLE_VERSION", "BUILD_SALT", "RUSTC_VERSION_TEXT",
		"BINDGEN_VERSION_TEXT", "CC_IS_GCC", "CC_IS_CLANG", "AS_IS_GNU", "AS_IS_LLVM", "LD_IS_BFD", "LD_IS_LLD":
		return true
	}
	for _, p := range []string{"CC_HAS_", "CC_CAN_", "AS_HAS_", "LD_HAS_", "LD_CAN_", "GCC_", "TOOLS_SUPPORT_", "AS_",
		"HAVE_", "ARCH_HAS_", "ARCH_WANT_", "ARCH_SUPPORTS_", "ARCH_USE_", "ARCH_HAVE_"} {
		if strings.HasPrefix(symbol, p) {
			return true
		}
	}
	return false
}

// has says whether a configuration has all that settings ask for, those apart that give way.
func has(settings []kconfig.Setting, c *kconfig.Config) bool {
	firm := 0
	for _, w := range settings {
		if w.Preference {
			continue
		}
		if firm++; !same(w.Value, c.Get(w.Symbol)) {
			return false
		}
	}
	return firm > 0
}
