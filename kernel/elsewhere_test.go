package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/history"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// TestWrongOptionsAreToldApart compares fragments with what a configurator would have made of them, in a tree of two
// architectures: each mistake has its own text, and a caret below what is wrong.
func TestWrongOptionsAreToldApart(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Kconfig": "source \"arch/$(SRCARCH)/Kconfig\"\nconfig MODULES\n\tbool \"modules\"\n\tmodules\n" +
			"config NET\n\tbool \"net\"\nconfig VSOCK\n\ttristate \"vsock\"\n\tdepends on NET && BUS\n" +
			"config BUS\n\tbool\nconfig SHIFT\n\tint \"shift\"\n\trange 12 25\n\tdefault 17\n" +
			"config ADDRESS\n\thex \"address\"\n\tdefault 0x10\n" +
			"choice\n\tprompt \"pack\"\nconfig GZIP\n\tbool \"gzip\"\nconfig ZSTD\n\tbool \"zstd\"\nendchoice\n" +
			"config OLD_DRIVER\n\tbool \"old\"\n\tdepends on EMBEDDED\n" +
			"config PL011\n\tbool \"console\"\n\tdepends on ARM_BUS\n",
		"arch/x86/Kconfig":    "config X86\n\tdef_bool y\n",
		"arch/arm64/Kconfig":  "config ARM64\n\tdef_bool y\nconfig ARM_BUS\n\tbool \"bus\"\n",
		"arch/mips/Kconfig":   "config MIPS\n\tdef_bool y\nconfig ARM_BUS\n\tbool \"bus\"\n",
		"arch/broken/Kconfig": "nonsense\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	left, err := regular.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	for _, c := range []struct{ name, fragment, final, want string }{
		{"nothing", "CONFIG_NET=y\n# CONFIG_VSOCK is not set\n", "NET=y", ""},
		{"misspelt", "CONFIG_VSOKC=y\n", "", "user.config:1:1: asked for CONFIG_VSOKC=y, got n: VSOKC: no such " +
			"symbol " +
			"in this tree; the nearest is VSOCK\n    1 | CONFIG_VSOKC=y\n      | ^"},
		{"misspelt and off", "\n# CONFIG_VSOKC is not set\n", "",
			"user.config:2:3: asked for CONFIG_VSOKC=n: VSOKC: no " +
				"such symbol in this tree; the nearest is VSOCK\n    2 | # CONFIG_VSOKC is not set\n      |   ^"},
		{"another architecture", "CONFIG_ARM_BUS=y\n", "",
			"ARM_BUS: no such symbol in this tree: an option of arm64, " +
				"mips, not of x86\n"},
		{"another architecture, off", "CONFIG_ARM64=n\n", "",
			"ARM64: no such symbol in this tree: an option of arm64, " +
				"not of x86\n"},
		{"needs another architecture", "CONFIG_PL011=y\n", "", "PL011: depends on ARM_BUS (is n: an option of arm64, " +
			"mips, not of x86)\n"},
		{"said to be of another architecture", "#: only: aarch64\nCONFIG_ARM_BUS=y\n", "", ""},
		{"said to be of another version", "#: since: 6.15\nCONFIG_NEW_BUS=y\n\n#: until: 6.11\nCONFIG_OLD=y\n", "", ""},
		{"of a later version, as the features say", "CONFIG_SYSCTL=y\n", "",
			"SYSCTL: no such symbol in this tree: Linux " +
				"has it since 7.3, and this is 6.12.117\n"},
		{"of a later version", "CONFIG_CRYPTO_SELFTESTS_FULL=y\n", "",
			"newer than this Linux: 6.12 had it not yet, 7.2 " +
				"has it, and this is 6.12.117\n"},
		{"removed", "CONFIG_SLAB=y\n", "", "SLAB: no such symbol in this tree: removed from Linux: 6.1 had it, " +
			"6.12 has " +
			"it no more, and this is 6.12.117\n"},
		{"removed, off", "CONFIG_DEVKMEM=n\n", "",
			"DEVKMEM: no such symbol in this tree: removed from Linux: 5.10 had " +
				"it, 6.1 has it no more, and this is 6.12.117\n"},
		{"needs what was removed", "CONFIG_OLD_DRIVER=y\n", "", "OLD_DRIVER: depends on EMBEDDED (is n: removed from " +
			"Linux: 6.1 had it"},
		{"dependencies", "CONFIG_VSOCK=y\n", "NET=y", "VSOCK: depends on BUS (is n)"},
		{"a chain", "CONFIG_VSOCK=y\nCONFIG_NET=n\n", "",
			"NET is n (user.config:2), which VSOCK (user.config:1) needs"},
		{"type", "CONFIG_SHIFT=y\n", "SHIFT=17", "user.config:1:14: asked for CONFIG_SHIFT=y, got 17: SHIFT: is " +
			"an int, " +
			"y cannot be its value: want a decimal number\n    1 | CONFIG_SHIFT=y\n      |              ^"},
		{"a number that is off", "# CONFIG_SHIFT is not set\n", "SHIFT=17", "user.config:1:16: asked for " +
			"CONFIG_SHIFT=n, got 17: SHIFT: is an int, which has a value (here 17) and cannot be off"},
		{"range", "CONFIG_SHIFT=99\n", "SHIFT=17", "user.config:1:14: asked for CONFIG_SHIFT=99, got 17: SHIFT: must " +
			"lie between 12 and 25"},
		{"a decimal address", "CONFIG_ADDRESS=10\n", "ADDRESS=0x10",
			"ADDRESS: is a hex, 10 cannot be its value: want " +
				"a 0x number"},
		{"module", "CONFIG_NET=y\nCONFIG_VSOCK=m\n", "NET=y BUS=y VSOCK=y", "user.config:2:14: asked for " +
			"CONFIG_VSOCK=m, got y: VSOCK: cannot be a module, MODULES is n: ask for y"},
		{"two winners", "CONFIG_GZIP=y\nCONFIG_ZSTD=y\n", "ZSTD=y",
			"GZIP: is one of a choice (Kconfig:19) that went to " +
				"ZSTD; ZSTD (user.config:2) excludes GZIP (user.config:1): a choice has one winner, leave one of " +
				"the two out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := features.Parse("user.config", []byte(c.fragment))
			if err != nil {
				t.Fatal(err)
			}
			final := ""
			for w := range strings.FieldsSeq(c.final) {
				final += "CONFIG_" + w + "\n"
			}
			b := &build{Request: Request{Arch: x86(t)}, left: left, sourceVersion: "6.12.117"}
			err = b.compare(f.For("x86_64", b.sourceVersion), nil, []byte(final))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) ||
				!strings.HasSuffix(err.Error(), "^")) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	t.Run("an override of what a feature has for other trees", func(t *testing.T) {
		b := &build{Request: Request{Arch: x86(t)}, left: left, sourceVersion: "6.12.117"}
		w := kconfig.Setting{Symbol: "GONE", Value: kconfig.No, File: "recipe.yaml", Line: 7}
		over := []Overridden{{Override: Override{Option: "CONFIG_GONE", Value: kconfig.No}}}
		if err := b.compare([]kconfig.Setting{w}, over, nil); err == nil {
			t.Error("an override of an option that nothing has")
		}
		over[0].Settings = []kconfig.Setting{{Symbol: "GONE", Value: "y"}}
		if err := b.compare([]kconfig.Setting{w}, over, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestHistoryOfOptions(t *testing.T) {
	for _, c := range []struct{ symbol, version, want string }{
		{"REISERFS_FS", "7.3.4", "removed from Linux: 6.12 had it, 7.2 has it no more, and this is 7.3.4"},
		{"REISERFS_FS", "6.12.1", ""}, // which has it
		{"PROC_SYSCTL", "7.3.4", "removed from Linux: 7.2 had it"},
		{"SLAB", "6.1.176", ""},
		{"CRYPTO_SELFTESTS", "6.12.117", "newer than this Linux: 6.12 had it not yet, 7.2 has it"},
		{"CRYPTO_SELFTESTS", "7.2", ""},
		{"NO_SUCH_OPTION", "6.12", ""},
		{"-", "6.12", ""},
		{"", "6.12", ""},
	} {
		if got := history.Of(c.symbol, c.version); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s in %s: %q, want %q", c.symbol, c.version, got, c.want)
		}
	}
}
