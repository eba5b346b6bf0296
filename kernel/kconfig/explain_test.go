package kconfig

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func fakeTree(t testing.TB) *Tree {
	t.Helper()
	tree, err := ReadTree(os.DirFS("testdata/tree"), "Kconfig", map[string]string{"SRCARCH": "x86"})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func config(t testing.TB, text string) *Config {
	t.Helper()
	var lines []string
	for w := range strings.FieldsSeq(text) {
		lines = append(lines, "CONFIG_"+w)
	}
	c, err := ParseConfig(".config", []byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTreeHasWhatItsFilesDefine(t *testing.T) {
	tree := fakeTree(t)
	for _, s := range []string{"MODULES", "X86", "PHYSICAL_START", "KERNEL_ZSTD", "VIRTIO_FS", "MSDOS_PARTITION",
		"HUGE", "SMALL"} {
		if len(tree.symbols[s]) == 0 {
			t.Errorf("no %s", s)
		}
	}
	for _, s := range []string{"IN_HELP", "nothing", "CC", ""} {
		if len(tree.symbols[s]) > 0 {
			t.Errorf("%q is a symbol", s)
		}
	}
}

// TestUnmetSettingsAreExplained compares whole error messages: who asked, where, what for, what came, and why.
func TestUnmetSettingsAreExplained(t *testing.T) {
	tree := fakeTree(t)
	for _, c := range []struct {
		name, final, symbol string
		asked               Value
		want                string
	}{
		{"an if around", "BLOCK=y VIRTIO=y", "VIRTIO_FS", "y", "got n: VIRTIO_FS: depends on FUSE_FS (is n)"},
		{"two dependencies at once", "BLOCK=y", "VIRTIO_FS", "y",
			"got n: VIRTIO_FS: depends on VIRTIO (is n) and FUSE_FS (is n)"},
		{"a menu around", "", "FUSE_FS", "y", "got n: FUSE_FS: depends on BLOCK (is n)"},
		{"a chain names what is missing, not its cause", "BLOCK=y FUSE_FS=y VIRTIO=y DAX=y", "FUSE_DAX", "y",
			"got n: FUSE_DAX: depends on VIRTIO_FS (is n)"},
		{"a dependency that is only a module", "BLOCK=y FUSE_FS=m VIRTIO=y VIRTIO_FS=m MODULES=y", "VIRTIO_FS", "y",
			"got m: VIRTIO_FS: depends on FUSE_FS (is m)"},
		{"a module suffices for a bool", "BLOCK=y FUSE_FS=m VIRTIO=m VIRTIO_FS=m MODULES=y", "FUSE_DAX", "y",
			"got n: FUSE_DAX: depends on DAX (is n)"},
		{"alternatives", "VIRTIO_MENU=y HAS_IOMEM=y", "VIRTIO_MMIO", "y",
			"got n: VIRTIO_MMIO: depends on X86 || ARM64 (X86 is n, ARM64 is n)"},
		{"no module without modules", "", "DAX", "m",
			"got n: DAX: cannot be a module, MODULES is n: ask for y, or for a kernel with modules " +
				"(kernel.modules: true)"},
		{"a prompt with a condition", "SHINE=y CC_HAS_SHINE=y", "SHINE", "n",
			"got y: SHINE: can be switched off only if EXPERT (is n); its default stands"},
		{"a prompt with a condition, asked on", "CC_HAS_SHINE=y", "SHINE", "y",
			"got n: SHINE: can be chosen only if EXPERT (is n)"},
		{"a condition over two lines", "PHYSICAL_START=0x1000000", "PHYSICAL_START", "0x2000000",
			"got 0x1000000: PHYSICAL_START: can be chosen only if EXPERT || CRASH_DUMP (EXPERT is n, CRASH_DUMP is n)"},
		{"a menu that is invisible", "BLOCK=y MSDOS_PARTITION=y", "MSDOS_PARTITION", "n",
			"got y: MSDOS_PARTITION: can be switched off only if EXPERT (is n); its default stands"},
		{"what the tool-chain lacks", "CC_HAS_SHINE=n EXPERT=y", "SHINE", "y",
			"got n: SHINE: depends on CC_HAS_SHINE (is n)"},
		{"no prompt", "", "VIRTIO", "y",
			"got n: VIRTIO: has no prompt, so it cannot be asked for by itself; it is selected by VIRTIO_PCI (is " +
				"n), VIRTIO_MMIO (is n)"},
		{"no prompt and a default", "BLOCK=y", "FS_POSIX_ACL", "y",
			"got n: FS_POSIX_ACL: has no prompt, so it cannot be asked for by itself; it is selected by FUSE_FS (is " +
				"n); its default is n"},
		{"no prompt and a default of the tool-chain", "", "CC_HAS_SHINE", "y",
			"got n: CC_HAS_SHINE: has no prompt, so it cannot be asked for by itself; its default is " +
				"$(cc-option,-fshine)"},
		{"selected", "BLOCK=y VIRTIO=y VIRTIO_PCI=y", "VIRTIO", "n", "got y: VIRTIO: selected by VIRTIO_PCI (is y)"},
		{"selected under a condition", "BLOCK=y X86=y SYSFS=y KERNFS=y", "KERNFS", "n",
			"got y: KERNFS: selected by X86 (is y) if SYSFS (is y)"},
		{"selected from module to yes", "MODULES=y VIRTIO=y VIRTIO_PCI=y VIRTIO_MMIO=m", "VIRTIO", "m",
			"got y: VIRTIO: selected by VIRTIO_PCI (is y)"},
		{"another of the choice", "KERNEL_GZIP=y", "KERNEL_ZSTD", "y",
			"got n: KERNEL_ZSTD: is one of a choice (arch/x86/Kconfig:24) that went to KERNEL_GZIP"},
		{"one of a choice must be", "KERNEL_GZIP=y", "KERNEL_GZIP", "n",
			"got y: KERNEL_GZIP: one of the choice at arch/x86/Kconfig:24 must be y, and the others are not"},
		{"a dependency inside a choice", "KERNEL_GZIP=y", "KERNEL_RAW", "y",
			"got n: KERNEL_RAW: depends on EXPERT (is n)"},
		{"a number out of its range", "LOG_BUF_SHIFT=17", "LOG_BUF_SHIFT", "99",
			"got 17: LOG_BUF_SHIFT: must lie between 12 and 25"},
		{"a number below its range", "LOG_BUF_SHIFT=17", "LOG_BUF_SHIFT", "-1",
			"got 17: LOG_BUF_SHIFT: must lie between 12 and 25"},
		{"an address below its range", "EXPERT=y PHYSICAL_START=0x1000000", "PHYSICAL_START", "0xFFFFF",
			"got 0x1000000: PHYSICAL_START: must lie between 0x100000 and 0xffffffff80000000"},
		{"an address in a range above int64", "EXPERT=y PHYSICAL_START=0x1000000", "PHYSICAL_START",
			"0xffffffff80000000",
			"got 0x1000000: PHYSICAL_START: every dependency we can see is met; ask `make menuconfig`"},
		{"a string whose dependency is off", "", "CMDLINE", `"quiet"`,
			"got n: CMDLINE: depends on CMDLINE_BOOL (is n)"},
		{"a string for a number", "LOG_BUF_SHIFT=17", "LOG_BUF_SHIFT", `"17"`,
			`got 17: LOG_BUF_SHIFT: is an int, "17" cannot be its value: want a decimal number`},
		{"hexadecimal for a decimal", "LOG_BUF_SHIFT=17", "LOG_BUF_SHIFT", "0x11",
			"got 17: LOG_BUF_SHIFT: is an int, 0x11 cannot be its value: want a decimal number"},
		{"y for a string", "CMDLINE_BOOL=y", "CMDLINE", "y",
			"got n: CMDLINE: is a string, y cannot be its value: want a string in " +
				"double quotes"},
		{"m for a bool", "EXPERT=n", "EXPERT", "m", "got n: EXPERT: is a bool, m cannot be its value: want y or n"},
		{"a number for a tristate", "BLOCK=y", "FUSE_FS", "1",
			"got n: FUSE_FS: is a tristate, 1 cannot be its value: want y, m or n"},
		{"both definitions", "", "HUGE", "y",
			"got n: HUGE: depends on SMALL (is n) (defined at drivers/Kconfig:34); or depends on ARM64 (is n) " +
				"(defined at drivers/Kconfig:38)"},
		{"imply gives in to the setting and to the dependency", "BLOCK=y FUSE_FS=n", "FUSE_PASSTHROUGH", "y",
			"got n: FUSE_PASSTHROUGH: depends on FUSE_FS (is n)"},
		{"unknown with a neighbour", "", "VIRTIO_MIMO", "y",
			"got n: VIRTIO_MIMO: no such symbol in this tree; the nearest is VIRTIO_MMIO"},
		{"unknown without a neighbour", "", "SOMETHING_ELSE_ENTIRELY", "y",
			"got n: SOMETHING_ELSE_ENTIRELY: no such symbol in this tree"},
		{"another architecture's", "", "ARM64", "y", "got n: ARM64: no such symbol in this tree"},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := config(t, c.final)
			unmet := Compare([]Setting{setting("user.config", 12, c.symbol, c.asked)}, final)
			if len(unmet) != 1 {
				t.Fatalf("unmet: %v", unmet)
			}
			u := unmet[0]
			u.Why = tree.Explain(u.Setting, final, nil)
			want := "user.config:12: asked for CONFIG_" + c.symbol + "=" + string(c.asked) + ", " + c.want
			if u.Error() != want {
				t.Errorf("got  %s\nwant %s", u, want)
			}
		})
	}
}

func TestExpressionsAreEvaluatedAsTheLanguageSays(t *testing.T) {
	c := config(t, `Y=y M=m N=n I=17 H=0xffffffff80000000 S="text"`)
	for text, want := range map[string]int{
		"Y": triY, "M": triM, "N": triN, "UNDEFINED": triN, "y": triY, "m": triM, "n": triN,
		"!Y": triN, "!M": triM, "!N": triY, "!!M": triM,
		"Y && M": triM, "M || N": triM, "Y || N && N": triY, "(Y || N) && N": triN, "!(Y && N)": triY,
		"M = m": triY, "M != y": triY, "Y = M": triN, "UNDEFINED = n": triY,
		"N < M": triY, "M < Y": triY, "N <= N": triY, "Y > M": triY, "M >= Y": triN,
		"I = 17": triY, "I > 9": triY, "I < 100": triY, "I >= 18": triN, "I != 17": triN, "I > -5": triY,
		"H > 0x7fffffffffffffff": triY, "H = 0xFFFFFFFF80000000": triY,
		`S = "text"`: triY, `S != "text"`: triN, `S = text`: triN,
		"$(cc-option,-O2)": triY, "!$(cc-option,-O2)": triN, "$(cc-option,-O2) && N": triN, `$(shell,echo 7) = 3`: triY,
	} {
		toks, err := lex(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		e, err := wholeExpr(toks)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := e.eval(c); got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
		// What it prints is the same expression.
		toks, err = lex(e.String())
		if err != nil {
			t.Errorf("%s prints as %s: %v", text, e, err)
			continue
		}
		if again, err := wholeExpr(toks); err != nil || again.eval(c) != want || again.String() != e.String() {
			t.Errorf("%s prints as %s, which is another expression (%v)", text, e, err)
		}
	}
}

func TestConditionalDependencies(t *testing.T) {
	tree, err := ReadTree(fstest.MapFS{"Kconfig": {Data: []byte("config A\n\tbool \"a\"\n\tdepends on B if C\n")}},
		"Kconfig", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := setting("f", 1, "A", "y")
	if got, want := tree.Explain(w, config(t, "C=y"), nil), "A: depends on !C || B (C is y, B is n)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := tree.Explain(w, config(t, ""), nil); strings.Contains(got, "depends") {
		t.Errorf("the condition does not hold, yet %s", got)
	}
}

func TestMalformedTreesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"missing root": {nil, "Kconfig: file does not exist"},
		"missing file": {map[string]string{"Kconfig": "\n\nsource \"a\"\n"},
			"Kconfig:3: open a: file does not exist"},
		"missing in missing": {map[string]string{"Kconfig": "osource \"a\"\n", "a": "source \"b\"\n"},
			"a:1: open b: file does not exist"},
		"unknown word":      {map[string]string{"Kconfig": "config A\n\tbolo\n"}, `Kconfig:2: unknown word "bolo"`},
		"no end":            {map[string]string{"Kconfig": "menu \"m\"\n\tdepends on A\n"}, "Kconfig:1: no endmenu"},
		"the wrong end":     {map[string]string{"Kconfig": "if A\nendmenu\n"}, "Kconfig:2: endmenu without menu"},
		"an end too many":   {map[string]string{"Kconfig": "endif\n"}, "Kconfig:1: endif without if"},
		"config of nothing": {map[string]string{"Kconfig": "config\n"}, "Kconfig:1: config: want one symbol"},
		"config of two":     {map[string]string{"Kconfig": "config A B\n"}, "Kconfig:1: config: want one symbol"},
		"half an expression": {map[string]string{"Kconfig": "config A\n\tdepends on B &&\n"},
			"Kconfig:2: want a symbol or a constant"},
		"an open bracket": {map[string]string{"Kconfig": "if (A || B\n"}, "Kconfig:1: no closing parenthesis"},
		"an open macro":   {map[string]string{"Kconfig": "if $(x,(\n"}, "Kconfig:1: no closing parenthesis"},
		"an open string":  {map[string]string{"Kconfig": "config A\n\tbool \"a\n"}, "Kconfig:2: no closing quote"},
		"deep expression": {map[string]string{"Kconfig": "if " + strings.Repeat("!", 1000) + "A\n"},
			"nested more than"},
		"deep brackets": {map[string]string{"Kconfig": "if " + strings.Repeat("(", 1000) + "A\n"},
			"nested more than"},
		"a source outside":   {map[string]string{"Kconfig": "source \"../../etc/passwd\"\n"}, "leaves the tree"},
		"an absolute source": {map[string]string{"Kconfig": "source \"/etc/passwd\"\n"}, "leaves the tree"},
		"a source of itself": {map[string]string{"Kconfig": "source \"Kconfig\"\n"}, "levels"},
		"a loop of two": {map[string]string{"Kconfig": "source \"a\"\n", "a": "config A\nosource \"Kconfig\"\n"},
			"levels"},
	} {
		fsys := fstest.MapFS{}
		for n, text := range c.files {
			fsys[n] = &fstest.MapFile{Data: []byte(text)}
		}
		if _, err := ReadTree(fsys, "Kconfig", nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestManyIncludesAreBounded(t *testing.T) {
	// Each file sources the next one twice, so that without a bound there would be 2^40 of them.
	fsys := fstest.MapFS{"f40": {}}
	for i := range 40 {
		next := "source \"f" + string(rune('0'+(i+1)/10)) + string(rune('0'+(i+1)%10)) + "\"\n"
		fsys["f"+string(rune('0'+i/10))+string(rune('0'+i%10))] = &fstest.MapFile{Data: []byte(next + next)}
	}
	if _, err := ReadTree(fsys, "f00", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

func TestFileNamesAreExpandedInOnePass(t *testing.T) {
	p := parser{vars: map[string]string{"A": "$(AB)", "AB": "b"}}
	for in, want := range map[string]string{"x/$(A)/$(AB)": "x/$(AB)/b", "$A-$AB": "$(AB)-b", "$(C)": "$(C)"} {
		if got := p.expand(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}

func TestNearestName(t *testing.T) {
	names := []string{"VIRTIO_MEM", "VIRTIO_MMIO", "VIRTIO_NET", "VSOCKETS", "NET"}
	for s, want := range map[string]string{
		"VIRTIO_MIMO": "VIRTIO_MMIO", "VIRTIONET": "VIRTIO_NET", "VSOCKET": "VSOCKETS", "NIT": "NET", "NET": "NET",
		"BTRFS_FS": "", "": "",
	} {
		if got := nearest(s, names); got != want {
			t.Errorf("nearest to %q is %q, want %q", s, got, want)
		}
	}
}

func TestTheSettingThatStandsAgainstAnotherIsNamed(t *testing.T) {
	tree, err := ReadTree(fstest.MapFS{"Kconfig": {Data: []byte(`
config SLUB_DEBUG
	bool "a"
	select MIDDLE
config MIDDLE
	bool
	select STACKDEPOT
config STACKDEPOT
	bool
config GUESS
	bool "b"
	depends on !STACKDEPOT && NET
config VMAP
	bool "c"
	depends on !KASAN || KASAN_VMALLOC
config KASAN
	bool "d"
config NET
	bool "e"
config INET
	bool "f"
	depends on NET
config TCP
	bool "g"
	depends on INET
choice
	prompt "h"
config ONE
	bool "1"
config TWO
	bool "2"
endchoice
`)}}, "Kconfig", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, final, by string
		value           Value
		symbol          string
		asked           Value
		want            string
	}{
		{"by selecting what it excludes", "SLUB_DEBUG=y MIDDLE=y STACKDEPOT=y NET=y", "SLUB_DEBUG", "y", "GUESS", "y",
			"GUESS: depends on !STACKDEPOT (STACKDEPOT is y); SLUB_DEBUG (my.config:1) selects MIDDLE, which " +
				"selects STACKDEPOT, which GUESS (core.config:55) excludes"},
		{"itself", "KASAN=y", "KASAN", "y", "VMAP", "y",
			"KASAN (my.config:1) is y, which VMAP (core.config:55) excludes"},
		{"what it needs is off", "", "NET", "n", "GUESS", "y",
			"NET is n (my.config:1), which GUESS (core.config:55) needs"},
		{"what that needs is off", "", "NET", "n", "TCP", "y",
			"NET is n (my.config:1), which INET needs, which TCP (core.config:55) needs"},
		{"by selecting it", "SLUB_DEBUG=y MIDDLE=y STACKDEPOT=y", "SLUB_DEBUG", "y", "STACKDEPOT", "n",
			"; SLUB_DEBUG (my.config:1) selects MIDDLE, which selects STACKDEPOT"},
		{"another of a choice", "TWO=y", "TWO", "y", "ONE", "y",
			"TWO (my.config:1) excludes ONE (core.config:55): a choice has one winner, leave one of the two out"},
		{"one that has nothing to do with it", "", "KASAN", "n", "GUESS", "y", "GUESS: depends on NET (is n)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := setting("core.config", 55, c.symbol, c.asked)
			got := tree.Explain(w, config(t, c.final), []Setting{setting("my.config", 1, c.by, c.value), w})
			if !strings.HasSuffix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAPreferenceGivesWay(t *testing.T) {
	weak := Setting{Symbol: "A", Value: "y", File: "core.config", Line: 1, Preference: true}
	other := Setting{Symbol: "B", Value: "y", File: "core.config", Line: 2, Preference: true}
	for _, order := range [][]Setting{{weak, other, setting("f", 1, "A", "n")},
		{setting("f", 1, "A", "n"), weak, other}} {
		got, conflicts := Merge(order)
		if len(conflicts) > 0 || len(got) != 2 || got[0].File != "f" || got[1] != other {
			t.Errorf("%v %v", got, conflicts)
		}
	}
	if _, conflicts := Merge([]Setting{weak, {Symbol: "A", Value: "n", Preference: true}}); len(conflicts) != 1 {
		t.Errorf("two preferences that differ: %v", conflicts)
	}
}
