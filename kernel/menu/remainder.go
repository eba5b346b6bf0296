package menu

import (
	"slices"
	"strings"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// Left is an option that stays otherwise than it should be.
type Left struct {
	Option string `json:"option"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Why    string `json:"why"`
}

// maxRounds bounds how often a remainder is worked out: a line may make others possible.
const maxRounds = 8

// Remainder lists the settings which, beside those that there are, make a kernel like target: one for each option that
// would be otherwise and that can be asked for by name, sorted. Those of which refused has an answer are left.
func (k Kernel) Remainder(there []kconfig.Setting, target *kconfig.Config,
	refused func(kconfig.Setting) string) ([]kconfig.Setting, []Left) {
	lines := map[string]kconfig.Setting{}
	names := k.Tree.Names()
	list := func() []kconfig.Setting {
		var out []kconfig.Setting
		for _, name := range names {
			if w, ok := lines[name]; ok {
				out = append(out, w)
			}
		}
		return out
	}
	work := func() {
		for range maxRounds {
			now := k.Foresee(slices.Concat(there, list()))
			added := false
			for _, name := range names {
				w := kconfig.Setting{Symbol: name, Value: target.Get(name)}
				if _, has := lines[name]; has || alike(now.Get(name), w.Value) || refused(w) != "" ||
					!k.askable(w, target) {
					continue
				}
				lines[name], added = w, true
			}
			if !added {
				break
			}
		}
	}
	work()
	// Others may bring what a line says, now that all are there.
	for name, w := range lines {
		if w.Value == kconfig.No || k.heldUp(name, target) {
			delete(lines, name)
		}
	}
	work()
	return list(), k.left(slices.Concat(there, list()), target, refused)
}

// left lists what settings do not make like target.
func (k Kernel) left(settings []kconfig.Setting, target *kconfig.Config, refused func(kconfig.Setting) string) []Left {
	now := k.Foresee(settings)
	var out []Left
	for _, name := range k.Tree.Names() {
		w := kconfig.Setting{Symbol: name, Value: target.Get(name)}
		if alike(now.Get(name), w.Value) {
			continue
		}
		why := refused(w)
		if why == "" {
			why = "nobody can ask for it by name"
		}
		out = append(out, Left{prefix + name, string(w.Value), string(now.Get(name)), why})
	}
	return out
}

// Differing lists the settings that make one final configuration of another, beside what it was made of: options that
// can be asked for by name and have another value.
func (k Kernel) Differing(before, after *kconfig.Config) []kconfig.Setting {
	var out []kconfig.Setting
	for _, name := range k.Tree.Names() {
		w := kconfig.Setting{Symbol: name, Value: after.Get(name)}
		if alike(before.Get(name), w.Value) || !k.askable(w, after) ||
			w.Value != kconfig.No && k.heldUp(name, after) {
			continue
		}
		out = append(out, w)
	}
	return out
}

// alike compares values; of a string, not being there and being empty is one, and quotes do not count.
func alike(a, b kconfig.Value) bool {
	plain := func(v kconfig.Value) string {
		if v == kconfig.No {
			return ""
		}
		return strings.Trim(string(v), `"`)
	}
	x, y := plain(a), plain(b)
	return x == y || strings.HasPrefix(x, "0x") && strings.EqualFold(x, y)
}

// askable says whether somebody can ask for a setting by name under a configuration. That one of a choice is off is
// said by the one that is on.
func (k Kernel) askable(w kconfig.Setting, c *kconfig.Config) bool {
	s := k.Tree.Symbol(w.Symbol)
	isBool := s.Type == "bool" || s.Type == "tristate"
	if !isBool && w.Value == kconfig.No {
		return false
	}
	for _, d := range s.Definitions {
		holds := func(e *kconfig.Expr) bool { return e.Value(c) != kconfig.No }
		if d.Prompt != "" && !(d.Choice != nil && w.Value == kconfig.No) &&
			!slices.ContainsFunc(slices.Concat(d.Depends, d.Visible), func(e *kconfig.Expr) bool { return !holds(e) }) {
			return true
		}
	}
	return false
}

// heldUp says whether other options select one to the value that it has.
func (k Kernel) heldUp(name string, c *kconfig.Config) bool {
	want := level(c.Get(name))
	if want == n {
		return false
	}
	return slices.ContainsFunc(k.Tree.Symbol(name).SelectedBy, func(b kconfig.By) bool {
		is := level(c.Get(b.Symbol))
		if b.If != nil {
			is = min(is, level(b.If.Value(c)))
		}
		return is >= want
	})
}

// Fragment writes settings as a fragment, in groups by the menus that they are in. The head is a comment above it, and
// each group has the reason, if there is one, and otherwise its menu as the reason.
func (k Kernel) Fragment(head, reason string, settings []kconfig.Setting) []byte {
	groups := map[string][]kconfig.Setting{}
	for _, w := range settings {
		menu := ""
		for _, d := range k.Tree.Symbol(w.Symbol).Definitions {
			if menu == "" && d.Prompt != "" {
				menu = strings.Join(d.Menu, ", ")
			}
		}
		groups[menu] = append(groups[menu], w)
	}
	var menus []string
	for m := range groups {
		menus = append(menus, m)
	}
	slices.Sort(menus)
	var b strings.Builder
	for line := range strings.Lines(head) {
		b.WriteString("# " + strings.TrimRight(line, "\n") + "\n")
	}
	for _, m := range menus {
		title := "Options outside of all menus"
		if m != "" {
			title = m
		}
		b.WriteString("\n# " + title + "\n")
		if reason != "" {
			b.WriteString("# " + reason + "\n")
		}
		for _, w := range groups[m] {
			b.WriteString(w.Text() + "\n")
		}
	}
	return []byte(b.String())
}
