// Package cost says what each feature and each option of a kernel costs: processor time of the compiler, and bytes.
//
// In come what a build compiled, with the times and sizes that it recorded, what each object is built for
// (kernel/kbuild), and the kernel's options (kernel/menu); out come tables. It runs nothing and reads no files.
package cost

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/kernel/kbuild"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/makelog"
	"github.com/katabuild/katabuild/kernel/menu"
)

// Kernel is one kernel that was built.
type Kernel struct {
	Menu      *menu.Kernel
	Makefiles *kbuild.Tree
	Objects   []makelog.Compiled
	Boot      *Boot // nil where it was not booted
}

// Groups of objects that belong to no feature. No feature's name has a blank.
const (
	alwaysBuilt = "always built"         // whatever is asked for
	nobody      = "of no feature"        // hang on options that nobody has asked for
	tools       = "the build's programs" // no part of the kernel
)

// Sum is what objects cost together.
type Sum struct {
	Objects int   `json:"objects"`
	CPUMS   int64 `json:"cpu_ms"` // milliseconds of processor time that compiling them takes
	Bytes   int64 `json:"bytes"`  // what of them is in the kernel's memory; 0 where the build recorded none
}

func (s *Sum) add(c makelog.Compiled) {
	s.Objects++
	s.CPUMS += c.CPU.Milliseconds()
	s.Bytes += c.Bytes
}

// CPU is the processor time.
func (s Sum) CPU() time.Duration { return time.Duration(s.CPUMS) * time.Millisecond }

// Feature is what a feature's options bring, or what one of the groups alwaysBuilt, nobody and tools has. Fragments and
// overrides of a recipe are named by their files.
type Feature struct {
	Name    string `json:"feature"`
	Options int    `json:"options"` // that are on for it
	Sum
	// BootUS is what its objects' initcalls take, in microseconds of virtual time; 0 unless it was measured.
	BootUS int64 `json:"boot_us,omitempty"`
}

// Option is what an option brings.
type Option struct {
	Option  string `json:"option"` // with CONFIG_
	Feature string `json:"feature"`
	Asked   bool   `json:"asked"` // by name
	// Alone are the objects that are built for it and for nothing else, by the Makefiles.
	Alone Sum `json:"alone"`
	// Gone is what a kernel would not have that is made without asking for it: Alone, and what depends on it or is
	// selected by it alone. Only for options that are asked for by name; of the others it is Alone.
	Gone Sum `json:"gone"`
	// Held lists options that select it, which keep it on although nobody asks for it any longer.
	Held   []string `json:"held,omitempty"`
	BootUS int64    `json:"boot_us,omitempty"` // what initcalls of Alone take
}

// Report is what a kernel costs.
type Report struct {
	Release   string `json:"release"`
	Toolchain string `json:"toolchain"`
	Total     Sum    `json:"total"`
	Cached    int    `json:"cached"` // objects whose time is that of an earlier build
	Sizes     bool   `json:"sizes"`  // the build recorded the sizes of objects
	// Unlisted counts objects that no Makefile lists, such as those of an image within the kernel: they need what their
	// folder needs.
	Unlisted int       `json:"unlisted"`
	Features []Feature `json:"features"`
	Options  []Option  `json:"options"`
	// BootUS is the time of all initcalls, in microseconds of virtual time; 0 unless it was measured.
	BootUS int64 `json:"boot_us,omitempty"`
}

// Of works out what a kernel costs: features and options, the dearest first.
func Of(k Kernel) (*Report, error) {
	o := owners{k: k.Menu, of: map[string]string{}}
	r := &Report{}
	sums := map[string]*Feature{}
	get := func(name string) *Feature {
		if sums[name] == nil {
			sums[name] = &Feature{Name: name}
		}
		return sums[name]
	}
	for _, s := range k.on() {
		get(o.owner(s)).Options++
	}
	k.Objects = slices.Clone(k.Objects)
	for i := range k.Objects {
		c := &k.Objects[i]
		r.Sizes = r.Sizes || c.Bytes > 0
		if !k.inMemory(c.Object) {
			c.Bytes = 0
		}
	}
	for _, c := range k.Objects {
		r.Total.add(c)
		if c.Cached {
			r.Cached++
		}
		if _, listed := k.Makefiles.Objects[c.Object]; !listed {
			if _, inside := k.Makefiles.Of(c.Object); inside {
				r.Unlisted++
			}
		}
		get(k.group(&o, c.Object)).add(c)
	}
	for _, f := range sums {
		r.Features = append(r.Features, *f)
	}
	slices.SortFunc(r.Features, func(a, b Feature) int {
		return cmp.Or(cmp.Compare(b.CPUMS, a.CPUMS), cmp.Compare(b.Options, a.Options), strings.Compare(a.Name, b.Name))
	})
	r.Options = k.options(&o)
	if k.Boot != nil {
		return r, k.measure(r, &o, *k.Boot)
	}
	return r, nil
}

