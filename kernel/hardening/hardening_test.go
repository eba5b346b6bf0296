package hardening

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// final is a whole configuration of the set default, by the architecture and version in its name:
// ARCH-VERSION.config. The test of package kernel behind test-kernel says whether it is still what Linux makes of it.
type final struct {
	arch    arch.Arch
	version string
	config  *kconfig.Config
}

func finals(t *testing.T) []final {
	t.Helper()
	names, err := filepath.Glob("testdata/*.config")
	if err != nil || len(names) == 0 {
		t.Fatal("no final configurations", err)
	}
	var out []final
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := kconfig.ParseConfig(name, data)
		if err != nil {
			t.Fatal(err)
		}
		of, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(name), ".config"), "-")
		a, err := arch.Parse(of)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, final{a, version, c})
	}
	return out
}

func defaults(t *testing.T, a arch.Arch) (names []string, settings func(version string) []kconfig.Setting) {
	t.Helper()
	all, err := features.Resolve(a, []string{features.Default})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name)
	}
	return names, func(version string) []kconfig.Setting {
		var out []kconfig.Setting
		for _, f := range all {
			out = append(out, f.Fragment.For(a.Name, version)...)
		}
		return out
	}
}

// TestTheDefaultKernelFollowsTheRules fails when what the features ask for is against a recommendation, and nobody has
// said why.
func TestTheDefaultKernelFollowsTheRules(t *testing.T) {
	for _, f := range finals(t) {
		names, settings := defaults(t, f.arch)
		for _, u := range kconfig.Compare(settings(f.version), f.config) {
			if !u.Setting.Preference {
				t.Errorf("testdata/%s-%s.config is not what the features ask for: %v (KATABUILD_GOLDEN_UPDATE=1 with "+
					"test-kernel writes it)", f.arch.Name, f.version, u)
			}
		}
		r, err := Check(f.arch.Name, f.version, names, f.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Findings {
			if x.Except == "" {
				t.Errorf("%s: %s is %s, recommended is %s (%s): follow it, or say why not in exceptions.txt",
					f.arch.Name,
					x.Option, x.Got, x.Want, x.Rule)
			}
		}
		if r.Followed < 40 {
			t.Errorf("%s: only %d rules are followed", f.arch.Name, r.Followed)
		}
	}
}

// TestNoFeatureIsAgainstTheRules looks at every feature of every architecture, asked for or not.
func TestNoFeatureIsAgainstTheRules(t *testing.T) {
	rules, err := readRules()
	if err != nil {
		t.Fatal(err)
	}
	exceptions, err := readExceptions()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range arch.All() {
		all, err := features.All(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			for _, w := range f.Fragment.Settings {
				for _, r := range rules {
					if r.Symbol == w.Symbol && r.Value != w.Value && r.When.On(a.Name) && !w.Preference &&
						find(exceptions, w.Symbol, a.Name, []string{f.Name}) == nil {
						t.Errorf(
							"%s:%d asks for %s, recommended is %s (%s): follow it, or say why not in exceptions.txt",
							w.File, w.Line, w.Text(), r.Value, r.Reason)
					}
				}
			}
		}
	}
}

// TestExceptionsAreNeeded fails for one that nothing needs any longer.
func TestExceptionsAreNeeded(t *testing.T) {
	exceptions, err := readExceptions()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := readRules()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range exceptions {
		key := e.Symbol + " " + e.Only + " " + e.Feature
		if seen[key] {
			t.Errorf("exceptions.txt:%d: %s stands twice", e.Line, key)
		}
		seen[key] = true
		needed := e.Feature != ""
		for _, r := range rules {
			for _, f := range finals(t) {
				needed = needed || r.Symbol == e.Symbol && f.config.Get(r.Symbol) != r.Value
			}
		}
		if !needed {
			t.Errorf("exceptions.txt:%d: %s is followed, or is no rule", e.Line, e.Symbol)
		}
	}
}

func TestTheTableIsReadStrictly(t *testing.T) {
	for _, bad := range []string{"A: x\n", "A y\n", "A y only: x\n", "A y when z: x\n", "A maybe: x\n", ": x\n"} {
		if got, err := parseRules("rules", bad); err == nil || !strings.HasPrefix(err.Error(), "rules:1: ") {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
	for _, bad := range []string{"A\n", "A only: x\n", "A since 6.1: x\n"} {
		if got, err := parseExceptions("exceptions", bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestARuleAppliesWhereItSays(t *testing.T) {
	config := kconfig.NewConfig(map[string]kconfig.Value{"BUG": "y"})
	got := func(arch, version string) map[string]Finding {
		r, err := Check(arch, version, nil, config)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]Finding{}
		for _, f := range r.Findings {
			out[f.Option] = f
		}
		return out
	}
	x86, arm := got("x86_64", "6.12.1"), got("aarch64", "6.18")
	for option, want := range map[string][2]bool{
		"CONFIG_BUG": {false, false}, "CONFIG_VMAP_STACK": {true, true}, "CONFIG_MITIGATION_SLS": {true, false},
		"CONFIG_GCC_PLUGIN_STACKLEAK": {true, false}, "CONFIG_KSTACK_ERASE": {false, true},
		"CONFIG_SHADOW_CALL_STACK": {false, true}, "CONFIG_MODULE_SIG": {false, false},
	} {
		_, inX86 := x86[option]
		_, inARM := arm[option]
		if inX86 != want[0] || inARM != want[1] {
			t.Errorf("%s: %v %v", option, inX86, inARM)
		}
	}
	if f := x86["CONFIG_VMAP_STACK"]; f.Except != "" || f.Want != "y" || f.Got != "n" || f.Rule == "" {
		t.Errorf("%+v", f)
	}
	if f := x86["CONFIG_DEBUG_LIST"]; f.Except == "" {
		t.Errorf("%+v", f)
	}
	if r, err := Check("x86_64", "6.12.1", nil, config); err != nil || r.Violations() == 0 || r.Violations() ==
		len(r.Findings) {
		t.Errorf("%+v, %v", r, err)
	}
}
