package menu

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/katabuild/katabuild/kernel/kconfig"
)

// small is a tree with all that the language has for dependencies.
const small = `
config MODULES
	bool "Modules"
config CC_HAS_SHINE
	def_bool $(cc-option,-fshine)
menu "Devices"
config BUS
	bool
config PCI
	bool "PCI"
	select BUS
config MMIO
	bool "MMIO"
	depends on OF
	select BUS
config OF
	bool
	default y if FIRMWARE
config FIRMWARE
	bool "Firmware"
config CARD
	tristate "A card"
	depends on BUS && NET
	select LIBRARY if FAST
	imply POLISH
	help
	  It is a card.

	    With an example.
config LIBRARY
	tristate
config FAST
	bool "Fast"
	depends on CARD
config POLISH
	bool "Polish"
endmenu
config NET
	bool "Network"
config SMALL
	bool "Small"
config LARGE
	bool "Large"
	depends on !SMALL && NET
choice
	prompt "Compression"
	default GZIP
config GZIP
	bool "gzip"
config ZSTD
	bool "zstd"
	depends on EXPERT
endchoice
config EXPERT
	bool "Expert"
config HIDDEN
	bool "Hidden" if EXPERT
	default y
config NEVER
	bool "Never"
	depends on MISSING
config SIZE
	int "Size" if EXPERT
	default 7 if NET
	default 5
config SHINES
	bool "Shines"
	depends on CC_HAS_SHINE
config WORN
	bool "Worn"
	depends on GZIP = n
`

// made is the kernel of some settings of the small tree, as NAME=value.
func made(t *testing.T, settings string) Kernel {
	t.Helper()
	tree, err := kconfig.ReadTree(fstest.MapFS{"Kconfig": {Data: []byte(small)}}, "Kconfig", nil)
	if err != nil {
		t.Fatal(err)
	}
	k := Kernel{Tree: tree, Final: kconfig.NewConfig(nil), Feature: func(string) string { return "some" }}
	for i, s := range strings.Fields(settings) {
		symbol, value, _ := strings.Cut(s, "=")
		k.Settings = append(k.Settings, kconfig.Setting{Symbol: symbol, Value: kconfig.Value(value), File: "f",
			Line: i + 1, Reason: "because"})
	}
	k.Final = k.Foresee(k.Settings)
	return k
}

func TestAnAccountSaysAll(t *testing.T) {
	k := made(t, "PCI=y NET=y CARD=y FAST=y")
	a := k.Explain("CONFIG_CARD")
	if !a.Known || a.Option != "CONFIG_CARD" || a.Value != "y" || a.Type != "tristate" || len(a.Wish) != 0 {
		t.Errorf("%+v", a)
	}
	if len(a.Asked) != 1 || a.Asked[0] != (Asked{Line: "CONFIG_CARD=y", File: "f", At: 3, Feature: "some",
		Reason: "because"}) {
		t.Errorf("%+v", a.Asked)
	}
	d := a.Definitions[0]
	if d.Prompt != "A card" || strings.Join(d.Menu, ">") != "Devices" || strings.Join(d.Help, "|") !=
		"It is a card.||  With an example." || len(d.Depends) != 2 || d.Depends[0].Text != "BUS" ||
		d.Depends[0].Value != "y" {
		t.Errorf("%+v", d)
	}
	by := k.Explain("LIBRARY").SelectedBy
	if len(by) != 1 || by[0].Option != "CONFIG_CARD" || !by[0].Active || by[0].If.Text != "FAST" {
		t.Errorf("%+v", by)
	}
	if by := k.Explain("POLISH").ImpliedBy; len(by) != 1 || !by[0].Active {
		t.Errorf("%+v", by)
	}
	if choice := k.Explain("ZSTD").Definitions[0].Choice; len(choice) != 2 || choice[0] != (Member{"CONFIG_GZIP",
		"y"}) {
		t.Errorf("%+v", choice)
	}
	if a := k.Explain("CONFIG_CADR"); a.Known || len(a.Nearest) == 0 || a.Nearest[0] != "CONFIG_CARD" {
		t.Errorf("%+v", a)
	}
}

func TestWishesAreShortAndComeTrue(t *testing.T) {
	for _, c := range []struct{ name, settings, symbol, want string }{
		{"what has only to be asked for", "", "NET", "NET=y"},
		{"a dependency, and the shorter way to one without a prompt", "", "CARD", "NET=y PCI=y CARD=y"},
		{"a default of what has no prompt", "", "OF", "FIRMWARE=y"},
		{"a selection under a condition", "PCI=y NET=y", "LIBRARY", "CARD=y FAST=y"},
		{"what must be off", "SMALL=y NET=y", "LARGE", "SMALL=n LARGE=y"},
		{"another of a choice", "", "ZSTD", "EXPERT=y ZSTD=y"},
		{"off by the choice's other", "", "WORN", "EXPERT=y ZSTD=y WORN=y"},
		{"what is not in the tree", "", "NEVER", ""},
		{"what the tool-chain lacks", "", "SHINES", ""},
		{"a prompt that is hidden", "HIDDEN=n EXPERT=y", "HIDDEN", "HIDDEN=y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := made(t, c.settings)
			a := k.Explain(c.symbol)
			var got []string
			with := k.Settings
			for _, l := range a.Wish {
				symbol, value, _, err := kconfig.ParseLine(l.Line)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, symbol+"="+string(value))
				with = append(with, kconfig.Setting{Symbol: symbol, Value: value})
			}
			if s := strings.Join(got, " "); s != c.want || a.Unreachable != (c.want == "") {
				t.Errorf("got %q, want %q (%+v)", s, c.want, a)
			}
			if after := k.Foresee(with); c.want != "" && after.Get(c.symbol) != "y" {
				t.Errorf("the wish does not come true")
			}
		})
	}
}