// inMemory says whether an object is a part of the running kernel: the build's own programs are none, nor is what
// unpacks the kernel from its image, whose objects hold the packed kernel once more.
func (k Kernel) inMemory(object string) bool {
	if _, ok := k.Makefiles.Of(object); !ok {
		return false
	}
	p := strings.Split(object, "/")
	loader := len(p) > 3 && p[0] == "arch" && p[2] == "boot"
	return !loader || p[3] == "dts" // device trees, which may be linked into the kernel
}

// group is the feature that an object belongs to, or one of the groups.
func (k Kernel) group(o *owners, object string) string {
	need, ok := k.Makefiles.Of(object)
	switch {
	case !ok:
		return tools
	case need.Always():
		return alwaysBuilt
	}
	for _, alternative := range need {
		// The innermost option is what brings the object; where nobody asks for that, it comes with the one around it.
		for _, s := range slices.Backward(alternative) {
			if name := o.owner(s); name != nobody {
				return name
			}
		}
	}
	return nobody
}

// options lists what each option that is on brings, if it brings objects.
func (k Kernel) options(o *owners) []Option {
	var out []Option
	foresight, on := k.Menu.Foresight(), k.on()
	for _, s := range on {
		p := Option{Option: "CONFIG_" + s, Feature: o.owner(s), Asked: o.asked(s) != nil}
		p.Alone = k.lost(func(symbol string) bool { return symbol == s })
		p.Gone = p.Alone
		if p.Asked {
			after := foresight.Of(without(k.Menu.Settings, s), on)
			p.Gone = k.lost(func(symbol string) bool { return after.Get(symbol) == kconfig.No })
			if after.Get(s) != kconfig.No {
				p.Held = k.held(s, after)
			}
		}
		if p.Gone.Objects > 0 || p.Alone.Objects > 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Option) int {
		return cmp.Or(cmp.Compare(b.Gone.CPUMS, a.Gone.CPUMS), cmp.Compare(b.Alone.CPUMS, a.Alone.CPUMS),
			strings.Compare(a.Option, b.Option))
	})
	return out
}

// on lists the symbols that are on.
func (k Kernel) on() []string {
	return slices.DeleteFunc(k.Menu.Final.Symbols(),
		func(s string) bool { return k.Menu.Final.Get(s) == kconfig.No })
}

// without asks for an option to be off.
func without(settings []kconfig.Setting, symbol string) []kconfig.Setting {
	out := slices.DeleteFunc(slices.Clone(settings), func(w kconfig.Setting) bool { return w.Symbol == symbol })
	return append(out, kconfig.Setting{Symbol: symbol, Value: kconfig.No})
}

// lost sums up what is not built while options are off.
func (k Kernel) lost(off func(symbol string) bool) Sum {
	var s Sum
	for _, c := range k.Objects {
		if need, ok := k.Makefiles.Of(c.Object); ok && !need.Without(off) {
			s.add(c)
		}
	}
	return s
}

// held lists what selects an option in a configuration.
func (k Kernel) held(symbol string, in *kconfig.Config) []string {
	var out []string
	if s := k.Menu.Tree.Symbol(symbol); s != nil {
		for _, b := range slices.Concat(s.SelectedBy, s.ImpliedBy) {
			if active(b, in) {
				out = append(out, "CONFIG_"+b.Symbol)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// active says whether a select or imply counts.
func active(b kconfig.By, in *kconfig.Config) bool {
	return in.Get(b.Symbol) != kconfig.No && (b.If == nil || b.If.Value(in) != kconfig.No)
}

// owners finds whose an option is.
type owners struct {
	k  *menu.Kernel
	of map[string]string
}

// asked is the setting that asks for an option to be on.
func (o *owners) asked(symbol string) *kconfig.Setting {
	for i, w := range o.k.Settings {
		if w.Symbol == symbol && w.Value != kconfig.No {
			return &o.k.Settings[i]
		}
	}
	return nil
}

// owner is the feature that asks for an option; else that of the nearest option which selects it, the first by name;
// else that of the nearest one which implies it. What is asked for by no feature belongs to the file that asks.
func (o *owners) owner(symbol string) string {
	if name, ok := o.of[symbol]; ok {
		return name
	}
	seen, level := map[string]bool{symbol: true}, []string{symbol}
	name := nobody
	for len(level) > 0 && name == nobody {
		var selects, implies []string
		for _, s := range level {
			if w := o.asked(s); w != nil {
				if name = o.k.Feature(w.File); name == "" {
					name = w.File
				}
				break
			}
			if sym := o.k.Tree.Symbol(s); sym != nil {
				selects, implies = o.from(selects, sym.SelectedBy, seen), o.from(implies, sym.ImpliedBy, seen)
			}
		}
		slices.Sort(selects)
		slices.Sort(implies)
		level = append(selects, implies...)
	}
	o.of[symbol] = name
	return name
}

// from adds the symbols that select or imply another one now.
func (o *owners) from(to []string, by []kconfig.By, seen map[string]bool) []string {
	for _, b := range by {
		if !seen[b.Symbol] && active(b, o.k.Final) {
			seen[b.Symbol] = true
			to = append(to, b.Symbol)
		}
	}
	return to
}