func TestALineThatSomebodyDecidedOtherwiseIsMarked(t *testing.T) {
	a := made(t, "SMALL=y NET=y").Explain("LARGE")
	if len(a.Wish) != 2 || len(a.Wish[0].Against) != 1 || a.Wish[0].Against[0].Line != "CONFIG_SMALL=y" ||
		len(a.Wish[1].Against) != 0 {
		t.Errorf("%+v", a.Wish)
	}
}

func TestAPreferenceOfAChoiceGivesWay(t *testing.T) {
	k := made(t, "EXPERT=y ZSTD=y")
	for _, preference := range []bool{true, false} {
		k.Settings[1].Preference = preference
		a := k.Explain("GZIP")
		if len(a.Wish) != 1 || a.Wish[0].Line != "CONFIG_GZIP=y" || preference != (len(a.Wish[0].Against) == 0) ||
			len(a.Also) != 1 || a.Also[0] != (Member{"CONFIG_ZSTD", "n"}) {
			t.Errorf("%v: %+v", preference, a)
		}
	}
}

func TestWhatIsForeseen(t *testing.T) {
	for _, c := range []struct{ settings, want string }{
		{"", "GZIP=y HIDDEN=y SIZE=5"},
		{"NET=y", "GZIP=y HIDDEN=y NET=y SIZE=7"},
		{"EXPERT=y ZSTD=y SIZE=9", "EXPERT=y SIZE=9 ZSTD=y"},
		{"PCI=y NET=y CARD=m", "BUS=y CARD=y GZIP=y HIDDEN=y NET=y PCI=y SIZE=7"},
		{"MODULES=y PCI=y NET=y CARD=m FAST=y POLISH=n",
			"BUS=y CARD=m FAST=y GZIP=y HIDDEN=y LIBRARY=m MODULES=y NET=y PCI=y SIZE=7"},
		{"CARD=y", "GZIP=y HIDDEN=y SIZE=5"},
	} {
		k := made(t, c.settings)
		var got []string
		for _, s := range k.Final.Symbols() {
			got = append(got, s+"="+string(k.Final.Get(s)))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.settings, s, c.want)
		}
	}
}

// FuzzExplain asks about every symbol of a tree, which is a foreign program's.
func FuzzExplain(f *testing.F) {
	f.Add(small, "CONFIG_NET=y\n")
	f.Add("config A\n\tbool \"a\"\n\tdepends on B\n\tselect A\nconfig B\n\tdef_bool A\n", "")
	f.Add("choice\nconfig A\n\tbool \"a\"\n\tdepends on !A\nendchoice\n", "")
	f.Fuzz(func(t *testing.T, text, config string) {
		tree, err := kconfig.ReadTree(fstest.MapFS{"Kconfig": {Data: []byte(text)}}, "Kconfig", nil)
		if err != nil || len(tree.Names()) > 40 {
			return
		}
		final, err := kconfig.ParseConfig("c", []byte(config))
		if err != nil {
			return
		}
		k := Kernel{Tree: tree, Final: final, Feature: func(string) string { return "" }}
		for _, s := range tree.Names() {
			k.Explain(s)
		}
		k.Foresee(nil)
	})
}

func TestARemainderMakesOneKernelOfAnother(t *testing.T) {
	none := func(kconfig.Setting) string { return "" }
	for _, c := range []struct{ from, to, want string }{
		{"", "PCI=y NET=y CARD=y FAST=y", "CARD=y FAST=y NET=y PCI=y"},
		{"PCI=y NET=y CARD=y", "NET=y", "PCI=n"},
		{"NET=y", "EXPERT=y ZSTD=y SIZE=9 HIDDEN=n", "EXPERT=y NET=n SIZE=9 ZSTD=y"},
		{"FIRMWARE=y MMIO=y", "", "FIRMWARE=n"},
		{"", "", ""},
	} {
		target := made(t, c.to).Final
		k := made(t, c.from)
		lines, left := k.Remainder(k.Settings, target, none)
		var got []string
		for _, w := range lines {
			got = append(got, w.Symbol+"="+string(w.Value))
		}
		if s := strings.Join(got, " "); s != c.want || len(left) > 0 {
			t.Errorf("from %q to %q: got %q, want %q; left %v", c.from, c.to, s, c.want, left)
		}
	}
}

func TestWhatIsRefusedIsLeft(t *testing.T) {
	k := made(t, "")
	lines, left := k.Remainder(nil, made(t, "NET=y PCI=y").Final, func(w kconfig.Setting) string {
		if w.Symbol == "NET" {
			return "not here"
		}
		return ""
	})
	if len(lines) != 1 || lines[0].Symbol != "PCI" || len(left) != 2 || left[0] != (Left{"CONFIG_NET", "y", "n",
		"not here"}) {
		t.Errorf("%v %v", lines, left)
	}
}

func TestAFragmentSaysWhereItsOptionsAre(t *testing.T) {
	k := made(t, "")
	got := string(k.Fragment("What is mine.", "reason: ", []kconfig.Setting{{Symbol: "NET", Value: "y"},
		{Symbol: "PCI", Value: "n"}}))
	want := "# What is mine.\n\n# Options outside of all menus\n# reason: \nCONFIG_NET=y\n\n# Devices\n# reason: \n" +
		"# CONFIG_PCI is not set\n"
	if got != want {
		t.Errorf("got %q", got)
	}
}
